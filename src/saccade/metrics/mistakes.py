"""What went wrong in one image, and how badly: `judge` each image, keep the `Verdict`s, show the `worst`.

Kinds of a detector's mistakes follow TIDE (Bolya et al. 2020, sec. 2.2): a prediction without a truth of its own is a
duplicate, of the wrong class, a poor box, both of these, or background; a truth that no such prediction explains is
missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.metrics.classification import class_scores, rank_of_truth
from saccade.metrics.curves import IOU, SCORE, pair
from saccade.metrics.localization import answer_ious
from saccade.metrics.segmentation import class_iou, class_maps, count_pixels
from saccade.tasks.table import find_task

NEAR = 0.1  # below this IoU a prediction has nothing to do with a truth
SURE = 1e-12  # floor of a probability, so that a wrong certainty keeps a finite score


@dataclass(frozen=True)
class Verdict:
    """One image. `mistakes` are JSON-able; their keys by kind:

    - classify "wrong class": label, predicted, score (of the predicted class), rank (of the true one, from 0);
    - localize "wrong class", "poor box", "wrong class and poor box": label, predicted, score, iou;
    - tag "missed" and "wrong tag": label, score;
    - segment "poor mask": label, iou of every class that is in one of the maps, worst first;
    - detect, instances "missed": truth, label; "duplicate", "wrong class", "poor box", "wrong class and poor box",
      "background": prediction, predicted, score, and where there is a truth beside it: truth, label, iou.
    """

    score: float  # 0 is perfect; larger is worse; comparable within one task
    mistakes: list[dict[str, Any]] = field(default_factory=list)


def judge(
    task: str, truth: Annotation, prediction: Annotation, classes: list[str], threshold: float = SCORE
) -> Verdict:
    """How bad one image is: classify -log p(true class); localize 1 - p(true class) + 1 - IoU; tag mean cross
    entropy; segment 1 - mean IoU of the image; detect and instances 1 - F1 at IoU 0.5 of the predictions that score at
    least `threshold`.

    Raises:
        DataError: what the task needs is missing.
        UsageError: there is no such task.
    """
    name = find_task(task).name
    if name == "classify":
        return _judge_class(truth, prediction, len(classes))
    if name == "localize":
        return _judge_place(truth, prediction, len(classes))
    if name == "tag":
        return _judge_tags(truth, prediction, len(classes))
    if name == "segment":
        return _judge_map(truth, prediction, len(classes))
    if truth.objects is None or prediction.objects is None:
        raise DataError("truth and prediction need objects (an image without any needs an empty list)")
    return _judge_objects(truth.objects, prediction.objects, threshold, masks=name == "instances")


def worst(verdicts: dict[str, Verdict], count: int) -> list[tuple[str, Verdict]]:
    """The `count` images with the highest score above 0, worst first; equal scores by id."""
    ranked = sorted(verdicts.items(), key=lambda item: (-item[1].score, item[0]))
    return [item for item in ranked if item[1].score > 0][:count]


def _judge_class(truth: Annotation, prediction: Annotation, classes: int) -> Verdict:
    if truth.label is None:
        raise DataError("the truth has no label")
    scores = class_scores("image", prediction, classes)
    label, top = truth.label, int(scores.argmax())
    loss = max(0.0, -math.log(max(float(scores[label]), SURE)))
    if top == label:
        return Verdict(loss)
    rank = rank_of_truth(scores, label)
    wrong = {"kind": "wrong class", "label": label, "predicted": top, "score": float(scores[top]), "rank": rank}
    return Verdict(loss, [wrong])


def _judge_place(truth: Annotation, prediction: Annotation, classes: int) -> Verdict:
    if truth.label is None:
        raise DataError("the truth has no label")
    iou = float(answer_ious("image", truth, prediction)[0])
    scores = class_scores("image", prediction, classes)
    label, top = truth.label, int(scores.argmax())
    faults = [name for name, wrong in (("wrong class", top != label), ("poor box", iou < IOU)) if wrong]
    loss = max(0.0, 1 - float(scores[label])) + max(0.0, 1 - iou)
    if not faults:
        return Verdict(loss)
    row = {"kind": " and ".join(faults), "label": label, "predicted": top, "score": float(scores[top]), "iou": iou}
    return Verdict(loss, [row])


def _judge_tags(truth: Annotation, prediction: Annotation, classes: int, threshold: float = 0.5) -> Verdict:
    if truth.tags is None:
        raise DataError("the truth has no tags")
    true = truth.tags.bool().cpu().numpy()
    scores = class_scores("image", prediction, classes)
    loss = -np.log(np.clip(np.where(true, scores, 1 - scores), SURE, 1)).mean() if classes else 0.0
    given = scores >= threshold if prediction.tags is None else prediction.tags.bool().cpu().numpy()
    mistakes = [
        {"kind": "missed" if true[k] else "wrong tag", "label": k, "score": float(scores[k])}
        for k in np.flatnonzero(true != given).tolist()
    ]
    return Verdict(abs(float(loss)), mistakes)


def _judge_map(truth: Annotation, prediction: Annotation, classes: int) -> Verdict:
    iou = class_iou(count_pixels(*class_maps("image", truth, prediction, classes), classes))
    present = np.flatnonzero(~np.isnan(iou)).tolist()
    if not present:
        return Verdict(0.0)
    rows = [{"kind": "poor mask", "label": k, "iou": float(iou[k])} for k in present if iou[k] < 1]
    return Verdict(float(1 - iou[present].mean()), sorted(rows, key=lambda row: (row["iou"], row["label"])))


def _judge_objects(truth: Objects, prediction: Objects, threshold: float, masks: bool) -> Verdict:
    pairs = pair(truth, prediction, IOU, threshold, masks)
    labels, predicted = truth.labels.tolist(), prediction.labels.tolist()
    scores = [1.0] * len(prediction) if prediction.scores is None else prediction.scores.tolist()
    own = {j for j, _ in pairs.right}
    ignored = set(range(len(truth))) - own - {j for j, _ in pairs.swapped} - set(pairs.missed)
    mistakes: list[dict[str, Any]] = []
    explained = {j for j, _ in pairs.swapped}
    for j, i in pairs.swapped:
        mistakes.append(_mistake("wrong class", i, j, labels, predicted, scores, pairs.ious))
    for i in pairs.extra:
        kind, beside = _explain(i, labels, predicted[i], pairs.ious, own, ignored)
        if kind == "poor box" and beside is not None:
            explained.add(beside)
        mistakes.append(_mistake(kind, i, beside, labels, predicted, scores, pairs.ious))
    mistakes.sort(key=lambda row: -row["score"])
    mistakes += [{"kind": "missed", "truth": j, "label": labels[j]} for j in pairs.missed if j not in explained]
    wrong = 2 * len(pairs.swapped) + len(pairs.extra) + len(pairs.missed)  # a swap is one false alarm and one miss
    return Verdict(wrong / (2 * len(pairs.right) + wrong) if wrong else 0.0, mistakes)


def _explain(
    i: int, labels: list[int], predicted: int, ious: np.ndarray, own: set[int], ignored: set[int]
) -> tuple[str, int | None]:
    """Kind of a prediction that has no truth, and the truth that it comes nearest to."""
    counted = [j for j in range(len(labels)) if j not in ignored]
    same = max((j for j in counted if labels[j] == predicted), key=lambda j: ious[i, j], default=None)
    other = max((j for j in counted if labels[j] != predicted), key=lambda j: ious[i, j], default=None)
    if same is not None and ious[i, same] >= IOU and same in own:
        return "duplicate", same
    if other is not None and ious[i, other] >= IOU:
        return "wrong class", other
    if same is not None and ious[i, same] >= NEAR:
        return "poor box", same
    if other is not None and ious[i, other] >= NEAR:
        return "wrong class and poor box", other
    return "background", None


def _mistake(
    kind: str,
    i: int,
    j: int | None,
    labels: list[int],
    predicted: list[int],
    scores: list[float],
    ious: np.ndarray,
) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "prediction": i, "predicted": predicted[i], "score": float(scores[i])}
    if j is not None:
        row |= {"truth": j, "label": labels[j], "iou": float(ious[i, j])}
    return row
