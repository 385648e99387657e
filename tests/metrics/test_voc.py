"""VOC's average precision: the rule of difficult objects, duplicates, inclusive pixels, both averages."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.metrics.matching import Matches
from saccade.metrics.voc import ELEVEN, EVERY, numpy_box_iou, voc_states
from saccade.tasks.contract import task_of

A, B, C = [0.0, 0, 10, 10], [100.0, 100, 120, 120], [50.0, 0, 60, 10]


def detections(boxes: list[list[float]], scores: list[float]) -> Annotation:
    objects = Objects(torch.tensor(boxes), torch.zeros(len(boxes), dtype=torch.int64), torch.tensor(scores))
    return Annotation((200, 200), objects=objects)


def truth(boxes: list[list[float]], difficult: list[bool]) -> Annotation:
    flags = torch.tensor(difficult)
    return Annotation((200, 200), objects=Objects(torch.tensor(boxes), torch.zeros(len(boxes)).long(), difficult=flags))


def test_duplicates_are_false_and_difficult_objects_swallow() -> None:
    states = voc_states(np.array([A, A, B, B, C]), np.array([A, B]), np.array([False, True]))
    assert states.tolist() == [1, 0, 2, 2, 0]


def test_a_detection_looks_only_at_its_best_truth() -> None:
    near = [1.0, 0, 11, 10]  # overlaps A by more than a half as well
    states = voc_states(np.array([A, A]), np.array([A, near]), np.array([False, False]))
    assert states.tolist() == [1, 0]  # COCO would give the second one the neighbour


def test_both_averages_of_a_hand_made_ranking() -> None:
    # Ranking: right, wrong, right, of 3 truths: (recall, precision) = (1/3, 1), (2/3, 2/3).
    metric = task_of("detect").make_metric(["a"])
    metric.add("x", truth([A, B, C], [False] * 3), detections([A, [150.0, 0, 160, 10], B], [0.9, 0.8, 0.7]))
    found = metric.result(0).metrics
    assert found["voc_ap50"].value == pytest.approx(1 / 3 + 2 / 3 / 3)
    assert found["voc07_ap50"].value == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


@pytest.mark.parametrize(("hits", "points"), [(2, 3), (3, 3), (4, 5), (6, 6), (10, 11)])
def test_eleven_recalls_are_those_of_the_public_implementations(hits: int, points: int) -> None:
    table = Matches(1)
    table.scores["x"], table.states["x"] = np.arange(hits)[::-1].astype(float), np.ones((1, hits), dtype=np.uint8)
    table.truths["x"] = np.array([10])
    # 0.3 and 0.6 lie one rounding below the recall that asks for them and do not reach it.
    assert table.table(["x"]).average_precision(np.ones((1, 1)), ELEVEN)[0, 0] == pytest.approx(points / 11)


def test_difficult_objects_are_ignored_by_voc_and_counted_by_coco() -> None:
    metric = task_of("detect").make_metric(["a"])
    metric.add("x", truth([A, B], [False, True]), detections([B, A], [0.9, 0.8]))
    metric.add("y", truth([C], [True]), Annotation((9, 9), objects=Objects.empty(True)))
    found = metric.result(0).metrics
    assert found["voc_ap50"].value == 1
    assert found["ar_100"].value == pytest.approx(2 / 3)


def test_inclusive_pixels_can_lift_an_overlap_over_the_threshold() -> None:
    a, b = np.array([[0.0, 0, 9, 9]]), np.array([[0.0, 0, 9, 4]])
    assert numpy_box_iou(a, b)[0, 0] == pytest.approx(36 / 81)
    assert numpy_box_iou(a, b, inclusive=True)[0, 0] == 0.5
    for inclusive, ap in ((False, 0.0), (True, 1.0)):
        metric = task_of("detect").make_metric(["a"], voc_inclusive=inclusive)
        metric.add("x", truth(b.tolist(), [False]), detections(a.tolist(), [0.5]))
        assert metric.result(0).metrics["voc_ap50"].value == ap


def test_empty_boxes_do_not_overlap() -> None:
    assert numpy_box_iou(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0.0]]
    assert Matches(1).table(["x"]).average_precision(np.ones((1, 1)), EVERY).shape == (1, 1)


def test_thousands_of_boxes_need_little_memory_beside_the_answer() -> None:
    """Five thousand boxes against five thousand took seven times the memory of their overlaps."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (2000, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 60, (2000, 2))], axis=1)
    crowd = np.arange(2000) % 7 == 0
    few = [numpy_box_iou(boxes[i : i + 1], boxes, crowd=crowd)[0] for i in range(0, 2000, 400)]
    tracemalloc.start()
    ious = numpy_box_iou(boxes, boxes, crowd=crowd)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(ious[::400], few)
    assert (ious.diagonal() == 1).all()
    assert peak < 1.6 * ious.nbytes
