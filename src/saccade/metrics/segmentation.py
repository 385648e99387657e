"""Semantic segmentation: the four numbers of Long, Shelhamer and Darrell 2015 (FCN), sec. 5, and boundary IoU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from saccade.data.types import IGNORE, Annotation
from saccade.errors import DataError
from saccade.metrics import Result
from saccade.metrics.bootstrap import estimate, mean_of_defined, ratio, resampled_as
from saccade.metrics.boundary import count_boundaries


def count_pixels(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true and predicted class: [classes, classes + 1] int64, the last column for predicted IGNORE.

    Pixels whose truth is IGNORE (255) take no part; a pixel predicted IGNORE elsewhere is an error of its true class.

    Args:
        truth, prediction: [H, W] class of every pixel, 0..classes-1 or IGNORE.
    """
    counted = truth != IGNORE
    t, p = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    p[p == IGNORE] = classes
    width = classes + 1
    return np.bincount(t * width + p, minlength=classes * width).reshape(classes, width)


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of every class [classes] from `count_pixels`; NaN where a class is in neither map."""
    hit = counts.diagonal()
    return ratio(hit, counts.sum(1) + counts[:, : len(hit)].sum(0) - hit)


class Segmentation:
    """Metrics mean_iou, pixel_accuracy, mean_accuracy, frequency_weighted_iou and boundary_iou (`metrics/boundary.py`,
    mean over the classes) over the pixels of all images together.

    A class that is absent (no pixel in the truth, none in the predictions) is left out of mean_iou; a class that is
    predicted but never true has IoU 0 and counts. mean_accuracy is over the classes that occur in the truth.
    Curves: "confusion" {classes, counts [truth][predicted]} in pixels.
    """

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes
        self._counts = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)
        self._rows: dict[str, np.ndarray] = {}  # [6, classes]: pixels hit, true, predicted; the same along boundaries

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where a map is missing, of another size or of unknown classes, or the image came before."""
        if id in self._rows:
            raise DataError(f"{id}: evaluated twice; give every image once")
        maps = class_maps(id, truth, prediction, len(self.classes))
        counts = count_pixels(*maps, len(self.classes))
        self._counts += counts
        whole = [counts.diagonal(), counts.sum(1), counts[:, : len(self.classes)].sum(0)]
        self._rows[id] = np.stack([*whole, *count_boundaries(*maps, len(self.classes))])

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        c = len(self.classes)
        rows = np.array([self._rows[id] for id in sorted(self._rows)], dtype=np.float64).reshape(-1, 6, c)

        def statistic(w: np.ndarray) -> dict[str, np.ndarray]:
            sums = np.moveaxis(np.tensordot(w, rows, 1), 1, 0)  # [b, classes] each
            hit, true, predicted = sums[:3]
            iou, total = ratio(hit, true + predicted - hit), true.sum(1)
            return {
                "mean_iou": mean_of_defined(iou),
                "pixel_accuracy": ratio(hit.sum(1), total),
                "mean_accuracy": mean_of_defined(ratio(hit, true)),
                "frequency_weighted_iou": ratio((true * np.nan_to_num(iou)).sum(1), total),
                "boundary_iou": mean_of_defined(_overlap(sums[3:])),
            }

        curves = {"confusion": {"classes": self.classes, "counts": self._counts[:, :c].tolist()}}
        return Result(
            estimate(statistic, resampled_as(sorted(self._rows), groups), bootstrap, seed),
            self._per_class(rows[:, 3:].sum(0)),
            curves,
            len(rows),
        )

    def _per_class(self, boundaries: np.ndarray) -> list[dict[str, Any]]:
        hit, true = self._counts.diagonal(), self._counts.sum(1)
        predicted = self._counts[:, : len(self.classes)].sum(0)
        iou, accuracy, precision = class_iou(self._counts), ratio(hit, true), ratio(hit, predicted)
        along = _overlap(boundaries)
        return [
            {
                "name": name,
                "pixels": int(true[k]),
                "iou": None if np.isnan(iou[k]) else float(iou[k]),
                "accuracy": None if np.isnan(accuracy[k]) else float(accuracy[k]),
                "precision": None if np.isnan(precision[k]) else float(precision[k]),
                "boundary_iou": None if np.isnan(along[k]) else float(along[k]),
            }
            for k, name in enumerate(self.classes)
        ]


def _overlap(sums: np.ndarray) -> np.ndarray:
    """Intersection over union [...] of pixels hit, true and predicted [3, ...]."""
    return ratio(sums[0], sums[1] + sums[2] - sums[0])


def class_maps(id: str, truth: Annotation, prediction: Annotation, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Both class maps [H, W]. Raises DataError where one is missing, they differ in size, or a class is unknown."""
    maps = []
    for who, given in (("truth", truth.semantic), ("prediction", prediction.semantic)):
        if given is None:
            raise DataError(f"{id}: the {who} has no class map")
        values = given.cpu().numpy()
        unknown = values[(values >= classes) & (values != IGNORE)]
        if unknown.size:
            raise DataError(f"{id}: class {unknown[0]} in the {who}, allowed 0..{classes - 1} and {IGNORE} (ignore)")
        maps.append(values)
    if maps[0].shape != maps[1].shape:
        raise DataError(f"{id}: the prediction is of size {maps[1].shape}, the truth of size {maps[0].shape}")
    return maps[0], maps[1]
