"""Class folders: `cats/1.jpg`, or `train/cats/1.jpg` and `val/cats/2.jpg`; deeper folders belong to the class above.

A class is known by the name of its folder. With splits the classes are those of train; a class that val or test
lacks is fine, one that only they have is an error, unless the classes are identities. Folders around all of it
(`archive/pets/cats`) and doubled ones (`training_set/training_set/cats`) are passed through.

A folder that is named as a split and holds pictures itself is no class. Only a `train` beside two or more others is
one, if no other split is there: the vehicle.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from saccade.data.dataset import DataSet, Ledger, Record
from saccade.data.formats.listing import is_image, list_files, list_folders, list_images, measure, relative
from saccade.data.formats.splits import split_of_folder
from saccade.data.formats.table import list_tables
from saccade.errors import DataError
from saccade.tasks.table import TASKS

PICTURES = frozenset(
    {"image", "images", "img", "imgs", "image_2", "jpegimages", "pngimages", "pictures", "photos", "frames"}
)
"""Names of folders (lower case) that hold the pictures of another layout; never a class."""

_DOCUMENTS = frozenset({".pdf", ".ps", ".eps", ".ai", ".svg"})  # lie beside pictures without being meant as some
_AROUND = 8  # folders that may lie around the data set or around the classes of a split
_LABELS = frozenset({"masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "gtfine",
                     "gtcoarse", "leftimg8bit", "rightimg8bit", "disparity"})  # fmt: skip


def looks_like(root: Path) -> bool:
    """True where some folder below `root` (or below its train/, val/, test/) holds pictures and none is named as
    the picture or label folder of another format."""
    if not root.is_dir():
        return False
    classes = [folder for folders in _class_folders(root).values() for folder in folders]
    names = {folder.name.lower() for folder in classes}
    words = {word for name in names for word in re.split(r"[^a-z]+", name)}
    paired = words & PICTURES and words & _LABELS  # images_png/ beside masks_png/
    return not names & (PICTURES | _LABELS) and not paired and any(list_images(folder) for folder in classes)


def is_numbered(root: Path) -> bool:
    """True where the class folders would differ by a number only, as `images_001/` and `images_002/`: parts of one set
    rather than classes, if something else says the classes."""
    names = [folder.name for folders in _class_folders(root).values() for folder in folders]
    return len(names) > 1 and len({re.sub(r"\d+", "", name) for name in names} - {""}) == 1


def read(root: Path, task: str | None) -> DataSet:
    """Read class folders; the task is "classify". Asked "to embed", val and test may hold classes that train has not.

    Raises:
        DataError: a class folder is empty in every split, val or test has a class that train has not, or the folders
            are splits without folders of classes.
    """
    ledger = Ledger()
    given = _class_folders(root)
    flat = flat_splits(root)
    if flat and not any(given.values()):
        raise DataError(
            f"{root}: {', '.join(f'{relative(f, root)}/' for f in flat[:6])} hold pictures and no folders of classes; "
            "folders of these names are splits, never classes. Put a folder for each class into each of them"
        )
    pictures = _pictures(given)
    sizes = measure(root, pictures, ledger)
    strangers = task is not None and TASKS[task].embedding
    classes = _classes(root, given, Counter(pictures[path] for path in sizes), ledger, strangers)
    number = {name: i for i, name in enumerate(classes)}
    records = [
        Record(relative(path, root), size, split=pictures[path][0], label=number[pictures[path][1]])
        for path, size in sizes.items()
    ]
    if None in given and any(split_of_folder(name) for name in classes):
        ledger.warnings.append("train/ is read as a class, as it lies beside folders of other classes")
    for path in list_tables(root):
        ledger.warnings.append(f"{path.name} is left aside: the folders are the classes")
    _refuse_the_rest(root, pictures, ledger)
    _warn_of_two_classes(root, {path: pictures[path][1] for path in sizes}, ledger)
    return DataSet(root, "folder", "classify", classes, records, ledger)


def flat_splits(root: Path) -> list[Path]:
    """Folders that are splits by name and hold pictures, but no folders of classes."""
    folders = [folder for folder in list_folders(_within(root)) if split_of_folder(folder.name)]
    return [folder for folder in folders if not _classes_of_split(folder) and list_images(folder)]


def _class_folders(root: Path) -> dict[str | None, list[Path]]:
    """Folders of classes for each split; the split is None where the classes lie in `root` itself."""
    found: dict[str | None, list[Path]] = defaultdict(list)
    folders = list_folders(_within(root))
    for folder in folders:
        if split := split_of_folder(folder.name):
            found[split] += _classes_of_split(folder)
    if any(found.values()):
        return dict(found)
    splits = [folder for folder in folders if split_of_folder(folder.name) and list_images(folder)]
    others = [folder for folder in folders if not split_of_folder(folder.name)]
    if not splits:
        return {None: folders}
    if len(splits) > 1 or sum(bool(list_images(folder)) for folder in others) < 2:
        return {None: []}
    return {None: [f for f in folders if not split_of_folder(f.name) or f.name.lower() == "train"]}


def _within(root: Path) -> Path:
    """`root`, or the folder below it that holds all: as long as one folder is alone, down to the first that holds
    several folders, or splits."""
    inner = root
    for _ in range(_AROUND):
        below = list_folders(inner)
        if _holds_pictures(inner) or len(below) != 1 or split_of_folder(below[0].name):
            break
        inner = below[0]
    return root if _holds_pictures(inner) or not below else inner


def _classes_of_split(folder: Path) -> list[Path]:
    """Folders of classes below a split. Where its only folder is named as a split or as a place of pictures, they lie
    below that one."""
    below = list_folders(folder)
    for _ in range(_AROUND):
        if len(below) != 1 or not (split_of_folder(below[0].name) or below[0].name.lower() in PICTURES):
            break
        if _holds_pictures(below[0]):
            return [] if split_of_folder(below[0].name) else below
        below = list_folders(below[0])
    return below


def _holds_pictures(folder: Path) -> bool:
    """Whether pictures lie directly in `folder`."""
    return any(is_image(entry.name) for entry in os.scandir(folder))


def _pictures(given: dict[str | None, list[Path]]) -> dict[Path, tuple[str | None, str]]:
    """Split and class of each picture. One that links reach twice in a split counts once, at its real place if that
    is among them."""
    found: dict[tuple[str | None, str], tuple[Path, str]] = {}
    for split, folders in given.items():
        for folder in folders:
            for path in list_images(folder):
                place = _place(path)
                if (split, place) not in found or place == os.path.join(
                    os.path.realpath(folder.parent), *path.relative_to(folder.parent).parts
                ):
                    found[split, place] = (path, folder.name)
    return {path: (split, name) for (split, _), (path, name) in found.items()}


def _place(path: Path) -> str:
    """Where the file really lies, its folder's links followed."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _classes(
    root: Path,
    given: dict[str | None, list[Path]],
    counts: Counter[tuple[str | None, str]],
    ledger: Ledger,
    strangers: bool,
) -> list[str]:
    """Names of the classes by code point; warns of classes that a split lacks, refuses those that train lacks, unless
    `strangers` are wanted."""
    total: Counter[str] = Counter()
    for (_, name), count in counts.items():
        total[name] += count
    folders = {folder.name: folder for folders in given.values() for folder in folders}
    for name, folder in sorted(folders.items()):
        if not total[name]:
            if list_files(folder) and all(path.suffix.lower() in _DOCUMENTS for path in list_images(folder)):
                ledger.warnings.append(f"{relative(folder, root)}/ holds files but no picture: not taken for a class")
                continue
            raise DataError(
                f"{root}: class {name!r} has no readable picture in {relative(folder, root)}/ nor in any other split; "
                "add pictures or remove the folder"
            )
    base = "train" if "train" in given else None
    for split in given if not strangers else ():
        lacking = [name for name in sorted(total) if not counts[split, name]]
        if lacking and split == base:
            raise DataError(
                f"{root}: the pictures of {', '.join(map(repr, lacking))} lie in val or test only; train has "
                f"{', '.join(repr(n) for n in sorted(total) if counts[split, n])}; is a folder misspelt? "
                "(To embed, val may show others than train: --task embed.)"
            )
        if lacking:
            ledger.warnings.append(f"{split} has no picture of {', '.join(map(repr, lacking))}")
    if len(total) == 1:
        ledger.warnings.append(f"there is one class only, {next(iter(total))!r}: it takes two or more to learn from")
    return sorted(total)


def _refuse_the_rest(root: Path, known: Iterable[Path], ledger: Ledger) -> None:
    """Loose pictures beside the class folders have no class: counted and named."""
    places = {_place(path) for path in known}
    for path in list_images(root):
        if _place(path) not in places:
            ledger.refuse_image(relative(path, root), "not in a class folder")


def _warn_of_two_classes(root: Path, classes: dict[Path, str], ledger: Ledger) -> None:
    """Byte-identical pictures under different classes; only files of equal length are read."""
    by_length: dict[int, list[Path]] = defaultdict(list)
    for path in classes:
        by_length[path.stat().st_size].append(path)
    by_content: dict[bytes, list[Path]] = defaultdict(list)
    for paths in by_length.values():
        if len({classes[path] for path in paths}) > 1:
            for path in paths:
                by_content[hashlib.sha256(path.read_bytes()).digest()].append(path)
    twins = [paths for paths in by_content.values() if len({classes[path] for path in paths}) > 1]
    for paths in twins[:10]:
        ledger.warnings.append("one picture under several classes: " + " = ".join(relative(p, root) for p in paths))
    if len(twins) > 10:
        ledger.warnings.append(f"{len(twins) - 10} more pictures lie under several classes")
