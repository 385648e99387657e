"""JSON of other people's making: every complaint has a place, and ids are checked before they are keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saccade.errors import DataError

Id = int | str


def head_of(path: Path) -> bool:
    """True where a file begins like a COCO label file: an object with one of its keys in the first 64 kB."""
    with path.open("rb") as file:
        head = file.read(65536).removeprefix(b"\xef\xbb\xbf").lstrip()
    return head.startswith(b"{") and any(key in head for key in (b'"images"', b'"annotations"', b'"categories"'))


def read_json(path: Path, place: str) -> Any:
    """The content of a JSON file; a byte order mark is allowed. Raises DataError with line and byte."""
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not raw.strip():
        raise DataError(f"{place}: empty file")
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}, of {len(raw)} bytes in all"
        raise DataError(f"{place}: damaged or truncated JSON: {error.msg} at {where}") from None
    except ValueError as error:
        raise DataError(f"{place}: {str(error)[:120]}") from None
    except RecursionError:
        raise DataError(f"{place}: brackets nested too deep") from None


def check_id(value: object, what: str) -> Id:
    """An id as COCO files have them: a whole number or a text. Raises DataError for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int | str) and not isinstance(value, bool):
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
