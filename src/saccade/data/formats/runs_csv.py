"""A table of masks as run lengths, one a row: Kaggle's `ImageId,EncodedPixels` (Airbus, Severstal, TGS, ...).

`EncodedPixels` is `start length start length ...`, pixels counted from 1 down the columns; empty, `-1` or `nan` is a
picture without objects. A class stands in a column (`ClassId`, `label`, ...) or behind the name of the picture
(`ImageId_ClassId`: `a.jpg_1`); without one all masks are of one class. Some tables count along the rows instead, and
none says so: of pictures that are not square both readings are tried, and the one whose masks have the shorter border
is taken, with a warning where that is the rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from saccade.data.dataset import DataSet, Ledger
from saccade.data.formats.boxes_csv import page_of, tables_of_splits
from saccade.data.formats.drawn import UNNAMED, Drawn, Page, check_window, make_dataset
from saccade.data.formats.listing import Pictures, list_images, relative
from saccade.data.formats.splits import split_of_folder
from saccade.data.formats.table import Table, head_of_table, load_table
from saccade.data.formats.tags_csv import LabelFile, image_column, label_files
from saccade.data.image import probe
from saccade.errors import DataError

_RUNS = ("encodedpixels", "rle", "rlemask", "maskrle", "encodedmask", "segmentationrle", "annotation", "segmentation")
_CLASS = ("class", "classid", "label", "labelid", "classname", "category", "categoryid", "celltype", "species")
_SPLIT = ("split", "subset", "set")
_BEHIND = re.compile(r"(.+)_(\w+)")  # ImageId_ClassId
_TRIED = 20  # masks by which the direction is told
_RUN_LENGTHS = re.compile(r"\d+ \d+( \d+ \d+)*")


def looks_like(root: Path) -> bool:
    """True where a CSV file has a column of images and one of run lengths."""
    heads = (head_of_table(file.path) for file in label_files(root))
    return any(head is not None and _columns(head) is not None for head in heads)


def _columns(table: Table) -> tuple[int, int, int | None] | None:
    """The columns of images, run lengths and classes (None: none); None where it is no such table."""
    names = table.names
    runs = next((names.index(word) for word in _RUNS if word in names), None)
    if runs is None:
        return None
    cells = [cell for cell in table.cells(runs) if cell not in ("", "-1", "nan")]
    if names[runs] in ("annotation", "segmentation") and not all(map(_RUN_LENGTHS.fullmatch, cells)):
        return None
    image = next((i for i, name in enumerate(names) if name == "imageidclassid"), image_column(table))
    if image is None or image == runs:
        return None
    return image, runs, next((names.index(word) for word in _CLASS if word in names), None)


def read(root: Path, task: str | None = None) -> DataSet:
    """Read the table at `root`, or those in the folder `root`; the task is "instances".

    Raises:
        DataError: a fault of structure, with its line, or nothing that can be used.
    """
    ledger, base = Ledger(), root if root.is_dir() else root.parent
    known = [f for f in label_files(root) if (head := head_of_table(f.path)) and _columns(head)]
    files = tables_of_splits(root, known, ledger)
    pages: dict[str, Page] = {}
    texts: dict[str, str] = {}  # place of a mask -> its run lengths
    for file in files:
        _take(load_table(file.path), file, len(files) == 1, base, pages, texts, ledger)
    _unpack(base, pages.values(), texts, ledger)
    return make_dataset(base, "runs_csv", pages.values(), ledger, task)


def _take(
    table: Table,
    file: LabelFile,
    alone: bool,
    base: Path,
    pages: dict[str, Page],
    texts: dict[str, str],
    ledger: Ledger,
) -> None:
    """Put the rows of a table into the pages of their pictures, and their run lengths into `texts`."""
    place, above, columns = relative(table.path, base), relative(file.base, base), _columns(table)
    if columns is None:
        raise DataError(f"{place}:1: no columns of images and of run lengths")
    image, runs, label = columns
    split = next((table.names.index(word) for word in _SPLIT if word in table.names), None)
    behind = table.names[image] == "imageidclassid"
    if label is None and not behind:
        ledger.warnings.append(f"{place}: no column names the class: all masks are of one, {UNNAMED!r}")
    for where, cells in table.whole_rows(place, ledger):
        stated, name = cells[image].strip(), UNNAMED if label is None else cells[label].strip()
        if behind and (parts := _BEHIND.fullmatch(stated)):
            stated, name = parts[1], parts[2]
        page = page_of(pages, above, stated, where)
        word = "" if split is None else cells[split].strip()
        page.split = page.split or split_of_folder(word) or (None if alone else file.split)
        text = cells[runs].strip()
        if text.lower() not in ("", "-1", "nan"):
            page.objects.append(Drawn(where, name))
            texts[where] = text


def _unpack(base: Path, pages: Iterable[Page], texts: dict[str, str], ledger: Ledger) -> None:
    """Give each mask its run lengths as COCO's, which needs the size of its picture."""
    finder = Pictures(base, list_images(base))
    found: list[tuple[Drawn, np.ndarray, tuple[int, int]]] = []
    for page in pages:
        size = _size(page, finder)
        for drawn in page.objects:
            try:
                if size is None:
                    raise DataError("its picture is not found or cannot be read")
                check_window(*size)
                found.append((drawn, _runs(texts[drawn.where], size), size))
            except DataError as error:
                drawn.fault = str(error)
    oblong = [(runs, size) for _, runs, size in found if size[0] != size[1]][:_TRIED]
    rows = bool(oblong) and sum(_border(*m, rows=True) for m in oblong) < sum(_border(*m, rows=False) for m in oblong)
    if rows:
        ledger.warnings.append("run lengths go along the rows: so read, their masks have the shorter borders")
    elif found and not oblong:
        ledger.warnings.append("run lengths are taken to go down the columns; square pictures do not tell")
    for drawn, runs, size in found:
        if rows:
            drawn.mask = (_mask(runs, size, rows=True), 0, 0)
        else:
            drawn.rle = {"size": list(size), "counts": _counts(runs, size)}


def _size(page: Page, finder: Pictures) -> tuple[int, int] | None:
    for stated in page.stated:
        try:
            return probe(finder.find(stated)).size
        except DataError:
            continue
    return None


def _runs(text: str, size: tuple[int, int]) -> np.ndarray:
    """First pixels, from 0, and lengths [n, 2]. Raises DataError where they do not rise or leave the picture."""
    parts = text.split()
    if len(parts) % 2 or not all(re.fullmatch(r"\d{1,12}", part) for part in parts):
        raise DataError(f"{text[:40]!r} are no pairs of whole numbers, start and length")
    runs = np.array(parts, np.int64).reshape(-1, 2) - (1, 0)
    ends = runs.sum(1)
    if (runs < (0, 1)).any() or (runs[1:, 0] < ends[:-1]).any():
        raise DataError("the runs overlap, do not rise, are empty or begin at 0; they are counted from 1")
    if ends[-1] > size[0] * size[1]:
        raise DataError(f"a run ends at pixel {ends[-1]}, the picture has {size[0] * size[1]}")
    return runs


def _counts(runs: np.ndarray, size: tuple[int, int]) -> list[int]:
    """Runs of 0 and 1 in turn, 0 first, to the end of the picture."""
    edges = np.concatenate([[0], runs[:, 0], runs.sum(1), [size[0] * size[1]]])
    return [int(v) for v in np.diff(np.sort(edges))]


def _mask(runs: np.ndarray, size: tuple[int, int], rows: bool) -> np.ndarray:
    """The mask [H, W] bool of run lengths along the rows, or down the columns."""
    counts = _counts(runs, size)
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size) if rows else flat.reshape(size[::-1]).T


def _border(runs: np.ndarray, size: tuple[int, int], rows: bool) -> int:
    """Pairs of neighbours of which one is in the mask."""
    mask = _mask(runs, size, rows)
    return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())
