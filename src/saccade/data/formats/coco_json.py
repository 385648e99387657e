"""COCO's JSON as other people write it: every complaint has a place, and ids are checked before they are keys."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from saccade.errors import DataError

Id = int | str

_LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[\s*[{\]]')  # lists of objects, or empty ones
_ROWS = re.compile(rb'"(?:file_name|image_id)"\s*:')
_SURROGATE = re.compile(rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..")
_LONGEST_ID = 256  # digits or letters
_CHUNK = 1 << 20  # bytes read at once
_HEAD = 1 << 16  # bytes in which a label file shows at least one of its lists
_OVERLAP = 256  # bytes of a chunk that are looked at again with the next: a key may lie across


@dataclass(slots=True)
class Labels:
    """One label file."""

    path: Path
    place: str  # its name in messages
    split: str | None
    images: dict[Id, dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[Id, dict[str, Any]]
    own: bool  # written by Saccade


def is_coco(path: Path) -> bool:
    """True where a file holds COCO labels: an object with lists of objects under images, annotations or categories, two
    of these or one whose rows name files or images. Notes of a labelling tool and other JSON are none."""
    keys: set[bytes] = set()
    rows, rest, first = False, b"", True
    with path.open("rb") as file:
        while chunk := file.read(_HEAD if first else _CHUNK):
            text = rest + chunk
            if first and not text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
                return False
            keys.update(_LISTS.findall(text))
            rows = rows or _ROWS.search(text) is not None
            if len(keys) >= 2 or (keys and rows):
                return True
            if first and not any(key in text for key in (b'"images"', b'"annotations"', b'"categories"')):
                return False
            rest, first = text[-_OVERLAP:], False
    return False


def read_labels(path: Path, place: str, split: str | None) -> Labels:
    """The images, annotations and categories of a label file, by id; each image's `file_name` is a relative path.

    Raises:
        DataError: damaged JSON, a part that is missing or empty, ids that are not unique, a file name that leads out
            of the data set, or a category without a name.
    """
    content = read_json(path, place)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DataError(f"{place}: the top is a {kind}, an object with images, annotations, categories needed")
    for part in ("images", "annotations", "categories"):
        value = content.get(part)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise DataError(f"{place}: '{part}' is missing or is not a list of objects")
    if not content["images"] or not content["categories"]:
        raise DataError(f"{place}: 'images' or 'categories' is empty")
    if any("segments_info" in a for a in content["annotations"]):
        raise DataError(f"{place}: panoptic labels are not read here; instances needed")
    images = index(content["images"], "image", place)
    categories = index(content["categories"], "category", place)
    index([a for a in content["annotations"] if "id" in a], "annotation", place)
    for key, category in categories.items():
        name = category.get("name")
        if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
            raise DataError(f"{place}: category {key} has no name")
        category["name"] = str(name).strip()
    for key, image in images.items():
        image["file_name"] = _safe_name(image.get("file_name"), f"{place}: image {key}")
    info = content.get("info")
    own = isinstance(info, dict) and info.get("contributor") == "saccade"
    return Labels(path, place, split, images, content["annotations"], categories, own)


def read_json(path: Path, place: str) -> Any:
    """The content of a JSON file; a byte order mark is allowed. Raises DataError with line and byte."""
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        raise DataError(f"{place}: empty file")
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}, of {len(raw)} bytes in all"
        raise DataError(f"{place}: damaged or truncated JSON: {error.msg} at {where}") from None
    except ValueError as error:
        raise DataError(f"{place}: {str(error)[:120]}") from None
    except RecursionError:
        raise DataError(f"{place}: brackets nested too deep") from None
    half = _SURROGATE.search(raw)
    if half is not None:  # no file, window or result can hold such a text
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            line = raw.count(b"\n", 0, half.start()) + 1
            raise DataError(f"{place}: line {line}: {half[0].decode()} is half of a character") from None
    return content


def check_id(value: object, what: str) -> Id:
    """An id as COCO files have them: a whole number or a text. Raises DataError for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int | str) and not isinstance(value, bool) and len(str(value)) <= _LONGEST_ID:
        return value
    raise DataError(f"{what} is {str(value)[:40]!r}, a whole number or a text needed")


def index(rows: list[dict[str, Any]], kind: str, place: str) -> dict[Id, dict[str, Any]]:
    """Rows by id. Raises DataError where an id is missing or occurs twice."""
    table: dict[Id, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        key = check_id(row.get("id"), f"{place}: the id of {kind} number {number}")
        if key in table:
            raise DataError(f"{place}: two of {kind} have the id {key}")
        table[key] = row
    return table


def _safe_name(name: object, where: str) -> str:
    """A relative path with '/'. Raises DataError for anything that could lead out of the data set."""
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where} has no file_name")
    path = PurePosixPath(name.replace("\\", "/"))
    windows = PureWindowsPath(name)
    leads_out = "://" in name or path.is_absolute() or windows.drive or ".." in path.parts
    if leads_out or "\0" in name or len(name) > 1000:
        raise DataError(f"{where} has file_name {name[:80]!r}; a path inside of the data set is needed")
    return str(path)
