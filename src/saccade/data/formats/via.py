"""VGG Image Annotator (VIA 1 and 2): one JSON file, a project or its export (Dutta and Zisserman 2019).

`{"a.jpg1234": {"filename", "size", "regions": [{"shape_attributes": {"name": "rect", ...}, "region_attributes":
{"class": "cat"}}]}}`, in a project below `_via_img_metadata`. Which attribute is the class is told by its name, else by
its being the only one; where no region has any, all are of one class.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from saccade.data.dataset import DataSet, Ledger
from saccade.data.formats.boxes import check_numbers
from saccade.data.formats.coco_json import read_json
from saccade.data.formats.drawn import UNNAMED, Drawn, Page, ellipse, make_dataset
from saccade.data.formats.listing import files_with, relative
from saccade.data.formats.splits import split_of_file, split_of_folders
from saccade.errors import DataError

_HEAD = 1 << 16
_DEPTH = 3
_CLASS = ("class", "label", "classname", "name", "category", "type", "object", "objectclass", "species")


def looks_like(root: Path) -> bool:
    """True for a file of VIA's, and for a folder that holds one."""
    return bool(_files(root))


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() == ".json" and _is_via(root) else []
    return [path for path in files_with(root, ".json", _DEPTH) if _is_via(path)]


def _is_via(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return b'"_via_img_metadata"' in head or (b'"regions"' in head and re.search(rb'"filename"\s*:', head) is not None)


def read(root: Path, task: str | None = None) -> DataSet:
    """Read the JSON files of VIA below a folder (`train/via_region_data.json`), or a single one.

    Raises:
        DataError: damaged JSON, several attributes that may be the class, or nothing that can be used.
    """
    ledger, base = Ledger(), root if root.is_dir() else root.parent
    entries: list[tuple[str, str | None, dict[str, Any], Path]] = []
    for path in _files(root):
        place = relative(path, base)
        content = read_json(path, place)
        content = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
        if not isinstance(content, dict):
            raise DataError(f"{place}: the top is no object with a picture an entry")
        split = split_of_file(path.stem) or split_of_folders(path.relative_to(base).parts[:-1])
        for key, entry in content.items():
            if isinstance(entry, dict) and "regions" in entry:
                entries.append((f"{place}: {key[:80]}", split, entry, path))
            else:
                ledger.refuse_image(f"{place}: {key[:80]}", "is no entry with filename and regions")
    regions = [region for where, _, entry, _ in entries for region in _regions(entry, where)]
    attribute = _class_attribute(regions, base, ledger)
    pages = []
    for where, split, entry, path in entries:
        name, folder = str(entry.get("filename") or ""), relative(path.parent, base)
        page = Page(where, [name if folder == "." else f"{folder}/{name}", name], split=split)
        page.stated = page.stated if name else []
        for number, region in enumerate(_regions(entry, where), start=1):
            page.objects.append(_drawn(region, attribute, f"{where}: region {number}"))
        pages.append(page)
    return make_dataset(base, "via", pages, ledger, task)


def _regions(entry: dict[str, Any], where: str) -> list[object]:
    """VIA 1 has an object by number in place of the list. Raises DataError for anything else."""
    regions = entry["regions"]
    if isinstance(regions, dict):
        return list(regions.values())
    if not isinstance(regions, list):
        raise DataError(f"{where}: regions are neither a list nor an object")
    return list(regions)


def _class_attribute(regions: list[object], base: Path, ledger: Ledger) -> str | None:
    """The attribute of regions that names their class; None where none has one. Raises DataError where it is open."""
    counts: Counter[str] = Counter()
    for region in regions:
        attributes = region.get("region_attributes") if isinstance(region, dict) else None
        if isinstance(attributes, dict):
            counts.update(name for name, value in attributes.items() if value not in (None, "", {}))
    plain = {re.sub(r"[\s_-]", "", name.lower()): name for name in counts}
    known = next((plain[word] for word in _CLASS if word in plain), None)
    if not counts:
        ledger.warnings.append(f"no region has an attribute: all are taken for one class, {UNNAMED!r}")
        return None
    found = known or (next(iter(counts)) if len(counts) == 1 else None)
    if found is None:
        several = ", ".join(repr(name[:40]) for name in list(counts)[:10])
        raise DataError(f"{base}: which attribute is the class: {several}? Call it 'class' in VIA")
    if aside := sorted(set(counts) - {found}):
        ledger.warnings.append(f"attribute {found!r} is the class; left aside: {', '.join(a[:40] for a in aside[:10])}")
    return found


def _drawn(region: object, attribute: str | None, where: str) -> Drawn:
    if not isinstance(region, dict) or not isinstance(region.get("shape_attributes"), dict):
        return Drawn(where, "", fault="is no object with shape_attributes")
    shape, attributes = region["shape_attributes"], region.get("region_attributes")
    value = attributes.get(attribute) if isinstance(attributes, dict) else None
    if isinstance(value, dict):  # a checkbox: the names that hold
        held = [name for name, holds in value.items() if holds in (True, "true", 1)]
        value = held[0] if len(held) == 1 else None
    drawn = Drawn(where, UNNAMED if attribute is None else str(value or "").strip())
    kind = shape.get("name")
    try:
        if kind in ("polygon", "polyline") and len(_numbers(shape, "all_points_x")) >= 3:
            xs, ys = _numbers(shape, "all_points_x"), _numbers(shape, "all_points_y")
            if len(xs) != len(ys):
                raise DataError(f"{len(xs)} values of x and {len(ys)} of y")
            drawn.polygons = [[v for point in zip(xs, ys, strict=True) for v in point]]
        elif kind == "rect":
            x, y, width, height = (_number(shape, key) for key in ("x", "y", "width", "height"))
            drawn.box = (x, y, x + width, y + height)
        elif kind == "circle":
            radius = _number(shape, "r")
            drawn.polygons = [ellipse(_number(shape, "cx"), _number(shape, "cy"), radius, radius)]
        elif kind == "ellipse":
            cx, cy, rx, ry = (_number(shape, key) for key in ("cx", "cy", "rx", "ry"))
            degrees = math.degrees(_number(shape, "theta")) if "theta" in shape else 0.0
            drawn.polygons = [ellipse(cx, cy, rx, ry, degrees)]
        else:
            raise DataError(f"a {str(kind)[:40]} has no area; draw a rectangle or polygon")
    except DataError as error:
        drawn.fault = str(error)
    return drawn


def _number(shape: dict[str, Any], key: str) -> float:
    return check_numbers([shape.get(key)], key)[0]


def _numbers(shape: dict[str, Any], key: str) -> list[float]:
    values = shape.get(key)
    if not isinstance(values, list):
        raise DataError(f"{key} is no list of numbers")
    return check_numbers(values, key)
