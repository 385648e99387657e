"""What the readers of boxes and polygons share: sanity of one object, and of all objects of a data set together.

The checks of one object raise DataError with the reason alone; the reader knows the place and puts both in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from saccade.data.dataset import DataSet, Entry, Ledger, Record, Thing
from saccade.data.rle import check_outline
from saccade.errors import DataError
from saccade.tasks.table import TASKS

Box = tuple[float, float, float, float]

_ROUNDING = 1.0  # pixels by which a box may stick out of the image without a word: rounding of other tools
_FAR = 10.0  # times the longer side of the image: a corner farther outside is a slip


def check_numbers(values: Sequence[object], what: str) -> list[float]:
    """`values` as finite floats; numbers in text are read. Raises DataError for anything else."""
    numbers = []
    for value in values:
        try:
            number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or abs(number) > 1e9:
            raise DataError(f"{what} holds {str(value)[:40]!r}, which is not a finite number of pixels")
        numbers.append(number)
    return numbers


def fit_box(box: Sequence[object], size: tuple[int, int]) -> tuple[Box, str | None]:
    """The box x1 y1 x2 y2 clipped to an image of `size` (height, width), and what was repaired.

    A box that sticks out by up to a pixel is clipped without a word: other tools round.

    Raises:
        DataError: not four finite numbers, corners swapped, no area, or wholly outside of the image.
    """
    if len(box) != 4:
        raise DataError(f"a box has 4 numbers, found {len(box)}")
    x1, y1, x2, y2 = check_numbers(box, "the box")
    height, width = size
    shown = " ".join(f"{v:g}" for v in (x1, y1, x2, y2))
    if x2 < x1 or y2 < y1:
        raise DataError(
            f"box {shown} (x1 y1 x2 y2) has its corners swapped or a negative size; x1 < x2, y1 < y2 needed"
        )
    if x2 == x1 or y2 == y1:
        raise DataError(f"box {shown} (x1 y1 x2 y2) has no area")
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise DataError(f"box {shown} (x1 y1 x2 y2) lies outside of the image of {width} x {height} (width x height)")
    out = max(abs(a - b) for a, b in zip(clipped, (x1, y1, x2, y2), strict=True))
    if out <= _ROUNDING:
        return clipped, None
    return clipped, f"box {shown} (x1 y1 x2 y2) clipped to the image of {width} x {height} (width x height)"


def fit_polygons(polygons: object, size: tuple[int, int]) -> tuple[list[list[float]], str | None]:
    """The sound ones of polygons `[x1, y1, x2, y2, ...]` in an image of `size` (height, width), and what was repaired.

    Corners outside of the image stay where they are, so that the edges that lead to them cross its border at the right
    place: what lies outside is cut when the polygon is drawn (`data/rle.py`). Corners farther out than any rounding or
    rotation puts them are cut at once, for drawing takes as long as the outline is.

    Raises:
        DataError: not a list of lists, or none is sound: an odd count of numbers, fewer than 3 points, numbers that are
            not finite, wholly outside of the image, or too long to draw.
    """
    if not isinstance(polygons, list) or not polygons or not all(isinstance(p, list) for p in polygons):
        raise DataError("the polygons are not a list of lists [x1, y1, x2, y2, ...]")
    fitted, faults, out = [], [], 0.0
    for polygon in polygons:
        try:
            points, beyond = _fit_polygon(polygon, size)
        except DataError as error:
            faults.append(str(error))
            continue
        fitted.append(points)
        out = max(out, beyond)
    if not fitted:
        raise DataError(faults[0])
    repairs = [f"{len(faults)} of {len(polygons)} polygons left out: {faults[0]}"] if faults else []
    if out > _ROUNDING:
        repairs.append(f"polygon cut at the border of the image, it sticks out by {out:.1f} pixels")
    return fitted, "; ".join(repairs) or None


def _fit_polygon(polygon: list[object], size: tuple[int, int]) -> tuple[list[float], float]:
    """The points of one polygon, and by how many pixels the farthest lies outside. Raises DataError."""
    points = check_numbers(polygon, "the polygon")
    if len(points) % 2:
        raise DataError(f"a polygon has {len(points)} numbers, x and y in turn need an even count")
    if len(points) < 6:
        raise DataError(f"a polygon has {len(points) // 2} points, at least 3 are needed")
    height, width = size
    x1, y1, x2, y2 = polygon_box([points])
    if x2 < 0 or y2 < 0 or x1 > width or y1 > height:
        raise DataError(f"a polygon lies outside of the image of {width} x {height} (width x height)")
    beyond = max(-x1, -y1, x2 - width, y2 - height, 0.0)
    if beyond > _FAR * max(size):
        points = clip_polygon(points, size)
    check_outline(points)
    return points, beyond


def clip_polygon(polygon: list[float], size: tuple[int, int]) -> list[float]:
    """The part of a polygon inside an image of `size` (height, width); [] where there is none.

    Cut along one border after the other (Sutherland & Hodgman 1974, "Reentrant polygon clipping"): the area is right,
    parts of a concave polygon may stay joined by edges along the border.
    """
    height, width = size
    points = list(zip(polygon[0::2], polygon[1::2], strict=True))
    for axis, border, sign in ((0, 0.0, 1), (1, 0.0, 1), (0, float(width), -1), (1, float(height), -1)):
        kept: list[tuple[float, float]] = []
        for before, point in zip([*points[-1:], *points[:-1]], points, strict=True):
            inside, was_inside = (sign * (p[axis] - border) >= 0 for p in (point, before))
            if inside != was_inside:
                share = (border - before[axis]) / (point[axis] - before[axis])
                other = before[1 - axis] + share * (point[1 - axis] - before[1 - axis])
                kept.append((border, other) if axis == 0 else (other, border))
            if inside:
                kept.append(point)
        points = kept
    return [v for point in points for v in point]


def polygon_box(polygons: list[list[float]]) -> Box:
    """x1 y1 x2 y2 around all points."""
    xs = [v for p in polygons for v in p[0::2]]
    ys = [v for p in polygons for v in p[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def drop_repeats(things: list[Thing], places: list[str], ledger: Ledger) -> list[Thing]:
    """`things` without those that repeat an earlier one exactly; each is refused at its place."""
    seen: dict[tuple[object, ...], str] = {}
    kept = []
    for thing, place in zip(things, places, strict=True):
        key = (thing.label, thing.box, str(thing.polygons), str(thing.rle), thing.crowd)
        if key in seen:
            ledger.refuse_label(place, f"repeats the object at {seen[key]} exactly")
        else:
            seen[key] = place
            kept.append(thing)
    return kept


def refuse_with_image(image: str, labels: Sequence[str], ledger: Ledger) -> None:
    """Refuse the labels (given by their places) of an image that cannot be used."""
    for place in labels:
        ledger.refuse_label(place, f"its image cannot be used: {image}")


def finish(dataset: DataSet, task: str | None) -> DataSet:
    """Settle the task, count what is used, and warn of what concerns the whole; the last step of every reader of boxes.

    The task is `instances` where every object that is no crowd has polygons or a mask, else `detect`. Where `task` asks
    for `instances` and some have none, those are refused; where it asks for `detect`, outlines are left aside. It is
    `pose` where that is asked for and the joints have names.

    Raises:
        DataError: no image, or no object that can be used.
    """
    ledger = dataset.ledger
    if not dataset.records:
        raise DataError(f"{dataset.root}: no image can be used{_first(ledger.refused)}")
    things = [t for r in dataset.records for t in r.things or [] if not t.crowd]
    outlined = sum(bool(t.polygons or t.rle or t.mask) for t in things)
    asked = None if task is None else TASKS.get(task)
    if outlined and asked is not None and asked.masks:
        for record in dataset.records:
            record.things = _with_outline(record, ledger)
    elif 0 < outlined < len(things) and task is None:
        ledger.warnings.append(
            f"{outlined} objects have an outline and {len(things) - outlined} only a box: read for boxes; "
            "the task 'instances' takes the former alone"
        )
    all_outlined = outlined == len(things) or (asked is not None and asked.masks)
    boxes_alone = not outlined or (asked is not None and asked.boxes_alone) or not all_outlined
    dataset.task = "detect" if boxes_alone else "instances"
    if asked is not None and asked.keypoints and dataset.joints is not None:
        dataset.task = asked.name
    ledger.images_used = len(dataset.records)
    ledger.labels_used = sum(len(r.things or []) for r in dataset.records)
    if not ledger.labels_used:
        raise DataError(
            f"{dataset.root}: no objects in {len(dataset.records)} images "
            f"({ledger.labels_refused} labels refused){_first(ledger.refused)}"
        )
    empty = sum(not r.things for r in dataset.records)
    if empty:
        ledger.warnings.append(f"{empty} background pictures (without objects)")
    return dataset


def _with_outline(record: Record, ledger: Ledger) -> list[Thing]:
    kept = []
    for number, thing in enumerate(record.things or [], start=1):
        if thing.crowd or thing.polygons or thing.rle or thing.mask:
            kept.append(thing)
        else:
            ledger.refuse_label(f"{record.id}: object {number}", "has no polygon or mask, which 'instances' needs")
    return kept


def _first(refused: list[Entry]) -> str:
    return f"; the first: {refused[0].where}: {refused[0].what}" if refused else ""
