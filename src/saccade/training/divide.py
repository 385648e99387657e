"""The images of a run: divided into parts, and refused where there is nothing to learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.config import Settings
from saccade.data.balance import class_images
from saccade.data.dataset import DataSet, Record, count_labels
from saccade.data.geometry import MIN_SIDE
from saccade.data.split import split
from saccade.data.truth import read_truth
from saccade.data.types import IGNORE
from saccade.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Divided:
    """A data set divided into what trains, validates and tests."""

    given: dict[str, str | None]  # split of each image id as the files state it
    training: list[Record]
    validation: list[Record]
    testing: list[Record]  # empty where the data set has no test part with labels


def divide(dataset: DataSet, task: str, settings: Settings) -> Divided:
    """Split the data set, where its files do not.

    Raises:
        DataError: too much of it is refused; nothing to learn from: no image, no object, tag or pixel that counts.
        UsageError: all labels or tags are alike.
    """
    given = _split(dataset, settings)
    training, testing = _training_images(dataset, task), dataset.of("test")
    return Divided(given, training, dataset.of("val"), testing if any(map(count_labels, testing)) else [])


def _split(dataset: DataSet, settings: Settings) -> dict[str, str | None]:
    """Split the data set; what its files state of each image. Raises DataError where too much of it is refused."""
    given = {record.id: record.split for record in dataset.records}
    split(dataset, settings.seed, settings.holdout, settings.group)
    _refuse_bad_data(dataset, settings)
    return given


def _refuse_bad_data(dataset: DataSet, settings: Settings) -> None:
    ledger = dataset.ledger
    for kind, refused, used in (
        ("images", ledger.images_refused, ledger.images_used),
        ("labels", ledger.labels_refused, ledger.labels_used),
    ):
        if refused and refused > settings.max_refused * (refused + used):
            first = "; ".join(f"{e.where}: {e.what}" for e in ledger.refused[:5])
            raise DataError(
                f"{dataset.root}: {refused} of {refused + used} {kind} are refused, more than max_refused = "
                f"{settings.max_refused:g}. `saccade check {dataset.root}` lists all. The first: {first}"
            )


def _training_images(dataset: DataSet, task: str) -> list[Record]:
    training = dataset.of("train")
    if not training:
        why = "".join(f"\n  {warning}" for warning in dataset.ledger.warnings[:5])
        raise DataError(
            f"{dataset.root}: no image to train on (splits: {dataset.splits or 'none'}); the names of folders, lists "
            f"and label files say which split they are: rename them, or add a train part{why}"
        )
    if task in ("detect", "instances", "tag") and not any(record.things or record.tags for record in training):
        what = "tag" if task == "tag" else "object"
        raise DataError(f"{dataset.root}: no {what} in train (0 of {len(training)} images have one)")
    if task in ("detect", "instances", "localize"):
        _refuse_unusable_objects(dataset, training)
    if task == "segment":
        _refuse_blank_maps(dataset, training)
    counts = class_images(training, len(dataset.classes))
    if task in ("classify", "tag") and set(counts) <= {0, len(training)}:
        names = ", ".join(dataset.classes[label] for label in np.flatnonzero(counts))
        what = f"are of one class ({names})" if task == "classify" else f"have the same tags ({names})"
        raise UsageError(
            f"{dataset.root}: all {len(training)} training images {what}, with nothing to tell apart; add images of "
            "another class, such as images without it"
        )
    return training


def _refuse_unusable_objects(dataset: DataSet, training: list[Record]) -> None:
    """Raises DataError where no object of train can be a target."""
    things = [thing for record in training for thing in record.things or []]
    crowds = sum(thing.crowd for thing in things)
    sides = [round(min(t.box[2] - t.box[0], t.box[3] - t.box[1]), 3) for t in things if not t.crowd]
    if max(sides, default=0.0) < MIN_SIDE:
        raise DataError(
            f"{dataset.root}: nothing to train on: of {len(things)} objects in {len(training)} training images "
            f"{crowds} are marked crowd and {len(sides)} are narrower than a pixel; are coordinates in pixels?"
        )


def _refuse_blank_maps(dataset: DataSet, training: list[Record]) -> None:
    """Raises DataError where the class maps of train show fewer than two classes; looks no farther than it must."""
    seen: set[int] = set()
    for record in training:
        semantic = read_truth(record, dataset, "segment").semantic
        if semantic is not None:
            seen.update(semantic.unique().tolist())
        if len(seen - {IGNORE}) > 1:
            return
    shown = ", ".join(dataset.classes[k] for k in sorted(seen - {IGNORE})) or "nothing but what is ignored"
    raise DataError(
        f"{dataset.root}: nothing to tell apart: the masks of all {len(training)} training images show {shown}"
    )
