"""A table of boxes, one a row, under the headers that are usual.

    filename,width,height,class,xmin,ymin,xmax,ymax      TensorFlow's, Roboflow's _annotations.csv
    image,x1,y1,x2,y2,class                              and any other order of such names
    a.jpg,10,20,40,60,cat                                Keras RetinaNet: no header; `a.jpg,,,,,` has no object
    image_id,width,height,bbox,source                    Kaggle's: bbox is "[x, y, width, height]", one class
    ImageID,Source,LabelName,Confidence,XMin,XMax,...    Open Images: shares of the sides, IsGroupOf is a crowd

Corners are taken as they are, counted from 0. Where the boxes of a table all lie within 0..1 they are shares of the
picture's sides. A row without numbers says that the picture has no object. Where the files lie and what states the
splits is as for tables of tags (tags_csv.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saccade.data.dataset import DataSet, Ledger
from saccade.data.formats.boxes import check_numbers
from saccade.data.formats.drawn import UNNAMED, Drawn, Page, make_dataset
from saccade.data.formats.listing import is_image, relative
from saccade.data.formats.splits import split_of_folder
from saccade.data.formats.table import Table, head_of_table, load_table
from saccade.data.formats.tags_csv import LabelFile, image_column, label_files
from saccade.errors import DataError

_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("xtl", "ytl", "xbr", "ybr"),
    ("bboxx1", "bboxy1", "bboxx2", "bboxy2"),
)
_SIDES = (
    ("x", "y", "w", "h"),
    ("x", "y", "width", "height"),
    ("xmin", "ymin", "width", "height"),
    ("left", "top", "width", "height"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
)
_BOX = ("bbox", "bboxes", "box")
_CLASS = ("class", "label", "classname", "labelname", "category", "categoryname", "object", "name", "species", "type",
          "target", "classid", "labelid", "categoryid")  # fmt: skip
_SPLIT = ("split", "subset", "set", "partition")
_NO_HEADER = ["image", "x1", "y1", "x2", "y2", "class"]
_SURE = 4  # boxes that all lie within the first pixel are shares; fewer may be that small
_NAMES = re.compile(r"class-descriptions.*\.csv", re.IGNORECASE)  # Open Images: `/m/01yrx,Cat`


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column says what, by index."""

    image: int
    label: int | None  # None: all boxes are of one class
    corners: tuple[int, ...]  # x1 y1 x2 y2, or x y width height; or one column with all four
    sides: bool  # the last two are width and height
    split: int | None
    crowd: int | None


def looks_like(root: Path) -> bool:
    """True where a CSV file has a column of images and columns of boxes."""
    return any(columns_of(head) is not None for file in label_files(root) if (head := _head(file.path)) is not None)


def read(root: Path, task: str | None = None) -> DataSet:
    """Read the table at `root`, or those in the folder `root` or its folders of splits.

    Raises:
        DataError: a fault of structure, with its line; tables of which it is open whether they are splits.
    """
    ledger, base = Ledger(), root if root.is_dir() else root.parent
    files = tables_of_splits(root, [f for f in label_files(root) if (h := _head(f.path)) and columns_of(h)], ledger)
    pages: dict[str, Page] = {}
    for file in files:
        table = load_table(file.path, _header(file.path))
        columns = columns_of(table)
        assert columns is not None
        _take(table, columns, file, len(files) == 1, base, pages, ledger)
    return make_dataset(base, "boxes_csv", pages.values(), ledger, task)


def tables_of_splits(root: Path, files: Sequence[LabelFile], ledger: Ledger) -> list[LabelFile]:
    """The tables of a data set: one, or one for each split, train first. Raises DataError for any others."""
    splits = [file.split for file in files]
    if len(files) > 1 and (None in splits or len(set(splits)) < len(splits)):
        several = ", ".join(str(file.path) for file in files[:6])
        raise DataError(
            f"{root}: {len(files)} tables of labels, which are not one for each split; name one of {several}"
        )
    if files and root.is_dir():
        others = {relative(f.path, root) for f in label_files(root)} - {relative(f.path, root) for f in files}
        aside = sorted(name for name in others if not _NAMES.fullmatch(name.split("/")[-1]))
        ledger.warnings += [f"{name} is left aside: no table of such labels" for name in aside]
    return sorted(files, key=lambda file: ("train", "val", "test", None).index(file.split))


def _header(path: Path) -> list[str] | None:
    """The header of a file that has none; None where it has."""
    head = head_of_table(path)
    if head is None or len(head.header) != len(_NO_HEADER) or not is_image(head.header[0]):
        return None
    numbers = head.header[1:5]
    return _NO_HEADER if not any(numbers) or all(re.fullmatch(r"[-+.\d]+", cell) for cell in numbers) else None


def _head(path: Path) -> Table | None:
    """As `head_of_table`; a file without a header has the usual one."""
    head = head_of_table(path)
    names = _header(path)
    return head if head is None or names is None else Table(path, names, names, [(1, head.header), *head.rows])


def columns_of(table: Table) -> Columns | None:
    """The columns of a table of boxes; None where it is none."""
    names = table.names
    image = image_column(table)
    if image is None:
        return None

    def places(words: Sequence[str]) -> tuple[int, ...] | None:
        return tuple(names.index(word) for word in words) if set(words) <= set(names) else None

    corners, sides = next((found for words in _CORNERS if (found := places(words))), None), False
    if corners is None:
        corners, sides = next((found for words in _SIDES if (found := places(words))), None), True
    if corners is None:
        corners = next(((names.index(word),) for word in _BOX if word in names), None)
    if corners is None or image in corners:
        return None
    rest = [i for i in range(len(names)) if i not in (image, *corners)]
    label = next((i for word in _CLASS for i in rest if names[i] == word), None)
    split = next((i for word in _SPLIT for i in rest if names[i] == word), None)
    crowd = next((i for i in rest if names[i] in ("isgroupof", "iscrowd")), None)
    return Columns(image, label, corners, sides, split, crowd)


def _take(
    table: Table, columns: Columns, file: LabelFile, alone: bool, base: Path, pages: dict[str, Page], ledger: Ledger
) -> None:
    """Put the rows of a table into the pages of their pictures."""
    place = relative(table.path, base)
    names = _descriptions(table.path.parent)
    above = relative(file.base, base)
    rows: list[tuple[str, list[str], list[float] | None, str]] = []
    for where, cells in table.whole_rows(place, ledger):
        try:
            rows.append((where, cells, _box(cells, columns), ""))
        except DataError as error:
            rows.append((where, cells, None, str(error)))
    boxes = [box for _, _, box, _ in rows if box is not None]
    shares = len(boxes) >= _SURE and all(0 <= v <= 1 for box in boxes for v in box)
    if columns.label is None:
        ledger.warnings.append(f"{place}: no column names the class: all boxes are of one, {UNNAMED!r}")
    if shares:
        ledger.warnings.append(f"{place}: all boxes lie within 0..1: they are taken for shares of the picture's sides")
    for where, cells, box, fault in rows:
        stated = cells[columns.image].strip()
        page = page_of(pages, above, stated, where)
        word = "" if columns.split is None else cells[columns.split].strip()
        page.split = page.split or split_of_folder(word) or (None if alone else file.split)
        if box is None and not fault:
            continue  # a picture without objects
        name = UNNAMED if columns.label is None else cells[columns.label].strip()
        drawn = Drawn(where, names.get(name, name), box, unit=1.0 if shares else 0.0, fault=fault)
        drawn.crowd = columns.crowd is not None and cells[columns.crowd].strip() in ("1", "True", "true")
        page.objects.append(drawn)


def page_of(pages: dict[str, Page], above: str, stated: str, where: str) -> Page:
    """The page of a picture, made where this row is the first that names it.

    Args:
        above: the folder to which names are relative, below the data set.
    """
    key = stated if above == "." else f"{above}/{stated}"
    if key not in pages:
        pages[key] = Page(where, list(dict.fromkeys(name for name in (key, stated) if stated)))
    return pages[key]


def _box(cells: list[str], columns: Columns) -> list[float] | None:
    """x1 y1 x2 y2 of a row; None where it states none. Raises DataError for what are no numbers."""
    texts = [cells[i].strip() for i in columns.corners]
    sides = columns.sides
    if len(texts) == 1:
        texts, sides = [part for part in re.split(r"[\s,;]+", texts[0].strip("[]() ")) if part], True
    if not any(texts) or all(text.lower() == "nan" for text in texts):
        return None
    if len(texts) != 4:
        raise DataError(f"a box has 4 numbers, found {len(texts)}")
    a, b, c, d = check_numbers(texts, "the box")
    return [a, b, a + c, b + d] if sides else [a, b, c, d]


def _descriptions(folder: Path) -> dict[str, str]:
    """Open Images' names of classes by id, where the file lies beside the table."""
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if _NAMES.fullmatch(path.name) and (head := load_table(path, ["id", "name"])):
            found |= {cells[0].strip(): cells[1].strip() for _, cells in head.rows if len(cells) == 2}
    return found
