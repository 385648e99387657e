"""The images of a run: divided into parts, and refused where there is nothing to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saccade.config import Settings
from saccade.data.dataset import DataSet, Record, count_labels
from saccade.data.people import people_to_learn
from saccade.data.split import split
from saccade.errors import DataError
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS, Task


@dataclass(frozen=True, slots=True)
class Divided:
    """A data set divided into what trains, validates and tests."""

    given: dict[str, str | None]  # split of each image id as the files state it
    training: list[Record]
    validation: list[Record]
    testing: list[Record]  # empty where the data set has no test part with labels


def divide(dataset: DataSet, task: str, settings: Settings, one_person: bool = False) -> Divided:
    """Split the data set, where its files do not.

    Args:
        one_person: every person of the training images is a record of its own (`data.people.people_to_learn`).

    Raises:
        DataError: too much of it is refused; nothing to learn from: no image, no object, tag or pixel that counts.
        UsageError: all labels or tags are alike.
    """
    given = _split(dataset, settings)
    training, testing = _training_images(dataset, task), dataset.of("test")
    training = people_to_learn(dataset, training) if one_person else training
    validation = dataset.of("val")
    if validation and (why := choose_nothing(dataset, TASKS[task], validation)):
        dataset.ledger.warnings.append(
            f"the {len(validation)} validation images cannot choose the checkpoint, {why}: the last one is kept, and "
            "there will be no score"
        )
    return Divided(given, training, validation, testing if any(map(count_labels, testing)) else [])


def choose_nothing(dataset: DataSet, kind: Task, validation: Sequence[Record]) -> str | None:
    """Why the metric of the task is undefined on validation images, whatever a network answers; None where it is not.
    Class maps are not looked at."""
    if kind.embedding:
        counts = Counter(record.label for record in validation)
        if len(counts) < 2:
            name = dataset.classes[next(iter(counts)) or 0]
            return f"for they show one identity ({name}) of two that it takes (add people, or try group=none)"
        return None if max(counts.values()) > 1 else "for they show each identity once, and it takes two of one"
    if kind.tags:
        return None if any(record.labels() for record in validation) else "for none has a tag"
    things = [thing for record in validation for thing in record.things or () if not thing.crowd]
    if kind.keypoints and not any(v > 0 for thing in things for _, _, v in thing.keypoints or ()):
        return "for no object has joints"
    if kind.cuboids and all(thing.cuboid is None for thing in things):
        return "for no object has a size and place"
    return "for they show no object that counts" if kind.many_objects and not things else None


def _split(dataset: DataSet, settings: Settings) -> dict[str, str | None]:
    """Split the data set; what its files state of each image. Raises DataError where too much of it is refused."""
    given = {record.id: record.split for record in dataset.records}
    split(dataset, settings.seed, settings.holdout, settings.group)
    refuse_bad_data(dataset, settings)
    return given


def refuse_bad_data(dataset: DataSet, settings: Settings) -> None:
    """Raises DataError where more than `max_refused` of the images or labels is refused."""
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
    task_of(task).check_training(dataset, training)
    return training
