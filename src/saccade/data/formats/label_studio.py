"""Label Studio: the exports JSON and JSON-MIN, one list of tasks (Tkachenko et al. 2020).

JSON: `[{"data": {"image": url}, "annotations": [{"was_cancelled", "result": [{"type": "rectanglelabels",
"original_width", "original_height", "value": {"x", "y", "width", "height", "rotation", "rectanglelabels":
["cat"]}}]}]}]`. JSON-MIN: `[{"image": url, "label": [{"x", ..., "rectanglelabels", ...}], "choice": "cat"}]`.
Coordinates are percent of the picture's sides. Of several annotations of one task the first that was not cancelled
counts. The export holds no pictures: they are found by the names at the end of their addresses, without the prefix of
eight characters that an upload gives them. Brushed masks are unpacked from Label Studio's own run lengths.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.dataset import DataSet, Ledger
from saccade.data.formats.boxes import check_numbers
from saccade.data.formats.coco_json import read_json
from saccade.data.formats.drawn import Drawn, Page, check_window, ellipse, make_dataset, take_upright
from saccade.data.formats.listing import files_with, is_image, relative
from saccade.data.formats.splits import split_of_file, split_of_folders
from saccade.errors import DataError

_HEAD = 1 << 16
_DEPTH = 2
_PREFIX = re.compile(r"[0-9a-f]{8}-(.+)")
_PERCENT = 100.0
_MIN = ("annotator", "annotation_id", "lead_time", "id", "created_at", "updated_at")


def looks_like(root: Path) -> bool:
    """True for an export of Label Studio, and for a folder that holds one."""
    return bool(_files(root))


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() == ".json" and _is_export(root) else []
    return [path for path in files_with(root, ".json", _DEPTH) if _is_export(path)]


def _is_export(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head.lstrip(b"\xef\xbb\xbf \n\r\t").startswith(b"["):
        return False
    whole = b'"from_name"' in head and b'"to_name"' in head
    return whole or (b'"annotator"' in head and b'"annotation_id"' in head)


def read(root: Path, task: str | None = None) -> DataSet:
    """Read the export, or all exports of a folder.

    Raises:
        DataError: damaged JSON, or nothing that can be used.
    """
    ledger, base = Ledger(), root if root.is_dir() else root.parent
    pages = []
    for path in _files(root):
        place = relative(path, base)
        content = read_json(path, place)
        split = split_of_file(path.stem) or split_of_folders(path.relative_to(base).parts[:-1])
        for number, entry in enumerate(content if isinstance(content, list) else [], start=1):
            where = f"{place}: task {entry.get('id', number) if isinstance(entry, dict) else number}"
            try:
                page = _page(entry, where, ledger)
            except DataError as error:
                ledger.refuse_image(where, str(error))
                continue
            if page is not None:
                page.split = split
                pages.append(page)
    return make_dataset(base, "label_studio", pages, ledger, task)


def _page(entry: object, where: str, ledger: Ledger) -> Page | None:
    """A task; None where all that was said of it was cancelled. Raises DataError where it is no task."""
    if not isinstance(entry, dict):
        raise DataError("is no object with data and annotations")
    if "data" not in entry:
        return _short_page(entry, where)
    data, given = entry["data"], entry.get("annotations", entry.get("completions"))
    if not isinstance(data, dict) or not isinstance(given, list):
        raise DataError("has no data, or no list of annotations")
    kept = [
        a for a in given if isinstance(a, dict) and not a.get("was_cancelled") and isinstance(a.get("result"), list)
    ]
    if not kept:
        ledger.warnings.append(f"{where}: not annotated, or skipped; left out")
        return None
    if len(kept) > 1:
        ledger.warnings.append(f"{where}: annotated {len(kept)} times; the first counts")
    page = Page(where, _names(data.values()))
    merged: dict[str, dict[str, Any]] = {}  # a shape and its labels may be two results of one id
    for number, result in enumerate(kept[0]["result"], start=1):
        if isinstance(result, dict) and isinstance(result.get("value"), dict):
            shape = merged.setdefault(str(result.get("id", number)), {})
            sides = {k: result[k] for k in ("original_width", "original_height") if k in result}
            shape |= result["value"] | sides
        else:
            ledger.refuse_label(f"{where}, result {number}", "has no value")
    _take(page, merged.values())
    return page


def _short_page(entry: dict[str, Any], where: str) -> Page:
    """A task of JSON-MIN: the address, and columns of shapes or of words."""
    texts = {name: value for name, value in entry.items() if isinstance(value, str) and name not in _MIN}
    names = _names(texts.values())
    page = Page(where, names)
    shapes: list[dict[str, Any]] = []
    for name, value in entry.items():
        if isinstance(value, list) and all(isinstance(shape, dict) for shape in value):
            shapes += value
        elif isinstance(value, dict) and isinstance(value.get("choices"), list):
            page.words += [str(word) for word in value["choices"]]
        elif isinstance(value, str) and name in texts and not _names([value]):
            page.words.append(value)
    _take(page, shapes)
    return page


def _names(values: Any) -> list[str]:
    """Names that the picture behind an address may have here: its whole path, then its last part, then that without
    the prefix of an upload."""
    found: list[str] = []
    for value in values:
        if not isinstance(value, str) or len(value) > 4096:
            continue
        address, _, query = value.partition("?")
        local = re.search(r"(?:^|&)d=([^&]*)", query)  # local files: /data/local-files/?d=PATH
        stated = _decoded(local[1] if local else address.partition("://")[2] or address)
        name = stated.replace("\\", "/").rsplit("/", 1)[-1]
        if is_image(name):
            short = _PREFIX.fullmatch(name)
            found += [stated, name, *([short[1]] if short else [])]
    return found


def _decoded(text: str) -> str:
    """An address with its `%20` as the signs that they stand for, in UTF-8."""
    parts = re.split(r"((?:%[0-9a-fA-F]{2})+)", text)
    return "".join(
        bytes.fromhex(part.replace("%", "")).decode("utf-8", "replace") if part.startswith("%") and i % 2 else part
        for i, part in enumerate(parts)
    )


def _take(page: Page, shapes: Any) -> None:
    """Put the shapes of a task into its page, and the words that are of the whole picture."""
    for number, shape in enumerate(shapes, start=1):
        if isinstance(shape.get("choices"), list):
            page.words += [str(word).strip() for word in shape["choices"]]
            continue
        labels = [v for k, v in shape.items() if k.endswith("labels") and isinstance(v, list)]
        if not labels and not {"x", "points", "rle"} & set(shape):
            continue  # a text, a rating, a relation
        width, height = shape.get("original_width"), shape.get("original_height")
        if type(width) is int and type(height) is int:
            page.size = (height, width)
        page.objects.append(_drawn(shape, [str(v).strip() for v in labels[0]] if labels else [], page, number))


def _drawn(shape: dict[str, Any], labels: list[str], page: Page, number: int) -> Drawn:
    """One shape; with a fault where it cannot be read."""
    drawn = Drawn(f"{page.where}, result {number}", labels[0] if labels else "", unit=_PERCENT)
    try:
        if len(labels) > 1:
            raise DataError(f"has {len(labels)} labels ({', '.join(labels)[:80]}), one is needed")
        if "rle" in shape:
            drawn.mask, drawn.unit = (_brushed(shape["rle"], page), 0, 0), 0.0
        elif "points" in shape:
            points = shape["points"]
            if not isinstance(points, list) or not all(isinstance(p, list) for p in points):
                raise DataError("points are no list of [x, y]")
            drawn.polygons = [check_numbers([v for point in points for v in point], "points")]
        elif "radiusX" in shape:
            _ellipse(drawn, shape, page)
        elif {"x", "y", "width", "height"} <= set(shape):
            _rectangle(drawn, shape, page)
        else:
            raise DataError("a point or a line has no area; draw a rectangle, polygon, ellipse or brush")
    except DataError as error:
        drawn.fault = str(error)
    return drawn


def _numbers(shape: dict[str, Any], *names: str) -> list[float]:
    return check_numbers([shape.get(name) for name in names], "/".join(names))


def _sides(page: Page) -> tuple[float, float]:
    """Pixels of the width and the height for a percent. Raises DataError where the file states no size."""
    if page.size is None:
        raise DataError("is turned, and states no original_width and original_height")
    return page.size[1] / _PERCENT, page.size[0] / _PERCENT


def _rectangle(drawn: Drawn, shape: dict[str, Any], page: Page) -> None:
    x, y, width, height = _numbers(shape, "x", "y", "width", "height")
    (degrees,) = _numbers(shape, "rotation") if shape.get("rotation") else (0.0,)
    if not degrees:
        drawn.box = (x, y, x + width, y + height)
        return
    across, down = _sides(page)  # turned in pixels, around its upper left corner
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]]) * (across, down)
    take_upright(drawn, (x * across, y * down), corners, degrees)


def _ellipse(drawn: Drawn, shape: dict[str, Any], page: Page) -> None:
    x, y, rx, ry = _numbers(shape, "x", "y", "radiusX", "radiusY")
    (degrees,) = _numbers(shape, "rotation") if shape.get("rotation") else (0.0,)
    if degrees:
        across, down = _sides(page)
        drawn.unit = 0.0
        x, y, rx, ry = x * across, y * down, rx * across, ry * down
    drawn.polygons = [ellipse(x, y, rx, ry, degrees)]


def _brushed(runs: object, page: Page) -> np.ndarray:
    """The mask [H, W] bool of a brush: a stream of bits whose pieces are four channels a pixel, the last is the mask.

    32 bits count the values; 5 the bits of a value less 1; 4 times 4 those of lengths, less 1. Then a piece begins with
    a bit (1: one value repeated, 0: values one by one) and two bits that choose among the four.
    Raises DataError where the stream ends early or is not of the picture.
    """
    if page.size is None:
        raise DataError("a brushed mask needs original_width and original_height")
    height, width = page.size
    check_window(height, width)
    if not isinstance(runs, list) or not all(type(v) is int and 0 <= v < 256 for v in runs):
        raise DataError("rle is no list of bytes")
    bits = _Bits(bytes(runs))
    total = bits.read(32)
    if total != 4 * height * width:
        raise DataError(f"the mask has {total // 4} pixels, the picture {width} x {height}")
    word = bits.read(5) + 1
    lengths = [bits.read(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    at = 0
    while at < total:
        repeated = bits.read(1)
        end = min(total, at + 1 + bits.read(lengths[bits.read(2)]))
        if repeated:
            values[at:end] = bits.read(word) & 0xFF
        else:
            values[at:end] = [bits.read(word) & 0xFF for _ in range(end - at)]
        at = end
    return values.reshape(height, width, 4)[..., 3] > 0


class _Bits:
    """The bits of bytes, highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        """The next `count` bits as a number. Raises DataError behind the end."""
        first, last = self._at // 8, (self._at + count + 7) // 8
        if last > len(self._data):
            raise DataError("the run lengths of the mask end early")
        whole = int.from_bytes(self._data[first:last], "big")
        self._at += count
        return whole >> (8 * last - self._at) & ((1 << count) - 1)
