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
from saccade.solvers.linear import KINDS, fit_probe


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
