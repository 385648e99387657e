"""segment: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.rle import encode_mask
from saccade.data.truth import read_truth
from saccade.data.types import IGNORE, Annotation, Batch
from saccade.errors import DataError
from saccade.metrics import Metric, partitions
from saccade.metrics.segmentation import Segmentation, class_iou, class_maps, count_pixels
from saccade.models.contract import pixel_scores
from saccade.tasks.contract import Demo, Inputs, ReportForm, Scores, Target, Verdict
from saccade.tasks.words import percent

REPORT = ReportForm("iou", ("pixels", "iou", "accuracy", "precision", "boundary_iou"), counted="pixels")
SMALLEST_SCORE = None
LOSSES = ("cross_entropy",)
DEMO = Demo("unet_light", 600, 192, 128, 24)
HAS_GRADIENT = True
MEANINGS = {
    "mean_iou": "intersection over union of true and predicted region, mean over the classes",
    "pixel_accuracy": "share of the pixels with the right class",
    "mean_accuracy": "mean over the classes of the share of pixels that is right",
    "frequency_weighted_iou": "intersection over union, each class weighted by its pixels",
    "boundary_iou": "intersection over union within 2 % of the diagonal from the outlines, mean over the classes",
} | partitions.MEANINGS
LARGEST = 6  # classes of the short line


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Intersection over union of the regions (`metrics/segmentation.py`); the options are of other tasks."""
    return Segmentation(list(classes))


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """Raises DataError where the class maps show fewer than two classes; looks no farther than it must."""
    seen: set[int] = set()
    for record in training:
        semantic = read_truth(record, dataset, "segment").semantic
        if semantic is not None:
            seen.update(semantic.unique().tolist())
        if len(seen - {IGNORE}) > 1:
            return
    shown = ", ".join(dataset.classes[k] for k in sorted(seen - {IGNORE})) or "nothing but what is ignored"
    raise DataError(
        f"{dataset.root}: nothing to tell apart: the masks of all {len(training)} training images show {shown}"
    )


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


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
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


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """The classes with most pixels."""
    assert answer.semantic is not None
    pixels = torch.bincount(answer.semantic.flatten().long().cpu(), minlength=IGNORE + 1)[:IGNORE]
    total = max(1, int(pixels.sum()))
    present = [int(k) for k in pixels.argsort(descending=True, stable=True) if pixels[k] > 0]
    chosen = [k for k in labels if k in present] if labels else present[:count]
    return [Target(k, int(pixels[k]) / total) for k in chosen]


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """The mean logit over the pixels where the network says the class (Vinogradova et al. 2020, "Towards interpretable
    semantic segmentation via gradient-weighted class activation mapping")."""
    labels = [target.label for target in targets]

    def mean_logits(images: Tensor) -> Tensor:
        logits = model(images).float()
        return _means(logits[:, labels], _regions(logits.detach(), labels))

    return mean_logits


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """The mean probability over the pixels where the network says the class for the image."""
    labels = [target.label for target in targets]
    with torch.no_grad():
        regions = _regions(model(batch.images), labels)

    @torch.no_grad()
    def mean_probability(changed: Tensor) -> Tensor:
        return _means(model(changed).float().softmax(1)[:, labels], regions)

    return mean_probability


def _regions(logits: Tensor, labels: Sequence[int]) -> Tensor:
    """[b, targets, H, W] bool: where each class is the best of the logits [b, classes, H, W]."""
    best = logits.argmax(1)
    return torch.stack([best == k for k in labels], 1)


def _means(values: Tensor, regions: Tensor) -> Tensor:
    """[b, targets]: the mean of the values [b, targets, H, W] over their regions; 0 over an empty one."""
    return (values * regions).sum((2, 3)) / regions.sum((2, 3)).clamp(min=1)


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """`classes` [b, H, W] uint8, the most probable class of every pixel."""
    return {"classes": pixel_scores(model, sees.images).argmax(1).to(torch.uint8)}
