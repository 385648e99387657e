"""instances: what `detect` gives, and the mask of each object; masks are judged where boxes are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.rle import encode_mask
from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.metrics import Metric
from saccade.metrics.detection import Detection
from saccade.tasks import detect
from saccade.tasks.contract import Curves, Inputs, ReportForm, Scores, Target, Verdict, named_answers

REPORT = ReportForm(
    "mask_ap",
    ("images", "objects", "predictions", "mask_ap", "mask_ap50", "ap", "ap50", "ar_100"),
    (
        Curves("mask_precision_recall", "mask_ap50", "Precision and recall of masks, IoU 0.5"),
        Curves("precision_recall", "ap50", "Precision and recall of boxes, IoU 0.5"),
    ),
    counted=detect.REPORT.counted,
)
SMALLEST_SCORE = detect.SMALLEST_SCORE
LOSSES = detect.LOSSES
DEMO = None
HAS_GRADIENT = detect.HAS_GRADIENT
MEANINGS = detect.MEANINGS | {
    f"mask_{name}": f"{what}, by the overlap of masks" for name, what in detect.MEANINGS.items()
}


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Average precision of boxes and masks (`metrics/detection.py`)."""
    return Detection(list(classes), True, voc_inclusive, detect.shown_from(thresholds))


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """As that of a detector."""
    detect.check_training(dataset, training)


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """As `detect.judge`, by the IoU of masks."""
    return detect.judge_objects(truth, prediction, masks=True)


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """As that of a detector."""
    return detect.mistake_in_words(rows, classes)


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """As those of boxes, on the masks."""
    return detect.average_precision_in_words(found, "mask_", "masks")


def cautions(found: Mapping[str, Any]) -> list[str]:
    """None that are of this task alone."""
    return []


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
    """The objects of at least this score."""
    return detect.keep(answer, threshold)


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{objects}: as `detect`, with COCO's run lengths of the `masks`."""
    described = detect.to_json(answer, classes)
    if answer.objects is not None and answer.objects.masks is not None:
        described["objects"]["masks"] = [encode_mask(mask.numpy()) for mask in answer.objects.masks]
    return described


def short_line(described: Mapping[str, Any]) -> str:
    """How many objects of each class."""
    return detect.short_line(described)


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """As that of a detector."""
    return detect.choose_targets(answer, labels, count)


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """As that of a detector."""
    return detect.raw_scores(model, targets)


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """As that of a detector: by boxes."""
    return detect.likelihoods(model, targets, batch)


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """As of `detect`, and `masks` [b, D, M, M] in [0, 1] within the boxes.

    Raises UsageError where boxes are not to be suppressed.
    """
    if not suppressed:
        raise UsageError("--no-nms: masks are those of the boxes that suppression leaves; it cannot be left out")
    return named_answers(model, sees)
