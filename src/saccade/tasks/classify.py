"""classify: one class an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.data.balance import class_images
from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Batch
from saccade.errors import DataError, UsageError
from saccade.layers.classification import logits_of
from saccade.losses.classification import CLASSIFY
from saccade.metrics import Metric
from saccade.metrics.classification import Classification, class_scores, rank_of_truth
from saccade.tasks.contract import SURE, Box, Demo, Inputs, ReportForm, Scores, Target, Verdict
from saccade.tasks.words import best_score, most_frequent, named_scores, percent

REPORT = ReportForm("f1", ("images", "predictions", "recall", "precision", "f1"), bars=False, counted="images")
SMALLEST_SCORE = None
LOSSES = CLASSIFY
DEMO = Demo("resnet20", 1500, 64, 32, 60)
HAS_GRADIENT = True
MEANINGS = {
    "top1": "share of the images whose first answer is right (accuracy)",
    "top5": "share of the images with the true class among the five best answers",
    "mean_accuracy": "mean over the classes of the share that is answered right",
}
BEST = 5  # classes of an answer in JSON


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Accuracy (`metrics/classification.py`); the options are of other tasks."""
    return Classification(list(classes))


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """Raises UsageError where all images are of one class."""
    refuse_alike(dataset, training, "are of one class")


def refuse_alike(dataset: DataSet, training: Sequence[Record], what: str) -> None:
    """Raises UsageError where every class is that of all images or of none."""
    counts = class_images(training, len(dataset.classes))
    if set(counts) <= {0, len(training)}:
        names = ", ".join(dataset.classes[label] for label in np.flatnonzero(counts))
        raise UsageError(
            f"{dataset.root}: all {len(training)} training images {what} ({names}), with nothing to tell apart; add "
            "images of another class, such as images without it"
        )


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """-log p(true class). Mistakes "wrong class": label, predicted, score (of the predicted class), rank (of the true
    one, from 0)."""
    if truth.label is None:
        raise DataError("the truth has no label")
    scores = class_scores("image", prediction, len(classes))
    label, top = truth.label, int(scores.argmax())
    loss = max(0.0, -math.log(max(float(scores[label]), SURE)))
    if top == label:
        return Verdict(loss)
    rank = rank_of_truth(scores, label)
    wrong = {"kind": "wrong class", "label": label, "predicted": top, "score": float(scores[top]), "rank": rank}
    return Verdict(loss, [wrong])


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """The true class, its place among the answers, and the first of them."""
    row = rows[0]
    first = f"{classes[row['predicted']]}{best_score(rows)}"
    return f"{classes[row['label']]} comes in place {row['rank'] + 1}, after {first}"


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """The accuracy, beside that of always naming the most frequent class."""
    top1 = found["metrics"]["top1"]["value"]
    if top1 is None:
        return ["There was nothing to measure."]
    usual = most_frequent(found)
    return [
        f"Of 100 new images like these, about {100 * top1:.0f} would get the right class. "
        f"Always answering {usual.name}, the most frequent class, would be right for {percent(usual.share)}."
    ]


def cautions(found: Mapping[str, Any]) -> list[str]:
    """Whether the accuracy may be that of always naming the most frequent class."""
    low = found["metrics"]["top1"]["low"]
    usual = most_frequent(found)
    if low is None or low > usual.share:
        return []
    return [f"Not surely better than always answering {usual.name}, which is right for {percent(usual.share)}."]


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
    """All of it: the most probable class is the answer, however probable it is."""
    return answer


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{label, scores: [{name, score}]}, the BEST most probable classes."""
    assert answer.label is not None
    assert answer.probabilities is not None
    order = answer.probabilities.argsort(descending=True)[:BEST].tolist()
    return {"label": classes[answer.label], "scores": named_scores(answer.probabilities, order, classes)}


def short_line(described: Mapping[str, Any]) -> str:
    """The class and its probability."""
    return f"{described['label']} {described['scores'][0]['score']:.2f}"


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """The most probable classes."""
    assert answer.probabilities is not None
    order = [int(k) for k in answer.probabilities.argsort(descending=True, stable=True)]
    return [Target(k, float(answer.probabilities[k]), _box_of(answer, k)) for k in (labels or order[:count])]


def _box_of(answer: Annotation, label: int) -> Box | None:
    """The box of a class, in an answer that has one."""
    if answer.objects is None or label not in answer.objects.labels.tolist():
        return None
    x1, y1, x2, y2 = answer.objects.boxes[answer.objects.labels == label][0].tolist()
    return x1, y1, x2, y2


def class_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits [b, classes], float32, of a classifier, tagger or localizer (whose second output are the boxes)."""
    output = model(images)
    return (output if isinstance(output, Tensor) else output[0]).float()


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """The logits of the classes."""
    labels = [target.label for target in targets]
    return lambda images: class_logits(model, images)[:, labels]


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """The probabilities of the classes."""
    labels = [target.label for target in targets]

    @torch.no_grad()
    def probability(changed: Tensor) -> Tensor:
        return class_logits(model, changed).softmax(1)[:, labels]

    return probability


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """`probabilities` [b, C], whose sum is 1."""
    return {"probabilities": logits_of(model(sees.images)).float().softmax(1)}
