"""Identities: the classes of data to learn who or what a picture shows, whose new pictures show others.

A model to embed is tried on people (or things) of whom it has seen no picture: all pictures of one identity stay on
one side of a split, and the folders of val may bear other names than those of train.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from saccade.data.dataset import DataSet, Record


def take_identities(dataset: DataSet) -> None:
    """Make the classes identities; the task becomes "embed".

    The warnings of the ledger say how many identities have one picture: it is never alike to another, so that it
    counts as a stranger to all others and makes no pair of its own.
    """
    dataset.task = "embed"
    counts = Counter(record.label for record in dataset.records)
    alone = sorted(dataset.classes[label] for label, pictures in counts.items() if label is not None and pictures == 1)
    if alone:
        dataset.ledger.warnings.append(
            f"{len(alone)} of {len(counts)} identities have one picture, such as {alone[0]!r}: pairs with it are all "
            "of different ones"
        )


def identity_names(dataset: DataSet, records: Sequence[Record]) -> list[str | None]:
    """The identity of each record; None for one of whom nothing is stated."""
    return [None if record.label is None else dataset.classes[record.label] for record in records]
