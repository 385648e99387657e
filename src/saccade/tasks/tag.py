"""tag: any number of classes an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Batch
from saccade.errors import DataError
from saccade.layers.classification import logits_of
from saccade.losses.classification import TAG
from saccade.metrics import Metric
from saccade.metrics.classification import class_scores
from saccade.metrics.tags import Tags
from saccade.tasks import classify
from saccade.tasks.contract import SURE, Curves, Inputs, ReportForm, Scores, Target, Verdict
from saccade.tasks.words import best_score, named_scores, percent

REPORT = ReportForm(
    "ap",
    ("images", "predictions", "ap", "precision", "recall", "threshold"),
    (Curves("precision_recall", "ap", "Precision and recall"),),
)
SMALLEST_SCORE = None  # the model has a threshold for each tag
LOSSES = TAG
DEMO = None
HAS_GRADIENT = True
MEANINGS = {
    "mean_ap": "mean over the tags of the average precision of the ranking",
    "precision": "share of the given tags that are true, mean over images",
    "recall": "share of the true tags that are given, mean over images",
    "class_precision_at_3": "precision with three tags given to every image, mean over the tags",
    "class_recall_at_3": "recall with three tags given to every image, mean over the tags",
    "overall_precision_at_3": "precision with three tags given to every image, all together",
    "overall_recall_at_3": "recall with three tags given to every image, all together",
    "n_plus_at_3": "share of the tags that are given rightly at least once, three tags to every image",
    "class_precision_at_5": "precision with five tags given to every image, mean over the tags",
    "class_recall_at_5": "recall with five tags given to every image, mean over the tags",
    "overall_precision_at_5": "precision with five tags given to every image, all together",
    "overall_recall_at_5": "recall with five tags given to every image, all together",
    "n_plus_at_5": "share of the tags that are given rightly at least once, five tags to every image",
}


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Average precision of the rankings, precision and recall of the tags given (`metrics/tags.py`)."""
    return Tags(list(classes), thresholds)


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """Raises DataError where no image has a tag, UsageError where all have the same."""
    if not any(record.things or record.tags for record in training):
        raise DataError(f"{dataset.root}: no tag in train (0 of {len(training)} images have one)")
    classify.refuse_alike(dataset, training, "have the same tags")


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """Mean cross entropy over the tags. Mistakes "missed" and "wrong tag": label, score. A prediction without tags
    gives those of probability 0.5 or more."""
    if truth.tags is None:
        raise DataError("the truth has no tags")
    true = truth.tags.bool().cpu().numpy()
    scores = class_scores("image", prediction, len(classes))
    loss = -np.log(np.clip(np.where(true, scores, 1 - scores), SURE, 1)).mean() if classes else 0.0
    given = scores >= 0.5 if prediction.tags is None else prediction.tags.bool().cpu().numpy()
    mistakes = [
        {"kind": "missed" if true[k] else "wrong tag", "label": k, "score": float(scores[k])}
        for k in np.flatnonzero(true != given).tolist()
    ]
    return Verdict(abs(float(loss)), mistakes)


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """The tag and its probability."""
    name, score = classes[rows[0]["label"]], best_score(rows)
    return f"{name} missed{score}" if rows[0]["kind"] == "missed" else f"{name} said, but not there{score}"


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """The average precision, beside that of chance, and what the given tags are worth."""
    values = {name: value["value"] for name, value in found["metrics"].items()}
    if values["mean_ap"] is None:
        return ["There was no tag to measure."]
    shares = [row["images"] / found["images"] for row in found["per_class"] if row["images"]]
    sentences = [
        "For each tag the images are ranked by its score; average precision is 1 where all images with the tag come "
        f"first. A ranking by chance would reach about {sum(shares) / len(shares):.2f}."
    ]
    if values["precision"] is not None and values["recall"] is not None:
        sentences.append(
            f"With the tags that the model would give, {percent(values['precision'])} of those given are true and "
            f"{percent(values['recall'])} of the true ones are given (means over images)."
        )
    return sentences


def cautions(found: Mapping[str, Any]) -> list[str]:
    """None that are of this task alone."""
    return []


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
    """The tags of at least this probability; without a threshold those that the model gives."""
    if threshold is None or answer.probabilities is None:
        return answer
    thresholds = torch.as_tensor(threshold, dtype=answer.probabilities.dtype).expand(answer.probabilities.shape)
    return replace(answer, tags=answer.probabilities >= thresholds, thresholds=thresholds)


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{tags: [{name, score, threshold}]} in the order of the classes; the threshold where it is known."""
    assert answer.tags is not None
    assert answer.probabilities is not None
    rows = answer.tags.nonzero().flatten().tolist()
    tags = named_scores(answer.probabilities, rows, classes)
    if answer.thresholds is not None:
        for tag, k in zip(tags, rows, strict=True):
            tag["threshold"] = round(float(answer.thresholds[k]), 5)
    return {"tags": tags}


def short_line(described: Mapping[str, Any]) -> str:
    """The tags with their probabilities; where an improbable one is given, with its threshold."""
    return ", ".join(f"{tag['name']} {tag['score']:.2f}{_from(tag)}" for tag in described["tags"]) or "no tag"


def _from(tag: Mapping[str, Any]) -> str:
    return f" (given from {tag['threshold']:.2f})" if tag["score"] < 0.5 and "threshold" in tag else ""


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """The tags given, the most probable first; the most probable one where none is given."""
    if labels:
        return classify.choose_targets(answer, labels, count)
    assert answer.probabilities is not None
    order = [int(k) for k in answer.probabilities.argsort(descending=True, stable=True)]
    given = [k for k in order if answer.tags is not None and bool(answer.tags[k])]
    return classify.choose_targets(answer, (given or order[:1])[:count], count)


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """The logits of the tags."""
    return classify.raw_scores(model, targets)


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """The probabilities of the tags."""
    labels = [target.label for target in targets]

    @torch.no_grad()
    def probability(changed: Tensor) -> Tensor:
        return classify.class_logits(model, changed).sigmoid()[:, labels]

    return probability


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """`probabilities` [b, C], of each tag by itself."""
    return {"probabilities": logits_of(model(sees.images)).float().sigmoid()}
