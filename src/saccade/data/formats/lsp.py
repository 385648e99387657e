"""Leeds Sports Pose: one person a picture, 14 joints, in `joints.mat` (Johnson and Everingham 2010; extended 2011).

The matrix of the first set is 3 x 14 x people, whose third row says that a joint is hidden (1); that of the extended
set is 14 x 3 x people, whose third column says that a joint is labelled (1), and the numbers of others mean nothing.
Which picture a person is of is said by the number in its file's name: im0001.jpg is the first. A `joints.json` with
`joint_names` and `images` (a name and rows x y visible each) holds the same. The first set is split as its paper does.

Boxes are not stated: they are drawn around the joints (`pose.py: box_around`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade.data.dataset import DataSet, Ledger, Record
from saccade.data.formats.boxes import finish
from saccade.data.formats.coco_json import read_json
from saccade.data.formats.listing import list_images, measure, relative
from saccade.data.formats.pose import person_around
from saccade.data.joints import LSP, MOST, Joints, named_joints
from saccade.errors import DataError

_FILES = ("joints.mat", "joints.json")
_JSON = re.compile(rb'^(?:\xef\xbb\xbf)?\s*\{\s*"joint_names"\s*:')
_MAT = (b"MATLAB 5.0", b"MATLAB 7")
_FIRST_SET = 2000  # people, the second half of which are the test
_LARGEST = 200_000_000  # bytes of a file


@dataclass(slots=True)
class _People:
    """One person a picture, by the number in its name or by the name itself."""

    joints: Joints
    rows: dict[int | str, np.ndarray]  # [k, 3] x y visibility, as `pose.fit_joints` takes it
    halves: bool  # the set is split in halves


def looks_like(root: Path) -> bool:
    """True for joints.mat, or a .json of the same content, and for a folder with one."""
    return any(_is_labels(path) for path in _places(root))


def read(root: Path, task: str | None = None) -> DataSet:
    """Read the file, or the folder with it. Every picture has one person; its class is "person".

    Raises:
        DataError: the file is no matrix of joints, or nothing can be used.
    """
    path = next(path for path in _places(root) if _is_labels(path))
    base, ledger = path.parent, Ledger()
    people = _of_json(path) if path.suffix.lower() == ".json" else _of_mat(path)
    pictures = list_images(base)
    sizes = measure(base, pictures, ledger)
    records, used = [], set()
    for picture in pictures:
        key = _key(picture, base, people)
        if picture not in sizes:
            continue
        if key is None:
            ledger.refuse_image(relative(picture, base), f"{path.name} has no person for it")
            continue
        used.add(key)
        record = Record(relative(picture, base), sizes[picture], things=[])
        if people.halves and isinstance(key, int):
            record.split = "train" if key <= len(people.rows) // 2 else "test"
        where = f"{path.name}: {picture.name}"
        person = person_around(people.rows[key].ravel().tolist(), people.joints.names, record.size, where, ledger)
        record.things = [] if person is None else [person]
        records.append(record)
    for key in people.rows.keys() - used:
        ledger.refuse_label(f"{path.name}: person {key}", "there is no picture of this number or name that can be used")
    dataset = DataSet(base, "lsp", "pose", ["person"], records, ledger, joints=people.joints)
    dataset = finish(dataset, task)
    dataset.task = "pose" if task is None else dataset.task
    ledger.warnings.append("boxes are not stated: they are drawn around the joints of each person")
    return dataset


def _places(root: Path) -> list[Path]:
    return [root] if root.is_file() else [root / name for name in _FILES]


def _is_labels(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(1024)
    return head.startswith(_MAT) if path.suffix.lower() == ".mat" else _JSON.match(head) is not None


def _key(picture: Path, base: Path, people: _People) -> int | str | None:
    """By which name the people know a picture; None where they do not."""
    number = re.search(r"(\d+)$", picture.stem)
    known: Iterator[int | str] = iter([relative(picture, base), picture.name, *([int(number[1])] if number else [])])
    return next((key for key in known if key in people.rows), None)


def _of_mat(path: Path) -> _People:
    """Raises DataError where it is no file of MATLAB with `joints`."""
    if path.stat().st_size > _LARGEST:
        raise DataError(f"{path}: {path.stat().st_size:,} bytes; {_LARGEST:,} at most")
    from scipy.io import loadmat

    try:
        table = loadmat(io.BytesIO(path.read_bytes()), variable_names=["joints"]).get("joints")
    except Exception as error:  # a damaged file raises anything
        raise DataError(f"{path}: damaged, or no file that MATLAB wrote up to version 7 ({error})") from error
    if not isinstance(table, np.ndarray) or table.dtype.kind not in "fiu" or table.ndim != 3:
        found = "no such variable" if table is None else f"{table.dtype} of shape {list(np.shape(table))}"
        raise DataError(f"{path}: 'joints' must be numbers of shape 14 x 3 x people or 3 x 14 x people; found {found}")
    first = table.shape[:2] == (3, 14)
    if not first and table.shape[:2] != (14, 3):
        raise DataError(f"{path}: 'joints' is {list(table.shape)}; 14 x 3 x people or 3 x 14 x people is needed")
    rows = np.moveaxis(table, 2, 0).astype(np.float64)
    if first:
        rows = rows.transpose(0, 2, 1)
        rows[..., 2] = np.where(rows[..., 2] > 0, 1, 2)
    else:
        rows[..., 2] = np.where(rows[..., 2] > 0, 2, 0)
    return _People(LSP, {i + 1: row for i, row in enumerate(rows)}, first and len(rows) == _FIRST_SET)


def _of_json(path: Path) -> _People:
    """Raises DataError where a part is missing or has another form."""
    content = read_json(path, path.name)
    names, images = content.get("joint_names"), content.get("images")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or not isinstance(images, dict):
        raise DataError(f"{path}: 'joint_names' must be a list of names and 'images' hold rows of joints by name")
    if not 1 <= len(names) <= MOST or len(set(names)) != len(names):
        raise DataError(f"{path}: {len(names)} joint_names; 1 to {MOST} different ones are needed")
    rows: dict[int | str, np.ndarray] = {}
    for name, points in images.items():
        try:
            table = np.array(points, dtype=np.float64)
        except (TypeError, ValueError):
            table = np.zeros(0)
        if table.shape != (len(names), 3):
            raise DataError(f"{path}: {name[:80]} must hold {len(names)} rows of x y visible")
        table[:, 2] = np.where(table[:, 2] > 0, 2, 0)
        rows[name] = table
    own = [name.replace("left_", "l_").replace("right_", "r_") for name in LSP.names]
    return _People(LSP if names == own else named_joints(names), rows, False)
