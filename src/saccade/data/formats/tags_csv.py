"""A CSV file beside the pictures: 0/1 columns, a column of lists, or a column with one class.

    image,desert,sea,trees          image,tags                 file,label
    1.jpg,1,0,1                     1.jpg,"desert, trees"      1.jpg,cat

The image column is known by its name (`image`, `file_name`, `fname`, `id_code`, ...) or by its cells. A column called
label, class, breed, ... holds one class a cell, whatever is in it; one called tags, labels, ... a list, separated by
| ; or , (the first that occurs in the column), or by blanks. 0/1 columns may say True/False, 1.0/0.0 or 1/-1.

The files lie beside the pictures, in `labels/` or `annotations/` beside the folders of pictures, or in each split
(Roboflow's `train/_classes.csv`, Hugging Face's `train/metadata.csv`). A column named split with train, val, test,
fastai's `is_valid`, files named train.csv, val.csv, test.csv, or the folders of the pictures give the splits. An empty
list is a picture without tags.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from saccade.data.dataset import DataSet, Ledger, Record
from saccade.data.formats import folder
from saccade.data.formats.class_names import refuse_repeats
from saccade.data.formats.listing import Pictures, is_image, list_folders, list_images, measure, relative
from saccade.data.formats.splits import SPLITS, split_of_file, split_of_folder, split_of_folders
from saccade.data.formats.table import Table, head_of_table, list_tables, load_table
from saccade.errors import DataError, UsageError, suggest

_IMAGE = ("image", "images", "filename", "filenames", "file", "files", "fname", "imagename", "imagefile", "imagepath",
          "imagefilename", "imageid", "imgid", "imgname", "imgpath", "idcode", "path", "paths", "filepath", "filepaths",
          "relpath", "img", "picture", "photo", "photoid", "name", "id")  # fmt: skip
_CLASS = ("label", "class", "classname", "name", "category", "species", "breed", "target", "classindex", "classid")
_LIST = ("tags", "labels", "classes", "categories", "attributes", "genres")
_SPLIT = ("split", "subset", "set", "partition", "phase")
_SPLIT_FLAGS = {  # name of a column of flags -> split where it holds, split where it does not
    "isvalid": ("val", "train"),
    "isval": ("val", "train"),
    "isvalidation": ("val", "train"),
    "istest": ("test", "train"),
    "istrain": ("train", "test"),
    "istraining": ("train", "test"),
}
_INDEX = frozenset({"", "index", "idx", "id", "row", "rowid", "no", "nr", "number", "unnamed:0"})
_NO_LABEL = frozenset({"width", "height", "depth", "channels", "size", "bytes", "url", "link", "text", "caption",
                       "description", "comment", "date", "time", "timestamp", "author", "license", "source", "md5",
                       "sha1", "sha256", "hash", "imagewidth", "imageheight"})  # fmt: skip
_BOXES = frozenset({"xmin", "ymin", "xmax", "ymax", "x1", "y1", "x2", "y2", "bbox", "bboxes", "rle", "encodedpixels"})
_FLAGS = {"1": True, "0": False, "-1": False, "1.0": True, "0.0": False, "-1.0": False, "true": True, "false": False,
          "yes": True, "no": False}  # fmt: skip
_LABEL_FOLDERS = frozenset({"labels", "label", "annotations", "annotation", "csv", "meta", "metadata"})
_HEAD = 50  # rows by which an image column is told


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which column says what, by index."""

    image: int
    split: int | None
    flags: dict[int, str]  # 0/1 columns and the tag each stands for
    text: int | None  # the class, or the list of tags
    many: bool  # the text column holds lists
    left_aside: list[str]  # names of the columns that say nothing of the labels


@dataclass(frozen=True, slots=True)
class LabelFile:
    """A CSV file, the folder that its names are relative to, and the split that its name or folder states."""

    path: Path
    base: Path
    split: str | None


def looks_like(root: Path) -> bool:
    """True where a CSV file has a column of images and labels; one without labels does not hide class folders."""
    heads = [head for file in label_files(root) if (head := head_of_table(file.path)) is not None]
    if any(_labels_fault(head) is None for head in heads):
        return True
    promising = any(image_column(head) is not None and not _BOXES & set(head.names) for head in heads)
    return promising and (root.is_file() or not folder.looks_like(root) or folder.is_numbered(root))


def read(root: Path, task: str | None) -> DataSet:
    """Read the CSV file at `root`, or those in the folder `root`; the task is "tag", or "classify" for a class column.

    Raises:
        DataError: not UTF-8, no header, no row, no usable column (with the line), or several files that are no splits.
    """
    ledger = Ledger()
    base, files = _chosen(root, ledger)
    tables = [load_table(file.path) for file in files]
    columns = [_columns(table) for table in tables]
    names = ", ".join(relative(file.path, base) for file in files)
    if len({(bool(c.flags), c.many) for c in columns}) > 1:
        raise DataError(f"{root}: {names} have columns of different kinds")
    if len({frozenset(c.flags.values()) for c in columns}) > 1:
        raise DataError(f"{root}: {names} have different 0/1 columns; the classes of all must be the same")
    reader = _Reader(base, ledger)
    for file, table, layout in zip(files, tables, columns, strict=True):
        reader.take(table, layout, file, alone=len(files) == 1)
    return reader.dataset(flags=list(columns[0].flags.values()), many=columns[0].many)


def label_files(root: Path) -> list[LabelFile]:
    """The CSV files of a data set: in its folder, else in its folders of splits and of labels."""
    if root.is_file():
        return (
            [LabelFile(root, root.parent, split_of_file(root.stem))] if root.suffix.lower() in (".csv", ".tsv") else []
        )
    if not root.is_dir():
        return []
    found = [LabelFile(path, root, split_of_file(path.stem)) for path in list_tables(root)]
    for below in [] if found else list_folders(root):
        split = split_of_folder(below.name)
        if split:
            found += [LabelFile(path, below, split) for path in list_tables(below)]
        elif below.name.lower() in _LABEL_FOLDERS:
            found += [LabelFile(path, root, split_of_file(path.stem)) for path in list_tables(below)]
    return found


def _chosen(root: Path, ledger: Ledger) -> tuple[Path, list[LabelFile]]:
    """The folder of the data set and the files to read, train first; warns of the others."""
    files = label_files(root)
    if not files:
        raise DataError(f"{root}: no .csv file here")
    base = root if root.is_dir() else root.parent
    if root.is_file() and base.name.lower() in _LABEL_FOLDERS and not list_images(base):
        base = base.parent
        files = [LabelFile(root, base, split_of_file(root.stem))]
    heads = {file: head_of_table(file.path) for file in files}
    usable = [file for file, head in heads.items() if head is not None and _labels_fault(head) is None]
    usable = usable or [f for f, head in heads.items() if head is not None and image_column(head) is not None] or files
    chosen = usable if len(usable) == 1 else [file for file in usable if file.split]
    splits = [file.split for file in chosen]
    if not chosen or len(set(splits)) < len(splits) or (len(chosen) < len(usable) and "train" not in splits):
        several = ", ".join(f"tags_csv:{file.path}" for file in usable[:10])
        raise DataError(f"{root}: {len(usable)} CSV files, which are not one for each split; name one of {several}")
    for file, head in heads.items():
        if file not in chosen:
            why = "" if file in usable or head is None else f": {_labels_fault(head)}"
            ledger.warnings.append(f"{relative(file.path, base)} is left aside{why}")
    return base, sorted(chosen, key=lambda file: ("train", "val", "test", None).index(file.split))


def _labels_fault(table: Table) -> str | None:
    """Why the table states no labels of pictures; None where it does."""
    if boxes := _BOXES & set(table.names):
        return f"boxes or outlines (column {sorted(boxes)[0]!r}), not classes of pictures"
    try:
        _columns(table)
    except (DataError, UsageError) as error:
        return str(error).removeprefix(f"{table.path}:1: ").partition(";")[0]
    return None


def _columns(table: Table) -> _Columns:
    """Raises DataError where no column names images or none holds labels, UsageError where two are one class."""
    names, place = table.names, f"{table.path}:1"
    shown = ", ".join(repr(cell[:40]) for cell in table.header[:20])
    image = image_column(table)
    if image is None:
        raise DataError(f"{place}: no column of image names among {shown}; call it 'image'")
    split = next((names.index(word) for word in (*_SPLIT, *_SPLIT_FLAGS) if word in names), None)
    others = [i for i, name in enumerate(names)
              if i not in (image, split) and name not in _NO_LABEL and not _is_index(table, i)]  # fmt: skip
    flags = {i: table.header[i] for i in others if _is_flag(table, i, len(others) > 1)}
    text = next((i for word in _LIST for i in others if names[i].endswith(word)), None)
    many = text is not None
    if text is None:
        text = next((i for word in _CLASS for i in others if names[i] == word), None)
    if text is None:
        text = next((i for word in _CLASS for i in others if word != "name" and names[i].endswith(word)), None)
    if text is not None and text in flags and len(flags) > 1 and names[text] not in _CLASS:
        text = None  # one of many tags
    if text is None and not flags and len(others) == 1 and not _all_differ(table, others[0]):
        text = others[0]
    if text is None and not flags:
        raise DataError(
            f"{place}: no column of labels among {shown}; use 0/1 columns, or call the column 'label' (one class) or "
            "'tags' (a list)"
        )
    used = {image, split, text} if text is not None else {image, split, *flags}
    if text is None:
        refuse_repeats(flags.values(), place)
    rest = [cell for i, cell in enumerate(table.header) if i not in used and cell and not _is_index(table, i)]
    return _Columns(image, split, flags if text is None else {}, text, many or text is None, rest)


def image_column(table: Table) -> int | None:
    """The column with names of image files: by its cells, else by its own name."""
    names = table.names
    named = [names.index(word) for word in _IMAGE if word in names]
    heads = [[row[i].strip() for _, row in table.rows[:_HEAD] if i < len(row)] for i in range(len(names))]
    filled = [i for i, cells in enumerate(heads) if sum(map(is_image, cells)) * 2 > len(cells)]
    return next((i for i in named if i in filled), next(iter(filled + named), None))


def _is_index(table: Table, column: int) -> bool:
    """Numbers of rows, as pandas writes them: counted up from the first."""
    cells = table.cells(column)
    if table.names[column] not in _INDEX or not all(re.fullmatch(r"[0-9]{1,9}", cell) for cell in cells):
        return not table.names[column] and not any(cells)
    return [int(cell) for cell in cells] == list(range(int(cells[0]), int(cells[0]) + len(cells))) if cells else True


def _is_flag(table: Table, column: int, bad_rows: bool) -> bool:
    """All cells are flags; where `bad_rows`, nearly all: the few others are bad rows, not another kind of column."""
    cells = table.cells(column)
    good = sum(cell.lower() in _FLAGS for cell in cells)
    return bool(cells) and (good == len(cells) or (bad_rows and good > 0.9 * len(cells)))


def _all_differ(table: Table, column: int) -> bool:
    cells = table.cells(column)
    return len(cells) >= 10 and len(set(cells)) == len(cells)


def _from(file: LabelFile, stated: str) -> str:
    """A stated path that begins at the folder of its table, `../images/1.png`, as one from the base."""
    if not stated.startswith("../"):
        return stated
    return os.path.normpath(os.path.join(relative(file.path.parent, file.base), stated))


class _CellReader:
    """The names of the classes that the cells of a row state."""

    def __init__(self, table: Table, columns: _Columns) -> None:
        self.columns = columns
        self.cells = [] if columns.text is None else table.cells(columns.text)
        self.separator = next((sign for sign in "|;," if any(sign in cell for cell in self.cells)), None)
        zero = any(cell.startswith("0") for column in columns.flags for cell in table.cells(column))
        # beside 0, -1 means "uncertain" (CheXpert); alone it means "no" (CelebA)
        self.flags = {word: holds for word, holds in _FLAGS.items() if not (zero and word.startswith("-"))}

    def names(self, cells: list[str]) -> list[str]:
        """Raises DataError with the reason alone: the row states nothing that is allowed."""
        if self.columns.text is not None:
            text = cells[self.columns.text].strip()
            if self.columns.many:
                return list(dict.fromkeys(self._words(text)))
            if not text:
                raise DataError("the label is empty")
            return [text]
        words = {name: cells[i].strip() for i, name in self.columns.flags.items()}
        bad = [f"{name} = {word!r}" for name, word in words.items() if word.lower() not in self.flags]
        if bad:
            raise DataError(f"{', '.join(bad[:5])}; allowed: 0 or 1")
        return [name for name, word in words.items() if self.flags[word.lower()]]

    def _words(self, text: str) -> list[str]:
        if re.fullmatch(r"\[.*\]", text):  # a list as Python writes it: ['a', 'b']
            return [word for part in text[1:-1].split(",") if (word := part.strip().strip("'\"").strip())]
        return [word for part in text.split(self.separator) if (word := part.strip())]

    def doubts(self) -> list[str]:
        """Warnings of cells that may mean something else than what is read."""
        if self.columns.many:
            if self.separator is None and any(" " in cell for cell in self.cells):
                return ["blanks separate the tags; call the column 'label' if each cell is one class"]
            return []
        known = set(self.cells)
        for cell in known:
            words = [word.strip() for word in re.split(r"[|;,]", cell)]
            if len(words) > 1 and known.issuperset(words):
                return [f"{cell!r} is one class, as the column says; call the column 'tags' if its cells are lists"]
        return []


class _Reader:
    """Collects rows of one or more tables; every row ends in `rows` or in the ledger."""

    def __init__(self, root: Path, ledger: Ledger) -> None:
        self.root = root
        self.ledger = ledger
        self.images = list_images(root)
        self.rows: dict[Path, tuple[str | None, list[str]]] = {}  # image -> split, names of classes
        self.line: dict[Path, str] = {}  # image -> where it was named first

    def take(self, table: Table, columns: _Columns, file: LabelFile, alone: bool) -> None:
        """Read the rows of a table; the only one of a set states no split by its name."""
        pictures = Pictures(file.base, [path for path in self.images if path.is_relative_to(file.base)])
        place = relative(table.path, self.root)
        cell_reader = _CellReader(table, columns)
        self.ledger.warnings += [f"{place}: {doubt}" for doubt in cell_reader.doubts()]
        if columns.left_aside:
            shown = ", ".join(repr(name[:40]) for name in columns.left_aside[:10])
            self.ledger.warnings.append(f"{place}: columns that are not used: {shown}")
        for where, cells in table.whole_rows(place, self.ledger):
            try:
                path = pictures.find(_from(file, cells[columns.image]))
                names = cell_reader.names(cells)
            except DataError as error:
                self.ledger.refuse_label(where, str(error))
                continue
            split = None if columns.split is None else self._split(table, columns.split, cells, where)
            split = split or (None if alone else file.split)
            split = split or split_of_folders(path.relative_to(self.root).parts[:-1])
            if path in self.rows:
                same = self.rows[path] == (split, names)
                self.ledger.refuse_label(where, f"{'repeats' if same else 'contradicts'} {self.line[path]}")
                continue
            self.rows[path] = (split, names)
            self.line[path] = where

    def _split(self, table: Table, column: int, cells: list[str], where: str) -> str | None:
        word, name = cells[column].strip(), table.names[column]
        if name in _SPLIT_FLAGS:
            if word.lower() not in _FLAGS:
                raise DataError(f"{self.root}: {where}: {table.header[column]} = {word!r}; allowed: True or False")
            return _SPLIT_FLAGS[name][0 if _FLAGS[word.lower()] else 1]
        if word and split_of_folder(word) is None:
            raise DataError(f"{self.root}: {where}: unknown split {word[:40]!r}; {suggest(word[:40], SPLITS)}")
        return split_of_folder(word)

    def dataset(self, flags: list[str], many: bool) -> DataSet:
        """The data set of the rows that were taken; `flags` are its classes, if its columns say them."""
        sizes = measure(self.root, self.rows, self.ledger)
        for path in self.images:
            if path not in self.rows:
                self.ledger.refuse_image(relative(path, self.root), "no row names it")
        classes = flags or sorted({name for _, names in self.rows.values() for name in names})
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
