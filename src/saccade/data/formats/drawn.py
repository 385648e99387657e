"""What people draw with labelling tools, and how it becomes a data set: pages with objects in pixels, one a picture.

The reader of a tool says what its files state (`Page`, `Drawn`); here each page finds its picture, each object is
judged, and all of it is accounted for in the ledger. Classes of whole pictures (`Page.words`) count where nothing is
drawn: one a picture is to classify, several are tags.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import (
    check_numbers,
    clip_polygon,
    drop_repeats,
    finish,
    fit_box,
    fit_polygons,
    polygon_box,
    refuse_with_image,
)
from saccade.data.formats.listing import Pictures, list_images, measure, relative
from saccade.data.formats.splits import split_of_folders
from saccade.data.rle import MAX_PIXELS, encode_mask, rle_area, rle_box
from saccade.errors import DataError

CORNERS = 48  # of the polygon that stands for a circle or an ellipse
UNNAMED = "object"  # the class where a file names none


@dataclass(slots=True)
class Drawn:
    """One object as its file states it, in pixels unless `unit` says otherwise; it has a box, an outline or a mask."""

    where: str  # its place in messages
    name: str  # of its class
    box: Sequence[object] | None = None  # x1 y1 x2 y2
    polygons: list[list[Any]] | None = None  # each x1 y1 x2 y2 ...
    mask: tuple[np.ndarray, int, int] | None = None  # [h, w] bool, and x, y of its upper left pixel in the picture
    rle: dict[str, Any] | None = None  # as COCO's, of the size of the picture
    crowd: bool = False
    unit: float = 0.0  # numbers are so many to the picture's width and height: 1 fractions, 100 percent; 0 pixels
    note: str = ""  # how it was read, where that is not as stated
    fault: str = ""  # why it cannot be read


@dataclass(slots=True)
class Page:
    """What is said of one picture."""

    where: str
    stated: list[str]  # names that its picture may have, the surest first
    objects: list[Drawn] = field(default_factory=list)
    size: tuple[int, int] | None = None  # (height, width) where it is stated
    words: list[str] = field(default_factory=list)  # classes of the whole picture
    split: str | None = None


def ellipse(cx: float, cy: float, rx: float, ry: float, degrees: float = 0.0) -> list[float]:
    """The polygon that stands for an ellipse around (cx, cy), turned clockwise by `degrees`: x1 y1 x2 y2 ..."""
    turns = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    return turned((cx, cy), np.stack([cx + rx * np.cos(turns), cy + ry * np.sin(turns)], 1), degrees)


def turned(around: tuple[float, float], points: np.ndarray, degrees: float) -> list[float]:
    """Points [n, 2] turned clockwise on the screen around one, as x1 y1 x2 y2 ..."""
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    moved = (np.asarray(points, float) - around) @ turn + around
    return [float(v) for v in moved.reshape(-1)]


def take_upright(drawn: Drawn, around: tuple[float, float], corners: np.ndarray, degrees: float) -> None:
    """Give an object the upright box around its box of `corners` [4, 2] in pixels, turned clockwise around a point."""
    drawn.box, drawn.unit = polygon_box([turned(around, corners, degrees)]), 0.0
    drawn.note = f"turned by {degrees:g} degrees: the upright box around it is taken"


def make_dataset(
    root: Path,
    name: str,
    pages: Iterable[Page],
    ledger: Ledger,
    task: str | None,
    classes: Sequence[str] = (),
) -> DataSet:
    """The data set of the pages of a tool.

    Args:
        root: folder below which the pictures are looked for.
        name: of the format.
        classes: in their order, where the files state one; those that are only used follow by name.

    Raises:
        DataError: nothing can be used.
    """
    pictures = list_images(root)
    owners = _owners(root, pictures, pages, ledger)
    if len(owners) < len(pictures):
        unnamed = f"{len(pictures) - len(owners)} of {len(pictures)} pictures"
        ledger.warnings.append(f"{unnamed} below {root.name} are in no label file and are left out")
    sizes = measure(root, sorted(owners), ledger)
    for path in set(owners) - set(sizes):
        refuse_with_image(relative(path, root), [drawn.where for drawn in owners[path].objects], ledger)
    owners = {path: page for path, page in owners.items() if path in sizes and _fits(root, path, page, sizes, ledger)}
    whole = not any(page.objects for page in owners.values()) and any(page.words for page in owners.values())
    used = {d.name for p in owners.values() for d in p.objects if d.name} if not whole else set()
    used |= {word for p in owners.values() for word in p.words} if whole else set()
    names = [*dict.fromkeys(classes), *sorted(used - set(classes))]
    labels = {word: label for label, word in enumerate(names)}
    dataset = DataSet(root, name, "detect", names, [], ledger)
    for path, page in sorted(owners.items()):
        split = page.split or split_of_folders(path.relative_to(root).parts[:-1])
        record = Record(relative(path, root), sizes[path], split)
        if not whole:
            record.things = _things(page, sizes[path], labels, ledger)
        dataset.records.append(record)
    if whole:
        return _of_whole_pictures(dataset, {relative(p, root): page for p, page in owners.items()}, labels)
    words = sum(len(page.words) for page in owners.values())
    if words:
        ledger.warnings.append(f"{words} classes of whole pictures stand beside the objects and are left aside")
    return finish(dataset, task)


def _owners(root: Path, pictures: list[Path], pages: Iterable[Page], ledger: Ledger) -> dict[Path, Page]:
    """Each picture with its page; pages without a picture, and second ones, are refused with their labels."""
    finder = Pictures(root, pictures)
    owners: dict[Path, Page] = {}
    for page in pages:
        faults = []
        for stated in page.stated:
            try:
                path = finder.find(stated)
                break
            except DataError as error:
                faults.append(str(error))
        else:
            why = faults[0] if faults else "names no picture"
            ledger.refuse_image(page.where, why)
            refuse_with_image(why, [drawn.where for drawn in page.objects], ledger)
            continue
        if path in owners:
            why = f"{relative(path, root)} is labelled already, by {owners[path].where}"
            ledger.warnings.append(f"{page.where}: {why}; that is used")
            refuse_with_image(why, [drawn.where for drawn in page.objects], ledger)
        else:
            owners[path] = page
    return owners


def _fits(root: Path, path: Path, page: Page, sizes: dict[Path, tuple[int, int]], ledger: Ledger) -> bool:
    """Whether the picture has the size that its page states; else it is refused with its labels."""
    size = sizes[path]
    if page.size is None or page.size == size or min(page.size) < 1:
        return True
    turned_by = "; is the image turned by its EXIF orientation?" if page.size == size[::-1] else ""
    why = f"{page.where} says {page.size[1]} x {page.size[0]} (width x height), the image has {size[1]} x {size[0]}"
    ledger.refuse_image(relative(path, root), why + turned_by)
    refuse_with_image(why, [drawn.where for drawn in page.objects], ledger)
    return False


def _things(page: Page, size: tuple[int, int], labels: dict[str, int], ledger: Ledger) -> list[Thing]:
    things, places = [], []
    for drawn in page.objects:
        try:
            thing, repairs = _thing(drawn, size, labels)
        except DataError as error:
            ledger.refuse_label(drawn.where, str(error))
            continue
        for repair in repairs:
            ledger.repair(drawn.where, repair)
        things.append(thing)
        places.append(drawn.where)
    return drop_repeats(things, places, ledger)


def _thing(drawn: Drawn, size: tuple[int, int], labels: dict[str, int]) -> tuple[Thing, list[str]]:
    """The object, and what was repaired. Raises DataError where nothing of it can be used."""
    if drawn.fault or not drawn.name:
        raise DataError(drawn.fault or "has no class")
    repairs = [drawn.note] if drawn.note else []
    height, width = size
    scale = (width / drawn.unit, height / drawn.unit) if drawn.unit else (1.0, 1.0)
    polygons, rle = None, drawn.rle
    if drawn.polygons is not None:
        scaled = [[v * scale[i % 2] for i, v in enumerate(check_numbers(p, "the polygon"))] for p in drawn.polygons]
        polygons, repair = fit_polygons(scaled, size)
        repairs += [repair] if repair else []
    if drawn.mask is not None:
        rle = encode_mask(_placed(*drawn.mask, size))
    if rle is not None and rle_area(rle) == 0:
        raise DataError("the mask is empty")
    if drawn.box is not None:
        corners: Sequence[float] = [v * scale[i % 2] for i, v in enumerate(check_numbers(drawn.box, "the box"))]
    elif polygons:
        corners = polygon_box([part for p in polygons if (part := clip_polygon(p, size))] or polygons)
    elif rle is not None:
        corners = rle_box(rle)
    else:
        raise DataError("has neither a box nor an outline")
    box, repair = fit_box(corners, size)
    repairs += [repair] if repair else []
    return Thing(labels[drawn.name], box, polygons=polygons, rle=rle, crowd=drawn.crowd), repairs


def _placed(window: np.ndarray, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    """A mask [H, W] bool of the picture that has the window at (x, y); what lies outside is cut off."""
    mask = np.zeros(size, bool)
    top, left = max(0, -y), max(0, -x)
    part = window[top : max(top, size[0] - y), left : max(left, size[1] - x)]
    mask[y + top : y + top + part.shape[0], x + left : x + left + part.shape[1]] = part
    return mask


def check_window(height: int, width: int) -> None:
    """Raises DataError for a mask of no pixels, or of more than a picture may have."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DataError(f"a mask of {width} x {height} pixels (width x height); allowed: 1 to {MAX_PIXELS:,}")


def _of_whole_pictures(dataset: DataSet, pages: dict[str, Page], labels: dict[str, int]) -> DataSet:
    """The data set to classify, or to tag where some picture has several words; to classify, each needs one."""
    many = any(len(set(page.words)) > 1 for page in pages.values())
    dataset.task = "tag" if many else "classify"
    reasons = {}
    for record in dataset.records:
        found = sorted({labels[word] for word in pages[record.id].words})
        if many:
            record.tags = found
        elif found:
            record.label = found[0]
        else:
            reasons[record.id] = f"{pages[record.id].where}: has no class"
    for key, why in reasons.items():
        dataset.ledger.refuse_image(key, why)
    dataset.records = [record for record in dataset.records if record.id not in reasons]
    return dataset
