"""COCO's results file, the list that every detector can write: [{image_id, category_id, score, bbox |
segmentation | keypoints}].

Images are known by `Record.source_id` where the data set has one, else by the record's id (path), its file name, or
its stem, with or without leading zeros; a name that fits several images fits none. Classes are known by
`DataSet.category_ids` (one id a class) where the data set is a COCO one, else by label + 1, which is what the
converter to COCO writes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from saccade.data.dataset import DataSet, Record
from saccade.data.joints import Joints
from saccade.data.rle import decode_rle, encode_polygons, pack_counts, rle_box, rle_counts, rle_size
from saccade.data.types import Annotation, Objects
from saccade.errors import DataError, UsageError
from saccade.metrics.masks import encode

CORNERS = ("coco", "voc")
MAX_ENTRIES = 10_000  # an image: COCO counts 100 of a class; all are compared with all of the truth

Entry = dict[str, Any]

_POSE = re.compile(rb'(?:\xef\xbb\xbf)?\s*\[\s*\{[^}]*"keypoints"\s*:')
_HEAD = 1 << 16  # bytes that hold the first entry of a file, masks aside


class Results:
    """Predictions by record id, one for every image of the data set; an image that the file does not name has none.

    Numbers keep the file's full precision (float64), so that scores that differ stay different. Masks are decoded
    when an image is asked for, and not kept.
    """

    def __init__(self, records: list[Record], entries: dict[str, list[Entry]], joints: Joints | None = None) -> None:
        self._joints = joints
        self._records = {record.id: record for record in records}
        self._entries = entries

    def __getitem__(self, id: str) -> Annotation:
        record, entries = self._records[id], self._entries.get(id, [])
        boxes = torch.tensor([e["box"] for e in entries], dtype=torch.float64).reshape(-1, 4)
        objects = Objects(
            boxes,
            torch.tensor([e["label"] for e in entries], dtype=torch.int64),
            torch.tensor([e["score"] for e in entries], dtype=torch.float64),
        )
        if entries and all(e["runs"] is not None for e in entries):
            objects.masks = torch.stack([torch.from_numpy(decode_rle(e["runs"])) for e in entries])
        if self._joints is not None and all(e["points"] is not None for e in entries):
            poses = torch.tensor([e["points"] for e in entries], dtype=torch.float64)
            objects.keypoints = poses.reshape(-1, len(self._joints), 3)
        return Annotation(size=record.size, objects=objects, joints=self._joints)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, id: object) -> bool:
        return id in self._records

    def items(self) -> Iterator[tuple[str, Annotation]]:
        return ((id, self[id]) for id in self)

    @property
    def named(self) -> set[str]:
        """Ids of the images for which the file has at least one entry."""
        return set(self._entries)

    @property
    def masks(self) -> bool:
        """Whether every entry has a mask, so that it can be judged as instances."""
        return bool(self._entries) and all(e["runs"] is not None for rows in self._entries.values() for e in rows)

    @property
    def keypoints(self) -> bool:
        """Whether every entry has keypoints, so that it can be judged as poses."""
        return bool(self._entries) and all(e["points"] is not None for rows in self._entries.values() for e in rows)


def read_results(path: Path | str, dataset: DataSet, corners: str = "coco") -> Results:
    """Read any tool's results file for the images of `dataset`. An empty list is right: nothing was found (AP 0).

    Args:
        corners: how bbox (x y width height) counts pixels. "coco": from 0, the last corner beyond the last pixel.
            "voc": as VOC's own files, from 1 and with the last pixel inside: x1 y1 x2 y2 become x1 - 1, y1 - 1, x2, y2
            as those of the truth do. A detector that was trained on VOC's numbers as they stand answers so.

    Raises:
        DataError: not JSON, not a list, more than MAX_ENTRIES for one image, or an entry (named by its number, counting
            from 0) with an unknown image or category, a score or box that is not finite, a negative side, a mask
            that is not of the image's size, or another number of joints than the data set has.
        UsageError: another word for `corners`.
    """
    if corners not in CORNERS:
        raise UsageError(f"corners is {corners!r}; allowed: {', '.join(CORNERS)}")
    path = Path(path)
    entries = _load(path)
    images, labels = image_names(dataset), category_labels(dataset)
    found: dict[str, list[Entry]] = {}
    for number, entry in enumerate(entries):
        where = f"{path.name}: entry {number}"
        if not isinstance(entry, dict):
            raise DataError(
                f"{where}: expected an object with image_id, category_id, score and bbox, found {entry!r:.80}"
            )
        record = images.get(str(entry.get("image_id")))
        if record is None:
            raise DataError(
                f"{where}: image_id {entry.get('image_id')!r:.80} is not in the data set; known are ids such as "
                f"{sorted(images)[:3]}"
            )
        rows = found.setdefault(record.id, [])
        if len(rows) == MAX_ENTRIES:
            raise DataError(f"{where}: image_id {entry.get('image_id')!r:.80} has more than {MAX_ENTRIES:,} entries")
        rows.append(_entry(where, entry, record, labels, corners) | {"points": _pose(where, entry, dataset.joints)})
    return Results(dataset.records, found, dataset.joints)


def holds_poses(path: Path | str) -> bool:
    """Whether the first entry of a results file has keypoints, so that the data set is read for them. Of the file only
    the head is looked at; what is no results file is told by `read_results`."""
    try:
        with Path(path).open("rb") as file:
            return _POSE.match(file.read(_HEAD)) is not None
    except OSError:
        return False


class ResultRows:
    """Predictions as rows of a results file. Masks become compressed run lengths as they come in.

    image_id is the record's source_id, else its id.

    Args:
        ids: category_id by name of the classes that the files of the data set have, where a model has more; boxes of
            the others, which no reader of these files knows, are left out. None: all have one.
    """

    def __init__(self, dataset: DataSet, ids: Mapping[str, int | str] | None = None) -> None:
        self._sources = {r.id: r.id if r.source_id is None else r.source_id for r in dataset.records}
        known = dict(zip(dataset.classes, category_ids(dataset), strict=True)) if ids is None else ids
        self._ids = [known.get(name) for name in dataset.classes]
        self.rows: list[dict[str, Any]] = []  # as the file holds them

    def add(self, record: Record, truth: Annotation, prediction: Annotation) -> None:
        """The objects found in the image of this record; its truth is not looked at.

        Raises:
            DataError: the record is not in the data set, or a box or score is not finite.
        """
        if record.id not in self._sources:
            raise DataError(f"prediction for {record.id!r}, which is not an image of the data set")
        self.rows += _rows(record.id, self._sources[record.id], prediction, self._ids)


def category_ids(dataset: DataSet) -> list[int | str]:
    """The id of every class in result files: the data set's own where it is a COCO one, else label + 1."""
    stated = getattr(dataset, "category_ids", None) if dataset.format == "coco" else None
    return list(stated) if stated else list(range(1, len(dataset.classes) + 1))


def category_labels(dataset: DataSet) -> dict[int | str, int]:
    """Label of every category id."""
    return {id: label for label, id in enumerate(category_ids(dataset))}


def image_names(dataset: DataSet) -> dict[str, Record]:
    """Every name by which a results file may call an image, as text; see the head of this module."""
    exact = {str(r.source_id): r for r in dataset.records if r.source_id is not None}
    if exact:
        return exact
    names: dict[str, set[str]] = {}
    for record in dataset.records:
        file = PurePosixPath(record.path)
        for name in {file.name, file.stem, file.stem.lstrip("0") or "0"}:
            names.setdefault(name, set()).add(record.id)
    by_id = {record.id: record for record in dataset.records}
    return {name: by_id[next(iter(ids))] for name, ids in names.items() if len(ids) == 1} | by_id


def _load(path: Path) -> list[Any]:
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: no regular file; a COCO results file is JSON")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); a COCO results file is JSON") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}; not valid JSON") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: not a results file ({type(error).__name__} while reading the JSON)") from error
    if not isinstance(entries, list):
        raise DataError(
            f"{path}: expected a list of {{image_id, category_id, score, bbox}} at the top, found "
            f"{type(entries).__name__}; a whole COCO data set is not a results file"
        )
    return entries


def _entry(where: str, entry: dict[str, Any], record: Record, labels: dict[int | str, int], corners: str) -> Entry:
    category = entry.get("category_id")
    if isinstance(category, bool) or not isinstance(category, int | str) or category not in labels:
        raise DataError(f"{where}: category_id {category!r:.80} is unknown, allowed {_some(list(labels))}")
    score = entry.get("score")
    if not _is_number(score):
        raise DataError(f"{where}: score {score!r:.80} is not a finite number")
    runs = _runs(where, entry["segmentation"], record) if entry.get("segmentation") else None
    box = entry.get("bbox")
    points = entry.get("keypoints")
    if box is None and runs is None and points and isinstance(points, list) and all(map(_is_number, points)):
        xs, ys = points[0::3], points[1::3]
        return {"label": labels[category], "score": score, "box": [min(xs), min(ys), max(xs), max(ys)], "runs": None}
    if box is None and runs is not None:
        x1, y1, x2, y2 = rle_box(runs)
        return {"label": labels[category], "score": score, "box": [x1, y1, x2, y2], "runs": runs}
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box) or min(box[2:]) < 0:
        raise DataError(f"{where}: bbox {box!r:.80} is not x, y, width, height in finite pixels, width and height >= 0")
    x, y, width, height = box
    first = 1 if corners == "voc" else 0
    return {
        "label": labels[category],
        "score": score,
        "box": [x - first, y - first, x + width, y + height],
        "runs": runs,
    }


def _pose(where: str, entry: dict[str, Any], joints: Joints | None) -> list[float] | None:
    """x, y and confidence of each joint; None where there are none or the data set has no joints."""
    points = entry.get("keypoints")
    if points is None or joints is None:
        return None
    if not isinstance(points, list) or len(points) != 3 * len(joints) or not all(map(_is_number, points)):
        found = f"{len(points)} values" if isinstance(points, list) else f"{points!r:.80}"
        raise DataError(
            f"{where}: keypoints are {found}; x, y and confidence of {len(joints)} joints are {3 * len(joints)} finite "
            "numbers"
        )
    return points


def _runs(where: str, segmentation: Any, record: Record) -> dict[str, Any]:
    """Compressed run lengths of a mask that is stated as polygons or as run lengths."""
    try:
        if isinstance(segmentation, list):
            parts = [p for p in segmentation if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
            if len(parts) != len(segmentation) or not all(_is_number(v) for p in parts for v in p):
                raise DataError("a polygon is a list of x1, y1, x2, y2, ... with at least 3 points")
            return encode_polygons(parts, record.size)
        if not isinstance(segmentation, dict):
            raise DataError(f"segmentation {segmentation!r:.80} is neither polygons nor run lengths")
        if rle_size(segmentation) != record.size:
            raise DataError(f"mask of size {segmentation['size']}, the image is {list(record.size)} (height, width)")
        counts = rle_counts(segmentation)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    given = segmentation["counts"]
    return {"size": list(record.size), "counts": given if isinstance(given, str) else pack_counts(counts.tolist())}


def _rows(id: str, source: int | str, prediction: Annotation, ids: list[int | str | None]) -> list[dict[str, Any]]:
    objects = prediction.objects
    if objects is None or objects.scores is None:
        raise DataError(f"{id}: the prediction has no scored objects")
    boxes = objects.boxes.detach().double().cpu().numpy()
    scores = objects.scores.detach().double().cpu().numpy()
    rows = []
    for i, label in enumerate(objects.labels.tolist()):
        if not (np.isfinite(boxes[i]).all() and np.isfinite(scores[i])):
            raise DataError(f"{id}: object {i} has box {boxes[i].tolist()}, score {scores[i]}")
        if (category := ids[label]) is None:
            continue
        x1, y1, x2, y2 = boxes[i].tolist()
        row: dict[str, Any] = {
            "image_id": source,
            "category_id": category,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(scores[i]),
        }
        if objects.masks is not None:
            runs = encode(objects.masks[i : i + 1])[0]
            counts = runs["counts"]
            text = counts.decode("ascii") if isinstance(counts, bytes) else counts
            row["segmentation"] = {"size": list(objects.masks.shape[1:]), "counts": text}
        if objects.keypoints is not None:
            row["keypoints"] = [float(v) for v in objects.keypoints[i].flatten()]
        rows.append(row)
    return rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12 and math.isfinite(value)


def _some(values: list[int | str]) -> str:
    return ", ".join(map(str, values[:10])) + (f", ... ({len(values)} in all)" if len(values) > 10 else "")
