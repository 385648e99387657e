"""Linear classifiers on frozen features: fitted by scikit-learn, chosen by cross-validation, put into the network.

Features are standardised by mean and deviation of the training images; `Probe` holds the classifier with this folded
in, so that it is one linear layer on the features as the network gives them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import nn

from saccade.metrics.bootstrap import mean_of_defined
from saccade.metrics.tags import average_precisions, best_threshold

KINDS = ("svm", "logistic")
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the weight of the images against that of the norm
FOLDS = 4


@dataclass(frozen=True, slots=True)
class Probe:
    """One linear layer: scores = features @ weight.T + bias."""

    weight: np.ndarray  # [classes, channels] float64
    bias: np.ndarray  # [classes]
    strength: float  # C

    def scores(self, features: np.ndarray) -> np.ndarray:
        """[images, channels] -> logits [images, classes]."""
        return features.astype(np.float64) @ self.weight.T + self.bias

    def put_into(self, layer: nn.Module) -> None:
        """Make a Linear or 1x1 convolution of the same shape compute these scores."""
        with torch.no_grad():
            weight = layer.get_parameter("weight")
            weight.copy_(torch.from_numpy(self.weight).reshape(weight.shape))
            layer.get_parameter("bias").copy_(torch.from_numpy(self.bias))


@dataclass(frozen=True, slots=True)
class Choice:
    """A probe whose strength was chosen on the training images alone."""

    probe: Probe
    value: float  # of the metric in cross-validation, at the chosen strength
    thresholds: list[float]  # tag: of best F1 on images that a fold did not train on; else empty


def fit_probe(kind: str, features: np.ndarray, targets: np.ndarray, task: str, strength: float, seed: int) -> Probe:
    """Fit one linear classifier.

    Args:
        kind: "svm" (squared hinge, one against the rest) or "logistic" (softmax; for tags one logistic a tag).
        features: [images, channels].
        targets: [images, classes] bool; for classify one a row.

    A tag that all or none of the images hold gets its log-odds as bias and no weights.
    """
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    deviation = np.where(deviation > 1e-12, deviation, 1.0)
    normal = (features - mean) / deviation
    if task == "classify":
        present = np.flatnonzero(targets.any(0))
        rows, biases = _fit(kind, normal, targets.argmax(1), strength, seed)
        weight, bias = np.zeros((targets.shape[1], features.shape[1])), np.full(targets.shape[1], biases.min() - 10.0)
        weight[present], bias[present] = rows, biases
    else:
        weight, bias = np.zeros((targets.shape[1], features.shape[1])), np.zeros(targets.shape[1])
        for k in range(targets.shape[1]):
            held, count = int(targets[:, k].sum()), len(targets)
            if held in (0, count):
                bias[k] = np.log((held + 0.5) / (count - held + 0.5))
            else:
                rows, biases = _fit(kind, normal, targets[:, k].astype(int), strength, seed)
                weight[k], bias[k] = 2 * rows[1], 2 * biases[1]
    weight = weight / deviation
    return Probe(weight, bias - weight @ mean, strength)


def _fit(kind: str, x: np.ndarray, y: np.ndarray, strength: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights [classes present, channels] and biases; two classes share scikit-learn's one row half and half, so that
    the difference of the scores is its decision."""
    model = (
        LinearSVC(C=strength, dual="auto", max_iter=2000, random_state=seed)
        if kind == "svm"
        else LogisticRegression(C=strength, max_iter=500)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough: the best C is chosen by what it scores
        model.fit(x, y)
    rows, biases = model.coef_, model.intercept_
    if len(rows) == 1:
        rows, biases = np.concatenate([-rows / 2, rows / 2]), np.concatenate([-biases / 2, biases / 2])
    return rows, biases


def choose_probe(
    kind: str, features: np.ndarray, mirrored: np.ndarray, targets: np.ndarray, task: str, seed: int
) -> Choice:
    """The probe with the strength that is best in cross-validation, fitted on all images and their mirror images.

    An image and its mirror image are in one fold; scores are of the images as they are. At a tie the smaller C.
    """
    fold = folds(targets, FOLDS, seed)
    best: tuple[float, float, np.ndarray] | None = None
    for strength in STRENGTHS:
        scores = np.zeros(targets.shape)
        for k in np.unique(fold):
            train, test = fold != k, fold == k
            probe = fit_probe(kind, *_with_mirrored(features, mirrored, targets, train), task, strength, seed)
            scores[test] = probe.scores(features[test])
        value = ranking_value(scores, targets, task)
        if best is None or value > best[0] + 1e-12:
            best = (value, strength, scores)
    assert best is not None
    value, strength, scores = best
    everything = np.ones(len(targets), bool)
    probe = fit_probe(kind, *_with_mirrored(features, mirrored, targets, everything), task, strength, seed)
    chances = probabilities(scores, task)
    tags = range(targets.shape[1]) if task == "tag" else ()
    return Choice(probe, value, [best_threshold(chances[:, k], targets[:, k]) for k in tags])


def refit(
    kind: str, features: np.ndarray, mirrored: np.ndarray, targets: np.ndarray, task: str, strength: float, seed: int
) -> Probe:
    """A probe on these images and their mirror images at a strength that is settled."""
    everything = np.ones(len(targets), bool)
    return fit_probe(kind, *_with_mirrored(features, mirrored, targets, everything), task, strength, seed)


def _with_mirrored(
    features: np.ndarray, mirrored: np.ndarray, targets: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([features[rows], mirrored[rows]]), np.concatenate([targets[rows], targets[rows]])


def ranking_value(scores: np.ndarray, targets: np.ndarray, task: str) -> float:
    """The number that ranks the task: share of images whose best class is theirs, or mean average precision."""
    if task == "classify":
        return float((scores.argmax(1) == targets.argmax(1)).mean())
    return float(mean_of_defined(average_precisions(scores, targets, np.ones((1, len(targets)))))[0])


def probabilities(scores: np.ndarray, task: str) -> np.ndarray:
    """What the network makes of logits [images, classes]: softmax, or a logistic output a tag."""
    tensor = torch.from_numpy(scores)
    return (tensor.softmax(1) if task == "classify" else tensor.sigmoid()).numpy()


def folds(targets: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A number 0 .. count - 1 for every image, [images]; each class is dealt out evenly, the rarest first.

    Args:
        targets: [images, classes] bool.
    """
    rng = np.random.default_rng(seed)
    fold = np.full(len(targets), -1)
    dealt = 0
    for k in [*np.argsort(targets.sum(0), kind="stable"), None]:
        open_rows = np.flatnonzero((fold < 0) & (targets[:, k] if k is not None else True))
        open_rows = rng.permutation(open_rows)
        fold[open_rows] = (dealt + np.arange(len(open_rows))) % count
        dealt += len(open_rows)
    return fold
