"""The threshold of the best F1: worked by hand, and by class where that pays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.metrics.detection import Detection
from saccade.metrics.matching import Table
from saccade.metrics.operating import ENOUGH, operating_points


def table(right: list[float], wrong: list[float], truths: int) -> Table:
    """Detections of one class by score, all of one image."""
    scores = np.array(right + wrong)
    order = np.argsort(-scores, kind="stable")
    states = np.array([[1] * len(right) + [0] * len(wrong)], dtype=np.uint8)[:, order]
    n = len(scores)
    return Table(scores[order], states, np.zeros(n, dtype=np.int64), np.arange(n), np.array([[float(truths)]]))


def test_worked_by_hand() -> None:
    """Scores 0.9 and 0.6 right, 0.5 and 0.4 wrong, of three objects: from 0.51 to 0.60 both hits and nothing wrong."""
    found = operating_points(["a"], [table([0.9, 0.6], [0.5, 0.4], 3)])
    assert found is not None
    assert found["threshold"] == pytest.approx(0.55, abs=0.011)
    assert (found["precision"], found["recall"]) == (1.0, pytest.approx(2 / 3))
    assert found["f1"] == pytest.approx(2 * 2 / (2 + 3))
    at = dict(zip(found["confidence"], found["curve"], strict=True))
    assert at[0.3] == pytest.approx(2 * 2 / (4 + 3))
    assert at[0.8] == pytest.approx(2 * 1 / (1 + 3))
    assert at[0.95] == 0


def test_a_class_has_a_threshold_of_its_own_where_it_pays() -> None:
    """The rare class would gain as much, but few objects speak for it."""
    sure = table([0.9] * 60, [0.5] * 60, 60)
    shy = table([0.3] * ENOUGH, [0.1] * ENOUGH, ENOUGH)
    rare = table([0.3], [0.1], 1)
    found = operating_points(["sure", "shy", "rare"], [sure, shy, rare])
    assert found is not None
    assert found["thresholds"][0] == found["thresholds"][2] == found["threshold"] > 0.5
    assert 0.1 < found["thresholds"][1] <= 0.3
    assert [row["class"] for row in found["classes"]] == ["sure", "shy", "rare"]
    assert found["classes"][1]["recall"] == 1.0
    assert found["classes"][2]["recall"] == 0.0


@pytest.mark.parametrize("tables", [[table([], [0.5], 0)], [table([], [], 3)], []])
def test_nothing_found_or_nothing_there(tables: list[Table]) -> None:
    assert operating_points(["a"] * len(tables), tables) is None


def test_a_detector_is_measured_by_it() -> None:
    metric = Detection(["a", "b"])
    box = torch.tensor([[0.0, 0, 10, 10]])
    truth = Annotation((20, 20), objects=Objects(box, torch.tensor([1])))
    both = Objects(torch.cat([box, box + 10]), torch.tensor([1, 0]), torch.tensor([0.8, 0.3]))
    metric.add("one", truth, Annotation((20, 20), objects=both))
    points = metric.result(bootstrap=0).curves["operating"]
    assert 0.3 < points["threshold"] <= 0.8
    assert points["f1"] == 1.0
    assert len(points["thresholds"]) == 2
