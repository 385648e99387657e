"""Images with a mask each: class maps (segment) and maps of ids (instances).

Where the folders are, see `mask_layout.py`. What the values of a mask mean is decided once for the whole set:

- a class list (`classes.txt`, one name a line from value 0 on, or `classes:` / `names:` in a YAML file): class indices;
- SegNet's CamVid folders (`trainannot/`), highest value 10 or 11: the 11 classes of the SegNet tutorial, 11 is void;
  VOC's `SegmentationClass/`: background and the 20 VOC classes;
- values 0 and 255 only: classes "background" and "foreground", or those of a list of two (255 is then no void); the
  same where soft edges (of a brush, a resize, JPEG) lie between the two: they are cut at 128. Beside a class list 255
  without a single 0 in all masks is void;
- CVAT's `labelmap.txt` beside masks of colours: its classes by their colours;
- 16 bits, or a folder that is named for it (PedMasks, SegmentationObject, instances): ids of instances, 0 is
  background; the class is "person" in PedMasks, else "object";
- else class indices without names: the classes are called "0", "1", ...

A class named void, unlabeled or ignore, and the value 255, take no part: mask_values gives 255 for them. Palette files
are read by index, gray maps saved in colour by their gray value. For the task "segment" masks of ids serve as
background and one class; task "instances" reads any mask as ids.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from saccade.data.class_map import IGNORE, show_value
from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.listing import list_files, measure, relative
from saccade.data.formats.mask_layout import Layout, find_layout
from saccade.data.image import COLOUR, decode_values, probe
from saccade.errors import DataError
from saccade.tasks.table import find_task

_VOID = frozenset({"void", "unlabeled", "unlabelled", "ignore", "ignored", "dontcare", "don't care"})
_HIGHEST = 65535  # ids and class values; masks of 32 bits may not go beyond
_GRAY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")  # one value a pixel, and no palette
_HALF = 128  # from here on a pixel between two levels belongs to the upper one


@dataclass(frozen=True, slots=True)
class _Mask:
    """What a mask file holds."""

    values: dict[int, int]  # value -> pixels
    deep: bool  # more than 8 bits
    jpeg: bool  # its values were changed by compression
    graded: int  # pixels between 0 and 255 that lie strictly between their lowest and highest neighbour: soft edges

    @property
    def between(self) -> int:
        """Pixels that are neither 0 nor 255."""
        return sum(count for value, count in self.values.items() if value not in (0, 255))


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
        DataError: no folders of images and masks are found, the class list is damaged, or masks of ids have soft edges.
    """
    layout = find_layout(root)
    if layout is None:
        raise DataError(
            f"{root}: no folders of images and masks, such as images/ and masks/, or train/ and trainannot/"
        )
    ledger = Ledger(warnings=list(layout.notes))
    pairs = layout.pairs(ledger)
    sizes = measure(layout.root, (pair.image for pair in pairs), ledger)
    pairs = [pair for pair in pairs if pair.image in sizes]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda pair: _inspect(pair.mask, sizes[pair.image], layout.colours), pairs))
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
    levels = _two_levels(masks)
    if not levels:
        records = _without_jpeg(records, masks, ledger)
    asked = None if task is None else find_task(task)
    by_id = asked.masks if asked and (asked.masks or asked.semantic) else _are_ids(layout, masks)
    if by_id and levels and any(mask.between for mask in masks.values()):
        raise DataError(f"{layout.root}: masks of ids have values for edges, 0 to 255; save them without soft edges")
    if by_id:
        return _instances(layout, records, ledger)
    meaning = _meaning(layout, masks, levels, ledger)
    if len(meaning.classes) > IGNORE:
        raise DataError(f"{layout.root}: {len(meaning.classes)} classes; a class map has at most {IGNORE}")
    records = [r for r in records if _fits(r, masks[str(r.semantic)], meaning, ledger)]
    _warn_of_void(records, masks, meaning, ledger)
    return DataSet(layout.root, "masks", "segment", meaning.classes, records, ledger, mask_values=meaning.values)


def _inspect(path: Path, size: tuple[int, int], colours: bool) -> _Mask | str:
    """The values of a mask, or why it is refused; the size is compared before any pixel is decoded."""
    try:
        found = probe(path)
        if found.size != size:
            turned = " (turned?)" if found.size == size[::-1] else ""
            mine, wanted = (f"{height} x {width}" for height, width in (found.size, size))
            return f"the mask is {mine} pixels (height x width), its image is {wanted}{turned}"
        painted = found.mode not in _GRAY and (colours or found.mode != "P")
        values = decode_values(path, painted)
    except DataError as error:
        return f"the mask cannot be read: {error}"
    if painted and not colours:
        if not (
            ((values >> 16 ^ values) & 255) | ((values >> 8 ^ values) & 255)
        ).any():  # red, green and blue are equal
            values &= 255
        else:
            return (
                f"a mask of colours (mode {found.mode}, {size[0]} x {size[1]}); save one value a pixel, or list the "
                "colours in labelmap.txt (name:red,green,blue:: on every line)"
            )
    if values.min() < 0:
        return f"the mask holds the value {values.min()}; allowed: 0 and above"
    highest = int(values.max())
    if highest > _HIGHEST and not painted:
        return f"the mask holds the value {highest}; allowed: 0..{_HIGHEST}"
    if highest > _HIGHEST:
        present, counts = np.unique(values, return_counts=True)
        held = dict(zip(present.tolist(), counts.tolist(), strict=True))
    else:
        counts = np.bincount(values.ravel())
        held = {int(v): int(counts[v]) for v in np.flatnonzero(counts)}
    graded = 0 if highest != 255 or len(held) < 3 else _graded(values.astype(np.uint8))
    return _Mask(held, found.mode.startswith("I"), found.format == "JPEG", graded)


def _graded(values: np.ndarray) -> int:
    """Pixels of [H, W] uint8 between 0 and 255 that lie strictly between the extremes of their 3 x 3 neighbourhood.

    So do nearly all pixels of an edge that was smoothed, and none inside of a region of one class.
    """
    around = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(values, around), cv2.dilate(values, around)
    return int(((values > low) & (values < high)).sum())


def _two_levels(masks: dict[str, _Mask]) -> bool:
    """True where all masks together are black and white, with soft edges or without: most pixels are 0 or 255, and
    most of the others lie on slopes between the two."""
    used: Counter[int] = Counter()
    for mask in masks.values():
        used.update(mask.values)
    between = used.total() - used[0] - used[255]
    if not used[255] or max(used) > 255 or any(mask.deep for mask in masks.values()):
        return False
    slopes = sum(mask.graded for mask in masks.values())
    return between == 0 or (used[0] > 0 and 2 * between < used.total() and 2 * slopes >= between)


def _without_jpeg(records: list[Record], masks: dict[str, _Mask], ledger: Ledger) -> list[Record]:
    """Refuse masks that JPEG has changed: it leaves two levels apart, and no more."""
    kept = []
    for record in records:
        if masks[str(record.semantic)].jpeg:
            del masks[str(record.semantic)]
            _refuse(record, "a JPEG mask: compression changes the values; save masks as PNG", ledger)
        else:
            kept.append(record)
    return kept


def _are_ids(layout: Layout, masks: dict[str, _Mask]) -> bool:
    return layout.ids or (layout.classes is None and any(mask.deep for mask in masks.values()))


def _meaning(layout: Layout, masks: dict[str, _Mask], levels: bool, ledger: Ledger) -> _Meaning:
    """What each value stands for. Values that stand for nothing are left out, and the masks that hold them refused."""
    used = Counter(value for mask in masks.values() for value in mask.values)
    given = layout.names(max((v for v in used if v != IGNORE), default=0))
    if _are_ids(layout, masks):
        name = layout.thing
        return _Meaning(["background", name], {value: int(value > 0) for value in sorted(used)})
    if levels and _names_two(given, used):
        names = list(given.values()) if given else ["background", "foreground"]
        between = sum(mask.between for mask in masks.values())
        if not between:
            return _Meaning(names, {0: 0, 255: 1})
        ledger.warnings.append(
            f"the masks are black and white with soft edges: {_share(between, masks)} of the pixels lie between 0 and "
            f"255; below {_HALF} they are {names[0]!r}, from there on {names[1]!r}"
        )
        return _Meaning(names, {value: int(value >= _HALF) for value in range(256)})
    if given is not None:
        kept = {value: name for value, name in given.items() if name.strip().lower() not in _VOID}
        values = dict.fromkeys(given, IGNORE)
        values.update({value: index for index, value in enumerate(kept)})
        if max(given) < COLOUR:
            values.setdefault(IGNORE, IGNORE)
        return _Meaning(list(kept.values()), values)
    plain = _without_strays(sorted(value for value in used if value != IGNORE), used, len(masks))
    if used[IGNORE]:
        ignored = sum(mask.values.get(IGNORE, 0) for mask in masks.values())
        ledger.warnings.append(
            f"the value 255 ({_share(ignored, masks)} of the pixels) is taken for 'ignore'; if it is a class, say so "
            f"in {layout.root}/classes.txt, a line 'VALUE NAME' for every class, such as '255 road'"
        )
    if plain == [0, 1]:
        return _Meaning(["background", "foreground"], {0: 0, 1: 1, IGNORE: IGNORE})
    if plain:
        ledger.warnings.append(
            f"no class list: the classes are called by their values {plain[0]}..{plain[-1]}; write a classes.txt with "
            f"a name a line, value 0 first, into {layout.root}"
        )
    return _Meaning([str(v) for v in plain], {**{v: i for i, v in enumerate(plain)}, IGNORE: IGNORE})


def _names_two(given: dict[int, str] | None, used: Counter[int]) -> bool:
    """Whether black and white stand for two classes: no list says otherwise, or one of two names that are both classes.
    Beside a list white alone, without a black pixel in the whole set, is what is ignored."""
    if given is None:
        return True
    return len(given) == 2 and used[0] > 0 and not any(name.strip().lower() in _VOID for name in given.values())


def _warn_of_void(records: list[Record], masks: dict[str, _Mask], meaning: _Meaning, ledger: Ledger) -> None:
    names = [str(record.semantic) for record in records]
    void = [name for name in names if all(meaning.values[value] == IGNORE for value in masks[name].values)]
    if void:
        ledger.warnings.append(
            f"{len(void)} of {len(records)} masks hold nothing but what is ignored, such as {void[0]}: their images "
            "teach nothing and are not scored"
        )


def _share(pixels: int, masks: dict[str, _Mask]) -> str:
    return f"{100 * pixels / sum(sum(mask.values.values()) for mask in masks.values()):.3g} %"


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
        found = ", ".join(f"{show_value(value)} ({count} pixels)" for value, count in list(strays.items())[:5])
        allowed = sorted(value for value, index in meaning.values.items() if index != IGNORE)
        whole = allowed and len(allowed) == allowed[-1] - allowed[0] + 1
        span = f"{allowed[0]}..{allowed[-1]}" if whole else ", ".join(map(show_value, allowed[:12]))
        ignored = ", 255 to ignore" if meaning.values.get(IGNORE) == IGNORE else ""
        place = "labelmap.txt" if allowed and allowed[-1] >= COLOUR else "classes.txt"
        _refuse(record, f"value {found} is no class; allowed: {span}{ignored}; name it in {place} if it is one", ledger)
    return not strays


def _refuse(record: Record, why: str, ledger: Ledger) -> None:
    ledger.refuse_label(str(record.semantic), why)
    ledger.refuse_image(record.id, "its mask was refused")


def _instances(layout: Layout, records: list[Record], ledger: Ledger) -> DataSet:
    """One thing for each id, with the box of its pixels and their number as area."""

    def things(record: Record) -> list[Thing]:
        return _things(decode_values(layout.root / str(record.semantic)), str(record.semantic))

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
