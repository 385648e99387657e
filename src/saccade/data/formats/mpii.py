"""MPII Human Pose as JSON (the form of the stacked hourglass and of HRNet): a list of people, 16 joints each.

A person is {image, joints: [[x, y], ...], joints_vis: [0 or 1, ...], center: [x, y], scale}: several may be of one
picture; `scale` is the person's height over 200 pixels. Boxes are not stated: they are drawn around the joints
(`pose.py: box_around`), and for a person without labelled joints around `center`, 200 * scale pixels wide and high.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import check_numbers, finish, fit_box
from saccade.data.formats.coco_json import read_json
from saccade.data.formats.listing import Pictures, files_with, list_images, measure, relative
from saccade.data.formats.pose import person_around
from saccade.data.formats.splits import split_of_file
from saccade.data.joints import MPII
from saccade.errors import DataError

_HEAD = 1 << 15
_KEYS = (b'"joints_vis"', b'"joints"')
_UNIT = 200.0  # pixels of a person of scale 1

Person = tuple[str, dict[str, Any]]  # its place in messages, and its entry


def looks_like(root: Path) -> bool:
    """True for a .json file that lists people so, or a folder that holds one at most one folder down."""
    return bool(_files(root))


def read(root: Path, task: str | None = None) -> DataSet:
    """Read the file, or those of a folder, whose names say their splits (train.json, valid.json).

    Raises:
        DataError: damaged JSON, several files of one split, or nothing usable.
    """
    base = root if root.is_dir() else _base(root)
    ledger, records = Ledger(), []
    pictures = list_images(base)
    files = _files(root)
    splits = [split_of_file(path.stem) for path in files]
    if len(files) > 1 and (None in splits or len(set(splits)) < len(splits)):
        names = ", ".join(relative(path, base) for path in files[:6])
        raise DataError(f"{root}: several lists of people: {names}; give one, or call them train.json and valid.json")
    for path, split in zip(files, splits, strict=True):
        records += _read_file(path, split, Pictures(base, pictures), base, ledger)
    named = {record.id for record in records}
    if unnamed := len({relative(p, base) for p in pictures} - named):
        ledger.warnings.append(f"{unnamed} images below {base.name} have no person in a list and are left out")
    dataset = DataSet(base, "mpii", "pose", ["person"], records, ledger, joints=MPII)
    dataset = finish(dataset, task)
    dataset.task = "pose" if task is None else dataset.task
    ledger.warnings.append("boxes are not stated: they are drawn around the joints of each person")
    return dataset


def _base(path: Path) -> Path:
    """The folder of the data set: that above annot/ or annotations/, else that of the file."""
    return path.parent.parent if path.parent.name.lower() in ("annot", "annotations") else path.parent


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() == ".json" and _lists_people(root) else []
    return [path for path in files_with(root, ".json", depth=2) if _lists_people(path)]


def _lists_people(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return re.match(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{", head) is not None and all(key in head for key in _KEYS)


def _read_file(path: Path, split: str | None, pictures: Pictures, base: Path, ledger: Ledger) -> list[Record]:
    place = relative(path, base)
    content = read_json(path, place)
    by_picture: dict[Path, list[Person]] = defaultdict(list)
    for number, entry in enumerate(content):
        where = f"{place}: person {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise DataError(f"{where}: {json.dumps(entry)[:60]} is no object with 'image', 'joints' and 'joints_vis'")
        try:
            by_picture[pictures.find(entry["image"])].append((where, entry))
        except DataError as error:
            ledger.refuse_label(where, str(error))
    sizes = measure(base, sorted(by_picture), ledger)
    records = []
    for picture, people in by_picture.items():
        if picture not in sizes:
            for where, _ in people:
                ledger.refuse_label(where, f"its image cannot be used: {relative(picture, base)}")
            continue
        things = [_thing(where, entry, sizes[picture], ledger) for where, entry in people]
        found = [thing for thing in things if thing is not None]
        records.append(Record(relative(picture, base), sizes[picture], split, things=found))
    return records


def _thing(where: str, entry: dict[str, Any], size: tuple[int, int], ledger: Ledger) -> Thing | None:
    joints, seen = entry.get("joints"), entry.get("joints_vis")
    k = len(MPII)
    sound = isinstance(joints, list) and isinstance(seen, list) and len(joints) == len(seen) == k
    if not sound or not all(isinstance(point, list) and len(point) == 2 for point in joints or ()):
        ledger.refuse_label(where, f"'joints' and 'joints_vis' must hold {k} points x y and {k} numbers 0 or 1")
        return None
    assert isinstance(joints, list)
    assert isinstance(seen, list)
    if not any(value not in (0, False) for value in seen):
        return _by_centre(where, entry, size, ledger)
    values = [v for point, flag in zip(joints, seen, strict=True) for v in (*point, 2 if flag in (1, True) else flag)]
    return person_around(values, MPII.names, size, where, ledger)


def _by_centre(where: str, entry: dict[str, Any], size: tuple[int, int], ledger: Ledger) -> Thing | None:
    """A person without labelled joints."""
    try:
        centre, scale = entry.get("center"), entry.get("scale")
        if not isinstance(centre, list) or len(centre) != 2:
            raise DataError("no joint is labelled, and there is no center [x, y]")
        x, y, half = check_numbers([*centre, scale], "center and scale")
        half *= _UNIT / 2
        box, _ = fit_box((x - half, y - half, x + half, y + half), size)
    except DataError as error:
        ledger.refuse_label(where, str(error))
        return None
    ledger.repair(where, "no joint is labelled: a box around its center, 200 * scale pixels wide and high")
    return Thing(0, box)
