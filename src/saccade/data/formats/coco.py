"""COCO: one JSON file with images, categories and annotations (Lin et al. 2014; "data format" on the COCO site).

A box is x y width height from 0 at the upper left corner. Category and image ids are any numbers or texts: classes are
the categories in order of id, the ids stay in `DataSet.category_ids` and `Record.source_id` and return in result files.
Segments are polygons, or run lengths (`data/rle.py`); `iscrowd` (and the old `ignore`) mark what no score counts.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import check_numbers, finish, fit_box, fit_polygons, polygon_box, split_of
from saccade.data.formats.coco_json import Id, check_id, head_of, index, read_json
from saccade.data.formats.listing import list_files, list_images, measure, relative
from saccade.data.rle import rle_area, rle_box, rle_size
from saccade.errors import DataError

_OTHER_KINDS = ("captions", "panoptic", "stuff", "image_info", "predictions", "results")


@dataclass(slots=True)
class _Labels:
    """One label file."""

    path: Path
    place: str
    split: str | None
    images: dict[Id, dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[Id, dict[str, Any]]


def looks_like(root: Path) -> bool:
    """True for a COCO .json file, or a folder that holds one at most two folders down."""
    if root.is_file():
        return root.suffix.lower() == ".json" and head_of(root)
    return bool(_candidates(root))


def read(root: Path, task: str | None = None) -> DataSet:
    """Read COCO labels: a .json file, or a folder with `annotations/*.json` or `train/_annotations.coco.json`.

    Splits come from the names of the files, else of their folders. Images are looked for below the folder of the data
    set, never outside. Where instances and person_keypoints are both there, the task decides.

    Raises:
        DataError: damaged JSON (with line and byte), ids that are not unique or unknown, a file name that leads out of
            the data set, coordinates that are fractions, or nothing usable.
    """
    base, paths = _label_files(root, task)
    ledger = Ledger()
    files = [_parse(path, base, ledger) for path in paths]
    classes, ids = _classes(files, ledger)
    located = _locate(base, files)
    if root.is_file() and not any(located):
        ledger.warnings.append(f"none of the images is below {base}: labels alone, good for scoring results only")
        located, sizes = _labels_alone(base, files)
    else:
        sizes = measure(base, sorted({p for table in located for p in table.values()}), ledger)
    records: list[Record] = []
    for labels, table in zip(files, located, strict=True):
        names = {i: classes.index(str(c["name"]).strip()) for i, c in labels.categories.items() if i in ids}
        records += _records(labels, table, sizes, names, base, ledger)
        _warn_of_corners(labels, ledger)
    _refuse_shared_images(records)
    dataset = DataSet(base, "coco", "detect", classes, sorted(records, key=lambda r: r.id), ledger)
    dataset.category_ids = list(ids)
    _name_keypoints(dataset, files)
    unnamed = len(set(list_images(base)) - {p for table in located for p in table.values()})
    if unnamed:
        ledger.warnings.append(f"{unnamed} images below {base.name} are in no label file and are left out")
    return finish(dataset, task)


def _candidates(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    paths = [p for p in list_files(root) if p.suffix.lower() == ".json" and len(p.relative_to(root).parts) <= 3]
    return [p for p in paths if not any(kind in p.name.lower() for kind in _OTHER_KINDS) and head_of(p)]


def _label_files(root: Path, task: str | None) -> tuple[Path, list[Path]]:
    """The folder of the data set and its label files, train first."""
    if root.is_file():
        return root.parent.parent if root.parent.name.lower() == "annotations" else root.parent, [root]
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in _candidates(root):
        groups[_split(path, root) or ""].append(path)
    wanted = "person_keypoints" if task == "pose" else "instances"
    chosen = []
    for split in sorted(groups, key=lambda s: ({"train": 0, "val": 1, "test": 2}.get(s, 3), s)):
        paths = groups[split]
        preferred = [p for p in paths if p.name.lower().startswith(wanted)] or paths
        if len(preferred) > 1:
            names = ", ".join(relative(p, root) for p in preferred[:6])
            raise DataError(f"{root}: {len(preferred)} COCO files for one split: {names}; give the path of one of them")
        chosen += preferred
    if not chosen:
        raise DataError(f"{root}: no COCO label file (*.json with images, annotations, categories)")
    return root, chosen


def _split(path: Path, base: Path) -> str | None:
    folder = path.parent.name if path.parent != base else ""
    return split_of(path.stem) or split_of(folder)


def _parse(path: Path, base: Path, ledger: Ledger) -> _Labels:
    place = relative(path, base)
    content = read_json(path, place)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DataError(f"{place}: the top is a {kind}, an object with images, annotations, categories needed")
    for part in ("images", "annotations", "categories"):
        value = content.get(part)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise DataError(f"{place}: '{part}' is missing or is not a list of objects")
    if not content["images"] or not content["categories"]:
        raise DataError(f"{place}: 'images' or 'categories' is empty")
    if any("segments_info" in a for a in content["annotations"]):
        raise DataError(f"{place}: panoptic labels are not read here; instances needed")
    images = index(content["images"], "image", place)
    categories = index(content["categories"], "category", place)
    index([a for a in content["annotations"] if "id" in a], "annotation", place)
    names: dict[str, Id] = {}
    for key, category in categories.items():
        name = category.get("name")
        if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
            raise DataError(f"{place}: category {key} has no name")
        name = str(name).strip()
        if name in names:
            raise DataError(f"{place}: categories {names[name]} and {key} have the same name {name!r}")
        names[name] = key
    for key, image in images.items():
        image["file_name"] = _safe_name(image.get("file_name"), f"{place}: image {key}")
    return _Labels(path, place, _split(path, base), images, content["annotations"], categories)


def _safe_name(name: object, where: str) -> str:
    """A relative path with '/'. Raises DataError for anything that could lead out of the data set."""
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"{where} has no file_name")
    path = PurePosixPath(name.replace("\\", "/"))
    windows = PureWindowsPath(name)
    if "\0" in name or "://" in name or path.is_absolute() or windows.drive or ".." in path.parts or len(name) > 1000:
        raise DataError(f"{where} has file_name {name[:80]!r}; a path inside of the data set is needed")
    return str(path)


def _classes(files: list[_Labels], ledger: Ledger) -> tuple[list[str], list[Id]]:
    """Names and ids of the classes, in order of id, as the first file says; the others may not add any."""
    first = files[0]
    used = {a.get("category_id") for f in files for a in f.annotations if isinstance(a.get("category_id"), int | str)}
    ids = sorted(first.categories, key=lambda i: (isinstance(i, str), i))
    groups = {str(c.get("supercategory")) for i, c in first.categories.items() if i != 0}
    if len(ids) > 1 and ids[0] == 0 and 0 not in used and groups == {str(first.categories[0]["name"])}:
        ledger.warnings.append(f"{first.place}: category 0 {groups.pop()!r} is the group of all others and is left out")
        ids = ids[1:]
    classes = [str(first.categories[i]["name"]).strip() for i in ids]
    for other in files[1:]:
        names = {str(c["name"]).strip(): i for i, c in other.categories.items() if i in ids or i in used}
        extra = sorted(set(names) - set(classes))
        if extra:
            raise DataError(
                f"{other.place}: category {extra[0]!r} is not in {first.place}; both must have the same names"
            )
        if any(ids[classes.index(name)] != key for name, key in names.items()):
            ledger.warnings.append(f"{other.place} gives categories other ids than {first.place}; names are matched")
    return classes, ids


def _locate(base: Path, files: list[_Labels]) -> list[dict[Id, Path]]:
    """The image files of each label file, among those below `base`: at the path given, or below some folder."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in list_images(base):
        by_name[path.name].append(path)
    tables = []
    for labels in files:
        table = {}
        for key, image in labels.images.items():
            wanted = image["file_name"]
            paths = by_name.get(PurePosixPath(wanted).name, [])
            exact = [p for p in paths if f"/{relative(p, base)}".endswith(f"/{wanted}")]
            near = exact or (paths if len(paths) == 1 else [])
            near = [p for p in near if p.parent == labels.path.parent] or near
            near = [p for p in near if labels.split in [split_of(n) for n in p.relative_to(base).parts[:-1]]] or near
            if near:
                table[key] = min(near, key=lambda p: len(p.parts))
        tables.append(table)
    return tables


def _labels_alone(base: Path, files: list[_Labels]) -> tuple[list[dict[Id, Path]], dict[Path, tuple[int, int]]]:
    """Paths and sizes as the labels state them, for images that are not there; those without a size are left out."""
    located: list[dict[Id, Path]] = []
    sizes = {}
    for labels in files:
        located.append({})
        for key, image in labels.images.items():
            height, width = image.get("height"), image.get("width")
            if type(height) is int and type(width) is int and height > 0 and width > 0:
                located[-1][key] = base / image["file_name"]
                sizes[base / image["file_name"]] = height, width
    return located, sizes


def _records(
    labels: _Labels,
    table: dict[Id, Path],
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
    _refuse_fractions(labels)
    records = []
    for key, image in labels.images.items():
        path = table.get(key)
        why = _unusable(image, path, sizes)
        if why is not None or path is None:
            if path is None or path in sizes:
                ledger.refuse_image(f"{labels.place}: image {key}", why or "")
            for where, _ in by_image[key]:
                ledger.refuse_label(where, f"image {key} cannot be used")
            continue
        things: list[Thing] = []
        record = Record(relative(path, base), sizes[path], labels.split, things=things, source_id=key)
        for where, annotation in by_image[key]:
            thing = _keep(annotation, where, record.size, names, labels, ledger)
            if thing is not None:
                things.append(thing)
        _warn_of_repeats(record, ledger)
        records.append(record)
    return records


def _unusable(image: dict[str, Any], path: Path | None, sizes: dict[Path, tuple[int, int]]) -> str | None:
    if path is None:
        return f"no image file {image['file_name']!r} below the data set"
    if path not in sizes:
        return "cannot be opened"
    height, width = image.get("height"), image.get("width")
    stated = type(height) is int and type(width) is int and height > 0 and width > 0
    if not stated or (height, width) == sizes[path]:
        return None
    turned = "; is the image turned by its EXIF orientation?" if (width, height) == sizes[path] else ""
    return f"is {width} x {height} (width x height) here, the file {sizes[path][1]} x {sizes[path][0]}{turned}"


def _keep(
    annotation: dict[str, Any], where: str, size: tuple[int, int], names: dict[Id, int], labels: _Labels, ledger: Ledger
) -> Thing | None:
    category = check_id(annotation.get("category_id"), f"{where}: category_id")
    if category not in names:
        raise DataError(f"{where}: category {category} is not among the categories of {labels.place}")
    try:
        thing, repairs = _thing(annotation, size, names[category])
        points = labels.categories[category].get("keypoints")
        thing.keypoints = _keypoints(annotation, len(points) if isinstance(points, list) else 0)
    except DataError as error:
        ledger.refuse_label(where, str(error))
        return None
    for repair in repairs:
        ledger.repair(where, repair)
    return thing


def _thing(annotation: dict[str, Any], size: tuple[int, int], label: int) -> tuple[Thing, list[str]]:
    """The object of an annotation, and what was repaired. Raises DataError with the reason."""
    polygons, rle, repairs = None, None, []
    segment = annotation.get("segmentation")
    if isinstance(segment, dict):
        if rle_size(segment) != size:
            raise DataError(f"RLE size {segment['size']} (height, width) differs from the image {list(size)}")
        if rle_area(segment) == 0:
            raise DataError("the mask is empty")
        rle = segment
    elif segment:
        flat = isinstance(segment, list) and not any(isinstance(p, list) for p in segment)
        polygons, repair = fit_polygons([segment] if flat else segment, size)
        repairs += [repair] if repair else []
    box = annotation.get("bbox")
    if not box and (polygons or rle):
        corners = polygon_box(polygons) if polygons else rle_box(rle or {})
    elif not isinstance(box, list) or len(box) != 4:
        raise DataError(f"bbox is {str(box)[:60]}, needed are 4 numbers x y width height")
    else:
        x, y, width, height = check_numbers(box, "bbox")
        if width <= 0 or height <= 0:
            raise DataError(f"bbox {box} (x y width height) has no area or a negative size")
        corners = (x, y, x + width, y + height)
    fitted, repair = fit_box(corners, size)
    repairs += [repair] if repair else []
    area = annotation.get("area")
    thing = Thing(label, fitted, polygons=polygons, rle=rle)
    thing.crowd = annotation.get("iscrowd") in (1, True) or annotation.get("ignore") in (1, True)
    thing.area = None if area is None else check_numbers([area], "area")[0]
    thing.id = annotation["id"] if type(annotation.get("id")) is int else None
    return thing, repairs


def _keypoints(annotation: dict[str, Any], count: int) -> list[tuple[float, float, float]] | None:
    values = annotation.get("keypoints")
    if values is None or not count:
        return None
    if not isinstance(values, list) or len(values) != 3 * count:
        found = len(values) if isinstance(values, list) else type(values).__name__
        raise DataError(f"keypoints hold {found} numbers, {count} points of x y visibility need {3 * count}")
    numbers = check_numbers(values, "keypoints")
    return [(numbers[i], numbers[i + 1], numbers[i + 2]) for i in range(0, 3 * count, 3)]


def _refuse_fractions(labels: _Labels) -> None:
    """Raises DataError where no box reaches beyond 1 pixel: those are fractions of the image."""
    farthest = 0.0
    for annotation in labels.annotations:
        box = _plain(annotation.get("bbox"))
        if box is not None:
            farthest = max(farthest, box[0] + box[2], box[1] + box[3])
    if 0 < farthest <= 1:
        raise DataError(f"{labels.place}: all boxes lie within 0..1: they look like fractions, COCO has pixels")


def _plain(box: object) -> list[float] | None:
    try:
        return check_numbers(box, "bbox") if isinstance(box, list) and len(box) == 4 else None
    except DataError:
        return None  # refused where its annotation is read


def _warn_of_corners(labels: _Labels, ledger: Ledger) -> None:
    """Warn where every box would fit its image as x1 y1 x2 y2, and some stick out of it as x y width height."""
    outside = []
    for number, annotation in enumerate(labels.annotations):
        box, image = _plain(annotation.get("bbox")), labels.images.get(annotation.get("image_id", ""), {})
        width, height = image.get("width"), image.get("height")
        if box is None or type(width) is not int or type(height) is not int:
            continue
        a, b, c, d = box
        if not (a < c <= width + 1 and b < d <= height + 1):
            return
        if a + c > width + 1 or b + d > height + 1:
            outside.append(annotation.get("id", f"number {number}"))
    if len(outside) > 1:
        ledger.warnings.append(
            f"{labels.place}: boxes look like x1 y1 x2 y2: all would fit so, and {len(outside)} stick out "
            f"of their image as x y width height, which COCO has (first: annotation {outside[0]}); they are clipped"
        )


def _warn_of_repeats(record: Record, ledger: Ledger) -> None:
    """COCO's own files hold a few objects twice and its scores count both, so they stay."""
    things = record.things or []
    repeats = len(things) - len({(t.label, t.box, t.area, t.crowd) for t in things})
    if repeats:
        ledger.warnings.append(f"{record.id}: {repeats} objects repeat another one exactly; kept, as COCO scores do")


def _refuse_shared_images(records: list[Record]) -> None:
    seen: dict[str, Record] = {}
    for record in records:
        other = seen.setdefault(record.id, record)
        if other is not record:
            raise DataError(
                f"{record.id}: named by image {other.source_id} of {other.split or 'the labels'} and by image "
                f"{record.source_id} of {record.split or 'the labels'}; an image may be in one place only"
            )


def _name_keypoints(dataset: DataSet, files: list[_Labels]) -> None:
    lists = [c["keypoints"] for f in files for c in f.categories.values() if isinstance(c.get("keypoints"), list)]
    lists = [names for names in lists if names]
    if not lists:
        return
    names = [str(name) for name in lists[0]]
    if any(other != lists[0] for other in lists):
        dataset.ledger.warnings.append("categories have different keypoints; names are those of the first")
    where = {name: i for i, name in enumerate(names)}
    dataset.keypoint_names = names
    dataset.flip_pairs = [
        (i, where[name.replace("left", "right")])
        for name, i in where.items()
        if "left" in name and name.replace("left", "right") in where
    ]
