"""Classification: top-1, top-5, per class, confusion matrix, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.metrics import Result
from saccade.metrics.bootstrap import estimate, mean_of_defined, ratio, resampled_as

BINS = 15  # of the calibration curve (Guo et al. 2017, sec. 2)


def rank_of_truth(scores: np.ndarray, label: int) -> int:
    """How many classes come before `label` (0: none does). Among equal scores the lower class index comes first."""
    ahead = scores > scores[label]
    tied = (scores == scores[label]) & (np.arange(len(scores)) < label)
    return int((ahead | tied).sum())


class Classification:
    """Metrics top1, top5 (truth among the five best; not of five classes or fewer), mean_accuracy (mean of the
    per-class recalls over the classes that occur in the truth).

    A prediction without probabilities (only a label) counts for top1; then top5 and the calibration are undefined.
    Curves: "confusion" {classes, counts [truth][predicted]}, "calibration" {confidence, accuracy, images: one a bin
    of equal width in [0, 1], error: expected calibration error (Guo et al. 2017, eq. 3)}.
    """

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        self._rows: dict[str, tuple[int, int, int, float]] = {}  # truth, predicted, rank (-1 unknown), confidence

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where a label is missing or unknown, a score is not finite, or the image came before."""
        if id in self._rows:
            raise DataError(f"{id}: evaluated twice; give every image once")
        label = self._label(id, truth.label, "truth")
        if prediction.probabilities is None:
            self._rows[id] = (label, self._label(id, prediction.label, "prediction"), -1, np.nan)
            return
        scores = class_scores(id, prediction, len(self.classes))
        top = int(scores.argmax())
        self._rows[id] = (label, top, rank_of_truth(scores, label), float(scores[top]))

    def _label(self, id: str, label: int | None, who: str) -> int:
        if label is None or not 0 <= label < len(self.classes):
            raise DataError(f"{id}: the {who} has label {label}, allowed 0..{len(self.classes) - 1}")
        return int(label)

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        rows = np.array([self._rows[id] for id in sorted(self._rows)], dtype=np.float64).reshape(-1, 4)
        truth, guess, rank, confidence = rows[:, 0].astype(int), rows[:, 1].astype(int), rows[:, 2], rows[:, 3]
        correct = (truth == guess).astype(np.float64)
        top5 = np.where(rank < 0, np.nan, (rank < 5).astype(np.float64))
        belongs = np.eye(len(self.classes))[truth]  # [images, classes]

        def statistic(w: np.ndarray) -> dict[str, np.ndarray]:
            total = w.sum(1)
            return {
                "top1": ratio(w @ correct, total),
                **({"top5": ratio(w @ top5, total)} if len(self.classes) > 5 else {}),
                "mean_accuracy": mean_of_defined(ratio((w * correct) @ belongs, w @ belongs)),
            }

        counts = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        np.add.at(counts, (truth, guess), 1)
        curves = {
            "confusion": {"classes": self.classes, "counts": counts.tolist()},
            "calibration": _calibration(confidence, correct),
        }
        metrics = estimate(statistic, resampled_as(sorted(self._rows), groups), bootstrap, seed)
        return Result(metrics, self._per_class(counts, truth, top5), curves, len(rows))

    def _per_class(self, counts: np.ndarray, truth: np.ndarray, top5: np.ndarray) -> list[dict[str, Any]]:
        table = []
        for k, name in enumerate(self.classes):
            images, predicted, hit = int(counts[k].sum()), int(counts[:, k].sum()), int(counts[k, k])
            among = top5[truth == k]
            table.append(
                {
                    "name": name,
                    "images": images,
                    "predictions": predicted,
                    "recall": hit / images if images else None,
                    "precision": hit / predicted if predicted else None,
                    "f1": 2 * hit / (images + predicted) if images + predicted else None,
                    "top5": float(among.mean()) if images and not np.isnan(among).any() else None,
                }
            )
        return table


def class_scores(id: str, prediction: Annotation, classes: int) -> np.ndarray:
    """`scores` as [classes] float64. Raises DataError where they are missing, too many or few, or not finite."""
    if prediction.probabilities is None:
        raise DataError(f"{id}: the prediction has no scores; one probability a class is needed")
    scores = prediction.probabilities.detach().double().cpu().numpy()
    if scores.shape != (classes,):
        raise DataError(f"{id}: the prediction has scores of shape {list(scores.shape)}, expected [{classes}]")
    if not np.isfinite(scores).all():
        raise DataError(f"{id}: score {scores[~np.isfinite(scores)][0]} of class {np.argmin(np.isfinite(scores))}")
    return scores


def _calibration(confidence: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    known = ~np.isnan(confidence)
    confidence, correct = confidence[known], correct[known]
    place = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    n = np.bincount(place, minlength=BINS)
    mean = ratio(np.bincount(place, confidence, BINS), n)
    accuracy = ratio(np.bincount(place, correct, BINS), n)
    error = float(np.nansum(np.abs(mean - accuracy) * n) / n.sum()) if n.sum() else None
    return {"confidence": mean.tolist(), "accuracy": accuracy.tolist(), "images": n.tolist(), "error": error}
