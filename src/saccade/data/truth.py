"""From a record to what a model is trained on or judged by: the annotation in pixels of the upright image (of a record
that is a region of a file: of that region, `data/pictures.py`).

A pixel belongs to a polygon as COCO's mask API draws it (`data/rle.py`), to an object of several polygons where it
belongs to any of them. A rectangle with whole-numbered corners covers exactly its area.

An image that was decoded at 1/s of its size (`data.image.Probe.reduction`) takes its truth at that size: coordinates
are divided by s; class maps and stored masks give the pixel at s * i + s // 2; polygons are drawn at the small size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from saccade.data.borders import class_map_with_border
from saccade.data.cache import Kept
from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.geometry import move_objects, scaling
from saccade.data.main_object import main_object
from saccade.data.pictures import class_map_of, decode_picture
from saccade.data.resampling import resizing
from saccade.data.thing_masks import every, masks_of, reduced
from saccade.data.types import Annotation, Objects, Sample
from saccade.errors import DataError
from saccade.ops.cuboids import moved_camera
from saccade.tasks.table import TASKS, find_task

T = TypeVar("T")


def read_sample(
    record: Record, dataset: DataSet, task: str, min_side: int | None = None, known: Kept | None = None
) -> Sample:
    """The decoded image of a record with its truth.

    Args:
        min_side: as in `data.image.decode`; truth and `to_original` follow the size that was decoded.
        known: the image, if the caller has kept what an earlier call with this `min_side` gave. Where the truth has no
            objects it may have been resized since.

    Raises:
        DataError: the image cannot be read or has changed its size since the data set was read; as `read_truth`.
        ResourceError: no permission, disk error, out of memory.
    """
    if known is not None:
        return _sample(known, record, dataset, task)
    image, reduction = decode_picture(record, dataset.root, min_side)
    return _sample(Kept(image, None, (reduction, reduction)), record, dataset, task)


def _sample(kept: Kept, record: Record, dataset: DataSet, task: str) -> Sample:
    size = kept.image.shape[0], kept.image.shape[1]
    if kept.semantic is not None:
        truth = Annotation(size, semantic=torch.from_numpy(kept.semantic))
    else:
        truth = read_truth(record, dataset, task, max(1, round(kept.scale[0])))  # below 1: enlarged, without objects
        truth.size = size
    return Sample(kept.image, truth, record.id, record.size, scaling(*kept.scale))


def read_truth(record: Record, dataset: DataSet, task: str, reduction: int = 1) -> Annotation:
    """What the data set says of one image, in the fields that the task uses.

    - classify: `label`;
    - tag: `tags` [classes] bool: those stated, else the label, else the classes of the objects present;
    - segment: `semantic` [H, W] uint8, values mapped by `dataset.mask_values`, 255 = ignore; or drawn from objects
      (`data.borders`);
    - localize: `label` and, in `objects`, the box of the main object (`data.main_object`);
    - detect: `objects` with boxes, labels, crowd, difficult, area, and keypoints where the data set names them; of an
      image that has a class and no list of objects in a set with objects (`data.joined`) `label` and empty `objects`;
    - instances: the same with masks [n, H, W] bool;
    - pose: as detect, for data whose joints have names;
    - boxes3d: as detect, with `cuboids` and what of each object is `hidden`, and the image's `camera`.

    Where a picture has regions without labels, in which objects of any class may be, each of them is a crowd of every
    class: none is learnt there, and none that is found there is counted wrong.

    An object's area is the one that its file states, else that of its mask (instances) or box (detect).

    Args:
        reduction: the image is taken at 1/reduction of its size, rounded up.

    Raises:
        DataError: the record has no label of this kind; a mask is missing, unreadable, of another size than the image,
            or holds a value that `dataset.mask_values` does not know.
        UsageError: there is no such task.
    """
    kind = find_task(task)
    truth = Annotation(reduced(record.size, reduction))
    if kind.whole_image and kind.label:
        truth.label = _stated(record.label, record, "class")
    elif kind.tags:
        truth.tags = _tags(record, len(dataset.classes))
    elif kind.semantic:
        truth.semantic = torch.from_numpy(_class_map(record, dataset, reduction))
    elif kind.one_object:
        main = _stated(main_object(record.things or []), record, "object that is neither crowd nor difficult")
        truth.label = main.label
        truth.objects = _objects([main], record, dataset, reduction)
    elif kind.boxes_alone and record.label_alone and TASKS[dataset.task].many_objects:
        truth.label, truth.objects = record.label, _objects([], record, dataset, reduction)
    else:
        things = _stated(record.things, record, "list of objects")
        truth.objects = _objects(things, record, dataset, reduction)
        truth.joints = dataset.joints
        if kind.cuboids:
            truth.camera = _camera(record, reduction)
            truth.objects.cuboids, truth.objects.hidden = _cuboids(things)
        if record.unlabelled and not kind.masks:
            truth.objects = _with_crowds(truth.objects, record.unlabelled, len(dataset.classes), reduction)
        if kind.masks:
            _add_masks(truth.objects, things, record, dataset, reduction)
    return truth


def _stated(value: T | None, record: Record, what: str) -> T:
    if value is None:
        raise DataError(f"{record.id}: the data set states no {what} for this image, which the task needs")
    return value


def _tags(record: Record, classes: int) -> Tensor:
    present = record.tags
    if present is None and record.label is not None:
        present = [record.label]
    if present is None and record.things is not None:
        present = [thing.label for thing in record.things]
    tags = torch.zeros(classes, dtype=torch.bool)
    tags[_stated(present, record, "tags or objects")] = True
    return tags


def _class_map(record: Record, dataset: DataSet, reduction: int) -> np.ndarray:
    """[H, W] uint8 of class indices and IGNORE."""
    if dataset.border:
        return every(class_map_with_border(record, dataset), reduction)
    _stated(record.semantic, record, "class map")
    return every(class_map_of(record, dataset), reduction)


def _objects(things: list[Thing], record: Record, dataset: DataSet, reduction: int) -> Objects:
    boxes = torch.tensor([t.box for t in things], dtype=torch.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    stated = [float("nan") if t.area is None else t.area for t in things]
    area = torch.tensor(stated, dtype=torch.float32)
    area = torch.where(area.isnan(), sides.prod(1), area)
    objects = Objects(
        boxes=boxes,
        labels=torch.tensor([t.label for t in things], dtype=torch.int64),
        keypoints=_keypoints(things, dataset),
        crowd=torch.tensor([t.crowd for t in things], dtype=torch.bool),
        difficult=torch.tensor([t.difficult for t in things], dtype=torch.bool),
        area=area,
    )
    if reduction == 1:
        return objects
    return move_objects(objects, resizing(1 / reduction, 1 / reduction, reduced(record.size, reduction)), "all")


def _camera(record: Record, reduction: int) -> np.ndarray:
    """[3, 4] float64."""
    camera = np.array(_stated(record.camera, record, "camera"), np.float64).reshape(3, 4)
    return moved_camera(camera, scaling(1 / reduction, 1 / reduction))


def _cuboids(things: list[Thing]) -> tuple[Tensor, Tensor]:
    """[n, 7], NaN for an object without, and what is hidden [n, 2], nothing where no file says so."""
    rows = [(float("nan"),) * 7 if t.cuboid is None else t.cuboid for t in things]
    hidden = [(0.0, 0.0) if t.hidden is None else t.hidden for t in things]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 7), torch.tensor(hidden, dtype=torch.float32).reshape(
        -1, 2
    )


def _with_crowds(objects: Objects, regions: Sequence[tuple[float, ...]], classes: int, reduction: int) -> Objects:
    """The objects, and behind them each region as a crowd of every class."""
    n = len(regions) * classes
    boxes = (torch.tensor(regions) / reduction).repeat_interleave(classes, 0)
    added = {
        "boxes": boxes,
        "labels": torch.arange(classes).repeat(len(regions)),
        "keypoints": None if objects.keypoints is None else torch.zeros(n, *objects.keypoints.shape[1:]),
        "crowd": torch.ones(n, dtype=torch.bool),
        "difficult": torch.zeros(n, dtype=torch.bool),
        "area": (boxes[:, 2:] - boxes[:, :2]).prod(1),
        "cuboids": None if objects.cuboids is None else torch.full((n, 7), float("nan")),
        "hidden": None if objects.hidden is None else torch.zeros(n, 2),
    }
    columns = {name: torch.cat([getattr(objects, name), more]) for name, more in added.items() if more is not None}
    return replace(objects, **columns)


def _keypoints(things: list[Thing], dataset: DataSet) -> Tensor | None:
    """[n, k, 3], all zero (absent) for an object without; None where the data set has no keypoints."""
    if dataset.joints is None:
        return None
    points = torch.zeros(len(things), len(dataset.joints), 3)
    for row, thing in enumerate(things):
        if thing.keypoints is not None:
            points[row] = torch.tensor(thing.keypoints, dtype=torch.float32)
    return points


def _add_masks(objects: Objects, things: list[Thing], record: Record, dataset: DataSet, reduction: int) -> None:
    """Fill `objects.masks`, and `area` where no file states it."""
    masks = np.zeros((len(things), *reduced(record.size, reduction)), dtype=bool)
    for row, mask in enumerate(masks_of(things, record, dataset, reduction)):
        masks[row] = mask
        if things[row].area is None and objects.area is not None:
            objects.area[row] = float(mask.sum())
    objects.masks = torch.from_numpy(masks)
