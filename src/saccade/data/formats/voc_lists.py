"""The lists that give the pictures of a VOC data set their split: ImageSets/Main/train.txt, train_labels.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from saccade.data.dataset import Ledger
from saccade.data.formats.listing import relative
from saccade.data.formats.splits import split_of_file
from saccade.data.formats.voc_paths import Parts, Places
from saccade.errors import DataError


@dataclass(slots=True)
class _List:
    """One file that names the pictures of a split."""

    split: str
    scope: Parts  # the folders below the root of which it speaks: those above ImageSets
    lines: dict[str, str]  # line -> where it stands first
    flagged: bool  # every line ends in 1, 0 or -1: a list of one class


def read_splits(
    root: Path, files: list[Path], places: Places, owners: Mapping[Path, Path], ledger: Ledger
) -> dict[Path, str]:
    """Picture, or XML file without one, -> split; {} where no list gives any.

    Args:
        files: all files below `root`.
        places: the pictures and XML files among them.
        owners: XML file -> its picture.

    Raises:
        DataError: a list that is no UTF-8 text or no table.
    """
    lists = _lists(root, files)
    splits: dict[Path, str] = {}
    for split in sorted({found.split for found in lists}):
        twice: list[str] = []
        for found in (one for one in lists if one.split == split):
            for line, where in found.lines.items():
                try:
                    paths = places.stated(line, found.scope, found.flagged)
                except DataError as error:
                    ledger.refuse_image(where, f"{line.strip()!r} {error}")
                    continue
                if not paths:
                    ledger.refuse_image(
                        where, f"{line.strip()[:200]!r} is named, but is neither an image nor an XML file"
                    )
                for path in {owners.get(path, path) for path in paths}:
                    if splits.setdefault(path, split) != split:
                        twice.append(line.strip())
        if twice:
            ledger.warnings.append(f"{len(twice)} images are in {split} and in another split, such as {min(twice)}")
    return splits


def _lists(root: Path, files: list[Path]) -> list[_List]:
    """The lists that count: of Main before others, plain ones before those of single classes, and trainval only where
    train and val are not given, each for its own ImageSets; tables only where there is no list."""
    found: dict[Parts, list[tuple[str, bool, Path]]] = {}
    for path in files:
        parts = path.relative_to(root).parts
        lower = [part.lower() for part in parts[:-1]]
        if path.suffix != ".txt" or "imagesets" not in lower[-2:]:
            continue
        scope = parts[: len(lower) - 1 - lower[::-1].index("imagesets")]
        name, single = _split(path.stem), _split(path.stem.rpartition("_")[2])
        if name or single:  # train, or cat_train
            found.setdefault(scope, []).append((name or single or "", name is None, path))
    lists = []
    for scope, rows in found.items():
        rows = [row for row in rows if row[2].parent.name.lower() == "main"] or rows
        rows = [row for row in rows if not row[1]] or rows
        given = {name for name, _, _ in rows} & {"train", "val"}
        for split, of_a_class, path in rows:
            if split != "trainval" or not given:
                lists.append(_List("train" if split == "trainval" else split, scope, _lines(path, root), of_a_class))
    if not lists:
        for path in files:
            split_name = split_of_file(path.stem) if path.parent == root and path.suffix.lower() == ".csv" else None
            if split_name:
                lists.append(_List(split_name, (), _table(path, root), flagged=False))
    return [one for one in lists if one.lines]


def _split(stem: str) -> str | None:
    return "trainval" if stem.lower() == "trainval" else split_of_file(stem)


def _text(path: Path, root: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{relative(path, root)}: not UTF-8 text at byte {error.start}") from None


def _lines(path: Path, root: Path) -> dict[str, str]:
    """Only line feeds end a line: names may hold what Unicode takes for the end of one."""
    lines: dict[str, str] = {}
    for number, line in enumerate(_text(path, root).split("\n"), start=1):
        if line.strip():
            lines.setdefault(line, f"{relative(path, root)}:{number}")
    return lines


def _table(path: Path, root: Path) -> dict[str, str]:
    """The different names in the column `filename` of a CSV file; {} where it has no such column."""
    place = relative(path, root)
    reader = csv.DictReader(io.StringIO(_text(path, root)))
    names: dict[str, str] = {}
    try:
        for row in reader:
            if row.get("filename"):
                names.setdefault(row["filename"], f"{place}:{reader.line_num}")
    except csv.Error as error:
        raise DataError(f"{place}: not a CSV table: {error}") from None
    return names
