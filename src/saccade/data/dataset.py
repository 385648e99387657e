"""A data set as its files state it: records, classes, splits, and the ledger that accounts for every image and label.

Nothing here is decoded and nothing imports torch: `saccade check` reads a data set of any size with this alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

from saccade.data.joints import Joints
from saccade.tasks.table import TASKS


@dataclass(slots=True)
class Thing:
    """One object as its file states it, in pixels of the upright image (the reader converts)."""

    label: int  # index into DataSet.classes
    box: tuple[float, float, float, float]  # x1 y1 x2 y2, inside the image
    polygons: list[list[float]] | None = None  # each x1 y1 x2 y2 ...
    rle: dict[str, Any] | None = None  # COCO run lengths: {"size": [h, w], "counts": list or str}
    mask: tuple[str, int] | None = None  # (path of an id mask relative to the root, value of this object in it)
    keypoints: list[tuple[float, float, float]] | None = None  # x y visibility
    crowd: bool = False
    difficult: bool = False
    area: float | None = None  # pixels^2, where the file states it
    id: int | None = None  # COCO annotation id
    cuboid: tuple[float, ...] | None = None  # the seven numbers of ops/cuboids.py, metres and radians
    hidden: tuple[float, float] | None = None  # share outside of the image in [0, 1]; level of occlusion, 0 to 3


def _with_tuples(state: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `Thing`, with tuples where JSON has lists."""
    return {k: tuple(v) if isinstance(v, list) and k in _TUPLES else v for k, v in state.items()}


_TUPLES = ("box", "mask", "cuboid", "hidden")


@dataclass(slots=True)
class Record:
    """One picture and what is said of it, in pixels of this picture.

    The picture is a file or, where there is a `region`, a part of one: one file may be several records, each with an
    id of its own (a tile, a person, a face).
    """

    id: str  # unique in the set, free; where the picture is a file, its path
    size: tuple[int, int]  # (height, width) of the picture, upright (after EXIF orientation)
    split: str | None = None  # "train", "val", "test" where the data set says so
    label: int | None = None
    tags: list[int] | None = None  # indices of the tags that hold
    semantic: str | None = None  # path of the class map relative to the root
    things: list[Thing] | None = None
    source_id: int | str | None = None  # the image id that the format uses (COCO), returned in result files
    group: str | None = None  # the recording that it is a picture of, where that is known (data/recordings.py)
    path: str = ""  # the file relative to the root, with '/'; empty: as the id
    region: tuple[int, int, int, int] | None = None  # x1 y1 x2 y2 in the file's upright picture; None: all of it
    camera: tuple[float, ...] | None = None  # the 12 numbers of its projection matrix [3, 4], row by row
    unlabelled: list[tuple[float, float, float, float]] | None = None  # boxes in which objects of any class may be

    def __post_init__(self) -> None:
        self.path = self.path or self.id

    def to_json(self) -> dict[str, Any]:
        """As the files state it: without the recording, which is found, and without a path that is the id."""
        state = asdict(self)
        del state["group"]
        if self.path == self.id:
            del state["path"]
        for name in ("region", "camera", "unlabelled"):
            if state[name] is None:
                del state[name]
        for thing in state["things"] or ():
            for name in ("cuboid", "hidden"):
                if thing[name] is None:
                    del thing[name]
        return state

    @property
    def label_alone(self) -> bool:
        """Whether the picture has a class and no list of objects, not even an empty one."""
        return self.label is not None and self.things is None

    def labels(self) -> list[int]:
        """The label, tags and labels of objects, each as often as it is stated; none for a class map."""
        stated = [] if self.label is None else [self.label]
        return [*stated, *(self.tags or ()), *(thing.label for thing in self.things or ())]

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Record:
        """What `to_json` gave, of this version or an older one, which knew no path and no region."""
        state = dict(state, size=tuple(state["size"]))
        for name in ("region", "camera"):
            if state.get(name) is not None:
                state[name] = tuple(state[name])
        if state.get("unlabelled") is not None:
            state["unlabelled"] = [tuple(box) for box in state["unlabelled"]]
        if state.get("things") is not None:
            state["things"] = [Thing(**_with_tuples(thing)) for thing in state["things"]]
        return cls(**state)


@dataclass(slots=True)
class Entry:
    """A line of the ledger."""

    where: str  # "labels/a.txt:3", "annotations.json: annotation 17", ...
    what: str  # what was repaired and how, or why it was refused


@dataclass(slots=True)
class Ledger:
    """Every image and label is counted once: used, repaired (and used) or refused. Warnings concern the whole."""

    images_used: int = 0
    labels_used: int = 0
    repaired: list[Entry] = field(default_factory=list)
    refused: list[Entry] = field(default_factory=list)
    images_refused: int = 0
    labels_refused: int = 0
    warnings: list[str] = field(default_factory=list)

    def repair(self, where: str, what: str) -> None:
        self.repaired.append(Entry(where, what))

    def refuse_image(self, where: str, why: str) -> None:
        """`why` may be the text of an error that begins with the file; it is not said twice."""
        before, place, rest = why.partition(f"{where}: ")
        named = place and (not before or before.endswith(("/", os.sep)))
        self.refused.append(Entry(where, rest if named else why))
        self.images_refused += 1

    def refuse_label(self, where: str, why: str) -> None:
        self.refused.append(Entry(where, why))
        self.labels_refused += 1

    def lines(self) -> list[str]:
        """Lines for people: the warnings, how much is refused and the first of that; none if all is well."""
        lines = [f"warning: {warning}" for warning in self.warnings]
        if self.refused:
            lines.append(f"refused: {self.images_refused} images and {self.labels_refused} labels. The first:")
            lines += [f"  {entry.where}: {entry.what}" for entry in self.refused[:5]]
        return lines

    def to_json(self) -> dict[str, Any]:
        """{used {images, labels}, repaired [{where, what}], refused [{where, why}], warnings}."""
        return {
            "used": {"images": self.images_used, "labels": self.labels_used},
            "repaired": [{"where": entry.where, "what": entry.what} for entry in self.repaired],
            "refused": [{"where": entry.where, "why": entry.what} for entry in self.refused],
            "warnings": self.warnings,
        }


@dataclass(slots=True)
class DataSet:
    """What a reader of `data/formats` returns."""

    root: Path
    format: str  # a key of `data.formats.FORMATS`: "folder", "coco", ...
    task: str  # the richest task that these labels serve; see tasks/table.py
    classes: list[str]  # names are the key; ids stay inside
    records: list[Record]
    ledger: Ledger = field(default_factory=Ledger)
    mask_values: dict[int, int] | None = None  # value in a class-map file -> class index, 255 = ignore (segment)
    joints: Joints | None = None  # what `Thing.keypoints` are, where the objects have some
    category_ids: list[int | str] | None = None  # the format's own id of each class (COCO), returned in result files
    border: int = 0  # class maps are drawn from the objects, with a border of so many pixels (data/borders.py)
    # Boxes of a file or detector by id of the record: [n, 4], with scores [n, 5], with scores and labels [n, 6].
    given: dict[str, np.ndarray] | None = None

    @property
    def serves(self) -> tuple[str, ...]:
        """The tasks that these labels can be read for, the usual one first."""
        found = (self.task, *TASKS[self.task].also)
        more = (t.name for t in TASKS.values() if t.keypoints and t.name not in found and self.joints is not None)
        return (*found, *more)

    def of(self, split: str) -> list[Record]:
        """The records of one split, in order of id."""
        return [r for r in self.records if r.split == split]

    @property
    def splits(self) -> dict[str, int]:
        """Images per split, in the order train, val, test, others."""
        order = ["train", "val", "test"]
        names = {r.split for r in self.records if r.split is not None}
        ranked = sorted(names, key=lambda s: (order.index(s) if s in order else len(order), s))
        return {s: sum(r.split == s for r in self.records) for s in ranked}

    @property
    def has_cuboids(self) -> bool:
        """Whether an object has a box in three dimensions, in a picture whose camera is known."""
        seen = (record.things or () for record in self.records if record.camera is not None)
        return any(thing.cuboid is not None for things in seen for thing in things)

    def take_classes(self, classes: Sequence[str]) -> None:
        """Number labels by `classes`, which hold all own names that have a label, and may hold more. A class without
        an id in a COCO file has its name for one."""
        place = {name: i for i, name in enumerate(classes)}
        new = [place.get(name, -1) for name in self.classes]
        for record in self.records:
            if record.label is not None:
                record.label = new[record.label]
            if record.tags is not None:
                record.tags = sorted(new[tag] for tag in record.tags)
            for thing in record.things or ():
                thing.label = new[thing.label]
        if self.mask_values is not None:
            self.mask_values = {v: i if i == 255 else new[i] for v, i in self.mask_values.items()}
        if self.category_ids is not None:
            stated = dict(zip(self.classes, self.category_ids, strict=True))
            self.category_ids = [stated.get(name, name) for name in classes]
        self.classes = list(classes)

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Move the records of these ids, each with the reason, from the used to the refused, labels included."""
        kept = []
        for record in self.records:
            if record.id not in reasons:
                kept.append(record)
                continue
            self.ledger.refuse_image(record.id, reasons[record.id])
            self.ledger.labels_refused += count_labels(record)
        self.records = kept
        self.ledger.images_used, self.ledger.labels_used = len(kept), sum(map(count_labels, kept))


def count_labels(record: Record) -> int:
    """Labels of one picture as the ledger counts them: things and tags each, a class or a class map once."""
    return len(record.labels()) + (record.semantic is not None)
