"""Classification of objects: the box of every object of a detection data set becomes a picture with one label."""

from __future__ import annotations

import math

from saccade.data.dataset import DataSet, Record, Thing


def records_of_objects(dataset: DataSet) -> list[Record]:
    """A record for every object, in order: the region is its box, out to whole pixels; the id that of its picture and
    the number of the object in it, as in `a.jpg#0`. Crowds and difficult objects are left aside."""
    return [
        _record(record, number, thing)
        for record in dataset.records
        for number, thing in enumerate(record.things or [])
        if not thing.crowd and not thing.difficult
    ]


def take_objects(dataset: DataSet) -> None:
    """Put the objects in the place of the pictures; the task becomes "classify".

    How many objects and pictures that leaves aside stands in the warnings of the ledger.
    """
    before, things = len(dataset.records), sum(len(record.things or ()) for record in dataset.records)
    dataset.records, dataset.task = records_of_objects(dataset), "classify"
    taken, pictures = len(dataset.records), len({record.path for record in dataset.records})
    dataset.ledger.warnings.append(
        f"classify takes every object for a picture of its own: {taken} objects of {pictures} pictures; "
        f"{things - taken} objects marked crowd or difficult and {before - pictures} pictures without another are left "
        "aside"
    )


def _record(record: Record, number: int, thing: Thing) -> Record:
    left, top = (record.region or (0, 0))[:2]
    height, width = record.size
    x1, y1 = min(math.floor(thing.box[0]), width - 1), min(math.floor(thing.box[1]), height - 1)
    x2, y2 = max(x1 + 1, math.ceil(thing.box[2])), max(y1 + 1, math.ceil(thing.box[3]))
    return Record(
        f"{record.id}#{number}",
        (y2 - y1, x2 - x1),
        record.split,
        label=thing.label,
        path=record.path,
        region=(left + x1, top + y1, left + x2, top + y2),
    )
