"""Write boxes as Pascal VOC: JPEGImages/, Annotations/*.xml, ImageSets/Main/{train,val,test}.txt."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from pathlib import Path

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats.output import Images, file_names, place_image, sentences, whole_folder
from saccade.errors import DataError

_NO_XML = re.compile(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # and \r, which is read back as \n


def write(dataset: DataSet, out: Path, images: Images = "copy") -> list[str]:
    """Write `dataset` to the new folder `out`; see `voc.py` for how its pixels are counted.

    Returns:
        What VOC cannot hold, a sentence each.

    Raises:
        UsageError, ResourceError, DataError: as `whole_folder` and `place_image`; classes that are one in XML.
    """
    lost: Counter[str] = Counter()
    names = file_names(dataset.records)
    classes = _xml_names(dataset.classes, lost)
    lists: dict[str, list[str]] = defaultdict(list)
    with whole_folder(out) as folder:
        for part in ("JPEGImages", "Annotations"):
            (folder / part).mkdir()
        for record in dataset.records:
            name = names[record.id]
            stem = Path(name).stem
            place_image(dataset, record, folder / "JPEGImages" / name, images)
            tree = _annotation(record, name, classes, lost)
            ET.indent(tree)
            (folder / "Annotations" / f"{stem}.xml").write_bytes(ET.tostring(tree, encoding="utf-8") + b"\n")
            if record.split is not None:
                lists[record.split].append(stem)
        if lists:
            (folder / "ImageSets" / "Main").mkdir(parents=True)
            lost["images without a split (in no list)"] = sum(r.split is None for r in dataset.records)
        for split, stems in lists.items():
            text = "".join(f"{stem}\n" for stem in stems)
            (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(text, encoding="utf-8")
    used = {t.label for r in dataset.records for t in r.things or []}
    lost["classes without objects (VOC has no list of classes)"] = len(dataset.classes) - len(used)
    return sentences(lost)


def _xml_names(classes: list[str], lost: Counter[str]) -> list[str]:
    """Class names without what XML 1.0 cannot hold. Raises DataError where two classes become one by that."""
    names = [_NO_XML.sub("_", name) for name in classes]
    lost["class names with control characters (written as _)"] = sum(
        a != b for a, b in zip(classes, names, strict=True)
    )
    for name, count in Counter(names).items():
        if count > 1:
            same = [classes[i] for i, other in enumerate(names) if other == name]
            raise DataError(f"classes {same[0]!r} and {same[1]!r} would both be {name!r} in XML; rename one of them")
    return names


def _annotation(record: Record, name: str, classes: list[str], lost: Counter[str]) -> ET.Element:
    tree = ET.Element("annotation")
    ET.SubElement(tree, "folder").text = "JPEGImages"
    ET.SubElement(tree, "filename").text = name
    size = ET.SubElement(tree, "size")
    for side, value in (("width", record.size[1]), ("height", record.size[0]), ("depth", 3)):
        ET.SubElement(size, side).text = str(value)
    ET.SubElement(tree, "segmented").text = "0"
    for thing in record.things or []:
        lost["outlines (polygons or masks; boxes are kept)"] += bool(thing.polygons or thing.rle or thing.mask)
        lost["objects with keypoints (boxes are kept)"] += bool(thing.keypoints)
        lost["crowd regions (written as difficult objects)"] += thing.crowd
        corners = _corners(thing)
        if corners is None:
            lost["objects up to one pixel wide or high (left out)"] += 1
            continue
        found = ET.SubElement(tree, "object")
        ET.SubElement(found, "name").text = classes[thing.label]
        ET.SubElement(found, "pose").text = "Unspecified"
        ET.SubElement(found, "truncated").text = "0"
        ET.SubElement(found, "difficult").text = str(int(thing.difficult or thing.crowd))
        box = ET.SubElement(found, "bndbox")
        for side, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ET.SubElement(box, side).text = corner
    return tree


def _corners(thing: Thing) -> list[str] | None:
    """xmin ymin xmax ymax counted from 1 with both ends inside; None where they would not be in order."""
    x1, y1, x2, y2 = thing.box
    values = [round(x1 + 1, 4), round(y1 + 1, 4), round(x2, 4), round(y2, 4)]
    if values[0] >= values[2] or values[1] >= values[3]:
        return None
    return [str(int(v)) if v.is_integer() else f"{v:.4f}" for v in map(float, values)]
