"""Pictures of one person each: cut out by a box, and brought back to the picture that they are from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.geometry import map_points
from saccade.data.people import AroundPerson, joined, people_to_find, people_to_learn, with_own_boxes
from saccade.data.types import Annotation, Objects, Sample
from saccade.errors import DataError

RNG = np.random.default_rng(0)


def _sample(boxes: list[list[float]] | None, points: list[list[float]]) -> Sample:
    """A picture of 40 x 60 in which a pixel's red and green are its x and y, and one person with these joints."""
    image = np.stack([*np.meshgrid(np.arange(60), np.arange(40)), np.zeros((40, 60))], -1).astype(np.uint8)
    person = Objects(
        torch.tensor([[10.0, 5.0, 30.0, 35.0]]), torch.zeros(1, dtype=torch.int64), keypoints=torch.tensor([points])
    )
    given = None if boxes is None else Objects(torch.tensor(boxes), torch.zeros(len(boxes), dtype=torch.int64))
    return Sample(image, Annotation((40, 60), objects=person), "a.jpg", (40, 60), given=given)


def test_a_box_becomes_the_middle_of_a_square() -> None:
    """The box 20 x 30 is seen in a square of 1.25 * 30 pixels about (20, 20)."""
    seen = AroundPerson((75, 75))(_sample([[10, 5, 30, 35]], [[20, 20, 2], [1.5, 2, 2], [0, 0, 0]]), RNG)
    assert (seen.image.shape, seen.truth.size) == ((75, 75, 3), (75, 75))
    assert seen.truth.objects is not None
    assert seen.truth.objects.keypoints is not None
    points = seen.truth.objects.keypoints[0]
    torch.testing.assert_close(points[0], torch.tensor([37.5, 37.5, 2.0]))
    torch.testing.assert_close(points[1], torch.tensor([0.5, 1.5, 2.0]))  # the square begins at (1.25, 1.25)
    assert not points[2].any()
    np.testing.assert_allclose(map_points(np.array([[37.5, 37.5]]), seen.to_original), [[20, 20]])
    assert np.abs(seen.image[37, 37].astype(int) - [20, 20, 0]).max() <= 1


def test_outside_of_the_picture_it_is_gray_and_the_whole_picture_stands_for_no_box() -> None:
    seen = AroundPerson((50, 50))(_sample([[0, 0, 40, 40]], [[50, 39, 2]]), RNG)
    assert (seen.image[0, 0] == 114).all()
    assert seen.truth.objects is not None
    assert seen.truth.objects.keypoints is not None
    assert not seen.truth.objects.keypoints.any()  # the joint is beside the square
    whole = AroundPerson((60, 60))(_sample(None, [[50, 39, 2]]), RNG)
    np.testing.assert_allclose(map_points(np.array([[0.0, 10], [60, 50]]), whole.to_original), [[0, 0], [60, 40]])


def test_turned_and_zoomed_about_the_middle_of_the_box() -> None:
    for _ in range(5):
        seen = AroundPerson((75, 75), rotate=30, scale=0.25)(
            _sample([[10, 5, 30, 35]], [[20, 20, 2], [26, 20, 2]]), RNG
        )
        assert seen.truth.objects is not None
        assert seen.truth.objects.keypoints is not None
        middle, beside = seen.truth.objects.keypoints[0, :, :2]
        torch.testing.assert_close(middle, torch.tensor([37.5, 37.5]))
        x, y = (beside - middle).tolist()
        assert 0.75 * 12 <= np.hypot(x, y) <= 1.25 * 12
        assert abs(np.degrees(np.arctan2(y, x))) <= 30


def test_one_box_with_an_area_is_needed() -> None:
    with pytest.raises(DataError, match=r"a\.jpg: 2 boxes are given"):
        AroundPerson((8, 8))(_sample([[0, 0, 4, 4]] * 2, []), RNG)
    with pytest.raises(DataError, match="has no area"):
        AroundPerson((8, 8))(_sample([[60, 0, 60, 4]], []), RNG)


def _data(classes: list[str]) -> DataSet:
    seen = [(5.0, 5.0, 2.0)]
    things = [
        Thing(0, (2, 2, 9, 9), keypoints=seen),
        Thing(0, (0, 0, 30, 20), keypoints=seen, crowd=True),
        Thing(0, (1, 1, 4, 4), keypoints=[(0.0, 0.0, 0.0)]),
        Thing(0, (10, 3, 20, 19), keypoints=seen),
    ]
    records = [Record("a.jpg", (20, 30), "train", things=things), Record("b.jpg", (20, 30), "train", things=[])]
    return DataSet(Path("data"), "coco", "pose", classes, records)


def test_who_is_learnt_from_and_who_is_looked_for() -> None:
    dataset = _data(["person"])
    people = people_to_learn(dataset, dataset.records)
    assert [(r.id, r.path, r.size, len(r.things or ())) for r in people] == [
        ("a.jpg#0", "a.jpg", (20, 30), 1),
        ("a.jpg#3", "a.jpg", (20, 30), 1),
    ]
    assert "2 of 2 pictures; 2 objects that are marked crowd" in dataset.ledger.warnings[0]
    given = with_own_boxes(dataset, people).given
    assert given is not None
    assert given["a.jpg#3"].tolist() == [[10, 3, 20, 19]]
    found = people_to_find(dataset, dataset.records)
    assert [record.id for record in found.records] == ["a.jpg#0", "a.jpg#1", "a.jpg#2"]
    assert [len(boxes) for boxes in found.boxes] == [3, 0]
    dataset.given = {"a.jpg": np.zeros((0, 5), np.float32), "b.jpg": np.array([[1, 2, 3, 4, 0.5]], np.float32)}
    found = people_to_find(dataset, dataset.records)
    assert [record.id for record in found.records] == ["b.jpg#0"]
    assert found.boxes[1].scores is not None
    with pytest.raises(DataError, match=r"has 2 classes \(cat, dog\)"):
        people_to_learn(_data(["cat", "dog"]), [])


def test_answers_of_one_picture_are_joined_by_score() -> None:
    def one(score: float) -> Annotation:
        points = torch.full((1, 2, 3), score)
        label, scores = torch.zeros(1, dtype=torch.int64), torch.tensor([score])
        return Annotation((20, 30), objects=Objects(torch.zeros(1, 4), label, scores, keypoints=points))

    boxes = Objects(torch.tensor([[0.0, 0, 4, 4], [5, 5, 40, 9]]), torch.zeros(2, dtype=torch.int64))
    objects = joined([one(0.4), one(0.8)], boxes, (20, 30), 2).objects
    assert objects is not None
    assert objects.scores is not None
    assert objects.boxes.tolist() == [[5, 5, 30, 9], [0, 0, 4, 4]]
    torch.testing.assert_close(objects.scores, torch.tensor([0.8, 0.4]))
    boxes.scores = torch.tensor([1.0, 0.25])
    objects = joined([one(0.4), one(0.8)], boxes, (20, 30), 2).objects
    assert objects is not None
    assert objects.scores is not None
    torch.testing.assert_close(objects.scores, torch.tensor([0.4, 0.2]))
    none = joined([], Objects.empty(), (20, 30), 2).objects
    assert none is not None
    assert none.keypoints is not None
    assert none.keypoints.shape == (0, 2, 3)
