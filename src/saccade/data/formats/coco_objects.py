"""One annotation of COCO as an object, what is wrong with it, and what the annotations of a file look like together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade.data.dataset import Ledger, Record, Thing
from saccade.data.formats.boxes import check_numbers, clip_polygon, fit_box, fit_polygons, polygon_box
from saccade.data.formats.coco_json import Labels, check_id
from saccade.data.formats.pose import Points, fit_joints
from saccade.data.rle import rle_area, rle_box, rle_size
from saccade.errors import DataError

_SURE = 4  # boxes that all lie within the first pixel are fractions; fewer may be that small


def read_object(
    annotation: dict[str, Any], where: str, size: tuple[int, int], label: int, joints: Sequence[str], ledger: Ledger
) -> Thing | None:
    """The object of an annotation of class `label` in an image of `size` (height, width).

    A bad outline, area or list of keypoints does not drop a sound box: what is left out stands among the repairs. None
    where nothing can be used; the ledger then says why.

    Args:
        where: place of the annotation, for the ledger.
        joints: names of the keypoints that its category has.
    """
    repairs: list[str] = []
    try:
        polygons, rle = _outline(annotation.get("segmentation"), size, repairs)
        corners = _corners(annotation.get("bbox"), polygons, rle, size, repairs)
        fitted, repair = fit_box(corners, size)
        repairs += [repair] if repair else []
        thing = Thing(label, fitted, polygons=polygons, rle=rle)
        thing.area = _area(annotation.get("area"), repairs)
        thing.keypoints = _keypoints(annotation, joints, size, repairs)
    except DataError as error:
        ledger.refuse_label(where, "; ".join([*repairs, str(error)]))
        return None
    thing.crowd = annotation.get("iscrowd") in (1, True) or annotation.get("ignore") in (1, True)
    thing.id = annotation["id"] if type(annotation.get("id")) is int else None
    for repair in repairs:
        ledger.repair(where, repair)
    return thing


def _outline(
    segment: object, size: tuple[int, int], repairs: list[str]
) -> tuple[list[list[float]] | None, dict[str, Any] | None]:
    """Polygons or run lengths, neither where there is no sound outline; [[]] is none, as [] is."""
    try:
        if isinstance(segment, dict):
            if rle_size(segment) != size:
                raise DataError(f"RLE size {segment['size']} (height, width) differs from the image {list(size)}")
            if rle_area(segment) == 0:
                raise DataError("the mask is empty")
            return None, segment
        if isinstance(segment, list):
            flat = not any(isinstance(part, list) for part in segment)
            parts = [part for part in ([segment] if flat else segment) if part != []]
            if not parts:
                return None, None
            polygons, repair = fit_polygons(parts, size)
            repairs += [repair] if repair else []
            return polygons, None
        if segment:
            raise DataError("the polygons are not a list of lists [x1, y1, x2, y2, ...]")
    except DataError as error:
        repairs.append(f"outline left out: {error}")
    return None, None


def _corners(
    box: object,
    polygons: list[list[float]] | None,
    rle: dict[str, Any] | None,
    size: tuple[int, int],
    repairs: list[str],
) -> tuple[float, ...]:
    """x1 y1 x2 y2 of the box, or around the outline where no box is stated. Raises DataError."""
    if not box and polygons:
        inside = [part for polygon in polygons if (part := clip_polygon(polygon, size))]
        return polygon_box(inside or polygons)
    if not box and rle:
        return rle_box(rle)
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"bbox is {str(box)[:60]}, needed are 4 numbers x y width height")
    x, y, width, height = check_numbers(box, "bbox")
    if width <= 0 or height <= 0:
        raise DataError(f"bbox {x:g} {y:g} {width:g} {height:g} (x y width height) has no area or a negative size")
    return x, y, x + width, y + height


def _area(area: object, repairs: list[str]) -> float | None:
    """The area stated, in pixels^2; None where there is none or it cannot be one."""
    if area is None:
        return None
    try:
        (number,) = check_numbers([area], "area")
    except DataError as error:
        repairs.append(f"area left out: {error}")
        return None
    if number < 0:
        repairs.append(f"area left out: it is {number:g}")
        return None
    return number


def _keypoints(
    annotation: dict[str, Any], joints: Sequence[str], size: tuple[int, int], repairs: list[str]
) -> Points | None:
    values = annotation.get("keypoints")
    if values is None or not joints:
        return None
    try:
        if not isinstance(values, list):
            raise DataError(f"keypoints are a {type(values).__name__}, a list of x y visibility needed")
        points, repair = fit_joints(values, joints, size)
    except DataError as error:
        repairs.append(f"keypoints left out: {error}")
        return None
    repairs += [f"keypoints {repair}"] if repair else []
    return points


def settle_crowds(records: list[Record], ledger: Ledger) -> None:
    """Where every object of a set is marked crowd the mark says nothing: they become objects, with a warning."""
    things = [t for r in records for t in r.things or []]
    if not things or not all(t.crowd for t in things):
        return
    for thing in things:
        thing.crowd = False
    ledger.warnings.append(
        f"all {len(things)} objects are marked iscrowd, which leaves nothing to train on (CVAT marks what its brush "
        "draws so): they are taken for objects"
    )


def warn_of_outlines(records: list[Record], ledger: Ledger) -> None:
    """Warn of objects whose outline lies elsewhere than their box; they stay, and a mask is learned within the box."""
    apart = [(record, thing) for record in records for thing in record.things or [] if _apart(thing, record.size)]
    if apart:
        record, thing = apart[0]
        first = record.id if thing.id is None else f"{record.id}, annotation {thing.id}"
        ledger.warnings.append(
            f"{len(apart)} objects have an outline that does not match their box: the box around it and theirs overlap "
            f"by an IoU below 0.5 (first: {first}); both are kept, and what of a mask lies within the box is learned"
        )


def _apart(thing: Thing, size: tuple[int, int]) -> bool:
    """Whether the box and that around the outline in an image of `size` (height, width), each a pixel larger on every
    side, overlap by an IoU below 0.5."""
    if not thing.polygons and thing.rle is None:
        return False
    x1, y1, x2, y2 = polygon_box(thing.polygons) if thing.polygons else rle_box(thing.rle or {})
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, size[1]), min(y2, size[0])
    a1, b1, a2, b2 = thing.box
    common = max(0, min(x2, a2) - max(x1, a1) + 2) * max(0, min(y2, b2) - max(y1, b1) + 2)
    areas = (x2 - x1 + 2) * (y2 - y1 + 2) + (a2 - a1 + 2) * (b2 - b1 + 2)
    return common < areas / 3  # IoU = common / (areas - common)


def judge_fractions(labels: Labels, ledger: Ledger) -> None:
    """Warn where no box reaches beyond 1 pixel. Raises DataError where there are many: those are fractions."""
    boxes = [box for a in labels.annotations if (box := _plain(a.get("bbox"))) is not None]
    if labels.own or not 0 < max((max(b[0] + b[2], b[1] + b[3]) for b in boxes), default=0.0) <= 1:
        return
    found = f"{labels.place}: all {len(boxes)} boxes lie within 0..1"
    if len(boxes) >= _SURE:
        raise DataError(f"{found}: they look like fractions, COCO has pixels; multiply them by the size of the image")
    ledger.warnings.append(f"{found}: if these are fractions of the image, multiply them by its size: COCO has pixels")


def warn_of_corners(labels: Labels, ledger: Ledger) -> None:
    """Warn where every box would fit its image as x1 y1 x2 y2, and some stick out of it as x y width height."""
    outside: list[object] = []
    for number, annotation in enumerate([] if labels.own else labels.annotations):
        key = check_id(annotation.get("image_id"), "image_id")
        box, image = _plain(annotation.get("bbox")), labels.images.get(key, {})
        width, height = image.get("width"), image.get("height")
        if box is None or type(width) is not int or type(height) is not int:
            continue
        a, b, c, d = box
        if not (a < c <= width + 1 and b < d <= height + 1):
            return
        if a + c > width + 1 or b + d > height + 1:
            outside.append(annotation.get("id", f"number {number}"))
    if len(outside) > 1:
        ledger.warnings.append(
            f"{labels.place}: boxes look like x1 y1 x2 y2: all would fit so, and {len(outside)} stick out "
            f"of their image as x y width height, which COCO has (first: annotation {outside[0]}); they are clipped"
        )


def _plain(box: object) -> list[float] | None:
    try:
        return check_numbers(box, "bbox") if isinstance(box, list) and len(box) == 4 else None
    except DataError:
        return None  # refused where its annotation is read


def warn_of_repeats(record: Record, ledger: Ledger) -> None:
    """COCO's own files hold a few objects twice and its scores count both, so they stay."""
    things = record.things or []
    repeats = len(things) - len({(t.label, t.box, t.area, t.crowd) for t in things})
    if repeats:
        ledger.warnings.append(f"{record.id}: {repeats} objects repeat another one exactly; kept, as COCO scores do")
