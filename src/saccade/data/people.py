"""Pictures of one person each, for networks that answer for one person and cannot tell several apart.

A person is told by a box. `AroundPerson` shows the network the surroundings of the box that a sample is given, in one
warp; by its `to_original` every answer returns to the pixels of the file. In training every object with a labelled
joint is a record of its own, of the same file (`people_to_learn`); where pictures are answered, every box of a picture
is one (`people_to_find`), and `joined` makes one answer of those of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.geometry import Size, clip_boxes, scaling, shift
from saccade.data.resampling import warp
from saccade.data.types import Annotation, Objects, Sample
from saccade.errors import DataError

ENLARGED = 1.25  # side of what is seen over that of the box


@dataclass(frozen=True)
class AroundPerson:
    """The box that the sample is given, in the middle of a frame of `size`, with some of its surroundings.

    The box is enlarged by ENLARGED, and along one side until it has the shape of the frame; where that reaches outside
    of the picture the frame is gray. A sample that is given no box is seen whole. Angle uniform in +-`rotate` degrees,
    zoom uniform in 1 +- `scale` (Newell et al. 2016, section 3.1), both about the middle of the box. No object is
    dropped: joints outside of the frame are absent.
    """

    size: Size
    rotate: float = 0.0
    scale: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Raises DataError where the sample is given several boxes, or one without area."""
        angle, zoom = rng.uniform(-1, 1, 2) * (self.rotate, self.scale)
        height, width = sample.truth.size
        x1, y1, x2, y2, enlarged = 0.0, 0.0, float(width), float(height), 1.0
        if sample.given is not None:
            if len(sample.given) != 1:
                raise DataError(f"{sample.id}: {len(sample.given)} boxes are given, that of one person needed")
            (x1, y1, x2, y2), enlarged = sample.given.boxes[0].tolist(), ENLARGED
            if x2 <= x1 or y2 <= y1:
                raise DataError(f"{sample.id}: the box of a person {x1:g} {y1:g} {x2:g} {y2:g} has no area")
        factor = (1 + zoom) * min(self.size[1] / (x2 - x1), self.size[0] / (y2 - y1)) / enlarged
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        middle = shift(self.size[1] / 2, self.size[0] / 2)
        about = scaling(factor, factor) @ shift(-(x1 + x2) / 2, -(y1 + y2) / 2)
        return warp(sample, middle @ turn @ about, self.size, keep="all")


def people_to_learn(dataset: DataSet, records: Sequence[Record]) -> list[Record]:
    """A record for every object with a labelled joint, in order: of the same file, with this object alone; the id is
    that of its picture and the number of the object in it, as in `a.jpg#0`. Crowds are left aside; how many objects are
    stands in the warnings of the ledger.

    Raises:
        DataError: the objects are of several classes: what finds joints of one kind cannot name them.
    """
    check_one_class(dataset)
    people = [
        _person(record, number, [thing])
        for record in records
        for number, thing in enumerate(record.things or ())
        if not thing.crowd and any(seen > 0 for _, _, seen in thing.keypoints or ())
    ]
    left = sum(len(record.things or ()) for record in records) - len(people)
    dataset.ledger.warnings.append(
        f"every object with joints is a training picture of its own: {len(people)} of {len(records)} pictures; {left} "
        "objects that are marked crowd or have no labelled joint are left aside"
    )
    return people


def check_one_class(dataset: DataSet) -> None:
    """Raises DataError where a data set has several classes."""
    if len(dataset.classes) != 1:
        raise DataError(
            f"{dataset.root} has {len(dataset.classes)} classes ({', '.join(dataset.classes[:5])}); this model finds "
            "the joints of one kind of object and names none: take data of one class, or keypoint_rcnn_small"
        )


def with_own_boxes(dataset: DataSet, people: Sequence[Record]) -> DataSet:
    """The data set, giving each of `people_to_learn` the box of its object."""
    return replace(dataset, given={record.id: _boxes(record.things or ())[:1] for record in people})


@dataclass(frozen=True, slots=True)
class People:
    """The boxes of some pictures, as records."""

    dataset: DataSet  # which gives each its box
    records: list[Record]
    boxes: list[Objects]  # of each picture, in its pixels; as many records stand in the order of these


def people_to_find(dataset: DataSet, records: Sequence[Record]) -> People:
    """A record for every box of some pictures: of those that the data set gives (`data.proposals.attach`), else of its
    objects, but for crowds."""
    people, given, boxes = [], {}, []
    for record in records:
        things = [thing for thing in record.things or () if not thing.crowd]
        rows = _boxes(things) if dataset.given is None else dataset.given[record.id]
        rows = rows[inside(rows, record.size)]
        for number in range(len(rows)):
            people.append(_person(record, number, []))
            given[people[-1].id] = rows[number : number + 1]
        scores = torch.from_numpy(rows[:, 4]) if rows.shape[1] == 5 else None
        boxes.append(Objects(torch.from_numpy(rows[:, :4]), torch.zeros(len(rows), dtype=torch.int64), scores))
    return People(replace(dataset, given=given), people, boxes)


def inside(boxes: np.ndarray, size: Size) -> np.ndarray:
    """[n] bool: which boxes [n, 4 or more] have a part inside of a picture of `size`."""
    clipped = clip_boxes(boxes[:, :4].astype(np.float64), size)
    return np.asarray((clipped[:, 2:] > clipped[:, :2]).all(axis=1))


def joined(answers: Sequence[Annotation], boxes: Objects, size: Size, joints: int) -> Annotation:
    """One answer of those for each box of a picture, by falling score: the score of a person is that of its joints,
    times that of the box where boxes have scores.

    Args:
        answers: of one person each, in pixels of the picture.
        boxes: which the people were found in, as many; they take the place of the answers' own.
        size: (height, width) of the picture.
        joints: of every person.
    """
    found = [answer.objects for answer in answers if answer.objects is not None]
    if not found:
        return Annotation(size, objects=replace(Objects.empty(scored=True), keypoints=torch.zeros(0, joints, 3)))
    scores = torch.cat([torch.ones(len(each)) if each.scores is None else each.scores for each in found])
    scores = scores if boxes.scores is None else scores * boxes.scores.clamp(0, 1)
    points = torch.cat([each.keypoints for each in found if each.keypoints is not None])
    clipped = torch.from_numpy(clip_boxes(boxes.boxes.numpy(), size).astype(np.float32))
    objects = Objects(clipped, torch.cat([each.labels for each in found]), scores, keypoints=points)
    return replace(answers[0], size=size, objects=objects[scores.argsort(descending=True, stable=True)])


def _boxes(things: Sequence[Thing]) -> np.ndarray:
    return np.array([thing.box for thing in things], np.float32).reshape(-1, 4)


def _person(record: Record, number: int, things: list[Thing]) -> Record:
    return replace(record, id=f"{record.id}#{number}", things=things)
