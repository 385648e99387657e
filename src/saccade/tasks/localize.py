"""localize: one class an image, and the box of the main object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Batch
from saccade.errors import DataError
from saccade.losses.classification import CLASSIFY
from saccade.metrics import Metric
from saccade.metrics.classification import class_scores
from saccade.metrics.localization import IOU, Localization, answer_ious
from saccade.ops.boxes import box_iou
from saccade.tasks import classify, detect
from saccade.tasks.contract import Inputs, ReportForm, Scores, Target, Verdict, named_answers
from saccade.tasks.words import percent

REPORT = ReportForm(
    "localization_top1",
    ("images", "predictions", "localization_top1", "recall", "box_accuracy", "mean_iou"),
    counted="images",
)
SMALLEST_SCORE = None
LOSSES = CLASSIFY
DEMO = None
HAS_GRADIENT = True
MEANINGS = classify.MEANINGS | {
    "localization_top1": "share of the images whose first answer has the right class and a box of IoU 0.50 or more",
    "localization_top5": "the same of one of the five best answers (1 - ImageNet's localization error)",
    "box_accuracy": "share of the images whose box has an IoU of 0.50 or more, whatever the class",
    "mean_iou": "intersection over union of the true and the predicted box, mean over the images",
}


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Accuracy of class and box (`metrics/localization.py`); the options are of other tasks."""
    return Localization(list(classes))


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """Raises DataError where no object can be a target."""
    detect.refuse_unusable_objects(dataset, training)


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """1 - p(true class) + 1 - IoU. Mistakes "wrong class", "poor box", "wrong class and poor box": label, predicted,
    score, iou."""
    if truth.label is None:
        raise DataError("the truth has no label")
    iou = float(answer_ious("image", truth, prediction)[0])
    scores = class_scores("image", prediction, len(classes))
    label, top = truth.label, int(scores.argmax())
    faults = [name for name, wrong in (("wrong class", top != label), ("poor box", iou < IOU)) if wrong]
    loss = max(0.0, 1 - float(scores[label])) + max(0.0, 1 - iou)
    if not faults:
        return Verdict(loss)
    row = {"kind": " and ".join(faults), "label": label, "predicted": top, "score": float(scores[top]), "iou": iou}
    return Verdict(loss, [row])


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """As that of a detector."""
    return detect.mistake_in_words(rows, classes)


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """The share of the images with class and box, beside those of each alone."""
    values = {name: value["value"] for name, value in found["metrics"].items()}
    both, top1, boxes = values["localization_top1"], values["top1"], values["box_accuracy"]
    if both is None or top1 is None or boxes is None:
        return ["There was nothing to measure."]
    return [
        f"Of 100 new images like these, about {100 * both:.0f} would get the right class and a box that overlaps the "
        f"main object well enough (IoU 0.5). The class alone is right for {percent(top1)}, the box alone for "
        f"{percent(boxes)}; the boxes share {percent(values['mean_iou'] or 0.0)} of their union with the truth."
    ]


def cautions(found: Mapping[str, Any]) -> list[str]:
    """None that are of this task alone."""
    return []


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
    """The first box alone: those that follow are of the next classes."""
    assert answer.objects is not None
    return detect.keep(replace(answer, objects=answer.objects[:1]), threshold)


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{label, scores, objects}: as `classify` and `detect`, of one box."""
    return classify.to_json(answer, classes) | detect.to_json(answer, classes)


def short_line(described: Mapping[str, Any]) -> str:
    """The class and its probability."""
    return classify.short_line(described)


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """The most probable classes, each with its box where the answer has one of it."""
    return classify.choose_targets(answer, labels, count)


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """The logits of the classes."""
    return classify.raw_scores(model, targets)


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """The probabilities of the classes, each times the overlap (IoU) of the box with that of the target, where it has
    one: as a detector's (`detect.likelihoods`), so that a network of one class has something to explain."""

    @torch.no_grad()
    def likeness(changed: Tensor) -> Tensor:
        answers = model.predict(Batch(changed, [batch.sizes[0]] * len(changed)))  # type: ignore[operator]
        out = torch.zeros(len(changed), len(targets))
        for i, answer in enumerate(answers):
            objects, chances = answer.objects.to("cpu"), answer.probabilities.float().cpu()
            for k, target in enumerate(targets):
                out[i, k] = chances[target.label]
                if target.box is not None:
                    own = objects[objects.labels == target.label]
                    box = (own if len(own) else objects).boxes[:1]  # one box may be that of every class
                    out[i, k] *= box_iou(box, torch.tensor([target.box]))[0, 0]
        return out

    return likeness


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """`probabilities` [b, C], and the best answers by falling score: `boxes` [b, k, 4] in pixels, `labels` and `scores`
    [b, k]."""
    return named_answers(model, sees)
