"""Where images and their masks lie, and which mask belongs to which image.

Known layouts (names in any case):

- `images/` beside `masks/`, with the same folders below, `train/` and `val/` among them perhaps;
- `train/images/` beside `train/masks/`, and so on for each split;
- SegNet's: `train/` beside `trainannot/` (or `train_labels/`, `train_masks/`);
- VOC's: `JPEGImages/` beside `SegmentationClass/` (splits from `ImageSets/Segmentation/*.txt`);
- a YAML file with `train: {images: ..., masks: ...}`, paths relative to it, and `classes:` or `names:`.

A mask has the name of its image, or that name with a suffix or prefix such as `_mask`, `_gt`, `_L`. Where two images
have one name (`0.jpg`, `0.png`), a mask is that of neither unless it states the whole name (`0.jpg.png`).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from saccade.data.dataset import Ledger
from saccade.data.formats.class_names import refuse_repeats
from saccade.data.formats.folder import PICTURES
from saccade.data.formats.listing import is_foreign, is_image, list_folders, list_images, relative
from saccade.data.formats.splits import SPLITS, split_of_folder
from saccade.data.image import COLOUR
from saccade.errors import DataError

MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "annots", "annot", "gt", "groundtruth",
         "segmentationclass", "segmentationclassraw", "pedmasks", "segmentationobject", "instances")  # fmt: skip
"""Names of folders (lower case) that hold masks, the likeliest first."""

_MAX_BYTES = 2_000_000  # of a YAML file
_MAX_DEPTH = 10
_BESIDE = ("annot", "_annot", "_labels", "_masks", "_mask")  # train_masks/ beside train/
_IDS = frozenset({"pedmasks", "segmentationobject", "instances"})
_DECORATION = "mask|masks|gt|l|label|labels|labelids|seg|segmentation|annot|annotation|instances?|groundtruth"
_TAIL = re.compile(rf"[_\-.]+({_DECORATION})$", re.IGNORECASE)
_HEAD = re.compile(r"^(mask|gt|label|seg)[_\-.]+", re.IGNORECASE)
_IMAGE_TAIL = re.compile(r"[_\-.]+(image|img|sat|leftimg8bit|rgb)$", re.IGNORECASE)

SEGNET = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
          "void")  # fmt: skip
"""Values 0..11 of the CamVid labels of the SegNet tutorial."""

VOC = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
       "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
       "tvmonitor")  # fmt: skip
"""Values 0..20 of the class maps of Pascal VOC."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its mask."""

    image: Path
    mask: Path
    split: str | None


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of images with the folder of masks of each, and what the names say of the values."""

    root: Path  # all folders lie below it; ids of records are relative to it
    folders: list[tuple[Path, Path, str | None]]  # images, masks, split
    classes: dict[int, str] | None  # value (COLOUR + red * 65536 + green * 256 + blue in a labelmap) -> name
    notes: tuple[str, ...] = ()  # what of the layout is worth a warning

    @property
    def colours(self) -> bool:
        """True where the class list names colours."""
        return self.classes is not None and max(self.classes) >= COLOUR

    @property
    def ids(self) -> bool:
        """True where the folder's name says that masks hold ids of instances."""
        return any(masks.name.lower() in _IDS for _, masks, _ in self.folders)

    @property
    def thing(self) -> str:
        """The class of the instances."""
        if self.classes:
            return next((name for value, name in self.classes.items() if value > 0), next(iter(self.classes.values())))
        return "person" if any(masks.name.lower() == "pedmasks" for _, masks, _ in self.folders) else "object"

    def names(self, highest: int) -> dict[int, str] | None:
        """Names of the values up to `highest`: the class list, or those of SegNet's and VOC's layouts."""
        if self.classes is not None:
            indexed = self.colours and highest < COLOUR  # gray files beside a list of colours hold places in the list
            return dict(enumerate(self.classes.values())) if indexed else self.classes
        names = {masks.name.lower() for _, masks, _ in self.folders}
        camvid = len(SEGNET) - 2 <= highest < len(SEGNET)
        if camvid and all(name.endswith("annot") and name != "annot" for name in names):
            return dict(enumerate(SEGNET))
        if highest < len(VOC) and names == {"segmentationclass"}:
            return dict(enumerate(VOC))
        return None

    def pairs(self, ledger: Ledger) -> list[Pair]:
        """Every image with its mask; images without, masks without image, and pairs that are open are refused."""
        found: list[Pair] = []
        voc = self._voc_splits()
        for images, masks, split in self.folders:
            files = list_images(masks)
            exact, decorated = _by_key(files, masks), _by_key(files, masks, _TAIL, _HEAD)
            claims: dict[Path, list[tuple[int, Path]]] = defaultdict(list)  # of images on a mask: how near, which
            for path in list_images(images):
                rank, fitting = _masks_of(path, images, exact, decorated)
                if len(fitting) == 1:
                    claims[fitting[0]].append((rank, path))
                    continue
                place, why = relative(masks, self.root), "no mask of this name"
                if fitting:
                    why = f"{len(fitting)} masks of this name ({', '.join(m.name for m in fitting[:4])})"
                ledger.refuse_image(relative(path, self.root), f"{why} in {place}/")
            for mask in files:
                nearest = min((rank for rank, _ in claims[mask]), default=0)
                owners = [path for rank, path in claims[mask] if rank == nearest]
                for path in (path for _, path in claims[mask] if len(owners) > 1 or path not in owners):
                    names = ", ".join(p.name for _, p in claims[mask][:4])
                    why = f"{len(claims[mask])} images may have the mask {mask.name}: {names}; give each its own"
                    ledger.refuse_image(relative(path, self.root), why)
                if len(owners) == 1:
                    given = split or voc.get(_key(owners[0], images)) or voc.get(owners[0].stem)
                    found.append(Pair(owners[0], mask, given or _split_of(owners[0], images)))
                else:
                    why = "of several images of this name" if owners else "no image of this name"
                    ledger.refuse_label(relative(mask, self.root), f"{why} in {relative(images, self.root)}/")
        return sorted(found, key=lambda pair: str(pair.image))

    def _voc_splits(self) -> dict[str, str]:
        """Split of each name in VOC's lists, one a line."""
        given: dict[str, str] = {}
        for split in ("test", "val", "train"):
            path = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
            if path.is_file():
                given.update({line.strip(): split for line in _lines(path)})
        return given


def find_layout(root: Path) -> Layout | None:
    """The layout at `root`, a folder or a YAML file; None where there is none with at least one mask file.

    Raises:
        DataError: the class list or the YAML file is damaged, or names a folder of train that is not there.
        UsageError: the class list has a name twice.
    """
    if root.is_file():
        return _from_yaml(root) if root.suffix.lower() in (".yaml", ".yml") else None
    for path in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        layout = None if is_foreign(path.name) else _from_yaml(path)
        if layout is not None:
            return layout
    folders = _folders(root)
    if not any(list_images(masks) for _, masks, _ in folders):
        return None
    return Layout(root, folders, _class_list(root))


def _folders(root: Path) -> list[tuple[Path, Path, str | None]]:
    below = {folder.name.lower(): folder for folder in list_folders(root)}
    splits = {name: split for name in below if (split := split_of_folder(name)) is not None}
    found: list[tuple[Path, Path, str | None]] = []
    for name, split in splits.items():
        beside = [below[name + tail] for tail in _BESIDE if name + tail in below and list_images(below[name + tail])]
        if beside:
            found.append((below[name], beside[0], split))
    if found:
        return found
    found += [(images, masks, None) for images, masks in _beside(root)]
    for name, split in splits.items():
        found += [(images, masks, split) for images, masks in _beside(below[name])]
    return found


def _beside(folder: Path) -> list[tuple[Path, Path]]:
    """The folder of images and that of masks directly in `folder`, if both are there."""
    below = {child.name.lower(): child for child in list_folders(folder)}
    images = [child for name, child in below.items() if name in PICTURES]
    masks = [below[name] for name in MASKS if name in below and any(is_image(p.name) for p in list_images(below[name]))]
    return [(images[0], masks[0])] if images and masks else []


def _key(path: Path, base: Path, *decorations: re.Pattern[str]) -> str:
    """Path relative to `base` without suffix, and without the decorations of its name."""
    stem = path.stem
    for pattern in decorations:
        stem = pattern.sub("", stem)
    return (path.relative_to(base).parent / stem).as_posix()


def _by_key(files: list[Path], base: Path, *decorations: re.Pattern[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        found[_key(path, base, *decorations)].append(path)
    return found


def _masks_of(
    path: Path, images: Path, exact: dict[str, list[Path]], decorated: dict[str, list[Path]]
) -> tuple[int, list[Path]]:
    """The masks that fit an image best, and by which of its names: the whole, that without suffix, the bare one."""
    whole = path.relative_to(images).as_posix()
    for rank, name in enumerate((whole, _key(path, images), _key(path, images, _IMAGE_TAIL))):
        fitting = exact.get(name) or decorated.get(name)
        if fitting:
            return rank, fitting
    return 0, []


def _split_of(path: Path, base: Path) -> str | None:
    parts = path.relative_to(base).parts
    return split_of_folder(parts[0]) if len(parts) > 1 else None


def _class_list(root: Path) -> dict[int, str] | None:
    if (root / "classes.txt").is_file():
        return _from_text(root / "classes.txt")
    if (root / "labelmap.txt").is_file():
        return _from_labelmap(root / "labelmap.txt")
    for name in ("classes.yaml", "config.yaml", "data.yaml"):
        if (root / name).is_file():
            state = _load(root / name)
            return _names(state, root / name) if isinstance(state, dict) else None
    return None


def _lines(path: Path) -> list[str]:
    """Raises DataError where a text file is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _from_labelmap(path: Path) -> dict[int, str]:
    """CVAT's list of colours, `name:red,green,blue:parts:actions` on every line."""
    names: dict[int, str] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"(.*?):\s*(\d{1,3}),\s*(\d{1,3}),\s*(\d{1,3})\s*(:.*)?", line.strip())
        colour = [int(v) for v in match.groups()[1:4]] if match else [256]
        if match is None or max(colour) > 255 or not match[1].strip():
            raise DataError(f"{path}:{number}: {line[:60]!r} is not name:red,green,blue:parts:actions, colours 0..255")
        red, green, blue = colour
        value = COLOUR + (red << 16 | green << 8 | blue)
        if value in names:
            raise DataError(f"{path}:{number}: the colour of {names[value]!r} and {match[1].strip()!r} is one")
        names[value] = match[1].strip()
    if not names:
        raise DataError(f"{path}: no colour in it")
    refuse_repeats(names.values(), str(path))
    return names


def _from_text(path: Path) -> dict[int, str]:
    """A name a line, the first for value 0; or `value name`, `value: name`, `value,name` on every line."""
    lines = _lines(path)
    rows = [(i, line.strip()) for i, line in enumerate(lines, start=1) if line.strip() and not line.startswith("#")]
    numbered = [re.match(r"(\d{1,9})\s*[\s:,;]\s*(\S.*)$", line) for _, line in rows]
    if rows and all(numbered):
        names = {int(match[1]): match[2].strip() for match in numbered if match}
    else:
        names = dict(enumerate(line for _, line in rows))
    if len(names) != len(rows) or not names:
        raise DataError(f"{path}: {len(rows)} lines give {len(names)} values; all must differ")
    refuse_repeats(names.values(), str(path))
    return names


def _load(path: Path) -> Any:
    """The YAML file as strings in lists and mappings ("no" stays "no").

    Aliases and depth, by which a small file grows without bound, and tags are refused before anything is built.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path}: {path.stat().st_size} bytes; a description of a data set has at most {_MAX_BYTES}")
    depth = 0
    try:
        text = path.read_text(encoding="utf-8-sig")
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None or depth > _MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise DataError(f"{path}:{line}: aliases, tags and more than {_MAX_DEPTH} levels are not accepted")
        return yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as YAML: {' '.join(str(error).split())[:200]}") from None


def _from_yaml(path: Path) -> Layout | None:
    """A file that names folders of images and masks for each split; None where it is of another kind."""
    try:
        state = _load(path)
    except DataError:
        return None  # a YAML file of another purpose; YOLO's reader names the fault where it is its own
    if not isinstance(state, dict):
        return None
    wanted = {
        k: v
        for k, v in state.items()
        if str(k).lower() in SPLITS and isinstance(v, dict) and {"images", "masks"} <= v.keys()
    }
    if not wanted or any("annotations" in v for v in wanted.values()):  # with annotations: panoptic, another task
        return None
    folders: list[tuple[Path, Path, str | None]] = []
    for key, value in wanted.items():
        images, masks = (Path(os.path.normpath(path.parent / str(value[name]))) for name in ("images", "masks"))
        if images.is_dir() and masks.is_dir():
            folders.append((images, masks, SPLITS[str(key).lower()]))
        elif SPLITS[str(key).lower()] == "train":
            raise DataError(f"{path}: {key}: no folder {images if not images.is_dir() else masks}")
    if not folders:
        return None
    places = [place for images, masks, _ in folders for place in (images, masks)]
    outside = [str(p) for p in places if not Path(os.path.abspath(p)).is_relative_to(os.path.abspath(path.parent))]
    notes = (f"{path.name} leads out of its folder: {', '.join(outside[:4])}",) if outside else ()
    if any(place.is_absolute() for place in places) != path.is_absolute():
        folders = [(Path(os.path.abspath(i)), Path(os.path.abspath(m)), split) for i, m, split in folders]
        path, places = Path(os.path.abspath(path)), [place for i, m, _ in folders for place in (i, m)]
    return Layout(Path(os.path.commonpath([path.parent, *places])), folders, _names(state, path), notes)


def _names(state: dict[Any, Any], path: Path) -> dict[int, str] | None:
    """`classes:` or `names:` as a list (value 0 first) or as {value: name}."""
    given = state.get("classes", state.get("names"))
    if given is None:
        return None
    items = {str(i): name for i, name in enumerate(given)} if isinstance(given, list) else given
    if not isinstance(items, dict) or not all(
        re.fullmatch(r"[0-9]{1,5}", k) and isinstance(v, str) for k, v in items.items()
    ):
        raise DataError(f"{path}: classes must be a list of names or a mapping of values 0..65535 to names")
    names = {int(k): v for k, v in sorted(items.items(), key=lambda item: int(item[0]))}
    refuse_repeats(names.values(), f"{path}: classes")
    return names
