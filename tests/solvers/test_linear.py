"""Probes against scikit-learn's own decisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from saccade.solvers.choice import probabilities
from saccade.solvers.linear import KINDS, MinedSVM, SVMRules, fit_probe, ridge


def _clouds(classes: int, images: int = 60, channels: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.arange(images) % classes
    x = rng.normal(size=(images, channels)) * np.linspace(0.01, 50, channels) + 3
    x[np.arange(images), labels] += 2 * np.linspace(0.01, 50, channels)[labels]
    return x.astype(np.float32), np.eye(classes, dtype=bool)[labels]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_probe_on_raw_features_is_scikit_learn_on_standardised_ones(classes: int) -> None:
    x, targets = _clouds(classes)
    y, scaler = targets.argmax(1), StandardScaler().fit(x.astype(np.float64))
    normal = scaler.transform(x.astype(np.float64))
    svm = LinearSVC(C=0.1, dual="auto", max_iter=2000, random_state=0).fit(normal, y)
    logistic = LogisticRegression(C=0.1, max_iter=500).fit(normal, y)
    for kind, model in (("svm", svm), ("logistic", logistic)):
        scores = fit_probe(kind, x, targets, "classify", 0.1, 0).scores(x)
        wanted = model.decision_function(normal)
        got = scores[:, 1] - scores[:, 0] if classes == 2 else scores
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    chances = probabilities(fit_probe("logistic", x, targets, "classify", 0.1, 0).scores(x), "classify")
    np.testing.assert_allclose(chances, logistic.predict_proba(normal), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_tag_has_a_classifier_of_its_own(kind: str) -> None:
    x, targets = _clouds(3)
    targets[::4, 0] = True  # several tags an image
    normal = StandardScaler().fit_transform(x.astype(np.float64))
    model = LinearSVC(C=1.0, dual="auto", max_iter=2000, random_state=0) if kind == "svm" else LogisticRegression(C=1.0)
    scores = fit_probe(kind, x, targets, "tag", 1.0, 0).scores(x)
    for k in range(3):
        wanted = model.fit(normal, targets[:, k].astype(int)).decision_function(normal)
        np.testing.assert_allclose(scores[:, k], wanted, rtol=2e-3, atol=2e-3)


def test_tags_that_never_or_always_hold_get_their_log_odds() -> None:
    x, targets = _clouds(3)
    targets[:, 0], targets[:, 1] = False, True
    probe = fit_probe("logistic", x, targets, "tag", 1.0, 0)
    assert not probe.weight[:2].any()
    assert probe.bias[0] == pytest.approx(np.log(0.5 / 60.5))
    assert probe.bias[1] == pytest.approx(np.log(60.5 / 0.5))


def test_a_class_without_images_is_never_the_best() -> None:
    x, targets = _clouds(2)
    wide = np.concatenate([targets, np.zeros((len(x), 1), bool)], 1)
    assert fit_probe("svm", x, wide, "classify", 1.0, 0).scores(x).argmax(1).max() == 1


@pytest.mark.parametrize("layer", [nn.Linear(6, 3), nn.Conv2d(6, 3, 1)])
def test_a_layer_computes_the_scores(layer: nn.Module) -> None:
    x, targets = _clouds(3)
    probe = fit_probe("logistic", x, targets, "classify", 1.0, 0)
    probe.put_into(layer)
    images = torch.from_numpy(x)
    with torch.no_grad():
        logits = layer(images if isinstance(layer, nn.Linear) else images[:, :, None, None]).reshape(len(x), 3)
    np.testing.assert_allclose(logits.numpy(), probe.scores(x), rtol=1e-4, atol=1e-3)


def test_a_mined_svm_is_that_of_all_negatives() -> None:
    """It keeps few of the negatives, and its margins are nearly those of the SVM that saw them all."""
    rng = np.random.default_rng(0)
    positives = rng.normal(1.0, 1.0, (60, 10))
    negatives = rng.normal(-1.0, 1.0, (3000, 10))
    rules = SVMRules(strength=0.01, refit=200)
    mined = MinedSVM(positives, rules)
    for part in np.split(negatives, 30):
        mined.offer(part)
    mined.fit()
    assert len(mined.negatives) < 600
    whole = LinearSVC(C=0.01, loss="hinge", dual=True, intercept_scaling=10, class_weight={1: 2}, max_iter=20_000)
    every = np.concatenate([positives, negatives])
    whole.fit(every, np.repeat([1, 0], [60, 3000]))
    assert np.corrcoef(mined.margins(every), whole.decision_function(every))[0, 1] > 0.99
    slope, offset = mined.calibrate()
    chance = 1 / (1 + np.exp(-(slope * mined.margins(every) + offset)))
    assert chance[:60].mean() > 0.8
    assert chance[60:].mean() < 0.1


def test_a_mined_svm_minimises_what_the_release_says() -> None:
    rng = np.random.default_rng(1)
    positives, negatives = rng.normal(0.5, 1, (10, 3)), rng.normal(-0.5, 1, (30, 3))
    mined = MinedSVM(positives, SVMRules(strength=0.1, easy=-np.inf))
    mined.offer(negatives)

    def objective(weight: np.ndarray, bias: float) -> float:
        losses = 2 * np.maximum(0, 1 - positives @ weight - bias).sum()
        losses += np.maximum(0, 1 + negatives @ weight + bias).sum()
        return float((weight @ weight + (bias / 10) ** 2) / 2 + 0.1 * losses)

    least = objective(mined.weight, mined.bias)
    for _ in range(200):
        assert least <= objective(mined.weight + rng.normal(0, 0.02, 3), mined.bias + rng.normal(0, 0.02)) + 1e-3


def test_a_mined_svm_without_negatives_says_nothing() -> None:
    mined = MinedSVM(np.ones((2, 3)))
    mined.fit()
    assert mined.calibrate() == (1, 0)
    assert not mined.margins(np.ones((4, 3))).any()


@pytest.mark.parametrize("rows", [5, 80])
def test_ridge_is_the_closed_form(rows: int) -> None:
    """Of the normal equations with a free bias; decorrelated targets give the same."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(rows, 12)).astype(np.float32), rng.normal(size=(rows, 4))
    found = ridge(x, y, 3.0)
    wide = np.concatenate([x, np.ones((rows, 1))], 1).astype(np.float64)
    expected = np.linalg.solve(wide.T @ wide + np.diag([3.0] * 12 + [0]), wide.T @ y)
    np.testing.assert_allclose(found.weight, expected[:-1].T, atol=1e-6)
    np.testing.assert_allclose(found.bias, expected[-1], atol=1e-6)
    mix = rng.normal(size=(4, 4))
    mixed = ridge(x, y @ mix, 3.0)
    np.testing.assert_allclose(np.linalg.solve(mix.T, mixed.weight), found.weight, atol=1e-6)
