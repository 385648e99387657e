"""Embeddings with known identities, image by image: how well their similarity tells pictures of one from those of
others (`metrics/identification.py`), and the similarity from which on two are taken for the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.metrics import Result
from saccade.metrics.identification import Similarity, all_pairs, pair_scores, score_embeddings
from saccade.metrics.verification import choose_threshold, equal_error_rate, roc

FAR = 1e-2  # false accepts at which a threshold is chosen


class Embedding:
    """The metrics of `score_embeddings` over all images.

    Curves also: "chosen" {threshold, far, tar, stated: bool}, of the lowest similarity at which at most FAR of the
    pairs of different identities are accepted (`stated`), or, where there are too few such pairs to tell, at which both
    errors are equal; None without pairs of both kinds. "given" {threshold, far, tar} of the threshold that the model
    has, if it has one.

    Args:
        classes: names of the identities.
        threshold: the smallest similarity at which two pictures are taken for the same; None: nobody chose one.

    Attributes:
        similarity: of vectors [n, d] and [m, d], [n, m]; None: their cosine.
    """

    def __init__(self, classes: list[str], threshold: float | None = None) -> None:
        self.classes = classes
        self.threshold = threshold
        self.similarity: Similarity | None = None
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
        vector = prediction.embedding.detach().float().cpu().numpy()
        known = next((row.shape for _, row in self._rows.values()), vector.shape)
        if vector.shape != known or not np.isfinite(vector).all():
            raise DataError(f"{id}: an embedding of shape {list(vector.shape)}, expected {list(known)} finite numbers")
        self._rows[id] = (truth.label, vector)

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        ids = sorted(self._rows)
        labels = np.array([self._rows[id][0] for id in ids], dtype=np.int64)
        vectors = np.stack([self._rows[id][1] for id in ids]) if ids else np.zeros((0, 1))
        people = [self.classes[label] for label in labels]
        result = score_embeddings(ids, people, vectors, bootstrap, seed, self.similarity)
        pairs = all_pairs(labels)
        scores = pair_scores(vectors.astype(np.float64), pairs, self.similarity)
        same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        result.curves["chosen"] = _chosen(scores, same)
        if self.threshold is not None and len(pairs):
            result.curves["given"] = _rates(scores, same, self.threshold)
        return result


def _chosen(scores: np.ndarray, same: np.ndarray) -> dict[str, Any] | None:
    if same.all() or not same.any():
        return None
    if (~same).sum() * FAR >= 1:
        found = choose_threshold(scores, same, FAR, bootstrap=0)
        return {"threshold": found.threshold, "far": found.far, "tar": found.tar, "stated": True}
    _, threshold = equal_error_rate(roc(scores, same))
    return {**_rates(scores, same, threshold), "stated": False}


def _rates(scores: np.ndarray, same: np.ndarray, threshold: float) -> dict[str, Any]:
    accepted = scores >= threshold

    def share(kind: np.ndarray) -> float | None:
        return float(accepted[kind].mean()) if kind.any() else None

    return {"threshold": threshold, "far": share(~same), "tar": share(same)}
