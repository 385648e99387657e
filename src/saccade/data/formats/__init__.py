"""Recognise how a data set is laid out, and read it: `read(path) -> DataSet`.

Each format is a module with `looks_like(root) -> bool` (cheap: names, and at most the head of a file) and
`read(root, task) -> DataSet`; both take a folder or the file that describes the set (data.yaml, a .json, a .csv).
"""

from __future__ import annotations

import heapq
import importlib
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Protocol, cast

from saccade.data.dataset import DataSet, count_labels
from saccade.data.formats.archives import archive_in, describe_archive
from saccade.data.formats.exports import describe_export, describe_file, describe_layout, describe_run
from saccade.data.formats.listing import is_foreign, is_image, list_folders, list_images, relative
from saccade.data.formats.splits import split_of_folder
from saccade.data.identities import take_identities
from saccade.data.main_object import keep_main_objects
from saccade.data.object_pictures import take_objects
from saccade.data.picture_kinds import SUFFIXES
from saccade.errors import DataError, UsageError, suggest
from saccade.machine.paths import not_there
from saccade.tasks.table import TASKS, find_task

FORMATS: dict[str, str] = {  # in the order of recognition: what is most particular comes first
    "coco": "saccade.data.formats.coco",
    "lsp": "saccade.data.formats.lsp",
    "mpii": "saccade.data.formats.mpii",
    "labelme": "saccade.data.formats.labelme",
    "via": "saccade.data.formats.via",
    "label_studio": "saccade.data.formats.label_studio",
    "cvat": "saccade.data.formats.cvat",
    "kitti": "saccade.data.formats.kitti",
    "voc": "saccade.data.formats.voc",
    "masks": "saccade.data.formats.masks",
    "yolo": "saccade.data.formats.yolo",
    "boxes_csv": "saccade.data.formats.boxes_csv",
    "runs_csv": "saccade.data.formats.runs_csv",
    "tags_csv": "saccade.data.formats.tags_csv",
    "folder": "saccade.data.formats.folder",
}

_DESCRIBING = (".json", ".csv", ".mat", ".xml")  # files that describe a whole set, one of them alone
_MOST = 20  # files of each suffix that are looked at: more of them are labels of single pictures
_PARTS = frozenset(
    {"annotations", "images", "imagesets", "img", "imgs", "jpegimages", "labels", "masks", "pictures", "photos",
     "segmentationclass", "segmentationobject"}
)  # fmt: skip
"""Names of folders (lower case) that are parts of a data set."""
_SWAPPED = (
    100  # characters of the longest class name in which swapped letters are looked for: work grows with its square
)

_WANTED = {  # what each format needs to see, for the message when none fits
    "coco": "a .json file with images, annotations and categories (in the folder or in annotations/)",
    "lsp": "joints.mat of Leeds Sports Pose beside its pictures",
    "mpii": "a .json file that lists people with image, joints and joints_vis",
    "kitti": "image_2/ beside label_2/ with .txt files, and calib/",
    "yolo": "data.yaml, or images/ beside labels/ with .txt files",
    "voc": "JPEGImages/ or images/ beside Annotations/ with .xml files",
    "masks": "images/ beside masks/ or labels/ with .png files, or train/ beside trainannot/",
    "labelme": "labelme's .json files beside the pictures",
    "via": "a .json file of the VGG Image Annotator",
    "label_studio": "a .json export of Label Studio, with the pictures below the same folder",
    "cvat": "annotations.xml of CVAT for images",
    "boxes_csv": "a .csv file with columns of image names and of boxes (xmin, ymin, xmax, ymax, ...)",
    "runs_csv": "a .csv file with columns of image names and of run lengths (EncodedPixels)",
    "tags_csv": "a .csv file with a column of image names and columns of labels",
    "folder": "a folder per class, with or without train/, val/, test/ above",
}


class Format(Protocol):
    """What a module of this folder offers."""

    def looks_like(self, root: Path) -> bool: ...

    def read(self, root: Path, task: str | None) -> DataSet: ...


def recognise(path: str | Path, task: str | None = None) -> str:
    """The name of the format (a key of `FORMATS`) of the folder or file at `path`.

    Where a folder serves two formats (VOC photos with boxes and with class maps), `task` "segment" prefers the masks.

    Raises:
        DataError: nothing there, no image, or no format fits; says what was seen and what was looked for. Folders of
            classes in which a labelling tool has left its files: which of both is meant is not guessed.
    """
    root = _place(place_of(path))
    if run := describe_run(root):
        raise DataError(f"{root}: {run}")
    maps_asked = task is not None and find_task(task).semantic
    order = sorted(FORMATS, key=lambda name: name != "masks") if maps_asked else list(FORMATS)
    for name in order:
        if _module(name).looks_like(root):
            break
    else:
        raise DataError(_unknown(root))
    if name == "folder" and (export := describe_export(root)):
        raise DataError(f"{root}: {export}. To take the folders for classes, write folder:{root}")
    return name


def read(path: str | Path, task: str | None = None) -> DataSet:
    """Read the data set at `path`, a folder or the file that describes it; "format:path" skips the recognition.

    Args:
        path: "photos", "photos/data.yaml", "folder:photos", ...
        task: what the labels are wanted for (see `tasks/table.py`); it decides where a set can be read in two ways, as
            masks of ids can (instances or a class map). "classify" and "embed" of boxes make every object a picture of
            its own (`data/object_pictures.py`).

    Raises:
        UsageError: unknown format or task, or a task that these labels do not serve.
        DataError: nothing there, no image, no label, or a fault of structure; names the file and what was looked for.
    """
    asked = None if task is None else find_task(task)
    root = _place(place_of(path))
    stated = format_and_place(path)[0]
    name = recognise(root, task) if stated is None else stated
    others = _others(root, name) if root.is_dir() and stated is None else ""
    try:
        dataset = _module(name).read(root, task)
    except DataError as error:
        hint = others or ("" if stated is not None else _above(root))
        if not hint:
            raise
        raise DataError(f"{error}; {hint}") from error
    dataset.ledger.warnings += [others] if others else []
    dataset.records.sort(key=lambda record: record.id)
    if asked is not None and asked.one_object and asked.name in TASKS[dataset.task].also:
        keep_main_objects(dataset)
    if asked is not None and asked.label and asked.whole_image and TASKS[dataset.task].many_objects:
        take_objects(dataset)
    if asked is not None and asked.embedding and asked.name in dataset.serves:
        take_identities(dataset)
    _check(dataset)
    if asked is not None and asked.name not in dataset.serves:
        serves = ", ".join(dataset.serves)
        raise UsageError(
            f"{root}: task {task!r} needs {asked.needs}; the labels ({name}) serve: {serves}"
            + (f"; {others}" if others else "")
        )
    return dataset


def _others(root: Path, name: str) -> str:
    """What else a folder that is read as `name` holds, by the files that describe a set in it or one folder down, and
    how to read that; "" where nothing is. Kinds of labels that are a file a picture are not looked for."""
    own: list[Path] = []
    found: dict[str, Path] = {}
    for paths in _describing(root).values():
        for path in filter(Path.is_file, heapq.nsmallest(_MOST, paths)):
            kinds = [key for key in FORMATS if key != "folder" and _module(key).looks_like(path)]
            if name in kinds:
                own.append(path)
            elif kinds:
                found.setdefault(kinds[0], path)
    if not found:
        return ""
    chosen = f"{name} ({relative(own[0], root)})" if own else name
    listed = ", ".join(f"{other} ({relative(path, root)})" for other, path in found.items())
    return (
        f"the folder is read as {chosen}, and holds {listed} too: give that file, or write "
        f"{' or '.join(f'{other}:{root}' for other in found)}, to read it instead"
    )


def _describing(root: Path) -> dict[str, list[Path]]:
    """By suffix the files in a folder and one down that may describe a whole set."""
    found: dict[str, list[Path]] = {suffix: [] for suffix in _DESCRIBING}
    for folder in (root, *list_folders(root)):
        for entry in os.scandir(folder):
            suffix = os.path.splitext(entry.name)[1]
            if suffix in found and not is_foreign(entry.name):
                found[suffix].append(folder / entry.name)
    return found


def _module(name: str) -> Format:
    return cast(Format, importlib.import_module(FORMATS[name]))


def format_and_place(path: str | Path) -> tuple[str | None, Path]:
    """The format that "format:path" states, and the folder or file; None of a path alone, and of a `Path` that is
    there, whatever its name."""
    prefix, colon, rest = str(path).partition(":")
    if colon and prefix in FORMATS and not (isinstance(path, Path) and path.exists()):
        return prefix, Path(rest)
    return None, Path(path)


def place_of(path: str | Path) -> Path:
    """Where the data set `path`, "path" or "format:path", lies, of which nothing is read.

    Raises:
        UsageError: the word of a format that there is not.
        DataError: nothing there.
    """
    name, place = format_and_place(path)
    prefix, colon, _ = str(path).partition(":")
    word = colon and len(prefix) > 1 and prefix.replace("_", "").isalnum()
    if name is None and word and not place.exists():
        raise UsageError(f"unknown format {prefix!r} in {str(path)!r}: {suggest(prefix, FORMATS)}")
    if not place.exists():
        raise DataError(not_there(place, "file or folder"))
    return place


def _place(path: str | Path) -> Path:
    """The folder or file at `path`; where its last folder has no name of its own (`.`, `x/..`, `data.yaml` in `.`), as
    an absolute path, so that a set reads and is called the same from inside and from outside."""
    root = Path(path)
    if root.is_file() and (archive := describe_archive(root)):
        raise DataError(f"{root}: {archive}")
    folder = root if root.is_dir() else root.parent
    return root.resolve() if not folder.name or ".." in root.parts else root


def _above(root: Path) -> str:
    """Where a folder is called as a part of a data set is: which one it seems to be of; else ""."""
    if not root.is_dir() or not (root.name.lower() in _PARTS or split_of_folder(root.name)):
        return ""
    parent = _place(f"{root}/..") if root.parent == Path() else root.parent
    name = next((name for name in FORMATS if name != "folder" and _module(name).looks_like(parent)), None)
    return "" if name is None else f"it seems to be a part of {parent}, which is a data set ({name}): give that folder"


def _unknown(root: Path) -> str:
    wanted = "".join(f"\n  {name}: {what}" for name, what in _WANTED.items())
    if root.is_file():
        if known := describe_file(root):
            return f"{root}: {known}"
        if is_image(root.name):
            return f"{root}: a picture by itself; a data set is the folder of the pictures and their labels"
        return f"{root}: this file describes no data set that is known; give the folder, or one of:{wanted}"
    if whole := _above(root):
        return f"{root}: {whole}"
    images = len(list_images(root))
    if not images:
        if known := archive_in(root) or describe_layout(root):
            return f"{root}: no picture in this folder or below; {known}"
        return f"{root}: no picture in this folder or below (looked for {' '.join(SUFFIXES)})"
    sets = [f for f in list_folders(root) if any(_module(name).looks_like(f) for name in FORMATS if name != "folder")]
    if sets:
        return f"{root}: several data sets lie here; name one: {', '.join(str(s) for s in sets[:10])}"
    if known := describe_layout(root) or archive_in(root):
        return f"{root}: {known}"
    files = [p.name for p in sorted(root.iterdir()) if p.suffix.lower() in (".csv", ".json", ".xml", ".yaml", ".yml")]
    found = ", ".join([f"{f.name}/" for f in list_folders(root)[:10]] + files[:10]) or "no folders"
    folders = sum(bool(list_images(folder)) for folder in list_folders(root)[:10])
    hint = f"\nIf its folders are the classes, write folder:{root}" if folders > 1 else ""
    return f"{root}: 0 of {images} pictures have a label; found {found}; looked in {root} for:{wanted}{hint}"


def _check(dataset: DataSet) -> None:
    """What holds for every format: there are images and labels, ids are unique, names of classes are told apart."""
    root, ledger = dataset.root, dataset.ledger
    if not dataset.records:
        reasons = "".join(f"\n  {entry.where}: {entry.what}" for entry in ledger.refused[:5])
        what = f"all {ledger.images_refused} pictures were refused" if ledger.images_refused else "no picture"
        labels = f", {ledger.labels_refused} labels were refused" if ledger.labels_refused else ""
        raise DataError(f"{root}: {what}{labels}{reasons}")
    for name, count in Counter(record.id for record in dataset.records).items():
        if count > 1:
            raise DataError(f"{root}: {count} records have the id {name!r}; a picture may be listed once")
    ledger.images_used = len(dataset.records)
    ledger.labels_used = sum(map(count_labels, dataset.records))
    if not ledger.labels_used:
        reasons = "".join(f"\n  {entry.where}: {entry.what}" for entry in ledger.refused[:5])
        raise DataError(
            f"{root}: 0 of {len(dataset.records)} pictures have a label; read as {dataset.format}, looked in {root}: "
            f"{_WANTED[dataset.format]}; {ledger.labels_refused} labels were refused{reasons}"
        )
    ledger.warnings.extend(_near_equal(dataset))


def _near_equal(dataset: DataSet) -> list[str]:
    """A warning for each pair of class names that differ in case, blanks, '-' and '_' or Unicode form only, or by a
    swap of two neighbouring letters, with the number of labels of each."""
    counts: Counter[int] = Counter()
    for record in dataset.records:
        counts.update(record.labels())
    warnings = []
    plain = ["".join(unicodedata.normalize("NFKC", n).casefold().replace("-", " ").replace("_", " ").split())
             for n in dataset.classes]  # fmt: skip
    seen: dict[str, int] = {}
    for i, key in enumerate(plain):
        near = len(key) if 3 < len(key) <= _SWAPPED else 0
        swaps = (key[:k] + key[k + 1] + key[k] + key[k + 2 :] for k in range(near - 1))
        other = next((seen[k] for k in (key, *swaps) if k in seen), None)
        if other is not None:
            a, b = (f"{dataset.classes[k][:_SWAPPED]!r} ({counts[k]} labels)" for k in (other, i))
            warnings.append(f"classes {a} and {b} are kept apart; give them one name if they are one class")
        seen.setdefault(key, i)
    return warnings
