"""Images with a mask each: class maps (segment) and maps of ids (instances).

Where the folders are, see `mask_layout.py`. What the values of a mask mean is decided once for the whole set:

- a class list (`classes.txt`, one name a line from value 0 on, or `classes:` / `names:` in a YAML file): class indices;
- SegNet's CamVid folders (`trainannot/`), highest value 10 or 11: the 11 classes of the SegNet tutorial, 11 is void;
  VOC's `SegmentationClass/`: background and the 20 VOC classes;
- values 0 and 255 only: classes "background" and "foreground" (255 is then no void);
- 16 bits, or a folder that is named for it (PedMasks, SegmentationObject, instances): ids of instances, 0 is
  background; the class is "person" in PedMasks, else "object";
- else class indices without names: the classes are called "0", "1", ...

A class named void, unlabeled or ignore, and the value 255, take no part: mask_values gives 255 for them. Palette files
are read by index. For the task "segment" masks of ids serve as background and one class; task "instances" reads any
mask as ids.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.listing import list_files, measure, relative
from saccade.data.formats.mask_layout import Layout, find_layout
from saccade.errors import DataError

IGNORE = 255  # as in data/types.py, which imports torch
_VOID = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored", "dontcare", "don't care"})
_HIGHEST = 65535  # ids and class values; masks of 32 bits may not go beyond
_MODES = ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")  # one value a pixel, no colour


@dataclass(frozen=True, slots=True)
class _Mask:
    """What a mask file holds."""

    values: dict[int, int]  # value -> pixels
    deep: bool  # more than 8 bits


@dataclass(frozen=True, slots=True)
class _Meaning:
    classes: list[str]
    values: dict[int, int]  # value in the file -> class index or IGNORE


def looks_like(root: Path) -> bool:
    """True where images and masks lie in folders that `mask_layout.py` knows, and no YOLO labels lie beside them
    ("masks:path" reads the masks all the same)."""
    layout = find_layout(root)
    return layout is not None and not any(_has_text(images.parent / "labels") for images, _, _ in layout.folders)


def _has_text(folder: Path) -> bool:
    return (
        any(path.suffix == ".txt" and path.stem != "classes" for path in list_files(folder))
        if folder.is_dir()
        else False
    )


def read(root: Path, task: str | None) -> DataSet:
    """Read images and masks; the task is "segment" or "instances", see above.

    A mask of colours, of another size than its image, or with a value that is no class is refused in the ledger.

    Raises:
        DataError: no folders of images and masks are found, or the class list is damaged.
    """
    layout = find_layout(root)
    if layout is None:
        raise DataError(
            f"{root}: no folders of images and masks, such as images/ and masks/, or train/ and trainannot/"
        )
    ledger = Ledger()
    pairs = layout.pairs(ledger)
    sizes = measure(layout.root, (pair.image for pair in pairs), ledger)
    pairs = [pair for pair in pairs if pair.image in sizes]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda pair: _inspect(pair.mask, sizes[pair.image]), pairs))
    masks: dict[str, _Mask] = {}
    records = []
    for pair, mask in zip(pairs, found, strict=True):
        name = relative(pair.mask, layout.root)
        record = Record(relative(pair.image, layout.root), sizes[pair.image], split=pair.split, semantic=name)
        if isinstance(mask, str):
            _refuse(record, mask, ledger)
        else:
            masks[name] = mask
            records.append(record)
    by_id = _are_ids(layout, masks) if task not in ("segment", "instances") else task == "instances"
    if by_id:
        return _instances(layout, records, ledger)
    meaning = _meaning(layout, masks, ledger)
    records = [r for r in records if _fits(r, masks[str(r.semantic)], meaning, ledger)]
    return DataSet(layout.root, "masks", "segment", meaning.classes, records, ledger, mask_values=meaning.values)


def _inspect(path: Path, size: tuple[int, int]) -> _Mask | str:
    """The values of a mask, or why it is refused; the size is compared before any pixel is decoded."""
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                return "a JPEG mask: compression changes the values; save masks as PNG"
            if image.mode not in _MODES:
                return f"a mask of colours (mode {image.mode}, {image.height} x {image.width}); save one value a pixel"
            if (image.height, image.width) != size:
                turned = " (turned?)" if (image.width, image.height) == size else ""
                mine, wanted = f"{image.height} x {image.width}", f"{size[0]} x {size[1]}"
                return f"the mask is {mine} pixels (height x width), its image is {wanted}{turned}"
            array = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"the mask cannot be read: {error}"
    if array.min(initial=0) < 0:
        return f"the mask holds the value {array.min()}; allowed: 0 and above"
    if array.max(initial=0) > _HIGHEST:
        return f"the mask holds the value {array.max()}; allowed: 0..{_HIGHEST}"
    counts = np.bincount(array.ravel())
    return _Mask({int(v): int(counts[v]) for v in np.flatnonzero(counts)}, array.dtype.itemsize > 1)


def _are_ids(layout: Layout, masks: dict[str, _Mask]) -> bool:
    return layout.ids or (layout.classes is None and any(mask.deep for mask in masks.values()))


def _meaning(layout: Layout, masks: dict[str, _Mask], ledger: Ledger) -> _Meaning:
    """What each value stands for. Values that stand for nothing are left out, and the masks that hold them refused."""
    used = Counter(value for mask in masks.values() for value in mask.values)
    given = layout.names(max((v for v in used if v != IGNORE), default=0))
    if _are_ids(layout, masks):
        name = layout.thing
        return _Meaning(["background", name], {value: int(value > 0) for value in sorted(used)})
    if used.keys() <= {0, 255} and 255 in used and (given is None or len(given) == 2):
        names = list(given.values()) if given else ["background", "foreground"]
        return _Meaning(names, {0: 0, 255: 1})
    if given is not None:
        kept = {value: name for value, name in given.items() if name.strip().lower() not in _VOID}
        values = dict.fromkeys(given, IGNORE)
        values.update({value: index for index, value in enumerate(kept)})
        return _Meaning(list(kept.values()), {**values, IGNORE: values.get(IGNORE, IGNORE)})
    plain = _without_strays(sorted(value for value in used if value != IGNORE), used, len(masks))
    if plain == [0, 1]:
        return _Meaning(["background", "foreground"], {0: 0, 1: 1, IGNORE: IGNORE})
    if plain:
        ledger.warnings.append(
            f"no class list: the classes are called by their values {plain[0]}..{plain[-1]}; write a classes.txt with "
            f"a name a line, value 0 first, into {layout.root}"
        )
    return _Meaning([str(v) for v in plain], {**{v: i for i, v in enumerate(plain)}, IGNORE: IGNORE})


def _without_strays(values: list[int], used: Counter[int], masks: int) -> list[int]:
    """Without a class list a value after a gap that a single mask of five or more holds is a slip, not a class."""
    kept: list[int] = []
    for value in values:
        if kept and value > kept[-1] + 1 and used[value] == 1 and masks >= 5:
            continue
        kept.append(value)
    return kept


def _fits(record: Record, mask: _Mask, meaning: _Meaning, ledger: Ledger) -> bool:
    strays = {value: count for value, count in mask.values.items() if value not in meaning.values}
    if strays:
        said = ", ".join(f"{value} ({count} pixels)" for value, count in list(strays.items())[:5])
        allowed = [value for value, index in meaning.values.items() if index != IGNORE]
        span = (
            f"{min(allowed)}..{max(allowed)}" if len(allowed) == max(allowed) - min(allowed) + 1 else str(allowed[:12])
        )
        why = f"value {said} is no class; allowed: {span}, 255 to ignore; name it in classes.txt if it is one"
        _refuse(record, why if IGNORE not in strays else why.replace(", 255 to ignore", ""), ledger)
    return not strays


def _refuse(record: Record, why: str, ledger: Ledger) -> None:
    ledger.refuse_label(str(record.semantic), why)
    ledger.refuse_image(record.id, "its mask was refused")


def _instances(layout: Layout, records: list[Record], ledger: Ledger) -> DataSet:
    """One thing for each id, with the box of its pixels and their number as area."""

    def things(record: Record) -> list[Thing]:
        with Image.open(layout.root / str(record.semantic)) as image:
            return _things(np.asarray(image).astype(np.int32), str(record.semantic))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for record, found in zip(records, list(pool.map(things, records)), strict=True):
            record.things = found
            record.semantic = None
    return DataSet(layout.root, "masks", "instances", [layout.thing], records, ledger)


def _things(ids: np.ndarray, path: str) -> list[Thing]:
    """`ids` is [H, W] int32; ids may have gaps."""
    areas = np.bincount(ids.ravel())
    things = []
    for value, place in enumerate(ndimage.find_objects(ids), start=1):
        if place is not None:
            rows, columns = place
            box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            things.append(Thing(0, box, mask=(path, value), area=float(areas[value])))
    return things
