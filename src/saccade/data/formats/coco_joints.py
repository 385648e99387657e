"""The joints that the categories of a COCO file name, their left and right, and their skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade.data.dataset import DataSet
from saccade.data.formats.pose import name_joints
from saccade.data.joints import Joints, named_joints


def joint_names(category: dict[str, Any]) -> list[str]:
    """The names of a category's keypoints; none where it has no such list."""
    names = category.get("keypoints")
    return [str(name) for name in names] if isinstance(names, list) else []


def read_joints(dataset: DataSet, categories: Sequence[dict[str, Any]]) -> None:
    """Give the data set the joints of its categories; where these differ, those of the first, with a warning.

    Pairs are `flip_pairs` (as Saccade writes them, from 1 like the skeleton) or follow from names: left and right.
    """
    named = [category for category in categories if joint_names(category)]
    if not named:
        return
    first, warnings = named[0], dataset.ledger.warnings
    names = joint_names(first)
    if any(joint_names(other) != names for other in named):
        warnings.append(f"categories have different keypoints; they are those of {first['name']!r}")
    bones = _ends(first.get("skeleton"), len(names))
    if bones is None:
        warnings.append(f"the skeleton of {first['name']!r} is no list of pairs of its joints, 1 to {len(names)}")
    try:
        joints = named_joints(names, bones or ())
        pairs = _ends(first.get("flip_pairs"), len(names))
        name_joints(dataset, Joints(joints.names, pairs, joints.bones) if pairs else joints)
    except ValueError as error:
        warnings.append(f"keypoints of {first['name']!r} left aside: {error}")


def _ends(pairs: object, count: int) -> tuple[tuple[int, int], ...] | None:
    """Pairs of joints counted from 0; None where they are no pairs of 1..count."""
    if not pairs:
        return ()
    if not isinstance(pairs, list):
        return None
    found = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(i) is int and 1 <= i <= count for i in pair):
            return None
        if pair[0] != pair[1]:
            found.append((pair[0] - 1, pair[1] - 1))
    return tuple(found)
