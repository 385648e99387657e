"""Poses drawn into an image: bones, joints and, where there is room, the names of the joints."""

from __future__ import annotations

from PIL import ImageDraw
from torch import Tensor

from saccade.data.joints import Joints
from saccade.plots.text import font_of

Colour = tuple[int, int, int]  # red, green, blue

LEFT, RIGHT = (64, 220, 90), (235, 60, 200)  # of the person; told apart without red and green
FAINT = 0.1  # a predicted joint that is less sure is not drawn; the network says that it does not see it


def draw_skeleton(pen: ImageDraw.ImageDraw, pose: Tensor, joints: Joints | None, colour: Colour, line: int) -> None:
    """One pose [k, 3] (x, y, visibility or confidence). Bones and joints of the left side are green, of the right
    side magenta, the others of the object's `colour`; joints stated as hidden (1) are rings.

    Args:
        joints: their names and bones; None: points of the object's colour alone.
        line: pixels of its width.
    """
    points = [(x, y) for x, y, _ in pose.tolist()]
    seen = shown(pose)
    sides = _colours(len(points), joints, colour)
    for a, b in joints.bones if joints is not None else ():
        if seen[a] and seen[b]:
            own = sides[a] if sides[a] == sides[b] else colour
            pen.line((*points[a], *points[b]), fill=own, width=max(2, line))
    stated = bool((pose[:, 2] > 1).any())  # a confidence is 1 at most
    for (x, y), ink, there, value in zip(points, sides, seen, pose[:, 2].tolist(), strict=True):
        if there:
            pen.circle((x, y), 1.5 * line, fill=None if stated and value == 1 else ink, outline="white")


def name_joints(pen: ImageDraw.ImageDraw, pose: Tensor, joints: Joints, size: int) -> None:
    """The name of each joint beside it, in letters of `size` pixels; a name that would cover another is left out."""
    font = font_of(size)
    width, height = pen.im.size
    taken: list[tuple[float, float, float, float]] = []
    for (x, y, _), name, there in zip(pose.tolist(), joints.names, shown(pose), strict=True):
        left, top = x + size / 2, y - size / 2
        right, low = left + font.getlength(name), top + size
        free = all(left >= c or right <= a or top >= d or low <= b for a, b, c, d in taken)
        if there and free and left >= 0 and right <= width and top >= 0 and low <= height:
            taken.append((left, top, right, low))
            pen.text((left, top), name, fill="white", font=font, stroke_width=max(1, size // 8), stroke_fill="black")


def shown(pose: Tensor) -> list[bool]:
    """Which joints of a pose [k, 3] are drawn: those that are there, and of predicted ones those that are not faint."""
    return [value >= FAINT for value in pose[:, 2].tolist()]


def _colours(count: int, joints: Joints | None, colour: Colour) -> list[Colour]:
    """The first of a pair is the left side where names begin so, as all readers state them."""
    colours = [colour] * count
    for a, b in joints.pairs if joints is not None else ():
        left, right = (a, b) if joints is not None and _is_left(joints.names[a], joints.names[b]) else (b, a)
        colours[left], colours[right] = LEFT, RIGHT
    return colours


def _is_left(name: str, other: str) -> bool:
    """Whether the first of a pair is the left one; so too where names do not tell."""
    words = f" {name} ".lower().replace("_", " "), f" {other} ".lower().replace("_", " ")
    return not (" right " in words[0] or " r " in words[0] or "right" in words[0])
