"""Pascal VOC: one XML file an image (Everingham et al. 2010; VOC2012 development kit, section 4).

VOC counts pixels from 1 and both corners belong to the box, so xmin ymin xmax ymax is xmin-1 ymin-1 xmax ymax in
Saccade's corners. Where a data set holds a coordinate of 0, its tool counted from 0: then the numbers are taken as
corners, and a warning says so. An object that ends on the pixel on which it starts (a click) is refused.

Images are found by the name of the XML file, wherever both lie, because `filename` inside is often stale.
"""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.parsers import expat

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats.boxes import check_numbers, drop_repeats, finish, fit_box, refuse_with_image, split_of
from saccade.data.formats.listing import is_image, list_files, list_folders, measure, relative
from saccade.errors import DataError

_MAX_BYTES = 20_000_000  # of one XML file
_MAX_DEPTH = 32
_NO_PICTURES = {"segmentationclass", "segmentationobject"}  # folders of masks


@dataclass(slots=True)
class _Page:
    """One XML file, parsed."""

    place: str
    size: tuple[int, int] | None  # (height, width); None where the file says 0 or nothing
    objects: list[tuple[str, list[str], bool]]  # name, xmin ymin xmax ymax as written, difficult


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
    images = [p for p in files if is_image(p.name) and not _NO_PICTURES & {part.lower() for part in p.parts}]
    pages, broken = _parse_all(root, [p for p in files if p.suffix.lower() == ".xml"])
    if not pages and not broken:
        raise DataError(f"{root}: no VOC annotation (*.xml with <annotation>) in this folder or below")
    splits = _splits(root, files, ledger)
    pairs = _pair(root, pages, images, splits, ledger)
    _account_for_the_rest(root, {p.stem for p in pages}, broken, images, splits, ledger)
    origin = _origin(pages.values(), ledger)
    sizes = measure(root, list(pairs), ledger)
    classes = sorted({name for page in pairs.values() for name, _, _ in page.objects if name})
    records = []
    for image, page in pairs.items():
        name = relative(image, root)
        places = _places(page)
        if image not in sizes:
            refuse_with_image(name, places, ledger)
            continue
        if page.size is not None and page.size != sizes[image]:
            why = _size_differs(page, sizes[image])
            ledger.refuse_image(name, why)
            refuse_with_image(why, places, ledger)
            continue
        things = _things(page, sizes[image], classes, origin, ledger)
        split = splits.get(image.stem) if splits else split_of(image.parent.name) or split_of(image.parent.parent.name)
        records.append(Record(id=name, size=sizes[image], split=split, things=things))
    records.sort(key=lambda r: r.id)
    return finish(DataSet(root, "voc", "detect", classes, records, ledger), task)


def parse_xml(path: Path, place: str) -> ET.Element | str:
    """The root element of an XML file, or why it is not one. Nothing outside is read and no entity is expanded.

    Raises:
        DataError: it declares a document type, which is how entities are smuggled in; `place` names the file.
    """
    if path.stat().st_size > _MAX_BYTES:
        return f"{path.stat().st_size} bytes, a VOC annotation has at most {_MAX_BYTES}"
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


def _parse_all(root: Path, paths: list[Path]) -> tuple[dict[Path, _Page], dict[str, str]]:
    """The annotations by file, and of those that cannot be read the reason by stem."""
    pages, broken = {}, {}
    for path in paths:
        place = relative(path, root)
        tree = parse_xml(path, place)
        if isinstance(tree, str):
            broken[path.stem] = f"{place}: {tree}"
        elif tree.tag == "annotation":
            pages[path] = _Page(place, _stated_size(tree), [_parse_object(e) for e in tree.findall("object")])
    return pages, broken


def _stated_size(tree: ET.Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(tree.findtext(f"size/{side}", "0"))) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _parse_object(element: ET.Element) -> tuple[str, list[str], bool]:
    corners = [element.findtext(f"bndbox/{side}", "").strip() for side in ("xmin", "ymin", "xmax", "ymax")]
    return element.findtext("name", "").strip(), corners, element.findtext("difficult", "0").strip() == "1"


def _places(page: _Page) -> list[str]:
    return [f"{page.place}: object {number}" for number in range(1, len(page.objects) + 1)]


def _pair(
    root: Path, pages: dict[Path, _Page], images: list[Path], splits: dict[str, str], ledger: Ledger
) -> dict[Path, _Page]:
    """Each image with its XML file: of the same stem, and among several of the longest common path."""
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        by_stem[image.stem].append(image)
    pairs: dict[Path, _Page] = {}
    unlisted = 0
    for path, page in pages.items():
        nearest = sorted(by_stem.get(path.stem, []), key=lambda p: -_common(p, path))
        if splits and path.stem not in splits:
            unlisted += 1
        elif not nearest:
            ledger.refuse_image(page.place, "no image of this name")
            refuse_with_image("no image of this name", _places(page), ledger)
        elif nearest[0] in pairs:
            why = f"{relative(nearest[0], root)} has two XML files, {pairs[nearest[0]].place} is used"
            ledger.warnings.append(f"{page.place}: {why}")
            refuse_with_image(why, _places(page), ledger)
        elif len(nearest) > 1 and _common(nearest[0], path) == _common(nearest[1], path):
            why = f"two images have this name: {relative(nearest[0], root)} and {relative(nearest[1], root)}"
            ledger.refuse_image(page.place, why)
            refuse_with_image(why, _places(page), ledger)
        else:
            pairs[nearest[0]] = page
    if unlisted:
        ledger.warnings.append(f"{unlisted} images with an XML file are in no list of the split and are left out")
    return pairs


def _account_for_the_rest(
    root: Path, read: set[str], broken: dict[str, str], images: list[Path], splits: dict[str, str], ledger: Ledger
) -> None:
    """Refuse images without a usable XML file, damaged XML files without an image, names of nothing in the split."""
    for image in images:
        if image.stem not in read and (not splits or image.stem in splits):
            ledger.refuse_image(relative(image, root), broken.get(image.stem, "no XML file of this name"))
    pictured = {image.stem for image in images}
    for stem, why in broken.items():
        if stem not in pictured:
            ledger.refuse_image(why.partition(":")[0], why)
    for stem in sorted(splits):
        if stem not in read | pictured | set(broken):
            ledger.refuse_image(stem, "the split names it, but there is neither an image nor an XML file")


def _common(one: Path, other: Path) -> int:
    return sum(a == b for a, b in zip(one.parts, other.parts, strict=False))


def _splits(root: Path, files: list[Path], ledger: Ledger) -> dict[str, str]:
    """Stem -> split, from lists or tables; {} where there are none."""
    named: dict[str, list[str]] = {}
    lists = [p for p in files if p.suffix == ".txt" and "imagesets" in {part.lower() for part in p.parts[-3:-1]}]
    main = [p for p in lists if p.parent.name.lower() == "main"] or lists
    for path in main:
        if path.stem.lower() in ("train", "val", "valid", "test", "trainval"):
            named[path.stem.lower()] = [_stem(line) for line in _lines(path, root)]
    if not named:
        for path in files:
            if path.parent == root and path.suffix.lower() == ".csv" and split_of(path.stem):
                named[path.stem.lower()] = _table(path, root)
    if "trainval" in named and len(named) > 1 and {"train", "val", "valid"} & set(named):
        del named["trainval"]
    splits: dict[str, str] = {}
    for name in sorted(named):
        split = "train" if name == "trainval" else split_of(name) or name
        twice = sorted(stem for stem in set(named[name]) if splits.get(stem, split) != split)
        if twice:
            ledger.warnings.append(f"{len(twice)} images are in {split} and in another split, such as {twice[0]}")
        for stem in named[name]:
            splits.setdefault(stem, split)
    return splits


def _lines(path: Path, root: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{relative(path, root)}: not UTF-8 text at byte {error.start}") from None


def _table(path: Path, root: Path) -> list[str]:
    """Stems of the column `filename` of a CSV file; [] where it has no such column."""
    try:
        rows = list(csv.DictReader(_lines(path, root)))
    except csv.Error as error:
        raise DataError(f"{relative(path, root)}: not a CSV table: {error}") from None
    return list(dict.fromkeys(_stem(row["filename"]) for row in rows if row.get("filename")))


def _stem(line: str) -> str:
    """`2008_000008`, `2008_000008.jpg`, `JPEGImages/2008_000008.jpg`, `2008_000008 1` -> 2008_000008."""
    name = PurePosixPath(line.replace("\\", "/")).name
    head, _, last = name.rpartition(" ")
    if last in ("1", "0", "-1"):
        name = head.strip()
    return PurePosixPath(name).stem if is_image(name) else name


def _origin(pages: Iterable[_Page], ledger: Ledger) -> int:
    """1 where pixels are counted from 1, as VOC does; 0 where a coordinate below 1 shows that they are not."""
    for page in pages:
        for number, (_, corners, _) in enumerate(page.objects, start=1):
            for corner in corners[:2]:
                try:
                    from_zero = 0 <= float(corner) < 1
                except ValueError:
                    continue
                if from_zero:
                    ledger.warnings.append(
                        f"{page.place}: object {number} starts at {corner}: this set counts pixels from 0 "
                        "(VOC: from 1), its boxes are taken as they are"
                    )
                    return 0
    return 1


def _size_differs(page: _Page, size: tuple[int, int]) -> str:
    height, width = page.size or (0, 0)
    turned = "; is the image turned by its EXIF orientation?" if (width, height) == size else ""
    return f"{page.place} says {width} x {height} (width x height), the image has {size[1]} x {size[0]}{turned}"


def _things(page: _Page, size: tuple[int, int], classes: list[str], origin: int, ledger: Ledger) -> list[Thing]:
    things, places = [], []
    for place, (name, corners, difficult) in zip(_places(page), page.objects, strict=True):
        try:
            if not name:
                raise DataError("has no <name>")
            x1, y1, x2, y2 = check_numbers(corners, "<bndbox>")
            if x1 == x2 or y1 == y2:
                raise DataError(f"box {' '.join(corners)} (xmin ymin xmax ymax) has no area")
            box, repair = fit_box((x1 - origin, y1 - origin, x2, y2), size)
        except DataError as error:
            ledger.refuse_label(place, str(error))
            continue
        if repair:
            ledger.repair(place, repair)
        things.append(Thing(classes.index(name), box, difficult=difficult))
        places.append(place)
    return drop_repeats(things, places, ledger)
