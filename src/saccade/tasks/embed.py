"""embed: a vector an image, near those of the same person or thing.

Who is who among new pictures follows from comparisons: two vectors as alike as the threshold of the model says are
taken for one identity (verification), the most alike of a database names a picture (identification).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Batch
from saccade.errors import DataError, UsageError
from saccade.losses.classification import CLASSIFY
from saccade.metrics import Metric
from saccade.metrics.embedding import Embedding
from saccade.tasks.contract import Demo, ReportForm, Scores, Target, Verdict

REPORT = ReportForm("auc", ("images", "auc"))
SMALLEST_SCORE = None
LOSSES = CLASSIFY
DEMO: Demo | None = None
HAS_GRADIENT = True
MEANINGS = {
    "auc": "chance that two pictures of one identity are more alike than two of different ones (area under the ROC)",
}
DIGITS = 6  # of the numbers of a vector in JSON


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Verification and identification of all images (`metrics/embedding.py`).

    Args:
        thresholds: the similarity from which on two pictures are taken for the same, as a sequence of one number; a
            number alone is that of other tasks.
    """
    return Embedding(list(classes), None if isinstance(thresholds, float | int) else float(thresholds[0]))


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """Raises UsageError where all images are of one identity, DataError where no identity has two."""
    counts = Counter(record.label for record in training)
    if len(counts) < 2:
        name = dataset.classes[next(iter(counts)) or 0]
        raise UsageError(
            f"{dataset.root}: all {len(training)} training images show one identity ({name}), with nothing to tell "
            "apart; add pictures of others"
        )
    if max(counts.values()) < 2:
        raise DataError(
            f"{dataset.root}: each of the {len(counts)} training identities has one picture; what makes two pictures "
            "alike is learned from identities with two or more"
        )


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """Nothing: an image alone is neither right nor wrong, pairs are (`Result.curves["pairs"]`)."""
    if prediction.embedding is None:
        raise DataError("the prediction has no embedding")
    return Verdict(0.0)


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """No image has a mistake of its own."""
    return ""


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """What the area says."""
    auc = found["metrics"]["auc"]["value"]
    if auc is None:
        return ["There was nothing to measure: it takes two identities, and two pictures of one of them."]
    return [
        f"Of two pictures of one identity and two of different ones, the former are more alike in {100 * auc:.1f} of "
        "100 cases; by chance it would be 50."
    ]


def cautions(found: Mapping[str, Any]) -> list[str]:
    """Few identities say little, however many pictures they have."""
    identities = len(found["per_class"])
    if identities >= FEW:
        return []
    return [f"The images show {identities} identities: with others the numbers may differ by more than one thinks."]


FEW = 30  # identities


def keep(answer: Annotation, threshold: float | None) -> Annotation:
    """All of it."""
    return answer


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{embedding: the numbers of the vector}."""
    assert answer.embedding is not None
    return {"embedding": [round(value, DIGITS) for value in answer.embedding.tolist()]}


def short_line(described: Mapping[str, Any]) -> str:
    """How long the vector is."""
    return f"a vector of {len(described['embedding'])} numbers"


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """One: the vector of the image, to which it is compared when parts of it are changed."""
    assert answer.embedding is not None
    return [Target(0, 1.0, reference=answer.embedding)]


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """The cosines of the image's vector to those of the targets."""
    references = [target.reference for target in targets if target.reference is not None]

    def cosines(images: Tensor) -> Tensor:
        vectors = model.embed(images).float()  # type: ignore[operator]
        return vectors @ torch.stack(references).to(vectors.device, vectors.dtype).T

    return cosines


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """The same, from 0 for what is not alike at all on."""
    cosines = raw_scores(model, targets)

    @torch.no_grad()
    def alike(images: Tensor) -> Tensor:
        return cosines(images).clamp(min=0)

    return alike
