"""Embeddings with known identities: how well their similarity tells pictures of one thing from those of others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.metrics import Result, Value


def pairs_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of pictures of `labels` [n]: the two pictures of each and whether their labels are equal, [n (n-1) / 2]
    each."""
    first, second = np.triu_indices(len(labels), 1)
    return first, second, labels[first] == labels[second]


class Embedding:
    """Metric auc: the chance that two pictures of one identity are more alike than two of different ones, over all
    pairs of the pictures (ties count half).

    Args:
        classes: names of the identities.
        threshold: the smallest similarity at which two pictures are taken for the same; None: nobody chose one.
    """

    def __init__(self, classes: list[str], threshold: float | None = None) -> None:
        self.classes = classes
        self.threshold = threshold
        self._rows: dict[str, tuple[int, np.ndarray]] = {}

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where the identity is missing or unknown, the vector is missing, of another length than the
        others, or not finite, or the image came before."""
        if id in self._rows:
            raise DataError(f"{id}: evaluated twice; give every image once")
        if truth.label is None or not 0 <= truth.label < len(self.classes):
            raise DataError(f"{id}: the truth has label {truth.label}, allowed 0..{len(self.classes) - 1}")
        if prediction.embedding is None:
            raise DataError(f"{id}: the prediction has no embedding")
        vector = prediction.embedding.detach().double().cpu().numpy()
        known = next((row.shape for _, row in self._rows.values()), vector.shape)
        if vector.shape != known or not np.isfinite(vector).all():
            raise DataError(f"{id}: an embedding of shape {list(vector.shape)}, expected {list(known)} finite numbers")
        self._rows[id] = (truth.label, vector)

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        rows = [self._rows[id] for id in sorted(self._rows)]
        labels = np.array([label for label, _ in rows], dtype=np.int64)
        vectors = np.stack([vector for _, vector in rows]) if rows else np.zeros((0, 1))
        similarity = vectors @ vectors.T
        first, second, same = pairs_of(labels)
        value = _auc(similarity[first, second], same)
        per_class: list[dict[str, Any]] = [
            {"name": name, "images": int((labels == k).sum()), "auc": _auc_of(similarity, labels == k)}
            for k, name in enumerate(self.classes)
            if not len(rows) or (labels == k).any()
        ]
        return Result({"auc": Value(value)}, per_class, {}, len(rows))


def _auc_of(similarity: np.ndarray, own: np.ndarray) -> float | None:
    """The same chance, of pairs within one identity against pairs of it and others."""
    within = similarity[own][:, own][np.triu_indices(int(own.sum()), 1)]
    across = similarity[own][:, ~own].ravel()
    scores = np.concatenate([within, across])
    return _auc(scores, np.arange(len(scores)) < len(within))


def _auc(scores: np.ndarray, same: np.ndarray) -> float | None:
    """Mann and Whitney's U over the number of pairs, by mean ranks; None without pairs of both kinds."""
    from scipy.stats import rankdata

    ones, others = int(same.sum()), int((~same).sum())
    if not ones or not others:
        return None
    total = float(rankdata(scores)[same].sum())
    return (total - ones * (ones + 1) / 2) / (ones * others)
