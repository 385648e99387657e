"""Pairs of pictures with known identities, as several networks judge them: where vectors that are compared differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saccade.data.dataset import Record
from saccade.data.types import Annotation
from saccade.metrics.identification import Similarity, all_pairs, pair_scores, unit
from saccade.metrics.verification import misleading


@dataclass(frozen=True, slots=True)
class Judged:
    """What one network says of all pairs."""

    ids: list[str]  # of the pictures
    pairs: np.ndarray  # [n, 2] places in `ids`
    same: np.ndarray  # [n] bool: of one identity
    scores: np.ndarray  # [n] similarities
    badness: np.ndarray  # [n] `verification.misleading`
    threshold: float | None  # from which two are taken for the same, where the network has one


@dataclass
class Vectors:
    """The vectors of the pictures of one pass, in their order."""

    _ids: list[str] = field(default_factory=list)
    _labels: list[int] = field(default_factory=list)
    _rows: list[np.ndarray] = field(default_factory=list)

    def add(self, record: Record, truth: Annotation, prediction: Annotation) -> None:
        """One picture as it is measured."""
        assert truth.label is not None
        assert prediction.embedding is not None
        self._ids.append(record.id)
        self._labels.append(truth.label)
        self._rows.append(prediction.embedding.float().cpu().numpy())

    def judged(self, similarity: Similarity, threshold: float | None) -> Judged:
        """Every pair, or of very many those that are drawn (`all_pairs`): the same of every network."""
        labels = np.array(self._labels, dtype=np.int64)
        pairs = all_pairs(labels)
        scores = pair_scores(unit(np.stack(self._rows)), pairs, similarity)
        same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        return Judged(self._ids, pairs, same, scores, misleading(scores, same), threshold)


def most_different_pairs(judged: Sequence[Judged], most: int) -> list[dict[str, Any]]:
    """The pairs that mislead one network and not another, those of the largest difference first and no picture twice:
    `{id, pair: [id, id], same, badness, similarity, thresholds}`, these three with a number for each network."""
    first, badness = judged[0], np.stack([each.badness for each in judged])
    spread = badness.max(0) - badness.min(0)
    seen: set[int] = set()
    rows: list[dict[str, Any]] = []
    for place in np.argsort(-spread, kind="stable"):
        both = [int(i) for i in first.pairs[place]]
        if len(rows) == most or not spread[place] > 0:
            break
        if seen.isdisjoint(both):
            seen.update(both)
            names = [first.ids[i] for i in both]
            row = {"id": " and ".join(names), "pair": names, "same": bool(first.same[place])}
            row["badness"] = [float(value) for value in badness[:, place]]
            row["similarity"] = [float(each.scores[place]) for each in judged]
            row["thresholds"] = [each.threshold for each in judged]
            rows.append(row)
    return rows
