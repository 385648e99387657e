"""YOLO: one text file an image, one object a row: class and fractions of the image's width and height.

A row is `class cx cy w h` (box), `class x1 y1 x2 y2 x3 y3 ...` (polygon, its box is the box around it), or where
data.yaml gives `kpt_shape` `class cx cy w h x y [visibility] ...`. Fractions become pixels of the upright image.
Names and splits come from data.yaml; without one from `classes.txt` and from folders called train, val, test.
An image without label file is background, unless data.yaml says `skip_if_label_file_missing: true`.

The label file of `images/train/a.jpg` is `labels/train/a.txt` beside the last folder called images, or beside
data.yaml; else `a.txt` beside the image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import drop_repeats, finish, split_of
from saccade.data.formats.listing import is_image, list_files, list_folders, list_images, measure, relative
from saccade.data.formats.yolo_rows import parse_row, ranges
from saccade.data.formats.yolo_yaml import NAMES, Layout, is_layout, read_layout
from saccade.errors import DataError, UsageError

_NOT_LABELS = {"classes.txt", "obj.names", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt"}


@dataclass(slots=True)
class _Found:
    """Where images and labels of a data set are."""

    root: Path  # all images are below it
    layout: Layout
    images: dict[Path, str | None]  # image -> split
    labels: dict[Path, Path]  # image -> its label file, where there is one
    looked_in: str  # for the message where no label is found


def looks_like(root: Path) -> bool:
    """True for a data.yaml, a folder with one (or one folder down), or a folder with images/ and labels/*.txt."""
    if root.is_file():
        return root.suffix.lower() in (".yaml", ".yml") and is_layout(root)
    return root.is_dir() and (_find_yaml(root, None) is not None or _has_labels(root))


def read(root: Path, task: str | None = None) -> DataSet:
    """Read a YOLO data set from its folder or its data.yaml.

    Where the folder holds several data sets over the same images (`object_detection/config.yaml`,
    `instance_segmentation/config.yaml`), the task decides, and boxes are taken without one.

    Raises:
        UsageError: data.yaml is wrong.
        DataError: no image, no label file, class ids that start at 1, or nothing usable.
    """
    ledger = Ledger()
    found = _find(root, task, ledger)
    sizes = measure(found.root, found.images, ledger)
    if not found.labels:
        raise DataError(f"{root}: 0 of {len(found.images)} images have a label file; looked in {found.looked_in}")
    ids = list(found.layout.names)
    seen: set[int] = set()
    records = []
    for image, split in found.images.items():
        name, label = relative(image, found.root), found.labels.get(image)
        if label is None and found.layout.only_labelled:
            if image in sizes:
                ledger.refuse_image(name, "no label file, and skip_if_label_file_missing is true")
            continue
        rows = [] if label is None else _rows(label, _show(label, root))
        if image not in sizes:
            for place, _ in rows:
                ledger.refuse_label(place, f"its image cannot be used: {name}")
            continue
        records.append(
            Record(name, sizes[image], split, things=_things(rows, sizes[image], found.layout, seen, ledger))
        )
    if not found.layout.names:
        ids = _names_from_ids(found.layout, records, seen)
    elif max(ids) + 1 in seen and 0 in ids and 0 not in seen:
        raise DataError(
            f"{root}: class {max(ids) + 1}, allowed {ranges(ids)}; no object has class 0: do your ids start at 1? "
            f"subtract 1 from every class, or number the names in data.yaml from 1"
        )
    dataset = DataSet(found.root, "yolo", "detect", list(found.layout.names.values()), records, ledger)
    dataset.category_ids = list(ids)
    _name_keypoints(dataset, found.layout)
    return finish(dataset, task)


def _find_yaml(root: Path, task: str | None) -> Path | None:
    """data.yaml of a folder, or of the folders in it the one for the task."""
    for name in NAMES:
        if (root / name).is_file() and is_layout(root / name):
            return root / name
    below = [child / n for child in list_folders(root) for n in NAMES if (child / n).is_file() and _has_labels(child)]
    below = [path for path in below if is_layout(path)]
    outlines = {path: "seg" in path.parent.name.lower() for path in below}
    below.sort(key=lambda p: (outlines[p] != (task == "instances"), str(p)))
    return below[0] if below else None


def _has_labels(root: Path) -> bool:
    """True where the folder `labels` in `root`, or in its folders train, val or test, holds label files."""
    folders = [root, *(child for child in list_folders(root) if split_of(child.name))]
    return any(_first_text(folder / "labels") for folder in folders)


def _first_text(folder: Path) -> bool:
    for _, folders, names in os.walk(folder):
        folders.sort()
        if any(n.endswith(".txt") and n.lower() not in _NOT_LABELS for n in names):
            return True
    return False


def _find(root: Path, task: str | None, ledger: Ledger) -> _Found:
    path = root if root.is_file() else _find_yaml(root, task)
    base = path.parent if path else root
    layout = read_layout(path) if path else Layout("classes.txt", _classes_txt(base))
    if layout.splits:
        images = _listed_images(base, layout, ledger)
    else:
        images = {
            p: _folder_split(p, base) for p in list_images(base / "images" if (base / "images").is_dir() else base)
        }
    if not images:
        raise DataError(f"{root}: no images; looked below {base}")
    folders = sorted({p.parent for p in images})
    top = base
    if not all(f.is_relative_to(base) for f in folders):
        inside = all(f.is_relative_to(base.parent) for f in folders)
        top = base.parent if inside else Path(os.path.commonpath([str(f) for f in folders]))
    labels, looked_in = _find_labels(images, base)
    used = set(labels.values())
    stray = [
        p for folder in {p.parent for p in used} for p in list_files(folder) if p.suffix == ".txt" and p not in used
    ]
    for label in sorted(p for p in stray if p.name.lower() not in _NOT_LABELS):
        for place, _ in _rows(label, _show(label, root)):
            ledger.refuse_label(place, "no image belongs to this label file")
    return _Found(top, layout, dict(sorted(images.items())), labels, looked_in)


def _listed_images(base: Path, layout: Layout, ledger: Ledger) -> dict[Path, str | None]:
    """Images of the splits that data.yaml names; the first split keeps an image that two name."""
    images: dict[Path, str | None] = {}
    for split, entries in layout.splits.items():
        shared = 0
        for entry in entries:
            place = _resolve(base, layout.path, entry)
            if place is None and split == "train":
                raise UsageError(f"{layout.place}: key 'train': {entry!r} is neither a folder nor a list file")
            if place is None:
                ledger.warnings.append(
                    f"{layout.place}: key '{split}': {entry!r} does not exist, the split is left out"
                )
                continue
            for image in _from_list(place, base, ledger) if place.is_file() else list_images(place):
                shared += image in images
                images.setdefault(image, split)
        if shared:
            ledger.warnings.append(f"{shared} images of '{split}' are in another split too, and stay there")
    return images


def _resolve(base: Path, start: str, entry: str) -> Path | None:
    """The folder or list of a split: as data.yaml says, or where exports leave it: beside or one above data.yaml."""
    stripped = entry
    while stripped.startswith("../"):
        stripped = stripped[3:]
    for place in (base / start / entry, base / entry, base / stripped, base.parent / entry):
        if place.exists():
            return Path(os.path.normpath(place))
    return None


def _from_list(place: Path, base: Path, ledger: Ledger) -> list[Path]:
    """Images named in a text file, one a row, relative to it or to data.yaml; all below the folder above data.yaml."""
    images = []
    for number, line in enumerate(_text(place, place.name).splitlines(), start=1):
        if not line.strip():
            continue
        where, found = f"{place.name}:{number}", None
        for start in (base, place.parent, base.parent):
            path = Path(os.path.normpath(start / line.strip()))
            if "\0" not in line and is_image(path.name) and path.is_relative_to(base.parent) and path.is_file():
                found = found or path
        if found is None:
            ledger.refuse_image(where, f"{line.strip()[:200]!r} is no image below {base.parent}")
        else:
            images.append(found)
    return images


def _folder_split(image: Path, base: Path) -> str | None:
    parts = image.relative_to(base).parts[:-1]
    return next((split for split in map(split_of, parts) if split), None)


def _find_labels(images: Iterable[Path], base: Path) -> tuple[dict[Path, Path], str]:
    labels: dict[Path, Path] = {}
    looked_in: dict[str, None] = {}
    for image in images:
        for place in _label_places(image, base):
            looked_in[str(place.parent)] = None
            if place.is_file() and place.name.lower() not in _NOT_LABELS:
                labels[image] = place
                break
    return labels, ", ".join(list(looked_in)[:4])


def _label_places(image: Path, base: Path) -> list[Path]:
    parts = image.parts[:-1]
    name = f"{image.stem}.txt"
    places = []
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        below = Path(*parts[last + 1 :], name)
        places = [base / "labels" / below, Path(*parts[:last], "labels") / below]
    return [*places, image.with_name(name)]


def _classes_txt(base: Path) -> dict[int, str]:
    for path in (base / "classes.txt", base / "labels" / "classes.txt", base / "obj.names"):
        if path.is_file():
            return dict(enumerate(line.strip() for line in _text(path, path.name).splitlines() if line.strip()))
    return {}


def _names_from_ids(layout: Layout, records: list[Record], seen: set[int]) -> list[int]:
    """Name the classes after their ids where nothing names them; labels become indices of these names."""
    ids = sorted(seen)
    layout.names = {i: str(i) for i in ids}
    for record in records:
        for thing in record.things or []:
            thing.label = ids.index(thing.label)
    return ids


def _text(path: Path, place: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 text at byte {error.start}") from None


def _show(path: Path, root: Path) -> str:
    start = root.parent if root.is_file() else root
    return relative(path, start) if path.is_relative_to(start) else path.name


def _rows(path: Path, place: str) -> list[tuple[str, str]]:
    lines = enumerate(_text(path, place).splitlines(), start=1)
    return [(f"{place} line {number}", line) for number, line in lines if line.strip()]


def _things(
    rows: list[tuple[str, str]], size: tuple[int, int], layout: Layout, seen: set[int], ledger: Ledger
) -> list[Thing]:
    things, places = [], []
    for place, line in rows:
        try:
            thing, repair = parse_row(line, size, layout, seen)
        except DataError as error:
            ledger.refuse_label(place, str(error))
            continue
        if repair:
            ledger.repair(place, repair)
        things.append(thing)
        places.append(place)
    return drop_repeats(things, places, ledger)


def _name_keypoints(dataset: DataSet, layout: Layout) -> None:
    if layout.keypoints is not None:
        dataset.keypoint_names = [str(i) for i in range(layout.keypoints[0])]
        dataset.flip_pairs = [(i, j) for i, j in enumerate(layout.flip or []) if i < j]
