"""`saccade check DATA`: what is there, what is wrong; every image is decoded and every label accounted for."""

from __future__ import annotations

import contextlib
import io
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from saccade.data.class_map import IGNORE
from saccade.data.dataset import DataSet, Record, Thing, count_labels
from saccade.data.formats import masks, read
from saccade.data.image import decode_values
from saccade.data.pictures import class_map_of, cut, decode_picture
from saccade.data.split import describe_use, find_leaks
from saccade.errors import DataError, ResourceError, UsageError
from saccade.machine.files import results_folder
from saccade.machine.paths import at_home
from saccade.machine.terminal import bar
from saccade.plots.contact_sheet import Tile, draw_contact_sheet
from saccade.tasks.table import TASKS, Task, find_task

_UNEVEN = 10  # the most frequent class has this many times the labels of the rarest: worth a warning
_TILES = 20
_BANDS = (("small", 0.0, 32.0**2), ("medium", 32.0**2, 96.0**2), ("large", 96.0**2, float("inf")))  # COCO's, pixels^2


def check(data: str | Path, task: str | None = None, out: Path | None = None) -> dict[str, Any]:
    """Read the data set at `data`, decode every image, and say what was found; a JSON-able dictionary.

    Keys: format, task, other_tasks {task: which labels that the task leaves aside it would read}, classes, images,
    objects (things, tags, or one a picture), splits {name: {images, objects}} ("unsplit" for pictures that the set
    assigns to none), use {train, val, test: what `train` takes the part for, in words}, used {images, labels}, repaired
    [{where, what}], refused [{where, why}], warnings, per_class {name: {images, objects}} (pixels for class maps),
    sizes (of images and, for things, how many fall in COCO's size bands), background (pictures without a thing),
    contact_sheet.

    Args:
        data: a folder, the file that describes a set, or "format:path".
        task: reads the labels for this task where they serve several.
        out: a .png file, or a folder for contact_sheet.png, to write a sheet of pictures with their labels to.

    Raises:
        UsageError, DataError: as `data.formats.read`; DataError also where no image can be decoded, UsageError where
            the sheet would replace one.
        ResourceError: `out` cannot be written.
    """
    dataset, out = read(at_home(data), task), at_home(out)
    _decode_all(dataset)
    per_class = _per_class(dataset)
    warnings = [*dataset.ledger.warnings, *find_leaks(dataset), *_doubts(dataset, per_class)]
    sheet = None if out is None else _write_sheet(dataset, out)
    return {
        "format": dataset.format,
        "task": dataset.task,
        "other_tasks": _other_tasks(dataset),
        "classes": dataset.classes,
        "images": len(dataset.records),
        "objects": sum(map(count_labels, dataset.records)),
        "splits": _splits(dataset.records),
        "use": describe_use(dataset),
        **dataset.ledger.to_json(),
        "warnings": warnings,
        "per_class": per_class,
        "sizes": _sizes(dataset.records),
        "background": sum(record.things == [] for record in dataset.records),
        "contact_sheet": sheet,
    }


def in_words(result: dict[str, Any], width: int = 100) -> str:
    """The answer of `check` for people: tables of `width` characters, the first refusals, the warnings."""
    page = io.StringIO()
    console = Console(file=page, width=width, markup=False, highlight=False, emoji=False)
    sizes = result["sizes"]
    console.print(f"{result['format']}, task {result['task']}: {result['images']} images, {result['objects']} labels")
    for task, what in result["other_tasks"].items():
        console.print(f"{what}: --task {task} reads them")
    extent = ", ".join(f"{key} {sizes[key][0]} x {sizes[key][1]}" for key in ("smallest", "median", "largest"))
    console.print(f"image sizes (height x width): {extent}")
    if sizes["objects"]:
        console.print("objects by size: " + ", ".join(f"{count} {name}" for name, count in sizes["objects"].items()))
    if result["background"]:
        console.print(f"{result['background']} background pictures (no object)")
    console.print(_table("split", result["splits"]))
    for part, what in result["use"].items():
        console.print(f"{part}: {what}")
    console.print(_table("class", result["per_class"], limit=40))
    for title, entries, key in (("repaired", result["repaired"], "what"), ("refused", result["refused"], "why")):
        console.print(f"{title}: {len(entries)}")
        for entry in entries[:10]:
            console.print(f"  {entry['where']}: {entry[key]}")
        if len(entries) > 10:
            console.print(f"  ... and {len(entries) - 10} more (all of them with --json)")
    for warning in result["warnings"]:
        console.print(f"warning: {warning}")
    if result["contact_sheet"]:
        console.print(f"contact sheet: {result['contact_sheet']}")
    return page.getvalue()


def _table(title: str, rows: dict[str, dict[str, int]], limit: int | None = None) -> Table:
    columns = list(next(iter(rows.values()), {}))
    table = Table(title, *columns)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in list(rows.items())[:limit]:
        table.add_row(name, *(f"{row[column]:,}" for column in columns))
    if limit is not None and len(rows) > limit:
        table.add_row(f"... {len(rows) - limit} more", *("" for _ in columns))
    return table


def _decode_all(dataset: DataSet) -> None:
    """Decode every image; one that fails or has another size than its header says moves to the refused.

    Raises:
        DataError: none is left.
    """

    def fault(record: Record) -> str | None:
        try:
            shape = decode_picture(record, dataset.root)[0].shape[:2]
        except DataError as error:
            return str(error)
        return None if shape == record.size else f"decodes to {shape[0]} x {shape[1]}, its header says {record.size}"

    reasons: dict[str, str] = {}
    workers = min(8, os.cpu_count() or 1)
    with bar() as progress, ThreadPoolExecutor(workers) as pool:
        task = progress.add_task("decoding", total=len(dataset.records))
        for record, why in zip(dataset.records, pool.map(fault, dataset.records), strict=True):
            progress.advance(task)
            if why is not None:
                reasons[record.id] = why
    if len(reasons) == len(dataset.records):
        raise DataError(f"{dataset.root}: none of {len(reasons)} images can be decoded; {list(reasons.values())[-1]}")
    dataset.refuse(reasons)


def _other_tasks(dataset: DataSet) -> dict[str, str]:
    """Tasks for which labels are there that the task of the data set leaves aside, and what these are."""
    things = [thing for record in dataset.records for thing in record.things or ()]
    found = {}
    for kind in TASKS.values():
        count, what = _held(kind, things)
        if count and kind.name != dataset.task and (kind.name in dataset.serves or not kind.keypoints):
            found[kind.name] = f"{count} of {len(things)} objects also have {what}"
        elif kind.semantic and dataset.format != "masks" and masks.looks_like(dataset.root):
            found[kind.name] = "the folder also holds class maps"
    return found


def _held(kind: Task, things: Sequence[Thing]) -> tuple[int, str]:
    """How many objects have what a task needs besides boxes, and what that is."""
    if kind.masks:
        return sum(bool(t.polygons or t.rle or t.mask) for t in things), "outlines or masks"
    if kind.keypoints:
        return sum(t.keypoints is not None for t in things), "joints"
    if kind.cuboids:
        return sum(t.cuboid is not None for t in things), "sizes and places"
    return 0, ""


def _splits(records: list[Record]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    order = ["train", "val", "test"]
    names = {record.split or "unsplit" for record in records}
    for name in sorted(names, key=lambda s: (order.index(s) if s in order else len(order), s)):
        own = [record for record in records if (record.split or "unsplit") == name]
        found[name] = {"images": len(own), "objects": sum(map(count_labels, own))}
    return found


def _per_class(dataset: DataSet) -> dict[str, dict[str, int]]:
    """Images and objects of each class in the order of the classes; images and pixels for class maps."""
    images: Counter[int] = Counter()
    objects: Counter[int] = Counter()
    for record in dataset.records:
        counts = _pixels(dataset, record) if record.semantic is not None else Counter(record.labels())
        objects.update(counts)
        images.update(counts.keys())
    unit = "pixels" if find_task(dataset.task).semantic else "objects"
    return {name: {"images": images[i], unit: objects[i]} for i, name in enumerate(dataset.classes)}


def _pixels(dataset: DataSet, record: Record) -> Counter[int]:
    counts = np.bincount(class_map_of(record, dataset).ravel(), minlength=256)[: len(dataset.classes)]
    return Counter({i: int(n) for i, n in enumerate(counts) if n})


def _sizes(records: list[Record]) -> dict[str, Any]:
    ranked = sorted((record.size for record in records), key=lambda size: (size[0] * size[1], size))
    median = (statistics.median_low(s[0] for s in ranked), statistics.median_low(s[1] for s in ranked))
    areas = [
        t.area if t.area is not None else (t.box[2] - t.box[0]) * (t.box[3] - t.box[1])
        for record in records
        for t in record.things or ()
    ]
    bands = {name: sum(low <= area < high for area in areas) for name, low, high in _BANDS}
    return {
        "smallest": list(ranked[0]),
        "median": list(median),
        "largest": list(ranked[-1]),
        "objects": bands if areas else None,
    }


def _doubts(dataset: DataSet, per_class: dict[str, dict[str, int]]) -> list[str]:
    """Classes without a label, and classes of very different frequency."""
    absent = [name for name, row in per_class.items() if not row["images"]]
    warnings = [f"no picture shows {len(absent)} of the classes: {', '.join(map(repr, absent))}"] if absent else []
    if find_task(dataset.task).semantic:
        return warnings
    found = {name: row["objects"] for name, row in per_class.items() if row["objects"]}
    if found:
        most, least = max(found, key=lambda n: found[n]), min(found, key=lambda n: found[n])
        if found[most] >= _UNEVEN * found[least]:
            warnings.append(f"classes are uneven: {found[most]} labels of {most!r}, {found[least]} of {least!r}")
    return warnings


def _write_sheet(dataset: DataSet, out: Path) -> str:
    path = out if out.suffix.lower() == ".png" else results_folder(out) / "contact_sheet.png"
    if path.exists() and any(path.samefile(dataset.root / record.path) for record in dataset.records):
        raise UsageError(f"{path}: an image of the data set; choose another place for the contact sheet")
    step = max(1, len(dataset.records) / _TILES)
    chosen = [dataset.records[int(i * step)] for i in range(min(_TILES, len(dataset.records)))]
    sheet = draw_contact_sheet([_tile(dataset, record) for record in chosen])
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(part, format="PNG")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ResourceError(f"{path}: cannot be written: {error.strerror or error}") from None
    return str(path)


def _tile(dataset: DataSet, record: Record) -> Tile:
    things = record.things or []
    if record.label is not None:
        caption = dataset.classes[record.label]
    elif record.tags is not None:
        caption = ", ".join(dataset.classes[i] for i in record.tags) or "(no tag)"
    else:
        caption = record.id.rsplit("/", 1)[-1]
    tile = Tile(decode_picture(record, dataset.root)[0], caption)
    tile.boxes = [thing.box for thing in things]
    tile.labels = [thing.label for thing in things]
    tile.names = [dataset.classes[thing.label] for thing in things]
    tile.polygons = [(i, polygon) for i, thing in enumerate(things) for polygon in thing.polygons or ()]
    if record.semantic is not None:
        classes = class_map_of(record, dataset)
        tile.regions = np.where(classes == IGNORE, -1, classes.astype(np.int64))
    elif things and things[0].mask is not None:
        path = dataset.root / things[0].mask[0]
        tile.regions = cut(decode_values(path), record, str(path)).astype(np.int64) - 1  # id 0 is background
    return tile
