"""Phrases that several tasks need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

TRUTH = "truth"  # where the boxes of the objects are from that a network answers for, unless somebody gives others


@dataclass(frozen=True, slots=True)
class Frequent:
    """The class that most images are of."""

    name: str
    share: float  # of the images


def most_frequent(found: Mapping[str, Any]) -> Frequent:
    """Of the images of a result (`Result.to_json()`)."""
    rows: Sequence[Mapping[str, Any]] = found["per_class"]
    best = max(rows, key=lambda row: row["images"])
    return Frequent(best["name"], best["images"] / max(1, found["images"]))


def percent(share: float) -> str:
    """0.123 as "12 %", with a decimal where little is left to 0 or 1."""
    return f"{100 * share:.0f} %" if share == 0 or 0.1 <= share <= 0.95 or share == 1 else f"{100 * share:.1f} %"


def best_score(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best score of some mistakes in brackets, after a space; "" where they have none."""
    if "score" not in rows[0]:
        return ""
    return f" ({'up to ' if len(rows) > 1 else ''}{max(row['score'] for row in rows):.2f})"


def named_scores(scores: Tensor, rows: Sequence[int], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Name and score of some classes, in that order; `scores` are [classes]."""
    return [{"name": classes[i], "score": round(float(scores[i]), 5)} for i in rows]
