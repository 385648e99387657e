"""Tagging: worked example, scikit-learn as second implementation, the 0/0 rule, the fixed-number protocol."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from saccade.data.types import Annotation
from saccade.errors import DataError, UsageError
from saccade.metrics.tags import average_precisions, best_threshold, image_precision_recall
from saccade.tasks.contract import task_of


def truth(tags: list[int]) -> Annotation:
    return Annotation((1, 1), tags=torch.tensor(tags, dtype=torch.bool))


def prediction(scores: list[float]) -> Annotation:
    return Annotation((1, 1), probabilities=torch.tensor(scores, dtype=torch.float64))


def test_worked_example_with_a_threshold_for_every_tag() -> None:
    metric = task_of("tag").make_metric(list("abcde"), thresholds=[0.5, 0.7, 0.6, 0.4, 0.6])
    metric.add("x", truth([0, 1, 1, 0, 1]), prediction([0.2, 0.6, 0.8, 0.1, 0.4]))
    found = metric.result(bootstrap=0).metrics
    assert found["precision"].value == 1.0
    assert found["recall"].value == pytest.approx(1 / 3)


def test_nothing_said_and_nothing_true_is_right() -> None:
    given = np.array([[0, 0], [0, 0], [1, 0], [1, 1]], dtype=bool)
    true = np.array([[0, 0], [1, 0], [0, 0], [0, 1]], dtype=bool)
    precision, recall = image_precision_recall(given, true)
    assert precision.tolist() == [1, 0, 0, 0.5]
    assert recall.tolist() == [1, 0, 0, 1]


def test_average_precision_agrees_with_scikit_learn_ties_included() -> None:
    rng = np.random.default_rng(0)
    scores, true = rng.integers(0, 6, (50, 4)) / 5, rng.random((50, 4)) < 0.3
    mine = average_precisions(scores, true, np.ones((1, 50)))[0]
    theirs = [average_precision_score(true[:, k], scores[:, k]) for k in range(4)]
    assert mine == pytest.approx(theirs, abs=1e-12)


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(1)
    scores, true, times = rng.random((20, 3)), rng.random((20, 3)) < 0.4, rng.integers(0, 4, 20)
    rows = np.repeat(np.arange(20), times)
    weighted = average_precisions(scores, true, times[None].astype(float))
    assert weighted[0] == pytest.approx(average_precisions(scores[rows], true[rows], np.ones((1, len(rows))))[0])


def test_three_best_tags_of_every_image() -> None:
    metric = task_of("tag").make_metric(list("abcd"))
    metric.add("x", truth([1, 0, 0, 1]), prediction([0.9, 0.8, 0.7, 0.1]))  # gives a b c: hits a
    metric.add("y", truth([1, 1, 0, 0]), prediction([0.9, 0.1, 0.7, 0.8]))  # gives a c d: hits a
    found = metric.result(bootstrap=20).metrics
    assert found["overall_precision_at_3"].value == pytest.approx(2 / 6)
    assert found["overall_recall_at_3"].value == pytest.approx(2 / 4)
    assert found["class_recall_at_3"].value == pytest.approx((1 + 0 + 0) / 3)  # a, b, d occur
    assert found["class_precision_at_3"].value == pytest.approx((1 + 0 + 0 + 0) / 4)
    assert found["n_plus_at_3"].value == pytest.approx(1 / 3)


def test_five_best_tags_of_every_image() -> None:
    metric = task_of("tag").make_metric(list("abcdef"))
    metric.add("x", truth([0, 0, 0, 0, 1, 1]), prediction([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]))  # gives all but f: hits e
    metric.add("y", truth([1, 0, 0, 1, 0, 0]), prediction([0.1, 0.9, 0.8, 0.7, 0.6, 0.5]))  # gives all but a: hits d
    found = {name: value.value for name, value in metric.result(bootstrap=20).metrics.items()}
    assert found["overall_precision_at_5"] == pytest.approx(2 / 10)
    assert found["overall_recall_at_5"] == pytest.approx(2 / 4)
    assert found["class_recall_at_5"] == pytest.approx((0 + 1 + 1 + 0) / 4)  # a, d, e, f occur
    assert found["class_precision_at_5"] == pytest.approx((0 + 0 + 0 + 1 / 2 + 1 / 2 + 0) / 6)
    assert found["n_plus_at_5"] == pytest.approx(2 / 4)
    assert found["overall_precision_at_3"] == pytest.approx(1 / 6)  # y is given d
    assert found["n_plus_at_3"] == pytest.approx(1 / 4)


def test_numbers_that_would_give_every_tag_are_left_out() -> None:
    for classes, at_3, at_5 in ((3, False, False), (5, True, False), (6, True, True)):
        metric = task_of("tag").make_metric(list("abcdef")[:classes])
        metric.add("x", truth([1] + [0] * (classes - 1)), prediction([0.1] * classes))
        found = metric.result(bootstrap=0).metrics
        assert ("overall_recall_at_3" in found, "overall_recall_at_5" in found) == (at_3, at_5)


def test_absent_class_is_left_out_and_has_no_curve() -> None:
    metric = task_of("tag").make_metric(["a", "b"])
    metric.add("x", truth([1, 0]), prediction([0.9, 0.8]))
    metric.add("y", truth([0, 0]), prediction([0.1, 0.9]))
    found = metric.result()
    assert found.metrics["mean_ap"].value == 1.0
    assert found.per_class[1]["ap"] is None
    assert found.curves["precision_recall"][1]["recall"] == []
    assert found.curves["precision_recall"][0] == {"class": "a", "recall": [1.0, 1.0], "precision": [1.0, 0.5]}


def test_bad_input_is_named() -> None:
    metric = task_of("tag").make_metric(["a", "b"])
    with pytest.raises(DataError, match="x: the truth has no tags"):
        metric.add("x", truth([1]), prediction([0.1, 0.2]))
    with pytest.raises(DataError, match="score inf of class 1"):
        metric.add("x", truth([1, 0]), prediction([0.1, float("inf")]))
    with pytest.raises(UsageError, match="3 given"):
        task_of("tag").make_metric(["a", "b"], thresholds=[0.1, 0.2, 0.3])


def test_best_threshold_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.2])
    assert best_threshold(scores, np.array([1, 0, 1, 0, 0], bool)) == pytest.approx(0.65)  # F1 2/3, 1/2, 4/5, 2/3, 4/7
    assert best_threshold(scores, np.array([1, 0, 0, 0, 0], bool)) == pytest.approx(0.85)
    assert best_threshold(scores, np.ones(5, bool)) == pytest.approx(0.1)
    assert best_threshold(scores, np.zeros(5, bool)) == 0.5
    tied = np.array([0.5, 0.5, 0.5])
    assert best_threshold(tied, np.array([0, 1, 0], bool)) == 0.25  # all or none


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.35, 0.6, 1.0]), st.booleans()), min_size=1, max_size=12))
def test_no_threshold_has_a_better_f1(rows: list[tuple[float, bool]]) -> None:
    scores, truth = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])

    def f1(threshold: float) -> float:
        given = scores >= threshold
        return 2 * (given & truth).sum() / max(1, given.sum() + truth.sum())

    if truth.any():
        assert f1(best_threshold(scores, truth)) == max(f1(t) for t in (0.0, 0.05, 0.2, 0.5, 0.8, 1.0))


def test_order_of_images_has_no_influence_ties_included() -> None:
    rng = np.random.default_rng(3)
    scores, true = rng.integers(0, 4, (30, 6)) / 4, rng.random((30, 6)) < 0.3
    found = []
    for order in (range(30), rng.permutation(30).tolist()):
        metric = task_of("tag").make_metric(list("abcdef"))
        for i in order:
            metric.add(f"{i}", truth(true[i].tolist()), prediction(scores[i].tolist()))
        found.append(metric.result(bootstrap=40).to_json())
    assert found[0] == found[1]
