"""Linear classifiers and regressions on frozen features: fitted by scikit-learn, and put into the network as one layer.

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


@dataclass(frozen=True, slots=True)
class SVMRules:
    """How the SVM of a class is fitted while its hard negatives are looked for; defaults are R-CNN's release.

    It minimises |w|^2 / 2 + (b / bias_scale)^2 / 2 + C [positive_weight sum_pos max(0, 1 - z) + sum_neg max(0, 1 + z)]
    with margins z = w x + b (Girshick et al. 2014, appendix B; rcnn_train.m).
    """

    strength: float = 1e-3  # C
    positive_weight: float = 2.0
    bias_scale: float = 10.0
    hard: float = -1.0001  # margin above which a negative that passes by is kept
    easy: float = -1.2  # margin below which one that was kept is dropped after a fit
    refit: int = 2000  # new negatives after which it is fitted again


class MinedSVM:
    """A linear SVM of one class, fitted again and again while negatives pass by, of which it keeps the hard ones.

    All of them would not fit into memory, and most are of no consequence: a negative with a margin below -1 adds
    nothing to the loss (Felzenszwalb et al., "Object Detection with Discriminatively Trained Part-Based Models", PAMI
    2010, section 4.4).

    Args:
        positives: [n, channels], n at least 1.
        seed: of the solver.
    """

    def __init__(self, positives: np.ndarray, rules: SVMRules = SVMRules(), seed: int = 0) -> None:
        self.positives, self.rules, self.seed = positives.astype(np.float32), rules, seed
        self.weight, self.bias = np.zeros(positives.shape[1], np.float32), 0.0
        self.negatives = np.zeros((0, positives.shape[1]), np.float32)
        self._waiting: list[np.ndarray] = []
        self._fitted = False

    def margins(self, features: np.ndarray) -> np.ndarray:
        """[n, channels] -> [n]: above 0 on the side of the class."""
        margins: np.ndarray = features @ self.weight + self.bias
        return margins

    def offer(self, negatives: np.ndarray) -> None:
        """Look at some negatives [n, channels]; before the first fit all are hard, and the first ones make it."""
        hard = negatives[self.margins(negatives) > self.rules.hard]
        if len(hard):
            self._waiting.append(hard.astype(np.float32))
            if not self._fitted or sum(map(len, self._waiting)) >= self.rules.refit:
                self.fit()

    def fit(self) -> None:
        """Fit to the positives and the negatives kept; nothing where no negative is new."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        if not self._waiting:
            return
        self.negatives = np.concatenate([self.negatives, *self._waiting])
        self._waiting = []
        rules = self.rules
        model = LinearSVC(
            C=rules.strength,
            loss="hinge",
            dual=True,
            intercept_scaling=rules.bias_scale,
            class_weight={1: rules.positive_weight},
            max_iter=2000,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a pass more of negatives changes it more than a step
            kinds = np.repeat([1, 0], [len(self.positives), len(self.negatives)])
            model.fit(np.concatenate([self.positives, self.negatives]), kinds)
        self.weight, self.bias = model.coef_[0].astype(np.float32), float(model.intercept_[0])
        self.negatives = self.negatives[self.margins(self.negatives) >= rules.easy]
        self._fitted = True

    def calibrate(self) -> tuple[float, float]:
        """A slope above 0 and an offset with which the logistic function makes a probability of a margin: fitted to the
        positives and the negatives kept, each kind counting as much; (1, 0) where no negative is left.

        Source: Platt, "Probabilistic outputs for support vector machines", 1999.
        """
        from sklearn.linear_model import LogisticRegression

        if not len(self.negatives):
            return 1.0, 0.0
        margins = self.margins(np.concatenate([self.positives, self.negatives])).astype(np.float64)
        spread = float(margins.std()) or 1.0
        kinds = np.repeat([1, 0], [len(self.positives), len(self.negatives)])
        model = LogisticRegression(class_weight="balanced").fit(margins[:, None] / spread, kinds)
        return max(float(model.coef_[0, 0]) / spread, 1e-3), float(model.intercept_[0])


def ridge(features: np.ndarray, targets: np.ndarray, strength: float) -> Probe:
    """Linear regression with squared weights: the minimum of |targets - (features w + b)|^2 + strength |w|^2.

    Both are centred first, so that the bias is free. Of fewer rows than channels the smaller system is solved. R-CNN's
    release decorrelates its four targets before; with one strength for all of them that changes nothing.

    Args:
        features: [n, channels], n at least 1.
        targets: [n, outputs].

    Source: Girshick et al. 2014, appendix C, equation 5.
    """
    x, y = features.astype(np.float64), targets.astype(np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    if len(x) < x.shape[1]:
        weight = x.T @ np.linalg.solve(x @ x.T + strength * np.eye(len(x)), y)
    else:
        weight = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
    return Probe(weight.T, mean_y - mean_x @ weight, strength)
