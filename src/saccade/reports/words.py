"""What the numbers of a report mean, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.tasks.contract import task_of

STEADY = 0.02  # of its lowest value: by less than this a validation loss is not said to have risen
SMALL = 0.1  # of its lowest value: a smaller rise on few images may be chance
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


def explain_course(rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """Sentences on what the curves of a run say of overfitting: no more than the numbers do.

    Args:
        rows: of log.jsonl.
        metric: that ranks checkpoints.
    """
    measured = [row for row in rows if row.get("validation_losses")]
    sentences = [] if len(measured) < 2 else [_course_of_loss(rows, measured)]
    pairs = [
        (row["training_metrics"].get(metric), row.get("metrics", {}).get(metric), row)
        for row in rows
        if row.get("training_metrics")
    ]
    known = [(ours, theirs, row) for ours, theirs, row in pairs if ours is not None and theirs is not None]
    if known:
        ours, theirs, row = known[-1]
        count = f"{row['training_images']:,} " if row.get("training_images") else ""
        sentences.append(
            f"After epoch {row['epoch']} the score {metric} was {ours:.3f} on {count}training images, shown without "
            f"augmentation, and {theirs:.3f} on the validation images."
        )
    return sentences


def _course_of_loss(rows: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, Any]]) -> str:
    """Where the validation loss was lowest, and what came after."""
    values = [sum(row["validation_losses"].values()) for row in measured]
    place = min(range(len(values)), key=values.__getitem__)
    lowest, last = measured[place], measured[-1]
    text = f"The validation loss was lowest after epoch {lowest['epoch']} of {rows[-1]['epoch']} ({values[place]:.4g})"
    if place == len(values) - 1:
        return f"{text}, at the last evaluation: these curves show no overfitting."
    training = {row["epoch"]: sum(row["losses"].values()) for row in rows}
    before, after = training[lowest["epoch"]], training[last["epoch"]]
    risen = f"{text} and {values[-1]:.4g} at the last evaluation, after epoch {last['epoch']}"
    if values[-1] <= values[place] + STEADY * abs(values[place]):
        return f"{risen}: it has stayed within {100 * STEADY:.0f} % of the lowest."
    if after < before:
        small = values[-1] <= values[place] + SMALL * abs(values[place])
        return (
            f"{risen}, while the training loss fell from {before:.4g} to {after:.4g}: that is what overfitting looks "
            f"like{'; so small a rise may be chance' if small else ''}."
        )
    return f"{risen}; the training loss rose as well, from {before:.4g} to {after:.4g}, so that is no overfitting."
