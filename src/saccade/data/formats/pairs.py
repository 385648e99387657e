"""Lists of pairs of pictures that show one person or two: pairs.txt of Labeled Faces in the Wild, and pairs.csv.

pairs.txt (Huang et al. 2007, README of LFW): the first line gives the number of folds and that of pairs of each kind a
fold (or the latter alone: one fold), then each fold has so many lines `NAME N M`, two pictures of one person, and as
many `NAME N OTHER M`. Picture N of NAME is the file NAME/NAME_000N with any suffix. pairs.csv has the columns
`first, second, same` (1 or 0, true or false, yes or no) and perhaps `fold`.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

from saccade.data.dataset import DataSet
from saccade.data.formats.listing import Pictures
from saccade.errors import DataError
from saccade.machine.files import open_regular

FOLDS = 10  # into which pairs of a file without folds are dealt
_COLUMNS = ("first", "second", "same")
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass
class Pairs:
    """Pairs of pictures by the ids of their records."""

    first: list[str] = field(default_factory=list)
    second: list[str] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.same)


def read_pairs(file: Path, dataset: DataSet) -> Pairs:
    """The pairs of a file among the pictures of a data set.

    Pairs without folds are dealt into 10, those of each kind in turn; folds of people who do not meet are better.

    Raises:
        DataError: no such file, a line that is no pair, a picture that is not there, or pairs of one kind alone; it
            names file and line.
    """
    try:
        with open_regular(file, links=True) as opened:
            text = opened.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: no list of pairs that can be read ({error})") from error
    ids = {dataset.root / record.path: record.id for record in dataset.records}
    pictures = Pictures(dataset.root, ids)
    pairs, kinds = Pairs(), {True: 0, False: 0}
    for number, first, second, same, fold in _rows_of_csv(file, text) if _is_csv(text) else _rows_of_lfw(file, text):
        try:
            found = [ids[pictures.find(name)] for name in (first, second)]
        except DataError as error:
            raise DataError(f"{file}:{number}: {error}") from error
        if found[0] == found[1]:
            raise DataError(f"{file}:{number}: a pair of {first!r} with itself says nothing of a model")
        dealt = kinds[same] % FOLDS if fold is None else fold
        kinds[same] += 1
        pairs.first.append(found[0])
        pairs.second.append(found[1])
        pairs.same.append(same)
        pairs.folds.append(dealt)
    if not any(pairs.same) or all(pairs.same):
        raise DataError(f"{file}: pairs of one person and pairs of two are needed; there are {len(pairs)} of one kind")
    return pairs


_Row = tuple[int, str, str, bool, int | None]  # line, two pictures, whether of one person, fold


def _is_csv(text: str) -> bool:
    return "," in text.split("\n", 1)[0]


def _rows_of_csv(file: Path, text: str) -> list[_Row]:
    reader = csv.DictReader(text.splitlines())
    names = [name.strip().lower() for name in reader.fieldnames or []]
    if any(column not in names for column in _COLUMNS):
        raise DataError(f"{file}: columns {', '.join(names)}; first, second, same and perhaps fold are needed")
    rows: list[_Row] = []
    for line in reader:
        values = {name: (value or "").strip() for name, value in zip(names, line.values(), strict=False) if name}
        word = values.get("same", "").lower()
        if word not in _WORDS:
            raise DataError(f"{file}:{reader.line_num}: same is {word!r}; allowed: {', '.join(_WORDS)}")
        fold = values.get("fold", "")
        if fold and not fold.isdecimal():
            raise DataError(f"{file}:{reader.line_num}: fold is {fold!r}; a number from 0 on is needed")
        number = reader.line_num
        rows.append((number, values["first"], values["second"], _WORDS[word], int(fold) if fold else None))
    return rows


def _rows_of_lfw(file: Path, text: str) -> list[_Row]:
    lines = [(number, line.split("\t") if "\t" in line else line.split()) for number, line in _numbered(text)]
    head = lines[0][1] if lines else []
    if not 1 <= len(head) <= 2 or not all(word.strip().isdecimal() for word in head):
        raise DataError(
            f"{file}:1: neither a CSV file with the columns first, second, same nor LFW's pairs.txt, which begins with "
            "the numbers of folds and of pairs"
        )
    folds, each = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
    if len(lines) - 1 != 2 * folds * each:
        raise DataError(f"{file}: {len(lines) - 1} pairs, where the first line promises {2 * folds * each}")
    rows: list[_Row] = []
    for place, (number, words) in enumerate(lines[1:]):
        same = len(words) == 3
        other = words[0] if same else words[2] if len(words) == 4 else ""
        if not other or not words[1].isdecimal() or not words[-1].isdecimal():
            raise DataError(f"{file}:{number}: {' '.join(words)[:100]!r} is neither NAME N M nor NAME N OTHER M")
        first, second = (f"{name}/{name}_{int(n):04d}" for name, n in ((words[0], words[1]), (other, words[-1])))
        rows.append((number, first, second, same, None if folds == 1 else place // (2 * each)))
    return rows


def _numbered(text: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
