"""Which linear classifier: chosen by cross-validation on the training images alone, where these are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saccade.errors import DataError, UsageError
from saccade.metrics.bootstrap import mean_of_defined
from saccade.metrics.tags import average_precisions, best_threshold
from saccade.solvers.linear import Probe, fit_probe
from saccade.tasks.table import find_task

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the weight of the images against that of the norm
FOLDS = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """A probe whose strength was chosen on the training images alone."""

    probe: Probe
    value: float  # of the metric in cross-validation, at the chosen strength
    thresholds: list[float]  # tag: of best F1 on images that a fold did not train on; else empty


def check_enough(where: str, classes: Sequence[str], targets: np.ndarray, task: str) -> None:
    """Whether a classifier can be fitted and chosen on images of these targets, [images, classes] bool.

    Args:
        where: of which data, for messages.

    Raises:
        UsageError: there is nothing to tell apart.
        DataError: too little to choose on a part of it.
    """
    counts = targets.sum(0)
    one_class = find_task(task).label
    if one_class and (counts > 0).sum() < 2:
        only = ", ".join(name for name, n in zip(classes, counts, strict=True) if n) or "none"
        raise UsageError(f"{where}: the training images are of one class only ({only}); two are needed")
    few = [f"{name} ({n})" for name, n in zip(classes, counts, strict=True) if 0 < n < FOLDS]
    if few and (one_class or len(few) == (counts > 0).sum()):
        raise DataError(
            f"{where}: too few training images to choose on a part of them: at least {FOLDS} a class are needed; too "
            f"few have {', '.join(few[:10])}"
        )


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
    tags = range(targets.shape[1]) if find_task(task).tags else ()
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
    if find_task(task).label:
        return float((scores.argmax(1) == targets.argmax(1)).mean())
    return float(mean_of_defined(average_precisions(scores, targets, np.ones((1, len(targets)))))[0])


def probabilities(scores: np.ndarray, task: str) -> np.ndarray:
    """What the network makes of logits [images, classes]: softmax, or a logistic output a tag."""
    tensor = torch.from_numpy(scores)
    return (tensor.softmax(1) if find_task(task).label else tensor.sigmoid()).numpy()


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
