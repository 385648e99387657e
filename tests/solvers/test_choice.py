"""What choosing a linear classifier may see."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.errors import DataError, UsageError
from saccade.solvers.choice import check_enough, choose_probe, folds, ranking_value
from saccade.solvers.linear import Probe


def _clouds(classes: int, images: int = 60, channels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.arange(images) % classes
    x = rng.normal(size=(images, channels)) * np.linspace(0.01, 50, channels) + 3
    x[np.arange(images), labels] += 2 * np.linspace(0.01, 50, channels)[labels]
    return x.astype(np.float32), np.eye(classes, dtype=bool)[labels]


def test_folds_deal_every_class_out_evenly() -> None:
    targets = np.eye(3, dtype=bool)[np.repeat([0, 1, 2], [40, 20, 4])]
    fold = folds(targets, 4, 1)
    assert np.bincount(fold).tolist() == [16, 16, 16, 16]
    assert all(targets[fold == k].sum(0).tolist() == [10, 5, 1] for k in range(4))
    assert not np.array_equal(fold, folds(targets, 4, 2))


def test_the_choice_is_good_and_its_value_is_not_that_of_the_training_images() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 200)).astype(np.float32)  # can be learned by heart, and says nothing
    targets = np.eye(2, dtype=bool)[np.arange(40) % 2]
    choice = choose_probe("svm", noise, noise, targets, "classify", 0)
    assert ranking_value(choice.probe.scores(noise), targets, "classify") == 1.0
    assert choice.value < 0.75
    x, labels = _clouds(3)
    assert choose_probe("logistic", x, x, labels, "classify", 0).value > 0.8


def test_thresholds_of_tags_come_from_images_that_were_not_fitted() -> None:
    x, targets = _clouds(3)
    choice = choose_probe("logistic", x, x, targets, "tag", 0)
    assert len(choice.thresholds) == 3
    assert all(0 <= t <= 1 for t in choice.thresholds)


def test_scores_and_ranking_by_hand() -> None:
    probe = Probe(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0.5, -1.0]), 1.0)
    scores = probe.scores(np.array([[1, 1], [0, 3]], np.float32))
    assert scores.tolist() == [[1.5, 1.0], [0.5, 5.0]]
    assert ranking_value(scores, np.array([[True, False], [True, False]]), "classify") == 0.5
    assert ranking_value(scores, np.array([[True, True], [False, True]]), "tag") == 1.0


def test_too_little_to_choose_on_is_named() -> None:
    one = np.eye(2, dtype=bool)[np.zeros(8, int)]
    with pytest.raises(UsageError, match=r"here: the training images are of one class only \(a\)"):
        check_enough("here", ["a", "b"], one, "classify")
    few = np.eye(2, dtype=bool)[[0] * 8 + [1] * 3]
    with pytest.raises(DataError, match=r"at least 4 a class are needed; too few have b \(3\)"):
        check_enough("here", ["a", "b"], few, "classify")
    check_enough("here", ["a", "b"], few, "tag")  # of which one tag can be chosen on
