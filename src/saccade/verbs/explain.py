"""`saccade explain`: heat maps and feature maps that show what a trained network used for its answers."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.markup import escape
from torch import Tensor

from saccade.data.formats.listing import images_to_look_at
from saccade.data.image import note_frames
from saccade.data.loader import collate
from saccade.data.views import inference_view
from saccade.errors import DataError, UsageError, suggest
from saccade.explanations.image import Advance, Explained, Wanted, explain_image, layers_for
from saccade.explanations.layers import Shape
from saccade.explanations.words import ENDS, METHODS, SIGNED
from saccade.inference.cameras import Cameras, cameras_for
from saccade.inference.regions import Boxes, boxes_from, no_objects
from saccade.inference.trained import Trained, open_run
from saccade.machine.device import describe_hardware
from saccade.machine.files import results_folder, write_whole
from saccade.machine.paths import at_home, short_names_of
from saccade.machine.terminal import bar, note, printable
from saccade.models.own_file import short_name
from saccade.plots.heat import overlay
from saccade.reports.explanation import filters_section, image_section, introduction, summary
from saccade.reports.page import Page, write_page
from saccade.reports.sections import Section
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS
from saccade.training.own_data import validation_images

OWN = 4  # of the run's validation images that are explained where none are named

WHOLE = "The whole picture is taken for one person."


def explain(
    run: str | Path,
    images: str | Path | Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    classes: Sequence[str] = (),
    top: int = 3,
    methods: Sequence[str] | None = None,
    layers: Sequence[str] = (),
    proposals: str | Path | None = None,
    camera: str | Path | None = None,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """What a trained network used for its answers.

    Args:
        run: run folder or checkpoint.
        images: image files or folders; by default some validation images of the run's own data.
        out: folder for report.html, plots/ and the heat maps over the images; nothing is written without it.
        classes: names of the classes to explain; by default what the network says.
        top: how many classes, regions, detections or (embed) other images to explain, where `classes` is empty.
        methods: of `METHODS`; by default all that the task allows.
        layers: names of the layers whose maps are shown; by default one for each map size.
        proposals, camera: as in `predict`, of models that answer for objects which something else has found.

    Returns:
        The object of `--json` (docs/reference/cli.md), coordinates in pixels of the upright original.

    Raises:
        DataError: a source that is not there; not one image could be read.
        UsageError: an unknown class, method or layer; a task or network that cannot be explained; `top` below 1; no
            images, and the run's own are gone or unknown.
        ModelFileError: as `inference.trained.open_run`.
    """
    _check_top(top)
    run, sources = at_home(run), [images] if isinstance(images, str | Path) else list(images)
    paths = _expand(sources) if sources else []  # what is not there is said before the network is opened
    trained, fallback = _with_boxes(open_run(run, device))
    paths = paths or own_pictures(run, trained.task, progress)
    chosen, given = _methods(methods, trained.task), _given(trained, at_home(proposals), at_home(camera), paths)
    of_classes = find_labels(classes, trained.classes)
    vectors, names = vectors_of(trained, paths), dict(zip(paths, short_names_of(paths), strict=True))
    wanted = Wanted(chosen, trained.classes, of_classes, top, layers, trained.thresholds, vectors, names, *given)
    folder = None if out is None else results_folder(Path(at_home(out)))
    page = _page(trained, chosen, fallback)
    entries = [_entry(trained, path, wanted, (page, number, folder), progress) for number, path in enumerate(paths, 1)]
    _refuse_nothing(entries)
    if folder is not None:
        words = ["saccade", "explain", str(run), *map(str, paths), "--out", str(folder), "--top", str(top)]
        page.sections.append(_again(words + _options(proposals=proposals, camera=camera), classes, chosen, layers))
        write_page(folder, page)
    report = None if folder is None else str(folder / "report.html")
    return {"run": str(run), "model": trained.model, "task": trained.task, "report": report, "images": entries}


def _entry(
    trained: Trained, path: Path, wanted: Wanted, place: tuple[Page, int, Path | None], progress: bool
) -> dict[str, Any]:
    """What is to be said of one image, which is also shown.

    Args:
        place: the report, the number of the image in it, and the folder, if anything is written.
    """
    page, number, folder = place
    try:
        found = _explain_one(trained, path, wanted, progress)
    except DataError as error:
        page.warnings.append(str(error))
        return {"image": str(path), "error": str(error)}
    entry = summary(found, trained.classes)
    if folder is not None:
        page.sections.append(image_section(number, found, trained.classes, wanted.names[path]))
        _write_overlays(folder, number, found, entry["explained"])
        _write_stages(folder, number, found, entry)
    return entry


def _given(
    trained: Trained, proposals: str | Path | None, camera: str | Path | None, paths: Sequence[Path]
) -> tuple[Boxes | None, Cameras | None]:
    """Boxes and cameras of models that answer for objects; None for others. Raises UsageError where there are no boxes,
    or the model has no use of what is given."""
    cameras = cameras_for(trained.task, camera)
    if trained.preprocessing.proposals != "objects":
        if proposals is not None:
            raise UsageError("--proposals explains models that answer for objects which something else has found")
        return None, cameras
    if proposals is None:
        raise no_objects(trained.classes)
    return boxes_from(Path(proposals), paths, trained.device, wanted=trained.classes), cameras


def _check_top(top: int) -> None:
    if top < 1:
        raise UsageError(f"top is {top}, allowed: at least 1")


def _options(**values: str | Path | None) -> list[str]:
    """The words of options that were given."""
    return [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]


def own_pictures(run: str | Path, task: str, shown: bool = False) -> list[Path]:
    """Some validation images of the data that a run was trained on; which they are of is said on stderr if `shown`.

    Raises:
        UsageError: they are gone, or unknown, or parts of the pictures in their files.
        DataError, ModelFileError: as `training.own_data.validation_images`.
    """
    dataset, records = validation_images(run, task, "explain", "IMAGE...")
    if any(record.region is not None for record in records):
        raise UsageError(f"{run} was trained on parts of the pictures in {dataset.root}; say which pictures to explain")
    chosen = records[:: max(1, len(records) // OWN)][:OWN]
    note(f"{len(chosen)} of {len(records)} validation images of {dataset.root}, which the run was trained on", shown)
    return [dataset.root / record.path for record in chosen]


def list_layers(run: str | Path, image: str | Path | None = None, device: str | None = None) -> dict[str, Shape]:
    """The layers of a trained network that give maps for an image, with (channels, height, width), first to last; by
    default for a validation image of its own.

    Raises:
        DataError, ModelFileError, UsageError: as `explain`.
    """
    trained = open_run(at_home(run), device)
    path = own_pictures(at_home(run), trained.task)[0] if image is None else _expand([image])[0]
    return layers_for(trained.network, trained.task, trained.preprocessing, path, trained.device)


def vectors_of(trained: Trained, paths: Sequence[Path]) -> dict[Path, Tensor]:
    """The vectors of the pictures that can be read; none of a model of another task."""
    view, found = inference_view(trained.task, trained.preprocessing), {}
    for path in paths if TASKS[trained.task].embedding else ():
        with contextlib.suppress(DataError), torch.no_grad():  # explaining the picture says why
            found[path] = trained.network.predict(collate([view.read(path)]).to(trained.device))[0].embedding.cpu()
    return found


def _explain_one(trained: Trained, path: Path, wanted: Wanted, progress: bool) -> Explained:
    with _bar(f"explaining {path.name}", progress) as advance:
        found = explain_image(
            trained.network, trained.task, trained.preprocessing, path, wanted, trained.device, advance
        )
    found.notes += [WHOLE] if trained.preprocessing.one_person else []
    found.notes += note_frames(path) + _nothing_to_say(found, wanted.labels, trained.classes)
    return found


def _methods(wanted: Sequence[str] | None, task: str) -> list[str]:
    """In the order shown. Raises UsageError for what is unknown or needs a gradient that is not there."""
    usable = [m for m in METHODS if m in ("occlusion", "features") or _can(m, task)]
    if wanted is None:
        return usable
    for name in wanted:
        if name not in METHODS:
            raise UsageError(f"--methods {name!r} is unknown: {suggest(name, METHODS)}")
        if name == "stages" and name not in usable:
            raise UsageError(f"--methods stages is of detectors; a model to {task} has: {', '.join(usable)}")
        if name not in usable:
            others = ", ".join(other for other in TASKS if task_of(other).HAS_GRADIENT)
            raise UsageError(
                f"--methods {name} needs the gradient of a score, which a model to {task} does not give (tasks that "
                f"do: {others}); allowed here: {', '.join(usable)}"
            )
    if not wanted:
        raise UsageError(f"--methods is empty, allowed: {', '.join(usable)}")
    return [m for m in usable if m in wanted]


def _with_boxes(trained: Trained) -> tuple[Trained, list[str]]:
    """A run that was trained on the boxes of a file is explained with those of selective search.

    The report says so."""
    if trained.preprocessing.proposals != "file":
        return trained, []
    words = f"The run was trained on the boxes of a file ({trained.preprocessing.proposal_file}); these are those of "
    shape = dataclasses.replace(trained.preprocessing, proposals="selective_search")
    return dataclasses.replace(trained, preprocessing=shape), [words + "selective search."]


def _can(method: str, task: str) -> bool:
    """Whether a task allows a method that not all do."""
    return TASKS[task].many_objects if method == "stages" else task_of(task).HAS_GRADIENT


def find_labels(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Class indices of names, without repetitions. Raises UsageError with suggestions where one is not a class."""
    for name in names:
        if name not in classes:
            raise UsageError(f"--class {name!r} is not a class of this model: {suggest(name, classes)}")
    return [list(classes).index(name) for name in dict.fromkeys(names)]


def _expand(sources: Sequence[str | Path]) -> list[Path]:
    """Image files in the order given, those of a folder sorted. Raises DataError for a source that holds none."""
    paths: list[Path] = []
    for source in map(Path, map(at_home, sources)):
        if source.is_dir():
            paths += images_to_look_at(source)
        elif source.is_file():
            paths.append(source)
        else:
            raise DataError(f"{source}: no such image or folder")
    if not paths:
        raise DataError("there is no image to explain: give files or folders")
    return list(dict.fromkeys(paths))


def _again(words: list[str], classes: Sequence[str], methods: Sequence[str], layers: Sequence[str]) -> Section:
    """The command line that gives this report again."""
    words = [*words, *(word for name in classes for word in ("--class", name)), "--methods", ",".join(methods)]
    words += ["--layers", ",".join(layers)] if layers else []
    return Section("again", "The same again", commands=[("", shlex.join(words))])


def _nothing_to_say(found: Explained, labels: Sequence[int], classes: Sequence[str]) -> list[str]:
    """Why there is no heat map of what was asked for, or of anything."""
    seen = {target.label for target in found.targets}
    missing = [classes[k] for k in labels if k not in seen]
    if not found.targets and not missing:
        return ["The network found nothing in this image, so there is no answer to explain."]
    return [f"The network does not see {name!r} in this image, so there is nothing to explain." for name in missing]


def _page(trained: Trained, methods: Sequence[str], warnings: Sequence[str]) -> Page:
    title = f"What {short_name(trained.model)} looks at"
    page = Page(title, f"Explanations of a network to {trained.task}, {trained.path}")
    page.warnings += warnings
    page.sections.append(introduction(trained.task, methods))
    if "features" in methods:
        filters = filters_section(trained.network)
        if filters is not None:
            page.sections.append(filters)
    page.sentences.append(f"Computed on {describe_hardware(trained.device)}, float32.")
    return page


def _refuse_nothing(entries: Sequence[dict[str, Any]]) -> None:
    if all("error" in entry for entry in entries):
        raise DataError("no image could be read. " + "; ".join(entry["error"] for entry in entries[:5]))


def _write_overlays(folder: Path, number: int, found: Explained, entries: list[dict[str, Any]]) -> None:
    """The maps over the image, one PNG each without frame or scale; their names are added to the summary of each."""
    for rank, entry in enumerate(entries):
        entry["files"] = []
        for method, heats in found.heats.items():
            words = (found.path.stem, entry["name"], method)
            name = "-".join([str(number), *(re.sub(r"[^\w.]+", "_", word)[:25] for word in words), str(rank + 1)])
            pixels = overlay(found.picture, heats[rank], method in SIGNED, ENDS.get(method, 1.0))
            _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            write_whole(folder / f"{name}.png", data.tobytes())
            entry["files"].append(f"{name}.png")


def _write_stages(folder: Path, number: int, found: Explained, entry: dict[str, Any]) -> None:
    """The pictures of the stages, one PNG each; their names are added to the summary."""
    for place, (stage, about) in enumerate(zip(found.stages, entry.get("stages", []), strict=True), 1):
        words = (found.path.stem, f"stage{place}", stage.name)
        name = "-".join([str(number), *(re.sub(r"[^\w.]+", "_", word)[:25] for word in words)])
        _, data = cv2.imencode(".png", cv2.cvtColor(stage.pixels, cv2.COLOR_RGB2BGR))
        write_whole(folder / f"{name}.png", data.tobytes())
        about["file"] = f"{name}.png"


@contextlib.contextmanager
def _bar(text: str, shown: bool) -> Iterator[Advance]:
    """A progress bar over the patches of one image, on stderr."""
    with bar(shown) as progress:
        task = progress.add_task(escape(printable(text)), total=None)
        yield lambda done, total: progress.update(task, advance=done, total=total)
