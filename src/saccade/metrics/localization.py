"""Localization: one class and one box an image, judged as ImageNet's challenge judges them.

Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015, section 4.2: an answer is
right where class and box are, a box where its IoU with the truth is at least 0.5; of five answers the best counts.
Their localization error is 1 - localization_top5. Boxes are continuous here, their kit counts inclusive pixels; and the
truth is the main object alone, where they accept any object of the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.metrics import Result
from saccade.metrics.bootstrap import estimate, ratio, resampled_as
from saccade.metrics.classification import Classification, class_scores
from saccade.metrics.voc import numpy_box_iou

IOU = 0.5  # from here on a box is right
ANSWERS = 5  # of the challenge


def answer_ious(id: str, truth: Annotation, prediction: Annotation) -> np.ndarray:
    """IoU of the truth's box with every box of the prediction, [n] float64, the first that of the first answer.

    Raises:
        DataError: the truth has not one box, or the prediction none.
    """
    if truth.objects is None or len(truth.objects) != 1:
        found = "none" if truth.objects is None else str(len(truth.objects))
        raise DataError(f"{id}: the truth of a localization is one box, found {found}")
    if prediction.objects is None or not len(prediction.objects):
        raise DataError(f"{id}: the prediction has no box; localize needs one an image")
    predicted, true = (o.boxes.detach().double().cpu().numpy() for o in (prediction.objects, truth.objects))
    strange = predicted[~np.isfinite(predicted)]
    if len(strange):
        raise DataError(f"{id}: a predicted box holds {strange[0]}, which is no number of pixels")
    return numpy_box_iou(predicted, true)[:, 0]


class Localization:
    """Metrics:

    - localization_top1, localization_top5: share of the images whose best answer, or one of the min(5, classes) best,
      is of the right class with a right box;
    - box_accuracy, mean_iou: share of the images whose first box is right, and mean IoU of the first boxes, whatever
      the class;
    - top1, top5, mean_accuracy: of the classes alone, see `Classification`.

    The five answers are the classes with the highest probabilities, each with the first box of its label in the
    prediction's objects, or the very first box where its label has none (class-agnostic boxes). Without probabilities
    the label alone is the answer, and the numbers of five are undefined.
    Curves: those of `Classification`.
    """

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        self._labels = Classification(classes)
        self._rows: dict[str, tuple[int, bool, float, float]] = {}  # truth, right, right in five (or NaN), first IoU

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where label or box is missing, or as `Classification.add`."""
        ious = answer_ious(id, truth, prediction)
        self._labels.add(id, truth, prediction)
        assert truth.label is not None  # the line above has seen to it
        if prediction.probabilities is None:
            correct = prediction.label == truth.label and float(ious[0]) >= IOU
            self._rows[id] = (truth.label, correct, np.nan, float(ious[0]))
            return
        order = np.argsort(-class_scores(id, prediction, len(self.classes)), kind="stable")[:ANSWERS]
        hits = [label == truth.label and ious[_row(prediction, label)] >= IOU for label in order.tolist()]
        self._rows[id] = (truth.label, bool(hits[0]), float(any(hits)), float(ious[_row(prediction, int(order[0]))]))

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        rows = np.array([self._rows[id] for id in sorted(self._rows)], dtype=np.float64).reshape(-1, 4)
        correct, right5, iou = rows[:, 1], rows[:, 2], rows[:, 3]

        def statistic(w: np.ndarray) -> dict[str, np.ndarray]:
            total = w.sum(1)
            return {
                "localization_top1": ratio(w @ correct, total),
                "localization_top5": ratio(w @ right5, total),
                "box_accuracy": ratio(w @ (iou >= IOU).astype(np.float64), total),
                "mean_iou": ratio(w @ iou, total),
            }

        labels = self._labels.result(bootstrap, seed, groups)
        metrics = estimate(statistic, resampled_as(sorted(self._rows), groups), bootstrap, seed) | labels.metrics
        return Result(metrics, self._per_class(rows, labels.per_class), labels.curves, len(rows))

    def _per_class(self, rows: np.ndarray, labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
        table = []
        for k, row in enumerate(labels):
            own = rows[rows[:, 0] == k]
            some = len(own) > 0
            boxes = {
                "localization_top1": float(own[:, 1].mean()) if some else None,
                "box_accuracy": float((own[:, 3] >= IOU).mean()) if some else None,
                "mean_iou": float(own[:, 3].mean()) if some else None,
            }
            table.append(row | boxes)
        return table


def _row(prediction: Annotation, label: int) -> int:
    """The row of the box that belongs to an answer of this label."""
    assert prediction.objects is not None
    own = torch.nonzero(prediction.objects.labels == label)
    return int(own[0, 0]) if len(own) else 0
