"""The text files that stand in for a data.yaml: darknet's obj.data, lists of pictures, and files of class names.

CVAT ("YOLO 1.1") writes `obj.data obj.names train.txt obj_train_data/`, labelImg a `classes.txt` beside the pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from saccade.data.formats.class_names import refuse_repeats
from saccade.data.formats.listing import is_image, relative
from saccade.data.formats.splits import split_of_file
from saccade.data.formats.yolo_yaml import MAX_CLASSES, Layout
from saccade.errors import DataError, UsageError

_MENU = "predefined_classes.txt"  # what labelImg offers; the classes.txt that it writes may be longer
_CLASSES = ("classes.txt", "obj.names", "_darknet.labels", _MENU)
_RESERVED = {"classes.txt", _MENU, "readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt"}
_RESERVED |= {"validation.txt"}
_MAX_BYTES = 50_000_000


def text_of(path: Path, place: str) -> str:
    """The text of a file; `place` names it. Raises DataError where it is not UTF-8, or larger than 50 MB."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{place}: {path.stat().st_size} bytes, at most {_MAX_BYTES} are read")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text at byte {error.start}") from None


def lines_of(path: Path, place: str) -> list[str]:
    """The lines of a list. Only line feeds end one: names may hold what Unicode takes for the end of a line."""
    return text_of(path, place).split("\n")


def looks_like_rows(path: Path, fractions: bool = False) -> bool:
    """True where the first line that is not blank is an object: at least five numbers; with `fractions` a whole number
    and parts of an image."""
    with path.open("rb") as file:
        words = file.read(2000).lstrip().partition(b"\n")[0].split()
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return False
    return len(numbers) >= 5 and not (
        fractions and not (numbers[0].is_integer() and all(-1 <= number <= 2 for number in numbers[1:]))
    )


def is_list(path: Path) -> bool:
    """True for names or paths in a file that is called as such lists are (classes.txt, train.txt, readme.txt). A
    picture may be called so too: then its label file holds rows, or nothing."""
    return path.name.lower() in _RESERVED and path.stat().st_size > 0 and not looks_like_rows(path)


def find_data_file(root: Path) -> Path | None:
    """The file of darknet (`obj.data`, `voc.data`) in `root` or in its folder `data`, where there is one."""
    for folder in (root, root / "data"):
        for path in sorted(folder.glob("*.data")):
            if path.is_file() and not path.name.startswith(".") and {"names", "classes"} & set(_entries(path)):
                return path
    return None


def read_data_file(path: Path, root: Path) -> Layout:
    """What obj.data says; the file of names lies where it says, or where its path ends below `root`.

    Raises:
        UsageError: it names no file of class names, or one that is not there.
    """
    entries = _entries(path)
    stated = entries.get("names", "obj.names").replace("\\", "/")
    tail = Path(stated).name
    places = [root / stated, path.parent / stated, path.parent / tail, root / "data" / tail]
    names = next((p for p in places if p.is_file()), None)
    if names is None:
        raise UsageError(f"{path.name}: key 'names': no file {stated!r}; looked in {path.parent}")
    splits = {"train": entries.get("train"), "val": entries.get("valid") or entries.get("val")}
    splits["test"] = entries.get("test")
    layout = {split: [place] for split, place in splits.items() if place}
    return Layout(path.name, _names(names), layout, lines=True)


def _entries(path: Path) -> dict[str, str]:
    """`key = value` lines."""
    try:
        lines = lines_of(path, path.name)
    except DataError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def lists_of_splits(base: Path) -> dict[str, list[str]]:
    """train.txt, val.txt, test.txt in a folder without data.yaml, where their first line names a picture."""
    splits: dict[str, list[str]] = {}
    for path in sorted(base.glob("*.txt")):
        split = split_of_file(path.stem)
        if split and path.is_file() and is_image(text_of(path, path.name).lstrip().partition("\n")[0].strip()):
            splits.setdefault(split, []).append(path.name)
    return splits


def read_names(base: Path, labels: Iterable[Path]) -> Layout:
    """The classes of a data set without data.yaml: of classes.txt and the like in `base`, in its folders labels, images
    and data, or beside label files; without names where there is none.

    Raises:
        DataError: two of them disagree, as labelImg's do that were written folder by folder.
        UsageError: one of them has a name twice.
    """
    found: dict[Path, dict[int, str]] = {}
    for folder in dict.fromkeys(
        (base, base / "labels", base / "images", base / "data", *sorted({p.parent for p in labels}))
    ):
        paths = (folder / name for name in _CLASSES)
        path = next((p for p in paths if p.is_file() and p.stat().st_size and not looks_like_rows(p)), None)
        if path is not None:
            found[path] = _names(path)
    if not found:
        return Layout("classes.txt", {})
    first, *others = [path for path in found if path.name != _MENU] or found
    differs = next((path for path in others if found[path] != found[first]), None)
    if differs is not None:
        raise DataError(
            f"{relative(first, base)} and {relative(differs, base)} name the classes differently; make them agree, or "
            f"remove the one that is wrong"
        )
    return Layout(relative(first, base), found[first], lines=True)


def _names(path: Path) -> dict[int, str]:
    """Class names, one a line; ids count lines, blank ones too, as labelImg and darknet count them."""
    lines = [line.strip() for line in lines_of(path, path.name)]
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) > MAX_CLASSES:
        raise DataError(f"{path.name}: {len(lines)} lines, at most {MAX_CLASSES} classes are read")
    names = {number: line for number, line in enumerate(lines) if line}
    refuse_repeats(names.values(), path.name)
    return names
