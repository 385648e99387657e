"""What the numbers of a report mean, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.tasks.contract import task_of

FEW = 100  # images below which an interval is usually too wide to rank two models


def explain_score(task: str, found: Mapping[str, Any], where: str) -> list[str]:
    """Sentences on what the scores of an evaluation say.

    Args:
        found: `Result.to_json()`.
        where: the images, such as "validation images".
    """
    sentences = task_of(task).score_in_words(found)
    if any(value["low"] is not None for value in found["metrics"].values()):
        sentences.append(
            f"Measured on {found['images']} {where}. The interval says how far the number would move with other images "
            "of the same kind (95 %, from resampling the images); it does not cover another seed of the training."
        )
    return sentences


def cautions(task: str, found: Mapping[str, Any]) -> list[str]:
    """What should keep a reader from trusting the score too much."""
    out = []
    if found["images"] < FEW:
        out.append(
            f"Only {found['images']} images were measured: two models whose intervals overlap cannot be told apart."
        )
    recordings = found.get("recordings", 0)
    if recordings == 1:
        out.append("All images are of one recording: how much the score differs on another cannot be said from them.")
    elif recordings:
        out.append(f"The images are of {recordings} recordings; the intervals resample recordings, not images.")
    rare = [row["name"] for row in found["per_class"] if 0 < row.get("images", FEW) < 5]
    if rare:
        out.append(f"Fewer than five images speak for {_some(rare)}; take their rows as a hint.")
    return out + task_of(task).cautions(found)


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more classes" if len(names) > most else "")
