"""Verification from scores of pairs: numbers by hand, scikit-learn as a second implementation, published fixtures."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from saccade.errors import DataError, UsageError
from saccade.metrics.identification import all_pairs, unit
from saccade.metrics.verification import (
    accuracy_by_folds,
    auc,
    best_accuracy,
    binomial_interval,
    choose_threshold,
    equal_error_rate,
    misleading,
    pair_weights,
    roc,
    tar_at_far,
)

SCORES = np.array([0.9, 0.8, 0.8, 0.6, 0.5, 0.3])
SAME = np.array([True, True, False, True, False, False])


def test_the_curve_by_hand() -> None:
    curve = roc(SCORES, SAME)
    assert curve.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.6, 0.5, 0.3]  # the two 0.8 are one point
    assert curve.far.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 1])
    assert curve.tar.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1])
    assert auc(curve) == pytest.approx((3 + 2.5 + 2) / 9)  # of 9 pairs of pairs; the tie counts half
    rate, threshold = equal_error_rate(curve)
    assert (rate, threshold) == (pytest.approx(1 / 3), 0.8)
    assert best_accuracy(curve) == (pytest.approx(5 / 6), pytest.approx(0.55))
    assert tar_at_far(curve, 0.34) == 1
    assert math.isnan(tar_at_far(curve, 0.3))  # three pairs cannot show that rate
    assert tar_at_far(roc(np.append(SCORES, 0.1), np.append(SAME, False)), 0.25) == 1


def test_weights_are_repetitions() -> None:
    times = np.array([1, 3, 2, 0, 1, 2])
    weighed, repeated = roc(SCORES, SAME, times), roc(np.repeat(SCORES, times), np.repeat(SAME, times))
    assert auc(weighed) == pytest.approx(auc(repeated), rel=1e-12)
    assert equal_error_rate(weighed)[0] == pytest.approx(equal_error_rate(repeated)[0])
    assert tar_at_far(weighed, 0.4) == tar_at_far(repeated, 0.4)


@pytest.mark.parametrize("decimals", [1, 6])
def test_against_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(3)
    same = rng.random(800) < 0.3
    scores = np.round(rng.normal(same * 1.2, 1), decimals)  # one decimal: many ties
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    curve = roc(scores, same)
    assert np.array_equal(curve.thresholds, thresholds)
    np.testing.assert_allclose(curve.far, far, atol=1e-15)
    np.testing.assert_allclose(curve.tar, tar, atol=1e-15)
    assert auc(curve) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)


def test_one_kind_alone_and_nothing_at_all() -> None:
    for same in (np.ones(3, dtype=bool), np.zeros(3, dtype=bool)):
        curve = roc(np.arange(3.0), same)
        assert math.isnan(auc(curve))
        assert math.isnan(equal_error_rate(curve)[0])
        assert best_accuracy(curve)[0] == 1
    empty = roc(np.zeros(0), np.zeros(0, dtype=bool))
    assert math.isnan(auc(empty))
    assert math.isnan(best_accuracy(empty)[0])
    with pytest.raises(DataError, match="pair 1: its score is nan"):
        roc(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(DataError, match="one score a pair"):
        roc(np.zeros(2), np.zeros(3, dtype=bool))


def test_what_misleads_adds_up_to_what_the_curve_lacks() -> None:
    rng = np.random.default_rng(0)
    scores, same = np.round(rng.random(200), 1), rng.random(200) < 0.3  # with ties
    found = misleading(scores, same)
    for kind in (same, ~same):
        assert found[kind].mean() == pytest.approx(1 - auc(roc(scores, same)))
    assert misleading(np.array([0.9, 0.1, 0.5, 0.5]), np.array([True, True, False, False])).tolist() == [0, 1, 0.5, 0.5]
    assert misleading(np.arange(3.0), np.ones(3, dtype=bool)).tolist() == [0, 0, 0]


def test_folds_are_judged_by_the_others() -> None:
    # In fold 1 the scale is shifted: at the threshold of the others, between 0.2 and 0.8, all its pairs are accepted.
    scores = np.array([0.8, 0.2, 0.8, 0.2, 1.8, 1.2, 0.8, 0.2])
    same = np.array([True, False] * 4)
    found = accuracy_by_folds(scores, same, np.array([0, 0, 2, 2, 1, 1, 3, 3]))
    assert found.accuracies.tolist() == [1, 0.5, 1, 1]
    assert (found.accuracy, found.standard_error) == (0.875, pytest.approx(0.25 / math.sqrt(4)))
    assert found.thresholds[1] == pytest.approx(0.5)
    with pytest.raises(DataError, match="two are needed"):
        accuracy_by_folds(scores, same, np.zeros(8))


def test_a_threshold_keeps_the_stated_rate() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(3000) < 1000
    scores = rng.normal(same * 2.0, 1)
    chosen = choose_threshold(scores, same, 1e-2)
    accepted = scores >= chosen.threshold
    assert accepted[~same].sum() == 20
    assert chosen.far == pytest.approx(0.01)
    assert chosen.tar == accepted[same].mean()
    assert chosen.interval == "Clopper-Pearson over pairs"
    assert (chosen.far_low, chosen.far_high) == binomial_interval(20, 2000)
    assert not np.isclose(scores, chosen.threshold, atol=1e-12).any()  # halfway between two scores
    with pytest.raises(DataError, match="at least 10000 are needed"):
        choose_threshold(scores, same, 1e-4)
    with pytest.raises(UsageError, match="between 0 and 1"):
        choose_threshold(scores, same, 0)
    tied = choose_threshold(np.array([0.5] * 4 + [0.7]), np.array([False] * 4 + [True]), 0.5)
    assert (tied.far, tied.tar) == (0, 1)  # the four are accepted together or not at all


def test_the_exact_interval() -> None:
    assert binomial_interval(0, 10) == (0, pytest.approx(1 - 0.025**0.1))
    assert binomial_interval(10, 10) == (pytest.approx(0.025**0.1), 1)
    low, high = binomial_interval(3, 20)  # by the binomial sums that define it
    tail = sum(math.comb(20, k) * low**k * (1 - low) ** (20 - k) for k in range(3, 21))
    head = sum(math.comb(20, k) * high**k * (1 - high) ** (20 - k) for k in range(4))
    assert (tail, head) == (pytest.approx(0.025), pytest.approx(0.025))
    assert binomial_interval(0, 0) == (0, 1)


def test_people_who_are_often_mistaken_widen_the_interval() -> None:
    """All false acceptances come from two look-alikes: the rate seems well known over pairs, over people not."""
    people = np.repeat(np.arange(20), 10)
    pairs = all_pairs(people)
    both = people[pairs]
    same = both[:, 0] == both[:, 1]
    alike = (both[:, 0] == 0) & (both[:, 1] == 1)
    scores = np.where(same, 0.9, np.where(alike, 0.8, 0.1)) + np.random.default_rng(0).normal(0, 0.01, len(same))
    over_people = choose_threshold(scores, same, 0.005, both, bootstrap=300)
    over_pairs = choose_threshold(scores, same, 0.005)
    assert over_people.interval == "bootstrap over people"
    assert over_people.threshold == over_pairs.threshold
    assert over_people.far_high > 1.5 * over_pairs.far_high
    assert over_people.far_low < over_pairs.far_low
    assert choose_threshold(scores, same, 0.005, both, bootstrap=300) == over_people


def test_weights_of_pairs() -> None:
    people = np.array([[0, 0], [0, 1], [1, 2]])
    assert pair_weights(np.array([2.0, 3.0, 0.0]), people).tolist() == [2, 6, 0]


@pytest.mark.shared
def test_published_face_distances(shared_data: Path) -> None:
    place = shared_data / "metric_fixtures" / "face_pair_distances"
    expected = json.loads((place / "expected.json").read_text())
    with (place / "pairs_distances.csv").open() as f:
        rows = list(csv.DictReader(f))
    same = np.array([row["decision"] == "Yes" for row in rows])
    assert (len(rows), int(same.sum())) == (expected["pairs"], expected["positive"])
    for column, values in expected["columns"].items():
        curve = roc(-np.array([float(row[column]) for row in rows]), same)
        assert auc(curve) == pytest.approx(values["roc_auc"], abs=5e-7), column
        assert best_accuracy(curve)[0] == pytest.approx(values["best_accuracy_over_thresholds"], abs=5e-7), column


@pytest.mark.shared
def test_published_face_embeddings(shared_data: Path) -> None:
    place = shared_data / "metric_fixtures" / "orl_embeddings"
    expected = json.loads((place / "expected.json").read_text())
    with np.load(place / "embeddings.npz") as file:
        rows, people = unit(file["embeddings"]), file["subject"]
    pairs = all_pairs(people)
    same = people[pairs[:, 0]] == people[pairs[:, 1]]
    curve = roc((rows @ rows.T)[pairs[:, 0], pairs[:, 1]], same)
    assert (curve.same + curve.different, curve.same) == (expected["pairs"], expected["positive_pairs"])
    assert auc(curve) == pytest.approx(expected["roc_auc_cosine"], abs=2e-8)  # theirs are cosines in float32
    assert equal_error_rate(curve)[0] == pytest.approx(expected["eer"], abs=1e-12)
    assert tar_at_far(curve, 1e-2) == pytest.approx(expected["tar_at_far_1e-2"], abs=1e-12)
    assert tar_at_far(curve, 1e-3) == pytest.approx(expected["tar_at_far_1e-3"], abs=1e-12)
    assert best_accuracy(curve)[0] == pytest.approx(expected["best_accuracy_over_thresholds"], abs=1e-12)
    nearest = rows @ rows.T - 2 * np.eye(len(rows))
    assert (people[nearest.argmax(1)] == people).mean() == pytest.approx(expected["rank1_leave_one_out"], abs=1e-12)
