"""Pascal VOC: one XML file an image (Everingham et al. 2010; VOC2012 development kit, section 4).

VOC counts pixels from 1 and both corners belong to the box, so xmin ymin xmax ymax is xmin-1 ymin-1 xmax ymax in
Saccade's corners. Where a data set holds a coordinate of 0, its tool counted from 0: then the numbers are taken as
corners, and a warning says so. An object that ends on the pixel on which it starts (a click) is refused.

An XML file belongs to the picture at its path (voc_paths.py); `filename` inside is often stale and asked only where
several pictures could be meant. Outlines and rotated boxes are not read: such objects are refused.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import check_numbers, drop_repeats, finish, fit_box, refuse_with_image
from saccade.data.formats.listing import is_image, list_files, list_folders, measure, relative
from saccade.data.formats.splits import split_of_folder
from saccade.data.formats.voc_lists import read_splits
from saccade.data.formats.voc_paths import Places
from saccade.errors import DataError

_MAX_BYTES = 20_000_000  # of one XML file
_MAX_DEPTH = 32
_MASKS = {"segmentationclass", "segmentationobject"}  # folders of masks
_COPIES = {"mask", "masks", "thumbnails", "thumbs"}  # folders of what is made from the pictures, under their names
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_NO_BOXES = ("robndbox", "rotated_bndbox", "polygon", "segmentation", "mask", "points", "keypoints")


@dataclass(slots=True)
class _Object:
    """One box of an <object>, as written."""

    place: str
    name: str
    corners: list[str]  # xmin ymin xmax ymax
    difficult: bool
    fault: str | None = None  # why it cannot be read


@dataclass(slots=True)
class _Page:
    """One XML file, parsed."""

    place: str
    size: tuple[int, int] | None = None  # (height, width); None where the file says 0 or nothing
    objects: list[_Object] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)  # place of an object -> how it was read
    stated: list[str] = field(default_factory=list)  # the paths that it gives its picture
    broken: str | None = None  # why it cannot be read


def looks_like(root: Path) -> bool:
    """True for a folder that holds VOC's XML files, directly or up to three folders down."""
    folders = [root] if root.is_dir() else []
    for _ in range(4):
        for folder in folders:
            files = [p for p in folder.glob("*.[xX][mM][lL]") if not p.name.startswith(".") and p.is_file()]
            if files:
                return any(_is_annotation(path) for path in files[:20])  # the first may be empty or damaged
        folders = [child for folder in folders for child in list_folders(folder)]
    return False


def _is_annotation(path: Path) -> bool:
    with path.open("rb") as file:
        return re.search(rb"<annotation[\s>]", file.read(2000)) is not None  # CVAT's own has <annotations>


def read(root: Path, task: str | None = None) -> DataSet:
    """Read a VOC data set: boxes, names, the difficult flag, and the given split.

    The split is that of `ImageSets/Main/{train,val,test}.txt`, of `train_labels.csv` and the like beside the folders,
    or of folders called train, valid, test; else None.

    Raises:
        DataError: no XML file or image, nothing usable, or an XML file with a document type (entities are not read).
    """
    ledger = Ledger()
    files = list_files(root)
    images = _pictures(root, files, ledger)
    pages = _parse_all(root, [p for p in files if p.suffix.lower() == ".xml"])
    pairs, splits = _pair(root, files, images, pages, ledger)
    origin = _origin(pairs.values(), ledger)
    sizes = measure(root, list(pairs), ledger)
    classes = sorted({thing.name for page in pairs.values() for thing in page.objects if thing.name})
    labels = {name: label for label, name in enumerate(classes)}
    records = []
    for image, page in pairs.items():
        name = relative(image, root)
        places = [thing.place for thing in page.objects]
        if image not in sizes:
            refuse_with_image(name, places, ledger)
            continue
        if page.size is not None and page.size != sizes[image]:
            why = _size_differs(page, sizes[image])
            ledger.refuse_image(name, why)
            refuse_with_image(why, places, ledger)
            continue
        things = _things(page, sizes[image], labels, origin, ledger)
        split = splits.get(image) if splits else _folder_split(image, root)
        records.append(Record(id=name, size=sizes[image], split=split, things=things))
    records.sort(key=lambda r: r.id)
    return finish(DataSet(root, "voc", "detect", classes, records, ledger), task)


def _pictures(root: Path, files: list[Path], ledger: Ledger) -> list[Path]:
    """The images among the files, without masks, and without copies that lie beside them in folders called so."""
    images = [path for path in files if is_image(path.name)]
    folders = {path: {part.lower() for part in path.relative_to(root).parts[:-1]} for path in images}
    images = [path for path in images if not _MASKS & folders[path]]
    copies = [path for path in images if _COPIES & folders[path]]
    if 0 < len(copies) < len(images):
        ledger.warnings.append(f"{len(copies)} images, such as {relative(copies[0], root)}, lie in a folder of copies")
        images = [path for path in images if not _COPIES & folders[path]]
    return images


def _folder_split(image: Path, root: Path) -> str | None:
    """The split of the innermost folder below the root that names one."""
    splits = map(split_of_folder, reversed(image.relative_to(root).parts[:-1]))
    return next((split for split in splits if split), None)


def parse_xml(path: Path, place: str, most: int = _MAX_BYTES) -> ET.Element | str:
    """The root element of an XML file of at most so many bytes, or why it is not one. Nothing outside is read and no
    entity is expanded.

    Raises:
        DataError: it declares a document type, which is how entities are smuggled in; `place` names the file.
    """
    if path.stat().st_size > most:
        return f"{path.stat().st_size} bytes, such a file has at most {most}"
    builder = ET.TreeBuilder()
    parser = expat.ParserCreate()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"elements nested over {_MAX_DEPTH} deep, line {parser.CurrentLineNumber}")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: object) -> None:
        raise DataError(
            f"{place}:{parser.CurrentLineNumber}: a document type (DOCTYPE, entities) is not allowed in XML"
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:
        return f"not well-formed XML: {error}"


def _parse_all(root: Path, paths: list[Path]) -> dict[Path, _Page]:
    """The annotations by file. Raises DataError where there is none."""
    pages, others = {}, []
    for path in paths:
        place = relative(path, root)
        tree = parse_xml(path, place)
        if isinstance(tree, str):
            pages[path] = _Page(place, broken=tree)
        elif tree.tag == "annotation":
            pages[path] = _parse_page(tree, place)
        else:
            others.append(f"{place} holds <{tree.tag[:40]}>")
    if not pages:
        seen = f"; {others[0]}" if others else ""
        cvat = f", CVAT's own form: it is read as cvat:{root}" if "<annotations>" in seen else ""
        raise DataError(f"{root}: no VOC annotation (*.xml with <annotation>) in this folder or below{seen}{cvat}")
    return pages


def _parse_page(tree: ET.Element, place: str) -> _Page:
    page = _Page(place, _stated_size(tree))
    filename, folder, path = (tree.findtext(tag, "").strip() for tag in ("filename", "folder", "path"))
    page.stated = [filename, f"{folder}/{filename}" if folder and filename else "", path]
    for number, element in enumerate(tree.iter("object"), start=1):
        where = f"{place}: object {number}"
        boxes = element.findall("bndbox")
        page.objects += _parse_object(element, boxes, where)
        if len(boxes) > 1:
            page.notes[where] = f"has {len(boxes)} <bndbox>: read as {len(boxes)} objects"
        elif boxes and any(element.find(tag) is not None for tag in _NO_BOXES):
            page.notes[where] = "has an outline beside its <bndbox>: VOC is read for boxes alone"
    return page


def _parse_object(element: ET.Element, boxes: list[ET.Element], where: str) -> list[_Object]:
    """An object for each of its boxes; one with a fault where it has none, or what it is called is unclear."""
    names = [(name.text or "").strip() for name in element.findall("name")]
    difficult = element.findtext("difficult", "0").strip() == "1"
    fault = None
    if not any(names):
        fault = "has no <name>"
    elif len(names) > 1:
        fault = f"has {len(names)} <name> ({', '.join(names)[:80]}), one is needed"
    elif not boxes:
        other = next((tag for tag in _NO_BOXES if element.find(tag) is not None), None)
        fault = f"has <{other}>, which is not read here, and no <bndbox>" if other else "has no <bndbox>"
    if fault or not boxes:
        return [_Object(where, "", [], difficult, fault)]
    found = []
    for number, box in enumerate(boxes, start=1):
        place = where if len(boxes) == 1 else f"{where}, box {number}"
        twice = next((side for side in _SIDES if len(box.findall(side)) > 1), None)
        fault = f"has several <{twice}> in one <bndbox>" if twice else None
        corners = [box.findtext(side, "").strip() for side in _SIDES]
        found.append(_Object(place, names[0], corners, difficult, fault))
    return found


def _stated_size(tree: ET.Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(tree.findtext(f"size/{side}", "0"))) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _pair(
    root: Path, files: list[Path], images: list[Path], pages: dict[Path, _Page], ledger: Ledger
) -> tuple[dict[Path, _Page], dict[Path, str]]:
    """Each image with its XML file, and the splits that lists give. All others are refused: images without a usable
    XML file, XML files without an image; what no list names is counted in a warning."""
    places = Places(root, images, list(pages))
    owners: dict[Path, Path] = {}
    alone: dict[Path, str] = {}
    for path, page in pages.items():
        try:
            owners[path] = places.picture_of(path, page.stated)
        except DataError as error:
            alone[path] = str(error)
    splits = read_splits(root, files, places, owners, ledger)
    pairs: dict[Path, _Page] = {}
    unlisted = 0
    for path, page in pages.items():
        image = owners.get(path, path)
        labels = [thing.place for thing in page.objects]
        if splits and image not in splits:
            unlisted += 1
        elif path in alone:
            ledger.refuse_image(page.place, page.broken or alone[path])
            refuse_with_image(alone[path], labels, ledger)
        elif image in pairs:
            why = f"{relative(image, root)} has two XML files, {pairs[image].place} is used"
            ledger.warnings.append(f"{page.place}: {why}")
            refuse_with_image(why, labels, ledger)
        else:
            pairs[image] = page
    if unlisted:
        ledger.warnings.append(f"{unlisted} images with an XML file are in no list of the split and are left out")
    for image in images:
        if image in pairs and pairs[image].broken:
            page = pairs.pop(image)
            ledger.refuse_image(relative(image, root), f"{page.place}: {page.broken}")
        elif image not in pairs and (not splits or image in splits):
            ledger.refuse_image(relative(image, root), "no XML file of this name")
    return pairs, splits


def _origin(pages: Iterable[_Page], ledger: Ledger) -> int:
    """1 where pixels are counted from 1, as VOC does; 0 where a coordinate below 1 shows that they are not."""
    for page in pages:
        for thing in page.objects:
            for corner in thing.corners[:2]:
                try:
                    from_zero = 0 <= float(corner) < 1
                except ValueError:
                    continue
                if from_zero:
                    ledger.warnings.append(
                        f"{thing.place} starts at {corner}: this set counts pixels from 0 "
                        "(VOC: from 1), its boxes are taken as they are"
                    )
                    return 0
    return 1


def _size_differs(page: _Page, size: tuple[int, int]) -> str:
    height, width = page.size or (0, 0)
    turned = "; is the image turned by its EXIF orientation?" if (width, height) == size else ""
    return f"{page.place} says {width} x {height} (width x height), the image has {size[1]} x {size[0]}{turned}"


def _things(page: _Page, size: tuple[int, int], labels: dict[str, int], origin: int, ledger: Ledger) -> list[Thing]:
    things, places = [], []
    for where, note in page.notes.items():
        ledger.repair(where, note)
    for found in page.objects:
        try:
            if found.fault:
                raise DataError(found.fault)
            x1, y1, x2, y2 = check_numbers(found.corners, "<bndbox>")
            if x1 == x2 or y1 == y2:
                raise DataError(f"box {' '.join(found.corners)} (xmin ymin xmax ymax) has no area")
            box, repair = fit_box((x1 - origin, y1 - origin, x2, y2), size)
        except DataError as error:
            ledger.refuse_label(found.place, str(error))
            continue
        if repair:
            ledger.repair(found.place, repair)
        things.append(Thing(labels[found.name], box, difficult=found.difficult))
        places.append(found.place)
    return drop_repeats(things, places, ledger)
