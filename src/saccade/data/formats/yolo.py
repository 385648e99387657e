"""YOLO: one text file an image, one object a row: class and fractions of the image's width and height.

A row is `class cx cy w h` (box), `class x1 y1 x2 y2 x3 y3 ...` (polygon, its box is the box around it), or where
data.yaml gives `kpt_shape` `class cx cy w h x y [visibility] ...`. Fractions become pixels of the upright image.
Names and splits come from data.yaml or darknet's obj.data; without one from `classes.txt` and the like and from folders
called train, val, test. An image without label file is background, unless data.yaml says
`skip_if_label_file_missing: true`. Which file is whose stands in yolo_files.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import drop_repeats, finish
from saccade.data.formats.listing import measure, relative
from saccade.data.formats.pose import name_joints
from saccade.data.formats.yolo_files import Found, descriptions_below, find, is_described, rows_of, show
from saccade.data.formats.yolo_rows import parse_row
from saccade.data.formats.yolo_yaml import Layout, ranges
from saccade.data.joints import COCO_PERSON, Joints
from saccade.errors import DataError


def looks_like(root: Path) -> bool:
    """True for a data.yaml or obj.data, and for a folder with one, with labels/*.txt, or with rows beside pictures."""
    return is_described(root)


def read(root: Path, task: str | None = None) -> DataSet:
    """Read a YOLO data set from its folder or its data.yaml.

    Where the folder holds several data sets over the same images (`object_detection/config.yaml`,
    `instance_segmentation/config.yaml`), the task decides, and boxes are taken without one.

    Raises:
        UsageError: data.yaml is wrong.
        DataError: no image, no label file, class ids that start at 1, or nothing usable.
    """
    ledger = Ledger()
    found = find(root, task, ledger)
    if not found.labels:
        refused = "".join(f"\n  {entry.where}: {entry.what}" for entry in ledger.refused[:5])
        count = len(found.images)
        raise DataError(f"{root}: 0 of {count} images have a label file; looked in {found.looked_in}{refused}")
    _settle_blank_lines(found, root, ledger)
    sizes = measure(found.root, found.images, ledger)
    ids = list(found.layout.names)
    seen: set[int] = set()
    records = []
    for image, split in found.images.items():
        name, label = relative(image, found.root), found.labels.get(image)
        if label is None and found.layout.only_labelled:
            if image in sizes:
                ledger.refuse_image(name, "no label file, and skip_if_label_file_missing is true")
            continue
        rows = [] if label is None else rows_of(label, show(label, root))
        if image not in sizes:
            for place, _ in rows:
                ledger.refuse_label(place, f"its image cannot be used: {name}")
            continue
        records.append(
            Record(name, sizes[image], split, things=_things(rows, sizes[image], found.layout, seen, ledger))
        )
    if not found.layout.names:
        ids = _names_from_ids(found.layout, records, seen)
        aside = "".join(f"; is it {relative(path, root)}? then give its path" for path in descriptions_below(root)[:1])
        ledger.warnings.append(f"no data.yaml or classes.txt names the classes: they are called by their ids{aside}")
    elif max(ids) + 1 in seen and 0 in ids and 0 not in seen:
        raise DataError(
            f"{root}: class {max(ids) + 1}, allowed {ranges(ids)}; no object has class 0: do your ids start at 1? "
            f"subtract 1 from every class, or number the names in data.yaml from 1"
        )
    dataset = DataSet(found.root, "yolo", "detect", list(found.layout.names.values()), records, ledger)
    dataset.category_ids = list(ids)
    _name_keypoints(dataset, found.layout)
    return finish(dataset, task)


def _names_from_ids(layout: Layout, records: list[Record], seen: set[int]) -> list[int]:
    """Name the classes after their ids where nothing names them; labels become indices of these names."""
    ids = sorted(i for i in seen if i >= 0)
    layout.names = {i: str(i) for i in ids}
    positions = {i: position for position, i in enumerate(ids)}
    for record in records:
        for thing in record.things or []:
            thing.label = positions[thing.label]
    return ids


def _settle_blank_lines(found: Found, root: Path, ledger: Ledger) -> None:
    """Blank lines in the middle of classes.txt count, as labelImg counts them, unless labels use their numbers."""
    layout = found.layout
    if not layout.lines or list(layout.names) == list(range(len(layout.names))):
        return
    used = {row.split()[0] for label in found.labels.values() for _, row in rows_of(label, show(label, root))}
    blank = set(range(max(layout.names))) - set(layout.names)
    if used & {str(i) for i in blank}:
        found.layout = replace(layout, names=dict(enumerate(layout.names.values())))
    last, name = list(found.layout.names.items())[-1]
    ledger.warnings.append(f"{layout.place}: blank lines among the names; {name!r} is taken for class {last}")


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
    """YOLO numbers its keypoints; 17 that trade places as COCO's do are COCO's."""
    if layout.keypoints is None:
        return
    pairs = tuple((i, j) for i, j in enumerate(layout.flip or []) if i < j)
    joints = Joints(tuple(str(i) for i in range(layout.keypoints[0])), pairs)
    name_joints(dataset, COCO_PERSON if (len(joints), pairs) == (17, COCO_PERSON.pairs) else joints)
