"""Pairing predicted with true objects at one threshold: the confusion matrix of a detector, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval.core import mask as run_lengths

from saccade.data.types import Objects
from saccade.metrics.masks import encode
from saccade.metrics.voc import numpy_box_iou

IOU = 0.5  # a prediction and a truth can be a pair from here on
SCORE = 0.25  # predictions below take no part, where a model has no thresholds of its own


@dataclass(frozen=True)
class Pairs:
    """Who goes with whom in one image; indices into the objects as they were given."""

    correct: list[tuple[int, int]]  # (truth, prediction) of the same class
    swapped: list[tuple[int, int]]  # (truth, prediction) that overlap but differ in class
    missed: list[int]  # truths without a prediction; ignored ones (crowd, difficult) never count
    extra: list[int]  # predictions without a truth; those on an ignored truth are left out
    ious: np.ndarray  # [predictions, truths]; for a crowd intersection over the prediction's area


def pair(
    truth: Objects,
    prediction: Objects,
    iou: float = IOU,
    score: float | Sequence[float] = SCORE,
    masks: bool = False,
) -> Pairs:
    """Pair at IoU >= `iou` the predictions that score at least `score`, or that of their class among several, best
    score first (ties: order given).

    First every prediction takes the free truth of its own class with the highest IoU; then those left over take the
    free truth of another class. With `masks` the IoU is that of the masks.
    """
    ignored = _flag(truth.crowd, len(truth)) | _flag(truth.difficult, len(truth))
    scores = (
        np.ones(len(prediction)) if prediction.scores is None else prediction.scores.detach().double().cpu().numpy()
    )
    least = np.asarray(score, dtype=np.float64)
    enough = scores >= (least[prediction.labels.cpu().numpy()] if least.ndim else least)
    order = [int(i) for i in np.argsort(-scores, kind="stable") if enough[i]]
    ious = overlaps(truth, prediction, masks)
    same = prediction.labels.cpu().numpy()[:, None] == truth.labels.cpu().numpy()[None]
    free = ~ignored
    correct, swapped, extra = [], [], []
    left = []
    for i in order:
        j = _best(np.where(free & same[i], ious[i], -1.0), iou)
        if j is None:
            left.append(i)
        else:
            free[j] = False
            correct.append((j, i))
    for i in left:
        if (ious[i] >= iou)[ignored & same[i]].any():
            continue
        j = _best(np.where(free & ~same[i], ious[i], -1.0), iou)
        if j is None:
            extra.append(i)
        else:
            free[j] = False
            swapped.append((j, i))
    return Pairs(correct, swapped, np.flatnonzero(free).tolist(), extra, ious)


def confusion(
    truth: Objects, prediction: Objects, classes: int, iou: float = IOU, score: float | Sequence[float] = SCORE
) -> np.ndarray:
    """Objects of one image by true (row) and predicted (column) class: [classes + 1, classes + 1] int64.

    The last row counts predictions on background, the last column missed truths.
    """
    pairs = pair(truth, prediction, iou, score)
    counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    t, p = truth.labels.cpu().numpy(), prediction.labels.cpu().numpy()
    for j, i in pairs.correct + pairs.swapped:
        counts[t[j], p[i]] += 1
    for j in pairs.missed:
        counts[t[j], classes] += 1
    for i in pairs.extra:
        counts[classes, p[i]] += 1
    return counts


def precision_recall(
    truth: Objects, prediction: Objects, iou: float = IOU, score: float = 0.0
) -> tuple[float | None, float | None]:
    """Precision and recall of one image's objects; None where there is nothing to divide by."""
    pairs = pair(truth, prediction, iou, score)
    hits, wrong = len(pairs.correct), len(pairs.swapped)
    predicted, true = hits + wrong + len(pairs.extra), hits + wrong + len(pairs.missed)
    return (hits / predicted if predicted else None), (hits / true if true else None)


def overlaps(truth: Objects, prediction: Objects, masks: bool) -> np.ndarray:
    """IoU [predictions, truths] of boxes or masks; for a crowd truth intersection over the prediction's area."""
    if not len(truth) or not len(prediction):
        return np.zeros((len(prediction), len(truth)))
    crowd = _flag(truth.crowd, len(truth))
    if masks and truth.masks is not None and prediction.masks is not None:
        predicted, true = encode(prediction.masks), encode(truth.masks)
        return np.array(run_lengths.iou(predicted, true, crowd.astype(int).tolist()))
    a, b = (o.boxes.detach().double().cpu().numpy() for o in (prediction, truth))
    return numpy_box_iou(a, b, crowd=crowd)


def _best(ious: np.ndarray, at_least: float) -> int | None:
    if not len(ious):
        return None
    j = int(ious.argmax())
    return j if ious[j] >= at_least else None


def _flag(column: object, n: int) -> np.ndarray:
    return np.zeros(n, dtype=bool) if column is None else np.asarray(column.bool().cpu())  # type: ignore[attr-defined]
