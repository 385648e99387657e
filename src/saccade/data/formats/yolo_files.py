"""Where the pictures and label files of a YOLO data set are.

The label file of `images/train/a.jpg` is `labels/train/a.txt` (or `a.jpg.txt`) beside the last folder called images,
or beside data.yaml; else `a.txt` beside the picture. A .txt that belongs to a picture is its label file whatever it is
called; one that two pictures would share is refused with both.

A folder or picture that data.yaml or a list names is looked for where it is stated, and else at the longest end of the
stated path below the data set: `/content/ds/images/train` is `images/train` here.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from saccade.data.dataset import Ledger
from saccade.data.formats.listing import is_foreign, is_image, list_files, list_folders, list_images, relative
from saccade.data.formats.splits import split_of_folder
from saccade.data.formats.yolo_lists import (
    find_data_file,
    is_list,
    lines_of,
    lists_of_splits,
    looks_like_rows,
    read_data_file,
    read_names,
    text_of,
)
from saccade.data.formats.yolo_yaml import NAMES, Layout, is_layout, read_layout
from saccade.errors import DataError, UsageError
from saccade.tasks.table import find_task

_YAML = (".yaml", ".yml")
_DEPTH = 3  # folders below the root in which labels beside the pictures are looked for
_LISTS = (".txt", ".list", ".lst")
_LONGEST, _DEEPEST = 4096, 20  # characters and folders of a path that is looked for


@dataclass(slots=True)
class Found:
    """Where images and labels of a data set are."""

    root: Path  # all images are below it
    layout: Layout
    images: dict[Path, str | None]  # image -> split
    labels: dict[Path, Path]  # image -> its label file, where there is one
    looked_in: str  # for the message where no label is found


def is_described(root: Path) -> bool:
    """True for a data.yaml or obj.data, and for a folder with one, with labels/*.txt, or with rows beside pictures."""
    if root.is_file():
        return (root.suffix.lower() in _YAML and is_layout(root)) or root.suffix == ".data"
    if not root.is_dir():
        return False
    return bool(_yamls(root) or find_data_file(root) or _has_labels(root) or _has_rows_beside(root))


def find(root: Path, task: str | None, ledger: Ledger) -> Found:
    """All pictures and label files of the data set at `root`, a folder or the file that describes it.

    Raises:
        UsageError: data.yaml is wrong, or several describe the folder.
        DataError: no picture is found, or a list cannot be read.
    """
    root = Path(os.path.abspath(root))  # "." has no folder above it
    layout, base = _layout(root, task)
    if layout.splits:
        images = _stated_images(root, base, layout, ledger)
    else:
        below = list_images(base / "images" if (base / "images").is_dir() else base)
        images = {path: _folder_split(path, base) for path in below}
    if not images:
        refused = "".join(f"\n  {entry.where}: {entry.what}" for entry in ledger.refused[:5])
        raise DataError(f"{root}: no images; looked below {base}{refused}")
    folders = sorted({path.parent for path in images})
    top = base
    if not all(folder.is_relative_to(base) for folder in folders):
        inside = all(folder.is_relative_to(base.parent) for folder in folders)
        top = base.parent if inside else Path(os.path.commonpath([str(folder) for folder in folders]))
    labels, looked_in = _find_labels(images, base, ledger)
    owned = set(labels.values())
    if not layout.place:
        layout = replace(read_names(base, owned), splits=layout.splits)
    unlisted = {p for folder in folders for p in folder.iterdir() if is_image(p.name) and p.is_file()} - set(images)
    if unlisted and layout.splits:
        example = relative(min(unlisted), top)
        ledger.warnings.append(f"{len(unlisted)} images, such as {example}, are in no list of a split and are left out")
        owned |= set(_find_labels(unlisted, base, Ledger())[0].values())
    _refuse_shared(images, labels, top, ledger)
    _refuse_stray(owned, looked_in, None if layout.splits else base, root, ledger)
    return Found(top, layout, dict(sorted(images.items())), labels, ", ".join([str(f) for f in looked_in][:4]))


def show(path: Path, root: Path) -> str:
    """A file as messages name it: relative to the data set where it lies there."""
    start = root.parent if root.is_file() else root
    return relative(path, start) if path.is_relative_to(start) else path.name


def rows_of(path: Path, place: str) -> list[tuple[str, str]]:
    """(place, text) of every line of a label file that is not blank. Raises DataError where it is no text."""
    lines = enumerate(text_of(path, place).splitlines(), start=1)
    return [(f"{place} line {number}", line) for number, line in lines if line.strip()]


def _layout(root: Path, task: str | None) -> tuple[Layout, Path]:
    """What describes the data set, and the folder where its paths start."""
    if root.is_file():
        path: Path | None = root
    else:
        found = _yamls(root, task)
        if len(found) > 1 and found[0].name not in NAMES:
            names = ", ".join(p.name for p in found)
            raise UsageError(f"{root}: several files describe a data set: {names}; give the path of one of them")
        path = found[0] if found else find_data_file(root)
    if path is None:
        return Layout("", {}, lists_of_splits(root)), root
    if path.suffix == ".data":
        base = path.parent.parent if path.parent.name == "data" and not root.is_file() else path.parent
        return read_data_file(path, base), base
    return read_layout(path), path.parent


def _yamls(root: Path, task: str | None = None) -> list[Path]:
    """The data.yaml of a folder alone, else every other YAML file there that describes a data set, else those of the
    folders in it, the one for the task first."""
    usual = [root / name for name in NAMES if (root / name).is_file() and is_layout(root / name)]
    if usual:
        return usual[:1]
    others = sorted(p for p in root.iterdir() if p.suffix.lower() in _YAML and p.is_file() and not is_foreign(p.name))
    others = [p for p in others if p.name not in NAMES and is_layout(p)]
    if others:
        return others
    below = [child / n for child in list_folders(root) for n in NAMES if (child / n).is_file() and _has_labels(child)]
    below = [path for path in below if is_layout(path)]
    masks_asked = task is not None and find_task(task).masks
    outlines = {path: "seg" in path.parent.name.lower() for path in below}
    return sorted(below, key=lambda p: (outlines[p] != masks_asked, str(p)))


def descriptions_below(root: Path) -> list[Path]:
    """YAML files one folder down that describe a data set, which `find` leaves aside where labels lie in `root`."""
    below = [path for child in list_folders(root) for path in sorted(child.iterdir()) if path.suffix.lower() in _YAML]
    return [path for path in below if path.is_file() and not is_foreign(path.name) and is_layout(path)]


def _has_labels(root: Path) -> bool:
    """True where the folder `labels` in `root`, or in its folders train, val or test, holds label files."""
    folders = [root, *(child for child in list_folders(root) if split_of_folder(child.name))]
    return any(_first_label(folder / "labels") for folder in folders)


def _first_label(folder: Path) -> bool:
    for place, folders, names in os.walk(folder):
        folders.sort()
        if any(n.endswith(".txt") and not is_foreign(n) and not is_list(Path(place, n)) for n in names):
            return True
    return False


def _has_rows_beside(root: Path) -> bool:
    """True where a .txt beside a picture of its name holds rows, as labelImg and darknet leave them."""
    folders = [root]
    for _ in range(_DEPTH):
        for folder in folders:
            stems = {os.path.splitext(entry.name)[0] for entry in os.scandir(folder) if is_image(entry.name)}
            beside = [folder / f"{stem}.txt" for stem in sorted(stems)[:50]]
            if any(path.is_file() and looks_like_rows(path, fractions=True) for path in beside):
                return True
        folders = [child for folder in folders for child in list_folders(folder)][:200]
    return False


def _folder_split(image: Path, base: Path) -> str | None:
    parts = image.relative_to(base).parts[:-1]
    return next((split for split in map(split_of_folder, parts) if split), None)


def _stated_images(root: Path, base: Path, layout: Layout, ledger: Ledger) -> dict[Path, str | None]:
    """Images of the splits that data.yaml names; the first split keeps an image that two name.

    A part that is not on this machine is left out with a warning, as long as another one is.
    """
    images: dict[Path, str | None] = {}
    missing = []
    for split, entries in layout.splits.items():
        places = {entry: _resolve(base, layout, split, entry) for entry in entries}
        absent = [entry[:200] for entry, place in places.items() if place is None]
        absent = [f"{layout.place}: key '{split}': {e!r} is neither a folder nor a list file here" for e in absent]
        ledger.warnings += [f"{words}; what is there is read, without this part" for words in absent]
        missing += absent
        found = [image for place in places.values() if place for image in _images_at(place, base, ledger)]
        shared = sum(image in images for image in found)
        if shared:
            ledger.warnings.append(f"{shared} images of '{split}' are in another split too, and stay there")
        elif not found and not absent:
            ledger.warnings.append(f"{layout.place}: key '{split}': none of its pictures is here")
        images = {**dict.fromkeys(found, split), **images}
    if not images and missing:
        raise UsageError(f"{'; '.join(missing)}; looked below {base}")
    _warn_of_outside(images, root if root.is_dir() else base, layout, ledger)
    return images


def _resolve(base: Path, layout: Layout, split: str, entry: str) -> Path | None:
    """The folder or list of a split, or None.

    `../train/images`, as exports write it, is below data.yaml where that is there. Else a path counts as it is stated,
    beside or one above data.yaml, and at last its longest end below data.yaml.

    Raises:
        UsageError: it is a folder that holds the data set, or climbs out of it by `..` further than one folder.
    """
    if len(entry) + len(layout.path) > _LONGEST:
        return None
    entry, start = entry.replace("\\", "/"), layout.path.replace("\\", "/")
    within = entry
    while within.startswith("../"):
        within = within[3:]
    stated = base / start / entry
    given = start not in ("", ".", "./")
    places = [stated] if given else [base / within, stated]
    places += [base / entry, base / within, base.parent / entry, *(base / end for end in _ends(f"{start}/{entry}"))]
    for place in (Path(os.path.normpath(place)) for place in places):
        climbs = not os.path.isabs(entry) and not given and not place.is_relative_to(base.parent)
        if climbs or not (os.path.isdir(place) or (os.path.isfile(place) and place.suffix.lower() in _LISTS)):
            continue
        if base != place and base.is_relative_to(place):
            raise UsageError(
                f"{layout.place}: key '{split}': {entry[:200]!r} is the folder {place}, which holds the data set"
            )
        return place
    if not os.path.isabs(entry) and not Path(os.path.normpath(base / entry)).is_relative_to(base.parent):
        raise UsageError(
            f"{layout.place}: key '{split}': {entry[:200]!r} leads out of the data set; give the folder by key 'path'"
        )
    return None


def _ends(stated: str) -> Iterator[PurePosixPath]:
    """`D:/ds/images/train` -> ds/images/train, images/train, train: what a path of another machine may mean here. The
    last folder that names a split stays: `/x/val/images` is never `images`."""
    parts = [part for part in stated.replace("\\", "/").split("/") if part not in ("", ".", "..") and part[-1] != ":"]
    last = max((i for i, part in enumerate(parts) if split_of_folder(part)), default=len(parts) - 1)
    for i in range(max(0, len(parts) - _DEEPEST), last + 1):
        yield PurePosixPath(*parts[i:])


def _images_at(place: Path, base: Path, ledger: Ledger) -> list[Path]:
    """The images below a folder, or of a list file."""
    return list_images(place) if place.is_dir() else _listed(place, base, ledger)


def _listed(place: Path, base: Path, ledger: Ledger) -> list[Path]:
    """Images named in a text file, one a line, relative to it or to data.yaml; all below the folder above data.yaml."""
    images: dict[Path, str] = {}
    by_name: dict[str, list[Path]] = defaultdict(list)
    for number, line in enumerate(lines_of(place, place.name), start=1):
        where, stated = f"{place.name}:{number}", line.strip()
        if not stated:
            continue
        found = _listed_image(stated, place, base)
        if found is None and is_image(stated) and not {"/", "\\"} & set(stated):
            if not by_name:
                for image in list_images(base):
                    by_name[image.name].append(image)
            if len(by_name[stated]) > 1:
                ledger.refuse_image(
                    where, f"{stated!r} is the name of {len(by_name[stated])} pictures; state the folder"
                )
                continue
            found = next(iter(by_name[stated]), None)
        if found is None:
            ledger.refuse_image(where, f"{stated[:200]!r} is no image here, nor is an end of this path below {base}")
        elif images.setdefault(found, line) != line:
            ledger.refuse_image(where, f"{stated[:200]!r} is {show(found, base)} here, which another line names")
    return list(images)


def _listed_image(stated: str, place: Path, base: Path) -> Path | None:
    """The image that a line names: where it is stated, else at the longest end of the path below the data set."""
    if len(stated) > _LONGEST:
        return None
    plain = stated.replace("\\", "/")
    starts = (base, place.parent, base.parent)
    paths = [start / name for name in dict.fromkeys((stated, plain)) for start in starts]
    paths += [start / end for end in _ends(plain) for start in starts[:2]]
    for path in (Path(os.path.normpath(path)) for path in paths):
        if is_image(path.name) and path.is_relative_to(base.parent) and os.path.isfile(path):
            return path
    return None


def _warn_of_outside(images: Iterable[Path], allowed: Path, layout: Layout, ledger: Ledger) -> None:
    """Name the folders, links resolved, that are not below the data set and from which its pictures come."""
    real = Path(os.path.realpath(allowed))
    folders = {Path(os.path.realpath(folder)) for folder in {image.parent for image in images}}
    outside = sorted(str(folder) for folder in folders if not folder.is_relative_to(real))
    if outside:
        more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
        ledger.warnings.append(
            f"{layout.place} leads out of the data set: pictures are read from {', '.join(outside[:3])}{more}"
        )


def _find_labels(images: Iterable[Path], base: Path, ledger: Ledger) -> tuple[dict[Path, Path], list[Path]]:
    """Image -> label file, and the folders in which label files were looked for."""
    labels: dict[Path, Path] = {}
    looked_in: dict[Path, None] = {}
    stems = {image.parent / image.stem for image in images}
    wanted = Counter(folder / image.stem for image in images for folder in _label_folders(image, base))
    for image in images:
        for folder, beside in _label_folders(image, base).items():
            looked_in[folder] = None
            if not beside and wanted[folder / image.stem] > 1:
                continue  # whose it would be is not clear: train/images/0.jpg and val/images/0.jpg, labels/0.txt
            # of the pictures a.jpg and a.jpg.png, a.jpg.txt is of the second
            names = [f"{image.stem}.txt"] if image in stems else [f"{image.name}.txt", f"{image.stem}.txt"]
            place = next((folder / name for name in names if (folder / name).is_file()), None)
            if place is not None and is_list(place):
                ledger.warnings.append(f"{show(place, base)} holds names or paths: not the labels of {image.name}")
            elif place is not None:
                labels[image] = place
                break
    return labels, list(looked_in)


def _label_folders(image: Path, base: Path) -> dict[Path, bool]:
    """Where the label file may be, the likeliest first, and whether that is beside the picture or its `images`. Of the
    folders above `base` none is asked, unless the picture lies elsewhere."""
    parts, inside = image.parts[:-1], image.is_relative_to(base)
    last = next((i for i in range(len(parts) - 1, len(base.parts) * inside - 1, -1) if parts[i] == "images"), None)
    if last is None:
        return {image.parent: True}
    beside, far = (Path(*above, "labels", *parts[last + 1 :]) for above in (parts[:last], base.parts))
    first, second = (beside, far) if inside else (far, beside)
    return {first: first == beside, second: second == beside, image.parent: True}


def _refuse_shared(images: dict[Path, str | None], labels: dict[Path, Path], top: Path, ledger: Ledger) -> None:
    """Refuse pictures that have one label file together, such as 0.jpg and 0.png: whose it is nobody knows."""
    owners: dict[Path, list[Path]] = defaultdict(list)
    for image, label in labels.items():
        owners[label].append(image)
    for label, sharing in owners.items():
        if len(sharing) == 1:
            continue
        for image in sharing:
            other = next(path for path in sharing if path != image)
            why = f"shares the label file {label.name} with {relative(other, top)}; rename one of them and its labels"
            ledger.refuse_image(relative(image, top), why)
            del images[image], labels[image]
        for place, _ in rows_of(label, show(label, top)):
            ledger.refuse_label(place, f"belongs to {len(sharing)} pictures")


def _refuse_stray(owned: set[Path], looked_in: list[Path], base: Path | None, root: Path, ledger: Ledger) -> None:
    """Refuse the rows of label files without a picture: in the folders that were looked into and, where no list names
    the pictures, everywhere in labels/."""
    found = [path for folder in looked_in if folder.is_dir() for path in folder.iterdir()]
    if base is not None and (base / "labels").is_dir():
        found += list_files(base / "labels")
    for label in sorted(set(found) - owned):
        if label.suffix == ".txt" and label.is_file() and not is_foreign(label.name) and not is_list(label):
            for place, _ in rows_of(label, show(label, root)):
                ledger.refuse_label(place, "no image belongs to this label file")
