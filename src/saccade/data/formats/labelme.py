"""labelme: a JSON file a picture, beside it or in a folder of its own (Wada 2016; the format of labelme 4 to 6).

`{"imagePath", "imageHeight", "imageWidth", "flags", "shapes": [{"label", "points": [[x, y], ...], "shape_type",
"group_id"}]}`. Polygons of one label and one group are one object. Flags that hold are classes of the whole picture.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saccade.data.dataset import DataSet, Ledger
from saccade.data.formats.boxes import check_numbers, polygon_box
from saccade.data.formats.coco_json import read_json
from saccade.data.formats.drawn import Drawn, Page, check_window, ellipse, make_dataset
from saccade.data.formats.listing import list_files, relative
from saccade.errors import DataError

_HEAD = 1 << 16
_PER_FOLDER = 10  # files that are looked into to tell what a folder holds
_NO_AREA = ("point", "points", "line", "linestrip")


def looks_like(root: Path) -> bool:
    """True for a file of labelme's, and for a folder that holds some."""
    if root.is_file():
        return root.suffix.lower() == ".json" and _is_page(root)
    seen: dict[Path, int] = {}
    for path in list_files(root, ".json") if root.is_dir() else []:
        seen[path.parent] = seen.get(path.parent, 0) + 1
        if seen[path.parent] <= _PER_FOLDER and _is_page(path):
            return True
    return False


def _is_page(path: Path) -> bool:
    """Its keys; a picture inside (`imageData`) may push `imagePath` far behind."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    other = any(key in head for key in (b'"imagePath"', b'"imageData"', b'"shape_type"'))
    return head.lstrip(b"\xef\xbb\xbf \n\r\t").startswith(b"{") and b'"shapes"' in head and other


def read(root: Path, task: str | None = None) -> DataSet:
    """Read all files of labelme's below a folder, or a single one.

    Raises:
        DataError: nothing that can be used.
    """
    ledger, base = Ledger(), root if root.is_dir() else root.parent
    files = [root] if root.is_file() else list_files(root, ".json")
    pages = []
    for path in files:
        place = relative(path, base)
        try:
            content = read_json(path, place)
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                raise DataError(f"{place}: not a file of labelme's (an object with a list of shapes)")
        except DataError as error:
            ledger.refuse_image(place, str(error).removeprefix(f"{place}: "))
            continue
        pages.append(_page(content, path, place, base))
    return make_dataset(base, "labelme", pages, ledger, task)


def _page(content: dict[str, Any], path: Path, place: str, base: Path) -> Page:
    stated = str(content.get("imagePath") or "").replace("\\", "/")
    folder = relative(path.parent, base)
    inside = os.path.normpath(os.path.join("" if folder == "." else folder, stated)) if stated else ""
    own = os.path.splitext(place)[0]
    names = [name for name in (inside, own, stated) if name and not name.startswith("..")]
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if type(height) is int and type(width) is int else None
    flags = content.get("flags")
    words = [str(name) for name, holds in flags.items() if holds is True] if isinstance(flags, dict) else []
    page = Page(place, names, size=size, words=words)
    groups: dict[tuple[str, str], Drawn] = {}
    for number, shape in enumerate(content["shapes"], start=1):
        where = f"{place}: shape {number}"
        drawn = _drawn(shape, where)
        group = shape.get("group_id") if isinstance(shape, dict) else None
        key = (drawn.name, str(group))
        first = groups.get(key)
        if group is not None and drawn.polygons and first is not None and first.polygons:
            first.polygons += drawn.polygons
            continue
        if group is not None and drawn.polygons:
            groups[key] = drawn
        page.objects.append(drawn)
    return page


def _drawn(shape: object, where: str) -> Drawn:
    """One shape; with a fault where it cannot be read."""
    if not isinstance(shape, dict):
        return Drawn(where, "", fault="is no object with label and points")
    drawn = Drawn(where, str(shape.get("label") or "").strip())
    kind = str(shape.get("shape_type") or "polygon")
    try:
        points = _points(shape.get("points"))
        if kind in _NO_AREA:
            raise DataError(f"a {kind} has no area; draw a rectangle or polygon")
        if kind == "mask":
            drawn.mask = _mask(shape.get("mask"), points)
        elif kind == "rectangle":
            drawn.box = polygon_box([points])
        elif kind == "circle" and len(points) == 4:
            radius = float(np.hypot(points[2] - points[0], points[3] - points[1]))
            drawn.polygons = [ellipse(points[0], points[1], radius, radius)]
        elif kind in ("polygon", "oriented_rectangle", "circle"):
            drawn.polygons = [points]
        else:
            raise DataError(f"the shape {kind[:40]!r} is not read here")
    except DataError as error:
        drawn.fault = str(error)
    return drawn


def _points(points: object) -> list[float]:
    """x1 y1 x2 y2 ... of [[x, y], ...]. Raises DataError."""
    if not isinstance(points, list) or not points or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise DataError("points are no list of [x, y]")
    return check_numbers([v for point in points for v in point], "points")


def _mask(text: object, points: list[float]) -> tuple[np.ndarray, int, int]:
    """The PNG of a mask, whose upper left pixel is the first point. Raises DataError."""
    try:
        data = base64.b64decode(str(text), validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            check_window(image.height, image.width)
            window = np.asarray(image.convert("1"), bool)
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"its mask is no PNG ({str(error)[:60]})") from error
    return window, int(points[0]), int(points[1])
