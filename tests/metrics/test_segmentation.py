"""Segmentation: worked example, hand-made maps, scikit-learn as second implementation, ignored and absent classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score

from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.metrics import Value
from saccade.tasks.contract import task_of


def class_map(rows: list[list[int]] | np.ndarray) -> Annotation:
    values = torch.tensor(np.asarray(rows), dtype=torch.uint8)
    return Annotation((values.shape[0], values.shape[1]), semantic=values)


def test_worked_example_one_of_two_listed_pixels() -> None:
    true, predicted = np.full((81, 201), 255), np.zeros((81, 201))
    true[0, 0], true[80, 200], predicted[80, 200] = 1, 2, 2
    metric = task_of("segment").make_metric(["background", "bicycle", "people"])
    metric.add("x", class_map(true), class_map(predicted))
    assert metric.result(bootstrap=0).metrics["pixel_accuracy"] == Value(0.5)


def test_four_numbers_of_a_hand_made_map() -> None:
    metric = task_of("segment").make_metric(["a", "b", "c", "d"])
    metric.add("x", class_map([[0, 0, 0, 1], [1, 1, 255, 255]]), class_map([[0, 0, 1, 1], [1, 2, 0, 3]]))
    found = metric.result(bootstrap=0)
    iou = [2 / 3, 2 / 4, 0.0]  # c is only predicted: counts as 0; d only where the truth is ignored: absent
    assert found.metrics["mean_iou"].value == pytest.approx(np.mean(iou))
    assert found.metrics["pixel_accuracy"].value == pytest.approx(4 / 6)
    assert found.metrics["mean_accuracy"].value == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert found.metrics["frequency_weighted_iou"].value == pytest.approx((3 * 2 / 3 + 3 * 2 / 4) / 6)
    assert [row["iou"] for row in found.per_class] == [pytest.approx(v) for v in iou] + [None]
    assert found.curves["confusion"]["counts"] == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_predicted_ignore_is_an_error_of_the_true_class_only() -> None:
    metric = task_of("segment").make_metric(["a", "b"])
    metric.add("x", class_map([[0, 0]]), class_map([[0, 255]]))
    found = metric.result(bootstrap=0).metrics
    assert found["mean_iou"].value == 0.5
    assert found["pixel_accuracy"].value == 0.5


def test_all_ignored_is_undefined() -> None:
    metric = task_of("segment").make_metric(["a"])
    metric.add("x", class_map([[255]]), class_map([[0]]))
    assert set(metric.result().metrics.values()) == {Value(None)}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_agrees_with_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    metric = task_of("segment").make_metric(list("abcd"))
    pairs = [(rng.integers(0, 4, (5, 6)), rng.integers(0, 4, (5, 6))) for _ in range(3)]
    for i, (true, predicted) in enumerate(pairs):
        metric.add(str(i), class_map(true), class_map(predicted))
    t, p = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    found = metric.result(bootstrap=0).metrics
    seen = np.union1d(t, p)
    assert found["mean_iou"].value == pytest.approx(jaccard_score(t, p, labels=seen, average="macro"), abs=1e-12)
    assert found["pixel_accuracy"].value == pytest.approx(accuracy_score(t, p), abs=1e-12)
    weighted = jaccard_score(t, p, labels=seen, average="weighted")
    assert found["frequency_weighted_iou"].value == pytest.approx(weighted, abs=1e-12)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([[0, 7]], [[0, 0]], "x: class 7 in the truth, allowed 0..1 and 255"),
        ([[0, 1]], [[0, 2]], "class 2 in the prediction"),
        ([[0, 1]], [[0], [1]], r"size \(2, 1\), the truth of size \(1, 2\)"),
    ],
)
def test_bad_input_is_named(true: list[list[int]], predicted: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_of("segment").make_metric(["a", "b"]).add("x", class_map(true), class_map(predicted))


def test_order_of_images_has_no_influence() -> None:
    rng = np.random.default_rng(4)
    maps = [(class_map(rng.integers(0, 3, (6, 7))), class_map(rng.integers(0, 3, (6, 7)))) for _ in range(20)]
    found = []
    for order in (range(20), rng.permutation(20).tolist()):
        metric = task_of("segment").make_metric(["a", "b", "c"])
        for i in order:
            metric.add(f"{i}", *maps[i])
        found.append(metric.result(bootstrap=40).to_json())
    assert found[0] == found[1]
