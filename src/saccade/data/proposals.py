"""Proposals: boxes that may hold an object, given to a model beside the image (`Sample.given`).

They stand in a file of the user's (`read_proposals`), or a `Source` computes them from the pixels: `propose` for an
array, `proposals_for` for an image file, which keeps them on disk, so that the same image costs the work once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch

from saccade.data.dataset import DataSet, Record
from saccade.data.formats.coco_json import read_json
from saccade.data.formats.table import load_table
from saccade.data.geometry import clip_boxes
from saccade.data.image import decode
from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.machine.files import make_folder, write_whole
from saccade.machine.paths import cache_folder
from saccade.ops.selective_search import WIDTH, selective_search

FORMS = (
    "a JSON list of {image_id or file_name, bbox [x, y, width, height], score}, a predictions.json of `saccade "
    "predict`, or a CSV file with the columns image, x1, y1, x2, y2 and, if there are some, score and class"
)
CORNERS = ("x1", "y1", "x2", "y2")


class Source(Protocol):
    """What computes proposals from pixels."""

    @property
    def name(self) -> str:
        """A word that may be the name of a folder."""

    @property
    def version(self) -> str:
        """Another one wherever other boxes may come out; may be part of a folder's name."""

    def __call__(self, image: np.ndarray) -> Objects: ...


@dataclass(frozen=True)
class SelectiveSearch:
    """The boxes of selective search (ops/selective_search.py), the likeliest first, as a `Source`."""

    mode: str = "fast"
    seed: int = 0
    width: int = WIDTH

    name = "selective_search"

    @property
    def version(self) -> str:
        """3 is raised when other boxes come out of the same image and arguments."""
        return f"3-{self.mode}-{self.seed}-{self.width}"

    def __call__(self, image: np.ndarray) -> Objects:
        boxes = torch.from_numpy(selective_search(image, self.mode, self.seed, self.width))
        return Objects(boxes, torch.zeros(len(boxes), dtype=torch.int64))


# Those that `Preprocessing.proposals` can name; the word of each is also what `--proposals` takes for it.
SOURCES: dict[str, Source] = {
    "selective_search": SelectiveSearch(),
    "selective_search_quality": SelectiveSearch("quality"),
}


def propose(image: np.ndarray, source: Source) -> Objects:
    """The boxes of `source` in an image [H, W, 3] uint8 RGB, in its pixels: labels 0 or those that the source gives,
    scores if it has some."""
    return _plain(source(image))


def objects_of(truth: Annotation) -> Objects:
    """The boxes and classes of the objects of a truth, without crowds: what a model is given that answers for objects
    which something else has found."""
    assert truth.objects is not None
    own = truth.objects if truth.objects.crowd is None else truth.objects[~truth.objects.crowd]
    return Objects(own.boxes, own.labels)


def proposals_for(
    path: Path, source: Source, folder: Path | None = None, region: tuple[int, int, int, int] | None = None
) -> Objects:
    """`propose` for an image file, in pixels of the upright original; kept on disk by what the file holds.

    Args:
        region: x1 y1 x2 y2 of the part of the picture that is the image (`Record.region`); boxes are in its pixels.
        folder: where they are kept; by default `proposals` in the user's cache (`machine.paths.cache_folder`).

    Raises:
        DataError: the file is not an image that can be read.
        ResourceError: no room or permission in `folder`.
    """
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    folder = cache_folder("proposals") if folder is None else folder
    part = "" if region is None else "-" + "-".join(map(str, region))
    kept = folder / f"{source.name}-{source.version}" / content[:2] / f"{content}{part}.npy"
    known = _kept(kept)
    if known is not None:
        return known
    x1, y1, x2, y2 = region or (0, 0, None, None)
    found = propose(np.ascontiguousarray(decode(path)[y1:y2, x1:x2]), source)
    make_folder(kept.parent)
    write_whole(kept, lambda place: _save(place, _rows_of(found)))
    return found


def _save(place: Path, rows: np.ndarray) -> None:
    with place.open("wb") as file:  # given a path, numpy would add a suffix
        np.save(file, rows, allow_pickle=False)


def _kept(path: Path) -> Objects | None:
    """The boxes of an earlier call; None where there are none, or the file is damaged (it is then made again)."""
    try:
        rows = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim != 2 or not 4 <= rows.shape[1] <= 6:
        return None
    return _objects_of(rows)


def _plain(objects: Objects) -> Objects:
    """Boxes, labels and scores alone, on the CPU."""
    scores = None if objects.scores is None else objects.scores.detach().cpu().float()
    return Objects(objects.boxes.detach().cpu().float(), objects.labels.cpu(), scores)


def _rows_of(objects: Objects) -> np.ndarray:
    """[n, 4] float32: boxes; [n, 5]: with scores; [n, 6] where there are labels but 0: boxes, score or NaN, label."""
    columns = [objects.boxes]
    if objects.labels.any():
        scores = torch.full((len(objects),), float("nan")) if objects.scores is None else objects.scores
        columns += [scores[:, None], objects.labels[:, None].float()]
    elif objects.scores is not None:
        columns.append(objects.scores[:, None])
    return torch.cat(columns, dim=1).numpy()


def _objects_of(rows: np.ndarray) -> Objects:
    """What `_rows_of` made."""
    tensor = torch.from_numpy(rows)
    labels = tensor[:, 5].long() if rows.shape[1] == 6 else torch.zeros(len(rows), dtype=torch.int64)
    scored = rows.shape[1] > 4 and not tensor[:, 4].isnan().any()
    return Objects(tensor[:, :4], labels, tensor[:, 4] if scored else None)


@dataclass(frozen=True)
class ProposalFile:
    """Boxes by the names that a file has for its images: paths with '/', or ids as text."""

    path: Path
    images: dict[str, Objects]  # in pixels of the upright original, in the order of the file

    def match(self, images: Sequence[Path]) -> dict[Path, Objects]:
        """The boxes of each image file; none for one that the file does not name.

        A name fits the image whose path ends with it, else the one whose name without suffix is it, with or without
        leading zeros (COCO's ids).

        Raises:
            DataError: not one image is named, or a name fits two images.
        """
        found: dict[Path, Objects] = {}
        taken: dict[str, Path] = {}
        for path in images:
            name = next((name for name in _names(path) if name in self.images), None)
            if name is not None and taken.setdefault(name, path) != path:
                raise DataError(
                    f"{self.path}: {name!r} may be {taken[name]} or {path}; name them there by more of their paths"
                )
            found[path] = Objects.empty() if name is None else self.images[name]
        if images and not taken:
            known = ", ".join(map(repr, list(self.images)[:3]))
            raise DataError(
                f"{self.path}: names none of the {len(found)} images, such as {images[0]}; it names {known}"
            )
        return found

    def foreign(self, images: Sequence[Path]) -> list[str]:
        """The names in the file that none of the image files has."""
        taken = {next((name for name in _names(path) if name in self.images), None) for path in images}
        return [name for name in self.images if name not in taken]


@dataclass(frozen=True, slots=True)
class Attached:
    """What became of the boxes that are given for a data set; `lines` say it in words."""

    boxes: int  # inside of images, after clipping
    images: int
    unnamed: list[str]  # ids of images without any
    foreign: list[str]  # names in the file that no image has
    outside: int  # boxes wholly outside of their image, left out
    content: str  # SHA-256 of all boxes by image

    def lines(self, source: str) -> list[str]:
        """Sentences to print, the first with the numbers, the others with what was not as one would wish."""
        found = [f"proposals of {source}: {self.boxes / max(1, self.images):.0f} boxes an image"]
        if self.unnamed:
            some = ", ".join(self.unnamed[:3])
            found.append(f"{source} has no boxes for {len(self.unnamed)} of {self.images} images, such as {some}")
        if self.foreign:
            some = ", ".join(map(repr, self.foreign[:3]))
            found.append(f"{source} names {len(self.foreign)} images that the data set has not, such as {some}")
        if self.outside:
            found.append(f"{source}: {self.outside} boxes lie outside of their images and are left out")
        return found


def attach(dataset: DataSet, boxes: Mapping[Path, Objects], source: str, names: Sequence[str] = ()) -> Attached:
    """Give every record of a data set its boxes (`DataSet.given`), in place of those that would be computed.

    Boxes are clipped to the picture of the record; those outside are left out and counted. An image without boxes has
    none: nothing is found in it.

    Args:
        boxes: of each image file, in pixels of the upright original.
        source: what they come from, for the messages.
        names: those that the source has and no image.

    Raises:
        DataError: most boxes lie outside of their images, or all are shares of the sides instead of pixels.
    """
    largest = max((float(each.boxes.max()) for each in boxes.values() if len(each)), default=0.0)
    if 0 < largest <= 1.5:
        raise DataError(f"{source}: no coordinate is above {largest:g}; boxes are in pixels, not shares of the sides")
    given: dict[str, np.ndarray] = {}
    outside = total = 0
    for record in dataset.records:
        found = boxes[dataset.root / record.path]
        x1, y1 = (record.region or (0, 0))[:2]
        moved = found.boxes.numpy().astype(np.float64) - [x1, y1, x1, y1]
        clipped = clip_boxes(moved, record.size)
        inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        rows = _rows_of(found)
        given[record.id] = np.concatenate([clipped, rows[:, 4:]], axis=1)[inside].astype(np.float32)
        if record.region is None:
            outside, total = outside + int((~inside).sum()), total + len(found)
    if outside > total / 2:
        raise DataError(
            f"{source}: {outside} of {total} boxes lie outside of their images; is it of other images, or of another "
            "size of these? Boxes are x1 y1 x2 y2, or x, y, width, height, in pixels of the upright original"
        )
    dataset.given = given
    unnamed = sorted(name for name, rows in given.items() if not len(rows))
    content = hashlib.sha256()
    for name, rows in sorted(given.items()):
        content.update(name.encode("utf-8", "surrogateescape") + rows.tobytes())
    kept = sum(map(len, given.values()))
    return Attached(kept, len(given), unnamed, list(names), outside, content.hexdigest())


def given_for(dataset: DataSet, record: Record) -> Objects | None:
    """The boxes that `attach` gave a record, in pixels of its picture; None where none are given to the data set."""
    if dataset.given is None:
        return None
    return _objects_of(dataset.given[record.id])


def _names(path: Path) -> Iterator[str]:
    """What a file may call an image, the longest first."""
    parts = path.absolute().parts[1:]
    for start in range(len(parts)):
        yield "/".join(parts[start:])
    yield path.stem
    yield path.stem.lstrip("0") or "0"


def read_proposals(path: Path, wanted: Sequence[str] = ()) -> ProposalFile:
    """Read boxes from a file in one of FORMS. An image may have any number of them; widths and heights are above 0.

    Args:
        wanted: classes of which the boxes are, where that matters: labels are places in it, and boxes of other classes
            are left aside. Of one class alone all boxes are taken to be.

    Raises:
        DataError: no such file, none of these forms, or an entry (named by its number, counting from 0, or by its line)
            without image, with numbers that are no box, or without a class that is needed; no box is of a wanted class.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; proposals are {FORMS}")
    rows: dict[str, list[tuple[list[float], int]]] = {}
    entries = _csv_rows(path) if path.suffix.lower() in (".csv", ".tsv") else _json_rows(path)
    places = {name: place for place, name in enumerate(wanted)} if len(wanted) > 1 else None
    others: set[str] = set()
    for where, name, box, kind in entries:
        numbers = all(type(v) in (int, float) and math.isfinite(v) and abs(v) < 1e7 for v in box)
        if not numbers or box[2] <= box[0] or box[3] <= box[1]:
            raise DataError(f"{where}: no box of finite numbers with width and height above 0: {str(box)[:80]}")
        if places is not None and kind is None:
            raise DataError(f"{where}: no class, which this model needs: one of {', '.join(wanted[:8])}")
        if places is not None and kind not in places:
            others.add(str(kind))
            continue
        rows.setdefault(_key(name), []).append((box, 0 if places is None else places[str(kind)]))
    if not rows and others:
        raise DataError(f"{path}: boxes of {', '.join(sorted(others)[:8])}, none of {', '.join(wanted[:8])}")
    if not rows:
        raise DataError(f"{path}: no boxes in it; proposals are {FORMS}")
    return ProposalFile(path, {name: _objects(boxes) for name, boxes in rows.items()})


def _objects(rows: list[tuple[list[float], int]]) -> Objects:
    """Boxes x1 y1 x2 y2 with their labels, and with a score each where every one has it."""
    boxes = torch.tensor([box[:4] for box, _ in rows], dtype=torch.float32)
    scored = all(len(box) == 5 for box, _ in rows)
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    return Objects(boxes, labels, torch.tensor([box[4] for box, _ in rows], dtype=torch.float32) if scored else None)


def _key(name: str) -> str:
    return "/".join(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".", ".."))


# The place of an entry, its image, x1 y1 x2 y2 and perhaps a score, the name of its class where it has one.
Row = tuple[str, str, list[Any], str | None]


def _json_rows(path: Path) -> Iterator[Row]:
    entries = read_json(path, str(path))
    if not isinstance(entries, list):
        raise DataError(f"{path}: the top is a {type(entries).__name__}; proposals are {FORMS}")
    for number, entry in enumerate(entries):
        where = f"{path}: entry {number}"
        names = [entry.get(key) for key in ("file_name", "image", "image_id")] if isinstance(entry, dict) else []
        name = next((name for name in names if type(name) in (str, int) and str(name)), None)
        if name is None:
            raise DataError(f"{where}: no image_id or file_name: {str(entry)[:80]}; proposals are {FORMS}")
        if "objects" in entry:
            yield from _predicted(where, str(name), entry["objects"])
        elif "error" not in entry:  # an image that `saccade predict` could not read
            box, score = entry.get("bbox"), entry.get("score")
            if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) for v in box):
                raise DataError(f"{where}: bbox is {str(box)[:80]}, four numbers x, y, width, height needed")
            x, y, width, height = box
            kind = entry.get("category_name", entry.get("class"))
            row = [x, y, x + width, y + height] + ([] if score is None else [score])
            yield where, str(name), row, None if kind is None else str(kind)


def _predicted(where: str, name: str, objects: Any) -> Iterator[Row]:
    """The objects of an answer of `saccade predict`."""
    boxes, scores = (objects.get(key) if isinstance(objects, dict) else None for key in ("boxes", "scores"))
    if not isinstance(boxes, list) or not isinstance(scores, list) or len(boxes) != len(scores):
        raise DataError(f"{where}: 'objects' has no boxes, or not a score for each")
    kinds = objects.get("names")
    kinds = kinds if isinstance(kinds, list) and len(kinds) == len(boxes) else [None] * len(boxes)
    for box, score, kind in zip(boxes, scores, kinds, strict=True):
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{where}: a box is {str(box)[:80]}, four numbers x1, y1, x2, y2 needed")
        yield where, name, [*box, score], None if kind is None else str(kind)


def _csv_rows(path: Path) -> Iterator[Row]:
    table = load_table(path)
    wanted = ["image", *CORNERS] + (["score"] if "score" in table.names else [])
    missing = [name for name in wanted if name not in table.names]
    if missing:
        raise DataError(f"{path}:1: {table.describe()} has no {', '.join(missing)}; proposals are {FORMS}")
    columns = [table.names.index(name) for name in wanted]
    kind = table.names.index("class") if "class" in table.names else None
    for line, cells in table.rows:
        where = f"{path}:{line}"
        if len(cells) <= max(columns) or not cells[columns[0]].strip():
            raise DataError(f"{where}: {len(cells)} cells, or no image; each row has {', '.join(wanted)}")
        try:
            name = None if kind is None or kind >= len(cells) else cells[kind].strip()
            yield where, cells[columns[0]].strip(), [float(cells[column]) for column in columns[1:]], name
        except ValueError as error:
            raise DataError(f"{where}: {error}; {', '.join(wanted[1:])} are numbers") from None
