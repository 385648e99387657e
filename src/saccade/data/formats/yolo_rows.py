"""One row of a YOLO label file: from text to an object in pixels, and back."""

from __future__ import annotations

import math

from saccade.data.dataset import Thing
from saccade.data.formats.boxes import fit_box, fit_polygons, polygon_box
from saccade.data.formats.pose import Points, fit_joints
from saccade.data.formats.yolo_yaml import MAX_CLASSES, Layout
from saccade.errors import DataError

_SLACK = 0.5  # share of the image by which a box may stick out before its numbers are taken for pixels


def parse_row(row: str, size: tuple[int, int], layout: Layout, seen: set[int]) -> tuple[Thing, str | None]:
    """The object of a row, for an image of `size` (height, width), and what was repaired.

    The class is an index into the names of `layout`, or the id itself where `layout` has none. Every id that occurs is
    added to `seen`, in range or not.

    Raises:
        DataError: the reason, without the place.
    """
    if "," in row or ";" in row:
        raise DataError(f"{row[:40]!r} has commas; blanks between the numbers and decimal points are needed")
    words = row.split()
    label = _label(words[0], layout, seen)
    numbers = [_number(word) for word in words[1:]]
    count = len(words)
    if layout.keypoints is not None:
        if count != 5 + layout.keypoints[0] * layout.keypoints[1]:
            points, width = layout.keypoints
            raise DataError(f"has {count} columns, kpt_shape [{points}, {width}] needs {5 + points * width}")
    elif count == 6 or count < 5:
        raise DataError(f"has {count} columns; 5 (class cx cy w h) or 7 and more (class x1 y1 x2 y2 x3 y3 ...) allowed")
    elif count > 6 and count % 2 == 0:
        raise DataError(f"a polygon of {count} columns: class and x y pairs need an odd count")
    if count == 5 or layout.keypoints is not None:
        thing, repair = _boxed(label, numbers, size)
        if layout.keypoints is not None:
            thing.keypoints, moved = _keypoints(numbers[4:], layout.keypoints[1], size)
            repair = "; ".join(what for what in (repair, moved and f"keypoints {moved}") if what) or None
        return thing, repair
    return _outlined(label, numbers, size)


def format_row(thing: Thing, size: tuple[int, int], polygon: list[float] | None) -> str:
    """The row of an object: of its polygon where given, else of its box. Nine digits: under 0.001 px at 100,000 px."""
    height, width = size
    if polygon is not None:
        values = [v / (height if i % 2 else width) for i, v in enumerate(polygon)]
    else:
        x1, y1, x2, y2 = thing.box
        values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    return " ".join([str(thing.label), *(f"{v:.9g}" for v in values)])


def _label(word: str, layout: Layout, seen: set[int]) -> int:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not number.is_integer() or abs(number) > MAX_CLASSES:
        raise DataError(f"class {word[:40]!r} is not a whole number; allowed {layout.allowed}")
    label = int(number)
    seen.add(label)
    if not layout.names and label >= 0:
        return label
    if label not in layout.positions:
        hint = "; do your ids start at 1?" if layout.names and label == next(reversed(layout.names)) + 1 else ""
        raise DataError(f"class {label}, allowed {layout.allowed}{hint}")
    return layout.positions[label]


def _number(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{word[:40]!r} is not a finite number")
    return number


def _boxed(label: int, numbers: list[float], size: tuple[int, int]) -> tuple[Thing, str | None]:
    height, width = size
    cx, cy, w, h = numbers[:4]
    if w < 0 or h < 0:
        raise DataError(f"width {w:g} or height {h:g} is negative")
    _refuse_pixels([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
    fitted, repair = fit_box(box, size)
    return Thing(label, fitted), repair


def _outlined(label: int, numbers: list[float], size: tuple[int, int]) -> tuple[Thing, str | None]:
    height, width = size
    _refuse_pixels(numbers)
    scaled = [v * (height if i % 2 else width) for i, v in enumerate(numbers)]
    polygons, repair = fit_polygons([scaled], size)
    box, _ = fit_box(polygon_box(polygons), size)
    return Thing(label, box, polygons=polygons), repair


def _keypoints(numbers: list[float], width: int, size: tuple[int, int]) -> tuple[Points, str | None]:
    points = []
    for i in range(0, len(numbers), width):
        x, y = numbers[i], numbers[i + 1]
        visible = numbers[i + 2] if width == 3 else 2.0 * (x != 0 or y != 0)
        points += [x * size[1], y * size[0], visible]
    return fit_joints(points, [f"keypoint {i}" for i in range(len(points) // 3)], size)


def _refuse_pixels(values: list[float]) -> None:
    worst = max(values, key=lambda v: abs(v - 0.5))
    if not -_SLACK <= worst <= 1 + _SLACK:
        raise DataError(
            f"reaches {worst:g}, but numbers are fractions of the image, 0..1; if they are pixels, divide by its size"
        )
