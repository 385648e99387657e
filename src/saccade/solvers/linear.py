"""Linear classifiers on frozen features: fitted by scikit-learn, and put into the network as one layer.

Features are standardised by mean and deviation of the training images; `Probe` holds the classifier with this folded
in, so that it is one linear layer on the features as the network gives them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from saccade.tasks.table import find_task

KINDS = ("svm", "logistic")


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
    if find_task(task).label:
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
    from sklearn.exceptions import ConvergenceWarning  # imported here: a model file that names a solver stays light
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

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
