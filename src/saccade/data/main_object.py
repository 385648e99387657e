"""Localization: of all objects of an image the one that is asked for, the largest."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.data.dataset import DataSet, Thing


def main_object(things: Sequence[Thing]) -> Thing | None:
    """The object whose box is largest among those that are neither crowd nor difficult, the first of equal ones; None
    where there is none."""
    return max((t for t in things if not t.crowd and not t.difficult), key=_box_area, default=None)


def keep_main_objects(dataset: DataSet) -> None:
    """Leave every image its main object; the task becomes "localize".

    Images without such an object are refused: a localizer has no answer for them. How many images had more objects,
    and how many of those are left aside, stands in the warnings.
    """
    reasons = {}
    crowded = aside = 0
    for record in dataset.records:
        things = record.things or []
        main = main_object(things)
        if main is None:
            held = "only objects marked crowd or difficult" if things else "no object"
            reasons[record.id] = f"holds {held}; the task 'localize' needs one an image"
            continue
        crowded += len(things) > 1
        aside += len(things) - 1
        record.things = [main]
    if crowded:
        dataset.ledger.warnings.append(
            f"localize takes the largest object of an image: {crowded} of {len(dataset.records)} images have several, "
            f"{aside} objects are left aside"
        )
    if reasons:
        dataset.ledger.warnings.append(
            f"localize needs an object an image: {len(reasons)} of {len(dataset.records)} images have none and are "
            "refused"
        )
    dataset.task = "localize"
    dataset.refuse(reasons)


def _box_area(thing: Thing) -> float:
    x1, y1, x2, y2 = thing.box
    return (x2 - x1) * (y2 - y1)
