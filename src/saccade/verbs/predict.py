"""`saccade predict`: answers for images, folders, globs, videos and cameras, as JSON and as pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.image import decode, note_frames
from saccade.data.loader import iter_images
from saccade.data.types import Annotation
from saccade.data.video import Footage
from saccade.errors import DataError, UsageError
from saccade.inference.alike import Compared, beside
from saccade.inference.answer import labels_of, of_classes
from saccade.inference.cameras import cameras_for
from saccade.inference.drawn import picture_names, write_picture
from saccade.inference.masks import COCO, CocoFile, check_masks, map_name, restate_masks
from saccade.inference.predictor import Predictor, load
from saccade.inference.recording import (
    LINES,
    WHOLE,
    AnswerFile,
    Meter,
    Recording,
    film_names,
    lines_name,
)
from saccade.inference.regions import answer_for_boxes, answer_in_frames, boxes_for, names_boxes
from saccade.inference.saving import Saving, saved_forms
from saccade.inference.sources import expand, paths_of
from saccade.inference.tiles import Tiling, check_tiles, predict_each_in_tiles, tiling_of
from saccade.inference.video import Frame, Pace, behind, predict_frames
from saccade.inference.window import Window
from saccade.machine.device import loader_workers
from saccade.machine.files import results_folder
from saccade.machine.paths import at_home
from saccade.ops.suppression import NmsRule
from saccade.plots.draw import draw, draw_enlarged
from saccade.tasks.contract import task_of
from saccade.training.interrupt import Interrupt, Stopped

ALONE = "no boxes are given: the whole picture is taken for one person (--proposals FILE or RUN)"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be said of one image or frame."""

    json: dict[str, Any]  # as `predict` returns it
    line: str  # the same in a few words
    shown: np.ndarray | None = None  # [H, W, 3] uint8 RGB: the frame with the answer drawn in, where that is wanted


def predict(
    run: str | Path,
    sources: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    threshold: float | None = None,
    proposals: str | Path | None = None,
    camera: str | Path | None = None,
    masks: str = "rle",
    instances: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    batch: int = 8,
    workers: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    frames: int | None = None,
    nms: NmsRule | str = "hard",
    fps: bool = False,
    show: bool = False,
    weights: str | Path | None = None,
    names: str | Path | None = None,
    classes: Sequence[str] | None = None,
    save: str | Sequence[str] | None = None,
    rect: bool = False,
) -> list[dict[str, Any]]:
    """Answers of a trained model; `answers` gives the same one after another, as they come.

    Args:
        run: run folder, checkpoint, or the `.cfg` of a detector of Darknet.
        sources: images, folders, globs, video files, or "camera:0".
        out: folder for pictures with the answers drawn in, videos (NAME.mp4 and NAME.mp4.jsonl, of its frames), and
            predictions.json (also where the work was ended; until then predictions.jsonl, as answers come).
        threshold: smallest score of a box or tag, similarity of the same (embed); by default 0.3, and the model's own.
        proposals: boxes to answer for (`inference.regions`): a file, a run of a detector, or "selective_search".
        camera: of each image, for models that answer in metres (`inference.cameras.cameras_for`).
        masks: how masks and class maps are stated, "rle", "polygons" or "png" (`inference.masks`).
        instances, tile, overlap: objects in class maps; in tiles (`inference.tiles.Tiling`). rect: with less padding.
        nms, weights, names: as in `load`: how overlapping boxes suppress each other; the files of a `.cfg`.
        frames, fps: stop a video or camera after so many frames; draw the frames/s that are answered into videos.
        classes, save: names of those that are asked for; what is written into `out` (`inference.saving.FORMS`).
        show: open a window that shows videos with their answers; `q` in it ends the one that is shown.

    Returns:
        One dictionary an image or frame: `{image, size, label | tags | objects | mask | embedding}`, of a localizer
        `label` and `objects` with one box, with an embedding `alike` (inference/alike.py), and `notes: [text]`. Frames
        have `frame`, `time`, those of a camera `dropped`. What cannot be read, or is cut off, has `{image, error}`.

    Raises:
        DataError: a source that matches nothing; not one image could be read.
        UsageError: a threshold out of range; `nms` for a model that finds no objects; `masks` that cannot be had
            (`inference.masks.check_masks`); a picture in `out` would take the place of a source; an address; `show`.
        ResourceError: no space or permission in `out`.
        Stopped: a signal came; `out` holds the answers until then.
    """
    options = Options(threshold, proposals, masks, batch, workers, device, precision, frames, nms, fps, show)
    options = replace(options, weights=weights, names=names, camera=camera, tiling=tiling_of(tile, overlap))
    options = replace(options, instances=instances, classes=classes, save=save, rect=rect)
    return _as_far_as(answers(run, sources, out, options))


def _as_far_as(answers: Iterator[Answer]) -> list[dict[str, Any]]:
    """The answers until the first error in the data; it is raised where nothing was answered before it."""
    found: list[dict[str, Any]] = []
    try:
        found += (answer.json for answer in answers)
    except DataError:
        if all("error" in answer for answer in found):
            raise
    return found


@dataclass(frozen=True, slots=True)
class Options:
    """How `predict` answers; what each means is said there."""

    threshold: float | None = None
    proposals: str | Path | None = None
    masks: str = "rle"
    batch: int = 8
    workers: int | None = None
    device: str | None = None
    precision: str = "auto"
    frames: int | None = None
    nms: NmsRule | str = "hard"
    fps: bool = False
    show: bool = False
    progress: bool = False  # show on stderr how far a video is, and at which rate
    weights: str | Path | None = None
    names: str | Path | None = None
    classes: Sequence[str] | None = None
    save: str | Sequence[str] | None = None
    instances: bool = False
    tiling: Tiling | None = None  # in which tiles images are looked at, if in any
    camera: str | Path | None = None
    rect: bool = False

    def load(self, run: str | Path) -> Predictor:
        """The model that answers."""
        return load(run, self.device, self.precision, self.nms, self.weights, self.names, self.instances)


def answers(
    run: str | Path,
    sources: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    options: Options = Options(),
) -> Iterator[Answer]:
    """The answers of `predict` one after another, each when it is written. Arguments and errors are those of it; but
    DataError also comes behind the answers where an image could not be read, or a video is cut off."""
    images, videos = expand([at_home(source) for source in paths_of(sources)])
    predictor = options.load(run)
    predictor.set_rect() if options.rect else None
    form = _Form.of_options(options, predictor)
    forms = saved_forms(options.save, predictor.task, out is not None, videos)
    check_masks(options.masks, predictor.task, out is not None, videos)
    boxes = boxes_for(predictor, str(run), at_home(options.proposals), images)
    cameras = cameras_for(predictor.task, at_home(options.camera))
    answer_frame = answer_in_frames(predictor, at_home(options.proposals), videos, options.batch, cameras)
    check_tiles(predictor, options.tiling, videos, options.proposals)
    names, films = picture_names(images), film_names(videos)
    maps = [map_name(name) for name in names.values() if options.masks == "png"]
    written = [*names.values(), *maps, *films, *map(lines_name, films), LINES, WHOLE, COCO]
    Window.check(videos) if options.show else None
    folder = None if out is None else _folder(Path(at_home(out)), [*images, *map(Path, videos)], written)
    saving = Saving(folder, forms, predictor.task, predictor.classes)

    def each(interrupt: Interrupt) -> Generator[Answer]:
        also = _Also(saving, Compared(predictor, options.threshold))
        found = _of_images(predictor, images, options.batch, options.workers)
        if options.tiling is not None:
            found = predict_each_in_tiles(predictor, images, options.tiling)
        elif boxes is not None:
            found = answer_for_boxes(predictor, images, boxes, options.batch, cameras)
        for path, answer, notes in found:
            target = None if folder is None else folder / names[path]
            yield _about_image(predictor, path, answer, form, target, notes, also)
            if interrupt.number:
                return
        for video, name in zip(videos, films, strict=True):
            target = None if folder is None else folder / name
            yield from _of_video(predictor, video, target, form, options, lambda: bool(interrupt.number), answer_frame)
            if interrupt.number:
                return

    number, errors = 0, list[str]()
    coco = None if folder is None or options.masks != "polygons" else CocoFile(folder, predictor.classes)
    file = contextlib.nullcontext() if folder is None else contextlib.closing(AnswerFile(folder, coco))
    with Interrupt() as interrupt, file as kept, contextlib.closing(each(interrupt)) as found:
        for answer in found:
            if kept is not None:
                kept.add(answer.json)
            number += 1
            errors += [answer.json["error"]] if "error" in answer.json else []
            yield answer
        saving.close()
    place = "" if folder is None else f"; they are in {folder / WHOLE}"
    if interrupt.number:
        raise Stopped(interrupt.number, f"stopped after {number} answers{place}")
    if errors:
        raise DataError(_refused(errors, number, len(images) + len(videos), place))


def _refused(errors: Sequence[str], answers: int, sources: int, place: str) -> str:
    """What could not be read of some sources, and that the rest is answered."""
    what = "frames" if len(errors) == sources else "others"
    others = f" ({answers - len(errors)} {what} are answered{place})" if answers > len(errors) else ""
    return f"{'' if others else 'no image could be read. '}{'; '.join(errors[:5])}{others}"


@dataclass(frozen=True, slots=True)
class _Also:
    """What else is made of the answers for images."""

    saving: Saving
    compared: Compared


@dataclass(frozen=True, slots=True)
class _Form:
    """Which part of an answer is shown, and how."""

    threshold: float | Sequence[float] | None
    masks: str
    labels: Sequence[int] | None = None  # the classes that are asked for; None: all

    @classmethod
    def of_options(cls, options: Options, predictor: Predictor) -> _Form:
        """What is asked for, of which the predictor computes no more; raises UsageError where it cannot be had."""
        if (least := min(options.batch, 1 if options.frames is None else options.frames)) < 1:
            raise UsageError(f"batch and frames are at least 1, not {least}")
        labels = None if options.classes is None else labels_of(options.classes, predictor.classes)
        form = cls(predictor.shown_from(options.threshold), options.masks, labels)
        predictor.least_score = form.least
        return form

    @property
    def least(self) -> float:
        """The smallest score that is shown of any class."""
        threshold = self.threshold
        return threshold or 0.0 if threshold is None or isinstance(threshold, float | int) else min(threshold)

    def of(self, predictor: Predictor, answer: Annotation) -> Annotation:
        """The part of an answer that is shown."""
        kept = task_of(_kind(predictor, answer)).keep(answer, self.threshold)
        return kept if self.labels is None else of_classes(kept, self.labels)


def _folder(out: Path, sources: Sequence[Path], names: Sequence[str]) -> Path:
    """The folder `out` for files of these names. Raises UsageError where one is a source, by whatever link."""
    there = {(found.st_dev, found.st_ino) for source in sources if source.exists() for found in [source.stat()]}
    for target in (out / name for name in names):
        if target.exists() and (target.stat().st_dev, target.stat().st_ino) in there:
            raise UsageError(
                f"--out {out}: the picture with the answers would take the place of {target}, which is to be "
                "looked at; give another folder"
            )
    return results_folder(out)


def _about_image(
    predictor: Predictor,
    path: Path,
    answer: Annotation | DataError,
    form: _Form,
    target: Path | None,
    notes: list[str],
    also: _Also,
) -> Answer:
    """What is to be said of one image, compared with those before; drawn into a picture `target`, if that is wanted."""
    if isinstance(answer, DataError):
        return _refusal(str(path), str(answer))
    answer = form.of(predictor, answer)
    saving, notes = also.saving, [*notes, *note_frames(path)]
    more = also.compared.add(str(path), answer)
    if target is not None:
        saving.add(path, target.stem, answer)
    if target is not None and saving.pictures:
        try:
            pixels = beside(path, more) if more else draw_enlarged(decode(path), answer, predictor.classes)
            notes += write_picture(target, pixels)[1]
        except DataError as error:  # it was there a moment ago
            notes.append(f"no picture with the answer was written ({error})")
    place = None if target is None or form.masks != "png" else target.with_name(map_name(target.name))
    return _answer(predictor, str(path), answer, notes, form, place, more)


def _answer(
    predictor: Predictor,
    image: str,
    shown: Annotation,
    notes: list[str],
    form: _Form,
    place: Path | None = None,
    more: Mapping[str, Any] | None = None,
) -> Answer:
    """What is said of `shown`, and `more`; its masks go into a file `place`, if there is one."""
    file = task_of(_kind(predictor, shown))
    described = {**file.to_json(shown, predictor.classes), **(more or {})}
    restate_masks(described, shown, predictor.classes, form.masks, place)
    whole = {"image": image, "size": list(shown.size), **described}
    return Answer(whole | ({"notes": notes} if notes else {}), file.short_line(described))


def _kind(predictor: Predictor, answer: Annotation) -> str:
    """The task that an answer is of: that of the model, but that a classifier says of given boxes what a detector
    would."""
    return "detect" if answer.objects is not None and names_boxes(predictor) else predictor.task


def _refusal(image: str, error: str) -> Answer:
    return Answer({"image": image, "error": error}, f"error: {error}")


def _of_images(
    predictor: Predictor, images: list[Path], batch: int, workers: int | None
) -> Iterator[tuple[Path, Annotation | DataError, list[str]]]:
    """Answers in the order of the images, with notes; an error takes the place of an image that cannot be read."""
    notes = [ALONE] if predictor.preprocessing.one_person else []
    errors: dict[str, DataError] = {}

    def note(path: Path, error: DataError) -> None:
        errors[str(path)] = error

    processes = min(loader_workers(workers, predictor.device), len(images) // batch)
    batches = iter_images(images, predictor.view, batch, processes, on_error=note)
    waiting = iter(images)
    for name, answer in predictor.predict_batches(batches):
        for path in waiting:
            if str(path) == name:
                yield path, answer, notes
                break
            yield path, errors[str(path)], []
    for path in waiting:
        yield path, errors[str(path)], []


def _of_video(
    predictor: Predictor,
    source: str,
    target: Path | None,
    form: _Form,
    options: Options,
    stop: Callable[[], bool],
    answer_frame: Callable[[np.ndarray], Annotation] | None,
) -> Iterator[Answer]:
    """Answers for the frames of a video or camera as they come; they are drawn into a video `target`, if there is
    one, and into a window, if that is wanted."""
    closed = False  # the window, by the person who looks
    try:
        footage = Footage(source)
    except DataError as error:
        yield _refusal(source, str(error))
        return
    pace = Pace(options.frames, 1 if options.show else options.batch, lambda: closed or stop())
    recording = Recording(target, footage.rate)

    def finish(frame: Frame) -> Answer:
        shown = form.of(predictor, frame.answer)
        corner = f"{frame.rate:.1f} frames/s" if options.fps else ""
        wanted = options.show or target is not None
        pixels = draw(frame.pixels, shown, predictor.classes, corner) if wanted else None
        answer = _answer(predictor, f"{source}#{frame.number}", shown, [], form)
        facts = {"frame": frame.number, "time": round(frame.time, 6)}
        facts |= {"dropped": frame.dropped} if footage.is_camera else {}
        about = {name: value for name, value in answer.json.items() if name != "image"}
        notes = {} if pixels is None else recording.add(pixels, 1 + frame.dropped, facts | about)
        return Answer({"image": answer.json["image"], **facts, **about, **notes}, answer.line, pixels)

    with (
        Meter(source, footage.promised, options.progress) as meter,
        Window(source, options.show) as window,
        contextlib.closing(recording),
        contextlib.closing(predict_frames(predictor, footage, pace, answer_frame)) as frames,
        contextlib.closing(behind(meter.watch(frames), finish)) as found,
    ):
        try:
            for answer in found:
                closed = closed or not window.show(answer.shown)
                yield answer
        except DataError as error:
            yield _refusal(source, str(error))
