"""From which score on an answer is given: the threshold of the best F1, for all classes or for some by themselves.

F1 is the harmonic mean of precision and recall (van Rijsbergen, "Information Retrieval", 1979, chapter 7, with beta 1),
counted over all objects of the images together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.metrics.matching import FALSE, TRUE, Table

GRID = np.round(np.arange(0.01, 1.0, 0.01), 2)  # the confidences of the curve, and the thresholds to choose from
ENOUGH = 20  # objects of a class from which on it may have a threshold of its own
GAIN = 0.02  # in F1 that the class must have by it


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one class at every confidence of GRID."""

    hits: np.ndarray  # [G] found objects
    wrong: np.ndarray  # [G] detections without one
    truths: float

    @classmethod
    def of(cls, table: Table) -> Counts:
        """Of a class's detections under the first of their rules."""
        state = table.states[0]
        hits, wrong = (_above(table.scores[state == which]) for which in (TRUE, FALSE))
        return cls(hits, wrong, float(table.truths[:, 0].sum()))

    def plus(self, other: Counts) -> Counts:
        """Both classes together."""
        return Counts(self.hits + other.hits, self.wrong + other.wrong, self.truths + other.truths)

    def f1(self) -> np.ndarray:
        """[G]; 0 without truth."""
        total = self.hits + self.wrong + self.truths
        return 2 * self.hits / np.maximum(total, 1)

    def at(self, place: int) -> dict[str, float | None]:
        """The numbers at one confidence; None where there is nothing to divide by."""
        found = float(self.hits[place] + self.wrong[place])
        return {
            "threshold": float(GRID[place]),
            "precision": float(self.hits[place]) / found if found else None,
            "recall": float(self.hits[place]) / self.truths if self.truths else None,
            "f1": float(self.f1()[place]),
        }


def operating_points(classes: Sequence[str], tables: Sequence[Table]) -> dict[str, Any] | None:
    """The threshold of the best F1, with its precision and recall, of all classes and where it pays of one.

    Args:
        tables: of each class, whose first rule says which detections are right.

    Returns:
        `{threshold, precision, recall, f1, thresholds: [one a class], classes: [{class, threshold, precision, recall,
        f1}], confidence: [..], curve: [F1 at each]}`; None without any object.

    Source: van Rijsbergen 1979, chapter 7.
    """
    each = [Counts.of(table) for table in tables]
    whole = Counts(np.zeros(len(GRID)), np.zeros(len(GRID)), 0.0)
    for counts in each:
        whole = whole.plus(counts)
    if not whole.truths or not whole.hits.any():
        return None
    common = _best(whole.f1())
    places = [_own_or(common, counts) for counts in each]
    rows = [{"class": name} | counts.at(place) for name, counts, place in zip(classes, each, places, strict=True)]
    chosen = [float(GRID[place]) for place in places]
    return whole.at(common) | {
        "thresholds": chosen,
        "classes": rows,
        "confidence": GRID.tolist(),
        "curve": whole.f1().tolist(),
    }


def _own_or(common: int, counts: Counts) -> int:
    """The place in GRID at which a class is cut off."""
    values = counts.f1()
    own = _best(values)
    return own if counts.truths >= ENOUGH and values[own] - values[common] >= GAIN else common


def _best(values: np.ndarray) -> int:
    """The middle of the places of the highest value around the first: scores of new images lie to either side."""
    first = int(values.argmax())
    last = first
    while last + 1 < len(values) and values[last + 1] == values[first]:
        last += 1
    return (first + last) // 2


def _above(scores: np.ndarray) -> np.ndarray:
    """How many scores [n] are at least each confidence: [G]."""
    ordered = np.sort(scores)
    return (len(ordered) - np.searchsorted(ordered, GRID, side="left")).astype(np.float64)
