"""segment: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saccade.data.rle import encode_mask
from saccade.data.types import Annotation
from saccade.metrics import Metric
from saccade.metrics.segmentation import Segmentation, class_iou, class_maps, count_pixels
from saccade.tasks.contract import ReportForm, Verdict
from saccade.tasks.words import percent

REPORT = ReportForm("iou", ("pixels", "iou", "accuracy", "precision"), counted="pixels")
SMALLEST_SCORE = None
MEANINGS = {
    "mean_iou": "intersection over union of true and predicted region, mean over the classes",
    "pixel_accuracy": "share of the pixels with the right class",
    "mean_accuracy": "mean over the classes of the share of pixels that is right",
    "frequency_weighted_iou": "intersection over union, each class weighted by its pixels",
}
LARGEST = 6  # classes of the short line


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Intersection over union of the regions (`metrics/segmentation.py`); the options are of other tasks."""
    return Segmentation(list(classes))


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """1 - mean IoU of the image. Mistakes "poor mask": label, iou of every class that is in one of the maps, worst
    first."""
    count = len(classes)
    iou = class_iou(count_pixels(*class_maps("image", truth, prediction, count), count))
    present = np.flatnonzero(~np.isnan(iou)).tolist()
    if not present:
        return Verdict(0.0)
    rows = [{"kind": "poor mask", "label": k, "iou": float(iou[k])} for k in present if iou[k] < 1]
    return Verdict(float(1 - iou[present].mean()), sorted(rows, key=lambda row: (row["iou"], row["label"])))


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """The class and its overlap."""
    return f"{classes[rows[0]['label']]}: IoU {rows[0]['iou']:.2f}"


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """The overlap, and the share of right pixels beside that of always naming the most frequent class."""
    values = {name: value["value"] for name, value in found["metrics"].items()}
    if values["mean_iou"] is None:
        return ["There was no labelled pixel to measure."]
    pixels = {row["name"]: row["pixels"] for row in found["per_class"]}
    name = max(pixels, key=lambda k: pixels[k])
    share = pixels[name] / max(1, sum(pixels.values()))
    return [
        f"True and predicted regions share {percent(values['mean_iou'])} of their union, on average over the classes. "
        f"{percent(values['pixel_accuracy'] or 0.0)} of the pixels have the right class; calling every pixel "
        f"{name} would be right for {percent(share)}."
    ]


def cautions(found: Mapping[str, Any]) -> list[str]:
    """None that are of this task alone."""
    return []


def keep(answer: Annotation, threshold: float | None) -> Annotation:
    """All of it: every pixel has a class."""
    return answer


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{mask: {class: {pixels, rle}}}, COCO's run lengths of each class that is there."""
    assert answer.semantic is not None
    plane = answer.semantic.numpy()
    return {
        "mask": {
            classes[i]: {"pixels": int((plane == i).sum()), "rle": encode_mask(plane == i)}
            for i in np.unique(plane).tolist()
            if i < len(classes)
        }
    }


def short_line(described: Mapping[str, Any]) -> str:
    """The classes with most pixels, and their share of the image."""
    mask = described["mask"]
    total = sum(part["pixels"] for part in mask.values()) or 1
    shares = sorted(mask.items(), key=lambda item: -item[1]["pixels"])
    return ", ".join(f"{name} {100 * part['pixels'] / total:.0f} %" for name, part in shares[:LARGEST])
