"""Tagging: mean average precision, precision and recall of the tags given, by threshold and by fixed number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saccade.data.types import Annotation
from saccade.errors import DataError, UsageError
from saccade.metrics import Result
from saccade.metrics.bootstrap import estimate, mean_of_defined, ratio, resampled_as
from saccade.metrics.classification import class_scores

AT = (3, 5)  # tags an image in the fixed-number protocol (Gong et al. 2014, sec. 4)


def image_precision_recall(given: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """|P & T| / |P| and |P & T| / |T| for every image; `given` and `truth` are [images, classes] bool.

    0/0 is 1 where both sets are empty (nothing to say, nothing said) and 0 where only the divisor's is.
    """
    hit, predicted, true = (given & truth).sum(1), given.sum(1), truth.sum(1)
    agreed = ((predicted == 0) & (true == 0)).astype(np.float64)
    precision = np.where(predicted > 0, hit / np.maximum(predicted, 1), agreed)
    return precision, np.where(true > 0, hit / np.maximum(true, 1), agreed)


class Tags:
    """Metrics:

    - mean_ap: mean over the classes that occur of the average precision, sum of precision x rise in recall over the
      ranking of the images by score (no interpolation; images of equal score enter together);
    - precision, recall: mean over images of `image_precision_recall` of the tags whose probability reaches the
      threshold;
    - class_precision_at_3, class_recall_at_3 (means over the classes that are given at least once, or that occur),
      overall_precision_at_3, overall_recall_at_3 and n_plus_at_3 (share of the occurring classes with recall above 0):
      every image is given its 3 best tags, as in Gong et al. 2014 ("Deep convolutional ranking for multilabel
      image annotation", sec. 4); a tie goes to the first class. The same with 5. Not of three (five) classes or fewer,
      of which every image would be given all.

    `per_class` tells the `best_threshold` of each class on these images as well.
    Curves: "precision_recall": a row a class with recall and precision (lists) where the class occurs.
    """

    def __init__(self, classes: list[str], thresholds: float | Sequence[float] = 0.5) -> None:
        self.classes = classes
        limits = np.asarray(thresholds, dtype=np.float64)
        if limits.shape not in ((), (len(classes),)):
            raise UsageError(f"thresholds: {limits.size} given, expected 1 or one for each of {len(classes)} classes")
        self.thresholds = np.broadcast_to(limits, (len(classes),))
        self._rows: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # truth [classes] bool, scores [classes]

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where tags or scores are missing or not finite, or the image came before."""
        if id in self._rows:
            raise DataError(f"{id}: evaluated twice; give every image once")
        if truth.tags is None or tuple(truth.tags.shape) != (len(self.classes),):
            raise DataError(f"{id}: the truth has no tags, or not one entry for each of {len(self.classes)} classes")
        scores = class_scores(id, prediction, len(self.classes))
        self._rows[id] = (truth.tags.bool().cpu().numpy(), scores)

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        ids, c = sorted(self._rows), len(self.classes)
        truth = np.array([self._rows[id][0] for id in ids], dtype=bool).reshape(-1, c)
        scores = np.array([self._rows[id][1] for id in ids]).reshape(-1, c)
        given = scores >= self.thresholds
        precision, recall = image_precision_recall(given, truth)
        order = np.argsort(-scores, axis=1, kind="stable")

        def statistic(w: np.ndarray) -> dict[str, np.ndarray]:
            found = {
                "mean_ap": mean_of_defined(average_precisions(scores, truth, w)),
                "precision": ratio(w @ precision, w.sum(1)),
                "recall": ratio(w @ recall, w.sum(1)),
            }
            for k in (k for k in AT if k < c):
                found |= fixed_number(order, truth, w, k)
            return found

        curves = {"precision_recall": [self._curve(k, scores, truth) for k in range(c)]}
        metrics = estimate(statistic, resampled_as(ids, groups), bootstrap, seed)
        return Result(metrics, self._per_class(scores, truth, given), curves, len(ids))

    def _per_class(self, scores: np.ndarray, truth: np.ndarray, given: np.ndarray) -> list[dict[str, Any]]:
        ap = average_precisions(scores, truth, np.ones((1, len(truth))))[0]
        hit, predicted, true = (given & truth).sum(0), given.sum(0), truth.sum(0)
        return [
            {
                "name": name,
                "images": int(true[k]),
                "predictions": int(predicted[k]),
                "ap": float(ap[k]) if true[k] else None,
                "precision": float(hit[k] / predicted[k]) if predicted[k] else None,
                "recall": float(hit[k] / true[k]) if true[k] else None,
                "threshold": float(self.thresholds[k]),
                "best_threshold": best_threshold(scores[:, k], truth[:, k]),
            }
            for k, name in enumerate(self.classes)
        ]

    def _curve(self, k: int, scores: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
        order = np.argsort(-scores[:, k], kind="stable")
        last = _last_of_ties(scores[order, k])
        hits = np.cumsum(truth[order, k])
        if not len(hits) or hits[-1] == 0:
            return {"class": self.classes[k], "recall": [], "precision": []}
        precision = (hits / np.arange(1, len(hits) + 1))[last]
        return {
            "class": self.classes[k],
            "recall": (hits / hits[-1])[last].tolist(),
            "precision": precision.tolist(),
        }


def fixed_number(order: np.ndarray, truth: np.ndarray, weights: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """The metrics of `Tags` for the k best tags of every image, [b] each, NaN where there is nothing to count.

    Args:
        order: [images, classes], the classes of each image by falling score.
        truth: [images, classes] bool.
        weights: [b, images], how often each image counts.
    """
    best = np.zeros_like(truth)
    np.put_along_axis(best, order[:, :k], True, axis=1)
    hits, predicted, true = (weights @ part.astype(float) for part in (best & truth, best, truth))  # [b, classes]
    return {
        f"class_precision_at_{k}": mean_of_defined(ratio(hits, predicted)),
        f"class_recall_at_{k}": mean_of_defined(ratio(hits, true)),
        f"overall_precision_at_{k}": ratio(hits.sum(1), predicted.sum(1)),
        f"overall_recall_at_{k}": ratio(hits.sum(1), true.sum(1)),
        f"n_plus_at_{k}": ratio((hits > 0).sum(1), (true > 0).sum(1)),
    }


def average_precisions(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of every class [b, classes], NaN where a class does not occur.

    Args:
        scores: [images, classes].
        truth: [images, classes] bool.
        weights: [b, images], how often each image counts.
    """
    out = np.full((len(weights), scores.shape[1]), np.nan)
    if not len(scores):
        return out
    for k in range(scores.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        last = _last_of_ties(scores[order, k])
        drawn = weights[:, order]
        seen = np.cumsum(drawn, axis=1)[:, last]
        hits = np.cumsum(drawn * truth[order, k], axis=1)[:, last]
        precision = hits / np.maximum(seen, 1)
        rise = np.diff(hits, axis=1, prepend=0)
        out[:, k] = ratio((precision * rise).sum(1), hits[:, -1])
    return out


def best_threshold(scores: np.ndarray, truth: np.ndarray) -> float:
    """The threshold of one label with the best F1 = 2 hits / (given + true), the highest at a tie.

    It lies halfway between the last score that is given the label and the next lower one (or 0). 0.5 where no image
    holds the label.

    Args:
        scores: [images] in [0, 1].
        truth: [images] bool.
    """
    if not truth.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    last = _last_of_ties(scores[order])
    f1 = (2 * np.cumsum(truth[order]) / (np.arange(1, len(order) + 1) + truth.sum()))[last]
    best = int(f1.argmax())
    upper = float(scores[order[last[best]]])
    lower = float(scores[order[last[best + 1]]]) if best + 1 < len(last) else 0.0
    return (upper + lower) / 2 if upper - lower > 1e-6 else upper  # scores are float32: the middle must not be `lower`


def _last_of_ties(ordered: np.ndarray) -> np.ndarray:
    """Positions at which a run of equal values ends."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
