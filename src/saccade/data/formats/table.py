"""A CSV file: its header and rows, each with the number of its line.

The delimiter (, ; tab |) is told from the header; UTF-8 with or without a byte order mark. Blanks behind a delimiter
are no part of a cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.data.dataset import Ledger
from saccade.data.formats.listing import is_foreign, is_image
from saccade.errors import DataError

_HEAD = 65_536  # bytes that are looked at to tell what a file is
_MAX_BYTES = 1 << 30
_MAX_COLUMNS = 100_000


@dataclass(frozen=True, slots=True)
class Table:
    """A CSV file as read."""

    path: Path
    header: list[str]
    names: list[str]  # the header's, to compare: lower case, without blanks, '_' and '-'
    rows: list[tuple[int, list[str]]]  # number of the line, cells

    def cells(self, column: int) -> list[str]:
        """The cells of a column, without those of rows that are too short."""
        return [row[column].strip() for _, row in self.rows if column < len(row)]

    def whole_rows(self, place: str, ledger: Ledger) -> Iterator[tuple[str, list[str]]]:
        """The place (`labels.csv:7`) and the cells of each row; one of more or fewer cells than the header is
        refused."""
        for line, cells in self.rows:
            if len(cells) == len(self.header):
                yield f"{place}:{line}", cells
            else:
                ledger.refuse_label(f"{place}:{line}", f"{len(cells)} cells, the header has {len(self.header)}")

    def describe(self) -> str:
        """`labels.csv with the columns 'a', 'b'`."""
        shown = ", ".join(repr(cell[:40]) for cell in self.header[:12])
        return f"{self.path.name} with the columns {shown}{', ...' if len(self.header) > 12 else ''}"


def list_tables(folder: Path) -> list[Path]:
    """The CSV and TSV files directly in `folder`, by name."""
    found = (p for p in folder.iterdir() if p.suffix.lower() in (".csv", ".tsv") and not is_foreign(p.name))
    return sorted((p for p in found if p.is_file()), key=lambda p: p.name)


def head_of_table(path: Path) -> Table | None:
    """The header and the rows of the first 64 kB; None where nothing can be read. A fault further down is left to
    `load_table` to name."""
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD)
    except OSError:
        return None
    text = data.decode("utf-8-sig", "replace")
    rows = []
    try:
        for row in _rows(path, text if len(data) < _HEAD else text[: text.rfind("\n") + 1] or text):
            rows.append(row)
    except DataError:
        pass  # `load_table` names the fault
    return _table(path, rows) if rows else None


def load_table(path: Path, header: Sequence[str] | None = None) -> Table:
    """The whole file.

    Args:
        header: names of the columns of a file whose first line is a row already.

    Raises:
        DataError: a fault of structure (encoding, quotes, NUL, an endless field, no header, no row) with its line.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes; a table of labels has at most {_MAX_BYTES}")
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path}: UTF-16 text; save it as UTF-8")
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise DataError(f"{path}:{line}: a NUL byte; this is not a text file or it is damaged")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8") from None
    rows = list(_rows(path, text))
    if header is not None:
        return Table(path, list(header), list(header), rows)
    if not rows:
        raise DataError(f"{path}: the file is empty; its first line must name the columns")
    first = rows[0][1]
    if not any(cell.strip() for cell in first) or is_image(first[0].strip()):
        raise DataError(f"{path}:1: no header: the first line is {', '.join(first)[:80]!r}; it must name the columns")
    if len(rows) == 1:
        raise DataError(f"{path}:1: a header and no row; 0 pictures are labelled")
    return _table(path, rows)


def _table(path: Path, rows: list[tuple[int, list[str]]]) -> Table:
    header = [cell.strip() for cell in rows[0][1]]
    names = ["".join(cell.lower().replace("_", " ").replace("-", " ").split()) for cell in header]
    return Table(path, header, names, rows[1:])


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    if not text:
        return
    lines = io.StringIO(text, newline="")
    delimiter = max(",;\t|", key=lines.readline().count)
    lines.seek(0)
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != "\t")
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
            raise DataError(f"{path}:{start}: {why}") from None
        if len(cells) > _MAX_COLUMNS:
            raise DataError(f"{path}:{start}: {len(cells)} cells; a row has at most {_MAX_COLUMNS}")
        if any(cell.strip() for cell in cells) or start == 1:
            yield start, cells
        start = reader.line_num + 1
