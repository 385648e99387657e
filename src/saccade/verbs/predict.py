"""`saccade predict`: answers for images, folders, globs, videos and cameras, as JSON and as pictures."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from saccade.data.formats.listing import images_to_look_at
from saccade.data.image import decode, note_frames
from saccade.data.loader import iter_images
from saccade.data.pipelines import inference_side
from saccade.data.rle import encode_mask
from saccade.data.types import Annotation
from saccade.device import loader_workers
from saccade.errors import DataError, UsageError
from saccade.files import make_folder, write_whole
from saccade.plots.draw import draw, fit
from saccade.predictor import Predictor, load

VIDEO_SUFFIXES = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"}
SMALL = 160  # pixels of the longer side
THRESHOLDS = {"detect": 0.3, "instances": 0.3}


def predict(
    run: str | Path,
    sources: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    threshold: float | None = None,
    batch: int = 8,
    workers: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    frames: int | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Answers of a trained model.

    Args:
        run: run folder or checkpoint.
        sources: images, folders, globs, video files, or "camera:0".
        out: folder for pictures with the answers drawn in, videos, and predictions.json; none are written without it.
        threshold: smallest score of a box or tag; by default 0.3 for boxes; for tags that of each in the model
            (tuned in training, or 0.5).
        frames: stop a video or camera after so many frames.

    Returns:
        One dictionary an image or frame: `{image, size, label | tags | objects | mask}`, of a localizer `label` and
        `objects` with one box, and `notes: [text]` if only the first image of the file was looked at (animations,
        pages); an image that cannot be read has `{image, error}` instead.

    Raises:
        DataError: a source that matches nothing; not one image could be read.
        UsageError: a threshold out of range; a picture in `out` would take the place of a source.
    """
    sources = [sources] if isinstance(sources, str | Path) else list(sources)
    images, videos = expand(sources)
    predictor = load(run, device, precision)
    threshold = _smallest_score(threshold, predictor.task)
    names, films = _picture_names(images), _film_names(videos)
    folder = None if out is None else _folder(Path(out), [*images, *map(Path, videos)], [*names.values(), *films])
    results: list[dict[str, Any]] = []
    answers = _of_images(predictor, images, batch, workers)
    console = Console(stderr=True)
    for path, answer in track(
        answers, "predicting", total=len(images), console=console, disable=not progress or not images, transient=True
    ):
        if isinstance(answer, DataError):
            results.append({"image": str(path), "error": str(answer)})
            continue
        answer = above(answer, threshold)
        notes = {"notes": found} if (found := note_frames(path)) else {}
        results.append({"image": str(path), **describe(answer, predictor.classes), **notes})
        if folder is not None:
            write_picture(folder / names[path], drawn(decode(path), answer, predictor.classes))
    for video, name in zip(videos, films, strict=True):
        results += _of_video(predictor, video, name, folder, threshold, frames)
    if results and all("error" in r for r in results):
        raise DataError("no image could be read. " + "; ".join(r["error"] for r in results[:5]))
    if folder is not None:
        write_whole(folder / "predictions.json", json.dumps(results, indent=1, allow_nan=False))
    return results


def expand(sources: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """Image files, and videos or cameras, in the order given. Raises DataError for a source that matches nothing."""
    images: list[Path] = []
    videos: list[str] = []
    for source in sources:
        path, text = Path(source), str(source)
        if text.startswith("camera:") and not path.exists():
            videos.append(text)
        elif path.is_dir():
            images += images_to_look_at(path)
        elif path.is_file():
            if path.suffix.lower() in VIDEO_SUFFIXES:
                videos.append(text)
            else:
                images.append(path)
        else:
            matches = [Path(m) for m in sorted(glob.glob(text, recursive=True)) if Path(m).is_file()]
            if not matches:
                raise DataError(f"{text}: no such image, folder or video, and no file matches it as a pattern")
            images += matches
    return images, videos


def _smallest_score(threshold: float | None, task: str) -> float | None:
    threshold = THRESHOLDS.get(task) if threshold is None else threshold
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold {threshold} is not between 0 and 1")
    return threshold


def _folder(out: Path, sources: Sequence[Path], names: Sequence[str]) -> Path:
    """The folder `out` for files of these names. Raises UsageError where one of them is a source, by whatever link."""
    there = {(found.st_dev, found.st_ino) for source in sources if source.exists() for found in [source.stat()]}
    for target in (out / name for name in names):
        if target.exists() and (target.stat().st_dev, target.stat().st_ino) in there:
            raise UsageError(
                f"--out {out}: the picture with the answers would take the place of {target}, which is to be "
                "looked at; give another folder"
            )
    return make_folder(out)


def above(answer: Annotation, threshold: float | None) -> Annotation:
    """The answer without the boxes and tags below `threshold`, if there is one; of a localizer, which has a label and
    boxes for the next classes too, the first."""
    if answer.label is not None and answer.objects is not None:
        answer.objects = answer.objects[:1]
    if threshold is None:
        return answer
    if answer.objects is not None and answer.objects.scores is not None:
        answer.objects = answer.objects[answer.objects.scores >= threshold]
    if answer.tags is not None and answer.scores is not None:
        answer.tags = answer.scores >= threshold
    return answer


def describe(answer: Annotation, classes: list[str]) -> dict[str, Any]:
    """An answer as plain numbers and names; see `--json` in the manual."""
    result: dict[str, Any] = {"size": list(answer.size)}
    if answer.tags is not None and answer.scores is not None:
        rows = answer.tags.nonzero().flatten().tolist()
        result["tags"] = [{"name": classes[i], "score": round(float(answer.scores[i]), 5)} for i in rows]
    elif answer.label is not None and answer.scores is not None:
        order = answer.scores.argsort(descending=True)[:5].tolist()
        result["label"] = classes[answer.label]
        result["scores"] = [{"name": classes[i], "score": round(float(answer.scores[i]), 5)} for i in order]
    if answer.objects is not None:
        objects = answer.objects
        scores = objects.scores if objects.scores is not None else objects.boxes.new_ones(len(objects))
        result["objects"] = {
            "boxes": [[round(v, 2) for v in box] for box in objects.boxes.tolist()],
            "labels": objects.labels.tolist(),
            "scores": [round(v, 5) for v in scores.tolist()],
            "names": [classes[i] for i in objects.labels.tolist()],
        }
        if objects.masks is not None:
            result["objects"]["masks"] = [encode_mask(mask.numpy()) for mask in objects.masks]
    if answer.semantic is not None:
        plane = answer.semantic.numpy()
        result["mask"] = {
            classes[i]: {"pixels": int((plane == i).sum()), "rle": encode_mask(plane == i)}
            for i in np.unique(plane).tolist()
            if i < len(classes)
        }
    return result


def drawn(image: np.ndarray, answer: Annotation, classes: list[str]) -> np.ndarray:
    """The image with the answer drawn in; small images are enlarged first, so that there is room for letters."""
    if max(image.shape[:2]) < SMALL:
        image, answer = fit(image, answer, 2 * SMALL)
    return draw(image, answer, classes)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write [H, W, 3] uint8 RGB as a file of the format that the suffix names."""
    encoded, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise UsageError(f"{path}: cannot write pictures of this format")
    write_whole(path, data.tobytes())


def _of_images(
    predictor: Predictor, images: list[Path], batch: int, workers: int | None
) -> Iterator[tuple[Path, Annotation | DataError]]:
    """Answers in the order of the images; an error takes the place of an image that cannot be read."""
    errors: dict[str, DataError] = {}

    def note(path: Path, error: DataError) -> None:
        errors[str(path)] = error

    processes = min(loader_workers(workers, predictor.device), len(images) // batch)
    side = inference_side(predictor.preprocessing)
    batches = iter_images(images, predictor.transforms, batch, processes, min_side=side, on_error=note)
    waiting = iter(images)
    for name, answer in predictor.predict_batches(batches):
        for path in waiting:
            if str(path) == name:
                yield path, answer
                break
            yield path, errors[str(path)]
    for path in waiting:
        yield path, errors[str(path)]


def _of_video(
    predictor: Predictor, source: str, name: str, folder: Path | None, threshold: float | None, most: int | None
) -> list[dict[str, Any]]:
    """Answers for the frames of a video or camera; the drawn video is written as it goes, as file `name`."""
    camera = source.removeprefix("camera:") if source.startswith("camera:") else None
    if camera is not None and not camera.isdigit():
        raise UsageError(f"{source}: a camera is named by its number, such as camera:0")
    capture = cv2.VideoCapture(source if camera is None else int(camera))
    if not capture.isOpened():
        raise DataError(f"{source}: cannot be opened as a video" if camera is None else f"{source}: no such camera")
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    results: list[dict[str, Any]] = []
    video: Any = None
    try:
        while most is None or len(results) < most:
            there, frame = capture.read()
            if not there:
                break
            pixels = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            answer = above(predictor.predict(pixels), threshold)
            results.append({"image": f"{source}#{len(results)}", **describe(answer, predictor.classes)})
            if folder is None:
                continue
            if video is None:
                target = folder / name
                code = cv2.VideoWriter.fourcc(*"mp4v")
                video = cv2.VideoWriter(str(target), code, rate, (frame.shape[1], frame.shape[0]))
            video.write(cv2.cvtColor(draw(pixels, answer, predictor.classes), cv2.COLOR_RGB2BGR))
    finally:
        capture.release()
        if video is not None:
            video.release()
    if not results:
        raise DataError(f"{source}: no frame could be read; is it a video?")
    return results


def _film_names(videos: list[str]) -> list[str]:
    """A file name for every video and camera; videos of one name in several folders are numbered."""
    stems = [Path(video.replace("camera:", "camera")).stem for video in videos]
    earlier = [stems[:i].count(stem) for i, stem in enumerate(stems)]
    return [f"{stem}-{n + 1}.mp4" if n else f"{stem}.mp4" for stem, n in zip(stems, earlier, strict=True)]


def _picture_names(images: list[Path]) -> dict[Path, str]:
    """A file name for every picture; images of one name in several folders are numbered."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in dict.fromkeys(images):
        suffix = path.suffix.lower() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp") else ".png"
        name, number = f"{path.stem}{suffix}", 2
        while name in taken:
            name, number = f"{path.stem}-{number}{suffix}", number + 1
        taken.add(name)
        names[path] = name
    return names
