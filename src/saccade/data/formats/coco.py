"""COCO: one JSON file with images, categories and annotations (Lin et al. 2014; "data format" on the COCO site).

A box is x y width height from 0 at the upper left corner. Category and image ids are any numbers or texts: classes are
the categories in order of id, the ids stay in `DataSet.category_ids` and `Record.source_id` and return in result files.
Segments are polygons, or run lengths (`data/rle.py`); `iscrowd` (and the old `ignore`) mark what no score counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import finish
from saccade.data.formats.coco_joints import joint_names, read_joints
from saccade.data.formats.coco_json import Id, Labels, check_id, is_coco, read_labels
from saccade.data.formats.coco_objects import (
    judge_fractions,
    read_object,
    settle_crowds,
    warn_of_corners,
    warn_of_outlines,
    warn_of_repeats,
)
from saccade.data.formats.folder import PICTURES
from saccade.data.formats.listing import files_with, list_images, measure, relative
from saccade.data.formats.splits import SPLITS, split_of_file, split_of_folder
from saccade.errors import DataError, UsageError
from saccade.tasks.table import find_task

_OTHER_KINDS = ("captions", "panoptic", "stuff", "image_info", "predictions", "results")
_BESIDE = frozenset({"masks", "mask", "labels", "label", "gt", "segmentation", "thumbnails", "thumbnail", "thumbs",
                     "previews", "preview"})  # fmt: skip
"""Folders (lower case) of files that have the names of the pictures and are not the pictures."""

Places = dict[Id, list[Path]]
"""The image files that an entry of "images" may mean: one where it is found, several where that is open."""


def looks_like(root: Path) -> bool:
    """True for a COCO .json file, or a folder that holds one at most two folders down."""
    if root.is_file():
        return root.suffix.lower() == ".json" and is_coco(root)
    return bool(_candidates(root))


def read(root: Path, task: str | None = None) -> DataSet:
    """Read COCO labels: a .json file, or a folder with `annotations/*.json` or `train/_annotations.coco.json`.

    Splits come from the names of the files, else of their folders. Images are looked for below the folder of the data
    set, never outside. Where instances and person_keypoints are both there, the task decides.

    Raises:
        DataError: damaged JSON (with line and byte), ids that are not unique or unknown, a file name that leads out of
            the data set, coordinates that are fractions, or nothing usable.
        UsageError: two categories of one name.
    """
    base, paths = _label_files(root, task)
    ledger = Ledger()
    files = [read_labels(path, relative(path, base), split) for path, split in paths.items()]
    _drop_groups(files, ledger)
    classes, ids = _classes(files, ledger)
    pictures = list_images(base)
    located = _locate(base, files, pictures, ledger)
    if root.is_file() and not any(located):
        ledger.warnings.append(f"none of the images is below {base}: labels alone, good for scoring results only")
        located, sizes = _labels_alone(base, files)
    else:
        sizes = measure(base, sorted({p for table in located for paths in table.values() for p in paths}), ledger)
    records: list[Record] = []
    labels_of = {name: label for label, name in enumerate(classes)}
    for labels, table in zip(files, located, strict=True):
        names = {i: labels_of[c["name"]] for i, c in labels.categories.items() if c["name"] in labels_of}
        records += _records(labels, table, sizes, names, base, ledger)
        warn_of_corners(labels, ledger)
    _refuse_shared_images(records)
    settle_crowds(records, ledger)
    warn_of_outlines(records, ledger)
    dataset = DataSet(base, "coco", "detect", classes, sorted(records, key=lambda r: r.id), ledger)
    dataset.category_ids = list(ids)
    read_joints(dataset, [category for labels in files for category in labels.categories.values()])
    unnamed = len(set(pictures) - {p for table in located for paths in table.values() for p in paths})
    if unnamed:
        ledger.warnings.append(f"{unnamed} images below {base.name} are in no label file and are left out")
    return finish(dataset, task)


def _candidates(root: Path) -> list[Path]:
    paths = files_with(root, ".json", depth=3)
    return [p for p in paths if not any(kind in p.name.lower() for kind in _OTHER_KINDS) and is_coco(p)]


def _label_files(root: Path, task: str | None) -> tuple[Path, dict[Path, str | None]]:
    """The folder of the data set, and its label files, train first, with the split of each."""
    if root.is_file():
        base = root.parent.parent if root.parent.name.lower() == "annotations" else root.parent
        return base, _splits([root], base)
    wanted = "person_keypoints" if task is not None and find_task(task).keypoints else "instances"
    groups: dict[str | None, list[Path]] = defaultdict(list)
    for path, split in _splits(_candidates(root), root).items():
        groups[split].append(path)
    chosen: dict[Path, str | None] = {}
    for split in sorted(groups, key=lambda s: {"train": 0, "val": 1, "test": 2}.get(s or "", 3)):
        paths = groups[split]
        preferred = [p for p in paths if p.name.lower().startswith(wanted)] or paths
        if len(preferred) > 1:
            names = ", ".join(relative(p, root) for p in preferred[:6])
            raise DataError(
                f"{root}: {len(preferred)} COCO files for one split: {names}; give the path of one of them, or call "
                "them train.json, val.json, test.json"
            )
        chosen[preferred[0]] = split
    if not chosen:
        raise DataError(f"{root}: no COCO label file (*.json with images, annotations, categories)")
    return root, chosen


def _splits(paths: list[Path], base: Path) -> dict[Path, str | None]:
    """The split of each label file: by its name, a folder above it, or the one word in which the names differ
    (`lvis_v1_train.json` beside `lvis_v1_val.json`; alone such a name says nothing)."""
    found: dict[Path, str | None] = {}
    for path in paths:
        folders = reversed(path.relative_to(base).parts[:-1])
        found[path] = split_of_file(path.stem) or next(filter(None, map(split_of_folder, folders)), None)
    unnamed = [path for path, split in found.items() if split is None]
    words = list(zip(*(re.split(r"[^a-z]+", path.stem.lower()) for path in unnamed), strict=False))
    different = [column for column in words if len(set(column)) > 1]
    if len(different) == 1 and len(set(different[0])) == len(unnamed) and set(different[0]) <= SPLITS.keys():
        found |= {path: SPLITS[word] for path, word in zip(unnamed, different[0], strict=True)}
    return found


def _drop_groups(files: list[Labels], ledger: Ledger) -> None:
    """Leave out a category that no annotation uses and that all others name as their group: Roboflow writes one."""
    groups = []
    for labels in files:
        used = {key for a in labels.annotations if isinstance(key := a.get("category_id"), int | str)}
        above = {i: str(c.get("supercategory")).strip() for i, c in labels.categories.items()}
        named = set(above.values())
        names = {i: c["name"] for i, c in labels.categories.items() if i not in used}
        tops = [i for i, name in names.items() if name in named and name != above[i]]
        if len(tops) != 1 or any(above[i] != names[tops[0]] for i in above if i != tops[0]):
            return
        groups.append(tops[0])
    for labels, key in zip(files, groups, strict=True):
        name = labels.categories.pop(key)["name"]
        ledger.warnings.append(f"{labels.place}: category {key} {name!r} is the group of all others and is left out")


def _classes(files: list[Labels], ledger: Ledger) -> tuple[list[str], list[Id]]:
    """Names and ids of the classes, in order of id, as the first file says; the others may not add any.

    Raises:
        DataError: a category that the first file does not have.
        UsageError: two of one name.
    """
    for labels in files:
        seen: dict[str, Id] = {}
        for key, category in labels.categories.items():
            name = category["name"]
            if name in seen:
                raise UsageError(f"{labels.place}: categories {seen[name]} and {key} have the same name {name!r}")
            seen[name] = key
    first = files[0]
    ids = sorted(first.categories, key=lambda i: (isinstance(i, str), i))
    of_name = {first.categories[i]["name"]: i for i in ids}
    for other in files[1:]:
        names = {c["name"]: i for i, c in other.categories.items()}
        extra = min(names.keys() - of_name.keys(), default=None)
        if extra is not None:
            raise DataError(f"{other.place}: category {extra!r} is not in {first.place}; both must have the same names")
        if any(of_name[name] != key for name, key in names.items()):
            ledger.warnings.append(f"{other.place} gives categories other ids than {first.place}; names are matched")
    return list(of_name), ids


def _locate(base: Path, files: list[Labels], pictures: list[Path], ledger: Ledger) -> list[Places]:
    """The image files of each label file, among the `pictures` below `base`.

    A picture is the one whose path ends as the path stated. Only where none of a file's paths fits so, the first
    folders of all of them are taken for a place elsewhere (`/content/data/...`) and left away, with a warning.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in pictures:
        by_name[unicodedata.normalize("NFC", path.name)].append(path)
    tables = []
    for labels in files:
        stated = {key: PurePosixPath(_plain(image["file_name"])).parts for key, image in labels.images.items()}
        table: Places = {}
        for away in range(max(map(len, stated.values()))):
            ends = {key: parts[min(away, len(parts) - 1) :] for key, parts in stated.items()}
            common = Counter(ends.values()) if away else Counter()
            for key, end in ends.items():
                fitting = [p for p in by_name.get(end[-1], []) if common[end] <= 1 and _ends(p, base, end)]
                if fitting:
                    table[key] = _preferred(fitting, len(end), labels, base)
            if table:
                break
        if table and away:
            name, path = labels.images[next(iter(table))]["file_name"], next(iter(table.values()))[0]
            ledger.warnings.append(
                f"{labels.place}: no image lies where file_name says; {len(table)} are found without the first {away} "
                f"folders of their paths, such as {relative(path, base)} for {name}"
            )
        tables.append(table)
    return tables


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _ends(path: Path, base: Path, end: tuple[str, ...]) -> bool:
    return len(end) == 1 or tuple(map(_plain, path.relative_to(base).parts[-len(end) :])) == end


def _preferred(paths: list[Path], length: int, labels: Labels, base: Path) -> list[Path]:
    """Those of several fitting files that lie where images of these labels usually do; one, if that settles it.

    Args:
        length: how many parts at the end of the path the label file states.
    """
    above = {path: path.relative_to(base).parts[:-length] for path in paths}
    places: list[Callable[[Path], bool]] = [
        lambda p: p.parents[length - 1] == labels.path.parent,
        lambda p: not above[p],
        lambda p: labels.split is not None and labels.split in map(split_of_folder, above[p]),
        lambda p: len(above[p]) == 1 and above[p][0].lower() in PICTURES,
        lambda p: above[p][-1].lower() in PICTURES,
        lambda p: not _BESIDE & {folder.lower() for folder in above[p]},
    ]
    for usual in places:
        if len(paths) == 1:
            break
        paths = [p for p in paths if usual(p)] or paths
    return paths


def _labels_alone(base: Path, files: list[Labels]) -> tuple[list[Places], dict[Path, tuple[int, int]]]:
    """Paths and sizes as the labels state them, for images that are not there; those without a size are left out."""
    located: list[Places] = []
    sizes = {}
    for labels in files:
        located.append({})
        for key, image in labels.images.items():
            height, width = image.get("height"), image.get("width")
            if type(height) is int and type(width) is int and height > 0 and width > 0:
                located[-1][key] = [base / image["file_name"]]
                sizes[base / image["file_name"]] = height, width
    return located, sizes


def _records(
    labels: Labels,
    table: Places,
    sizes: dict[Path, tuple[int, int]],
    names: dict[Id, int],
    base: Path,
    ledger: Ledger,
) -> list[Record]:
    by_image: dict[Id, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for number, annotation in enumerate(labels.annotations):
        where = f"{labels.place}: annotation {annotation.get('id', f'number {number}')}"
        key = check_id(annotation.get("image_id"), f"{where}: image_id")
        if key not in labels.images:
            ledger.refuse_label(where, f"image {key} is not among the images")
        else:
            by_image[key].append((where, annotation))
    judge_fractions(labels, ledger)
    records = []
    for key, image in labels.images.items():
        paths = table.get(key, [])
        why = _unusable(image, paths, sizes, base)
        if why is not None:
            if len(paths) != 1 or paths[0] in sizes:  # else `measure` has refused it
                ledger.refuse_image(f"{labels.place}: image {key}", why)
            for where, _ in by_image[key]:
                ledger.refuse_label(where, f"image {key} cannot be used")
            continue
        things: list[Thing] = []
        record = Record(relative(paths[0], base), sizes[paths[0]], labels.split, things=things, source_id=key)
        for where, annotation in by_image[key]:
            category = check_id(annotation.get("category_id"), f"{where}: category_id")
            if category not in names:
                raise DataError(f"{where}: category {category} is not among the categories of {labels.place}")
            joints = joint_names(labels.categories[category])
            thing = read_object(annotation, where, record.size, names[category], joints, ledger)
            if thing is not None:
                things.append(thing)
        warn_of_repeats(record, ledger)
        records.append(record)
    return records


def _unusable(image: dict[str, Any], paths: list[Path], sizes: dict[Path, tuple[int, int]], base: Path) -> str | None:
    """Why an entry of "images" cannot be used; None where it can."""
    if not paths:
        return f"no image file {image['file_name']!r} below the data set"
    if len(paths) > 1:
        names = ", ".join(relative(p, base) for p in paths[:4])
        return f"{len(paths)} image files may be {image['file_name']!r}: {names}; state the folder in file_name"
    if paths[0] not in sizes:
        return "cannot be opened"
    height, width = image.get("height"), image.get("width")
    stated = type(height) is int and type(width) is int and 0 < height < 1 << 31 and 0 < width < 1 << 31
    if not stated or (height, width) == sizes[paths[0]]:
        return None
    turned = "; is the image turned by its EXIF orientation?" if (width, height) == sizes[paths[0]] else ""
    file = f"{sizes[paths[0]][1]} x {sizes[paths[0]][0]}"
    return f"is {width} x {height} (width x height) here, the file {file}{turned}"


def _refuse_shared_images(records: list[Record]) -> None:
    seen: dict[str, Record] = {}
    for record in records:
        other = seen.setdefault(record.id, record)
        if other is not record:
            raise DataError(
                f"{record.id}: named by image {other.source_id} of {other.split or 'the labels'} and by image "
                f"{record.source_id} of {record.split or 'the labels'}; an image may be in one place only"
            )
