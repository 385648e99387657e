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
from saccade.tasks.contract import Demo, Inputs, ReportForm, Scores, Target, Verdict
from saccade.tasks.words import percent

REPORT = ReportForm("rank_1", ("images", "rank_1", "false_refusals", "false_accepts"), bars=False)
SMALLEST_SCORE = None
LOSSES = CLASSIFY
DEMO: Demo | None = None
HAS_GRADIENT = False
MEANINGS = {
    "auc": "chance that two pictures of one identity are more alike than two of different ones (area under the ROC)",
    "eer": "error rate at the threshold where false accepts are as frequent as false refusals; lower is better",
    "tar_at_far_1e-2": "share of the pairs of one identity accepted where 1 in 100 pairs of different ones is",
    "tar_at_far_1e-3": "share of the pairs of one identity accepted where 1 in 1000 pairs of different ones is",
    "rank_1": "share of the pictures whose identity comes first in a database with one picture of each",
    "rank_5": "share of the pictures whose identity is among the first five of such a database",
    "dir_at_far_1e-2": "share found first and above the threshold at which 1 in 100 strangers is taken for someone",
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
    """The area, and what the threshold of the model lets through and refuses."""
    auc = found["metrics"]["auc"]["value"]
    if auc is None:
        return ["There was nothing to measure: it takes two identities, and two pictures of one of them."]
    words = [
        f"Of two pictures of one identity and two of different ones, the former are more alike in {100 * auc:.1f} of "
        "100 cases; by chance it would be 50."
    ]
    rates = found["curves"].get("given") or found["curves"]["chosen"]
    if rates is not None and rates["far"] is not None and rates["tar"] is not None:
        whose = "that of the model" if "given" in found["curves"] else "chosen on these images"
        words.append(
            f"At the threshold {rates['threshold']:.3f}, {whose}, {percent(rates['far'])} of the pairs of different "
            f"identities are taken for the same, and {percent(1 - rates['tar'])} of the pairs of one for different."
        )
    return words


def cautions(found: Mapping[str, Any]) -> list[str]:
    """Few identities say little, however many pictures they have; and vectors that are all alike say nothing."""
    out, identities = [], len(found["per_class"])
    if identities < FEW:
        out.append(f"The images show {identities} identities, which the intervals resample; more would narrow them.")
    scores = found["curves"]["scores"]
    far = sum(n for n, edge in zip(scores["different"], scores["edges"], strict=False) if edge < COLLAPSED)
    if sum(scores["different"]) and far < 0.01 * sum(scores["different"]):
        out.append(
            "The vectors have collapsed: nearly all are the same, whoever is shown. Where triplets are mined, "
            "mining=semi_hard or mining=all avoids that."
        )
    return out


FEW = 30  # identities
COLLAPSED = 0.97  # cosine that hardly any two pictures of different identities should reach


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
    """All of it."""
    return answer


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{embedding: the numbers of the vector}."""
    assert answer.embedding is not None
    return {"embedding": [round(value, DIGITS) for value in answer.embedding.tolist()]}


def short_line(described: Mapping[str, Any]) -> str:
    """The picture most alike among those before, where there is one; else how long the vector is."""
    alike = described.get("alike")
    if not alike:
        return f"a vector of {len(described['embedding'])} numbers"
    words = {True: ", the same", False: ", another"}.get(alike[0].get("same", None), "")
    return f"{alike[0]['similarity']:.3f} like {alike[0]['image']}{words}"


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """One: the vector of the image, to which it is compared when parts of it are covered."""
    assert answer.embedding is not None
    return [Target(0, 1.0, reference=answer.embedding)]


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """Raises UsageError: an image is most like itself, where the slope of its similarity is 0."""
    raise UsageError("the similarity of an image to itself has no gradient; occlusion explains it")


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """How alike the vectors of images are to those of the targets, from 0 for what is not alike at all on."""
    references = torch.stack([target.reference for target in targets if target.reference is not None])

    @torch.no_grad()
    def alike(images: Tensor) -> Tensor:
        vectors: Tensor = model.embed(images).float()  # type: ignore[operator]
        others = references.to(vectors.device, vectors.dtype)
        compare = getattr(model, "similarity", None)
        return (vectors @ others.T if compare is None else compare(vectors, others)).clamp(min=0)

    return alike


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """`embedding` [b, d], vectors of length 1."""
    return {"embedding": model.embed(sees.images).float()}  # type: ignore[operator]
