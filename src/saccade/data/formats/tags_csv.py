"""A CSV file beside the pictures: 0/1 columns, a column of lists, or a column with one class.

    image,desert,sea,trees          image,tags                 file,label
    1.jpg,1,0,1                     1.jpg,"desert, trees"      1.jpg,cat

The delimiter (, ; tab) is told from the header; UTF-8 with or without a byte order mark. Tags of a list are separated
by , ; | or, where none of these occurs in the column, by blanks. A column named split (or subset, set) with train,
val, test, or files named train.csv, val.csv, test.csv, give the splits. An empty list is a picture without tags.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saccade.data.dataset import DataSet, Ledger, Record
from saccade.data.formats.folder import SPLITS
from saccade.data.formats.listing import is_foreign, is_image, list_images, measure, relative
from saccade.errors import DataError

_IMAGE = ("image", "images", "filename", "filenames", "file", "files", "imagename", "imagepath", "imageid",
          "path", "filepath", "img", "picture", "photo", "name", "id")  # fmt: skip
_CLASS = ("label", "class", "classname", "name", "category", "species", "breed", "target", "classindex", "classid")
_LIST = ("tags", "labels", "classes", "categories", "attributes", "genres")
_SPLIT = ("split", "subset", "set")
_BOXES = frozenset({"xmin", "ymin", "xmax", "ymax", "x1", "y1", "x2", "y2", "bbox"})


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which column says what, by index."""

    image: int
    split: int | None
    flags: dict[int, str]  # 0/1 columns and the tag each stands for
    text: int | None  # the class, or the list of tags
    many: bool  # the text column holds lists


@dataclass(frozen=True, slots=True)
class _Table:
    """A CSV file as read: header and (line number, cells) of each row."""

    path: Path
    header: list[str]
    rows: list[tuple[int, list[str]]]


def looks_like(root: Path) -> bool:
    """True where there is a CSV file with a column of images and without columns of boxes."""
    return any(_promising(path) for path in _files(root))


def read(root: Path, task: str | None) -> DataSet:
    """Read the CSV file at `root`, or those in the folder `root`; the task is "tag", or "classify" for a class column.

    Raises:
        DataError: not UTF-8, no header, no row, no usable column (with the line), or several files that are no splits.
    """
    files = _files(root)
    chosen = [path for path in files if _promising(path)] or files
    if not chosen:
        raise DataError(f"{root}: no .csv file here")
    splits = {path: _split_of(path) for path in chosen}
    if len(chosen) > 1 and (None in splits.values()):
        raise DataError(f"{root}: several CSV files; name one of " + ", ".join(f"tags_csv:{p}" for p in chosen))
    base = root.parent if root.is_file() else root
    ledger = Ledger()
    tables = [_load(path) for path in chosen]
    columns = [_columns(table) for table in tables]
    if len({(bool(c.flags), c.many) for c in columns}) > 1:
        raise DataError(f"{root}: {', '.join(p.name for p in chosen)} have columns of different kinds")
    reader = _Reader(base, ledger)
    for table, layout in zip(tables, columns, strict=True):
        reader.take(table, layout, splits[table.path])
    return reader.dataset(flags=columns[0].flags, many=columns[0].many)


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() in (".csv", ".tsv") else []
    found = (
        p for p in root.iterdir() if p.suffix.lower() in (".csv", ".tsv") and p.is_file() and not is_foreign(p.name)
    )
    return sorted(found, key=lambda p: p.name)


def _split_of(path: Path) -> str | None:
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _promising(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            header = [_plain(cell) for cell in _cells(file.readline(4096))]
    except OSError:
        return False
    return any(cell in _IMAGE for cell in header) and not _BOXES & set(header) and len(header) > 1


def _plain(cell: str) -> str:
    return re.sub(r"[\s_\-]+", "", cell.strip().lower())


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _cells(line: str) -> list[str]:
    return next(csv.reader([line], delimiter=_delimiter(line)), [])


def _load(path: Path) -> _Table:
    """The whole file; a fault of structure (encoding, quotes, NUL, an endless field) is an error with its line."""
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
    lines = text.splitlines(keepends=True)
    if not lines:
        raise DataError(f"{path}: the file is empty; its first line must name the columns")
    rows = list(_rows(path, lines))
    if not rows[0][1] or all(is_image(cell) or not cell.strip() for cell in rows[0][1][:1]):
        raise DataError(f"{path}:1: no header: the first line is {lines[0].strip()[:80]!r}; it must name the columns")
    if len(rows) == 1:
        raise DataError(f"{path}:1: a header and no row; 0 pictures are labelled")
    return _Table(path, [cell.strip() for cell in rows[0][1]], rows[1:])


def _rows(path: Path, lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=_delimiter(lines[0]), strict=True)
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            why = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
            raise DataError(f"{path}:{start}: {why}") from None
        if any(cell.strip() for cell in cells) or start == 1:
            yield start, cells
        start = reader.line_num + 1


def _columns(table: _Table) -> _Columns:
    """Raises DataError where no column names images or none holds labels."""
    plain = [_plain(cell) for cell in table.header]
    place = f"{table.path}:1"
    named = ", ".join(map(repr, table.header))
    image = next((plain.index(word) for word in _IMAGE if word in plain), None)
    if image is None:
        raise DataError(f"{place}: no column of image names among {named}; call it 'image'")
    split = next((plain.index(word) for word in _SPLIT if word in plain), None)
    others = [i for i in range(len(plain)) if i not in (image, split) and plain[i]]
    for words, many in ((_LIST, True), (_CLASS, False)):
        text = next((i for word in words for i in others if plain[i] == word), None)
        if text is not None and not (len(others) > 1 and _is_flag(table, text)):
            return _Columns(image, split, {}, text, many or _has_lists(table, text))
    flags = {i: table.header[i] for i in others if _is_flag(table, i)}
    if flags:
        return _Columns(image, split, flags, None, True)
    if len(others) == 1:
        return _Columns(image, split, {}, others[0], _has_lists(table, others[0]))
    raise DataError(
        f"{place}: no column of labels among {named}; use 0/1 columns, or call the column 'label' (one class) or "
        "'tags' (a list)"
    )


def _is_flag(table: _Table, column: int) -> bool:
    """Nearly all cells are 0 or 1; the few others are bad rows, not another kind of column."""
    cells = [row[column].strip() for _, row in table.rows if column < len(row)]
    return bool(cells) and sum(cell in ("0", "1") for cell in cells) > 0.9 * len(cells)


def _has_lists(table: _Table, column: int) -> bool:
    return any(re.search(r"[,;|]", row[column]) for _, row in table.rows if column < len(row))


class _Reader:
    """Collects rows of one or more tables; every row ends in `rows` or in the ledger."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self.root = root
        self.ledger = ledger
        self.images = list_images(root)
        self.by_key: dict[str, list[Path]] = {}
        for path in self.images:
            for key in {relative(path, root), path.name, path.stem}:
                self.by_key.setdefault(key, []).append(path)
        self.rows: dict[Path, tuple[str | None, list[str]]] = {}  # image -> split, names of classes
        self.line: dict[Path, str] = {}  # image -> where it was named first

    def take(self, table: _Table, columns: _Columns, split: str | None) -> None:
        commas = columns.text is not None and columns.many and _has_lists(table, columns.text)
        for line, cells in table.rows:
            where = f"{table.path.name}:{line}"
            if len(cells) != len(table.header):
                why = f"{len(cells)} cells, the header has {len(table.header)}"
                self.ledger.refuse_label(where, why)
                continue
            path = self._find(cells[columns.image].strip(), where)
            names = self._names(cells, columns, commas, where)
            if path is None or names is None:
                continue
            own = split if columns.split is None else self._split(cells[columns.split], where)
            if path in self.rows:
                same = self.rows[path] == (own, names)
                self.ledger.refuse_label(where, f"{'repeats' if same else 'contradicts'} {self.line[path]}")
                continue
            self.rows[path] = (own, names)
            self.line[path] = where

    def _find(self, name: str, where: str) -> Path | None:
        key = PurePosixPath(name.replace("\\", "/")).as_posix()
        found = self.by_key.get(key) or self.by_key.get(PurePosixPath(key).name, [])
        exact = [path for path in found if relative(path, self.root) == key] or found
        if len(exact) == 1:
            return exact[0]
        if exact:
            several = ", ".join(relative(path, self.root) for path in exact[:3])
            self.ledger.refuse_label(where, f"{name!r} is the name of several pictures: {several}; write the path")
        else:
            self.ledger.refuse_label(where, f"no picture {name!r} in {self.root} or below")
        return None

    def _names(self, cells: list[str], columns: _Columns, commas: bool, where: str) -> list[str] | None:
        if columns.text is None:
            bad = {name: cells[i] for i, name in columns.flags.items() if cells[i].strip() not in ("0", "1")}
            if bad:
                said = ", ".join(f"{name} = {value!r}" for name, value in bad.items())
                self.ledger.refuse_label(where, f"{said}; allowed: 0 or 1")
                return None
            return [name for i, name in columns.flags.items() if cells[i].strip() == "1"]
        text = cells[columns.text].strip()
        if columns.many:
            words = re.split(r"[,;|]" if commas else r"\s+", text)
            return list(dict.fromkeys(word.strip() for word in words if word.strip()))
        if not text:
            self.ledger.refuse_label(where, "the label is empty")
            return None
        return [text]

    def _split(self, cell: str, where: str) -> str | None:
        word = cell.strip().lower()
        if word and word not in SPLITS:
            close = difflib.get_close_matches(word, SPLITS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "allowed: train, val, test"
            raise DataError(f"{self.root}: {where}: unknown split {cell!r}; {hint}")
        return SPLITS[word] if word else None

    def dataset(self, flags: dict[int, str], many: bool) -> DataSet:
        sizes = measure(self.root, self.rows, self.ledger)
        for path in self.images:
            if path not in self.rows:
                self.ledger.refuse_image(relative(path, self.root), "no row names it")
        classes = list(flags.values()) or sorted({name for _, names in self.rows.values() for name in names})
        number = {name: i for i, name in enumerate(classes)}
        records = []
        for path, size in sizes.items():
            split, names = self.rows[path]
            indices = [number[name] for name in names]
            label, tags = (None, indices) if many else (indices[0], None)
            records.append(Record(relative(path, self.root), size, split=split, label=label, tags=tags))
        if many and (empty := sum(not record.tags for record in records)):
            self.ledger.warnings.append(f"{empty} pictures have no tag")
        return DataSet(self.root, "tags_csv", "tag" if many else "classify", classes, records, self.ledger)
