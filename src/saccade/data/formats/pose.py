"""What the readers of joints share: sanity of the joints of one object, its box where none is stated, their names."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.data.dataset import DataSet, Ledger, Thing
from saccade.data.formats.boxes import Box, check_numbers, fit_box
from saccade.data.joints import Joints
from saccade.errors import DataError

Points = list[tuple[float, float, float]]

ABSENT = (0.0, 0.0, 0.0)
MARGIN = 0.1  # of a box around joints: the share of its longer side by which it is wider, on each side
AREA = 0.53  # of a box, what a person's outline covers, as COCO's evaluation takes it where no area is stated
_ROUNDING = 1.0  # pixels by which a joint may lie outside of the image without a word


def fit_joints(values: Sequence[object], joints: Sequence[str], size: tuple[int, int]) -> tuple[Points, str | None]:
    """x y visibility of each joint in an image of `size` (height, width), and what was repaired.

    A joint whose visibility is 0 is absent, whatever its place. One that lies outside of the image by more than a
    rounding becomes absent: nothing in the picture shows it.

    Args:
        values: x, y, visibility (0 absent, 1 hidden, 2 visible) of one joint after the other.
        joints: their names.

    Raises:
        DataError: another count of numbers, numbers that are not finite, or another visibility.
    """
    if len(values) != 3 * len(joints):
        raise DataError(
            f"keypoints hold {len(values)} numbers, {len(joints)} points of x y visibility need {3 * len(joints)}"
        )
    numbers = check_numbers(values, "keypoints")
    height, width = size
    points: Points = []
    outside = []
    for i, name in enumerate(joints):
        x, y, seen = numbers[3 * i : 3 * i + 3]
        if seen not in (0, 1, 2):
            raise DataError(f"{name} has the visibility {seen:g}; 0 absent, 1 hidden and 2 visible are allowed")
        beyond = max(-x, -y, x - width, y - height)
        if seen and beyond > _ROUNDING:
            outside.append(f"{name} ({x:g} {y:g})")
        kept = seen and beyond <= _ROUNDING
        points.append((min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height)), seen) if kept else ABSENT)
    if not outside:
        return points, None
    named = ", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else "")
    return points, f"outside of the image of {width} x {height} (width x height), taken as absent: {named}"


def box_around(points: Points, size: tuple[int, int]) -> Box:
    """A box for a person of whom only joints are stated: around those that are there, wider by MARGIN of its longer
    side on each side, clipped to the image. Raises DataError where fewer than two are there."""
    there = [(x, y) for x, y, seen in points if seen]
    xs, ys = [x for x, _ in there], [y for _, y in there]
    side = max(max(xs) - min(xs), max(ys) - min(ys)) if there else 0.0
    if side <= 0:
        raise DataError(f"{len(there)} joints are labelled, at least 2 are needed for a box around them")
    more = MARGIN * side
    return fit_box((min(xs) - more, min(ys) - more, max(xs) + more, max(ys) + more), size)[0]


def name_joints(dataset: DataSet, joints: Joints) -> None:
    """Say what the keypoints of a data set are; those of an object that has another number of them are left out."""
    dataset.joints = joints
    for record in dataset.records:
        for number, thing in enumerate(record.things or [], start=1):
            if thing.keypoints is not None and len(thing.keypoints) != len(joints):
                dataset.ledger.repair(
                    f"{record.id}: object {number}",
                    f"{len(thing.keypoints)} keypoints left out: not the {len(joints)} of {joints.names[0]}, ...",
                )
                thing.keypoints = None


def person_around(
    values: Sequence[object], joints: Sequence[str], size: tuple[int, int], where: str, ledger: Ledger
) -> Thing | None:
    """A person of whom only joints are stated, with a box around them; None where that cannot be, which the ledger then
    says. Its area, by which OKS is measured, is AREA of the box.

    Args:
        values: as in `fit_joints`; where: place of the person, for the ledger.
    """
    try:
        points, repair = fit_joints(values, joints, size)
        box = box_around(points, size)
    except DataError as error:
        ledger.refuse_label(where, str(error))
        return None
    if repair:
        ledger.repair(where, repair)
    return Thing(0, box, keypoints=points, area=AREA * (box[2] - box[0]) * (box[3] - box[1]))
