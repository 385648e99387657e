"""CVAT for images 1.1: one XML file, annotations.xml, beside a folder of pictures (Sekachev et al. 2020).

`<annotations><meta><task><labels><label><name>...</label></labels></task></meta><image name width height><box label xtl
ytl xbr ybr/><polygon label points="x,y;x,y"/><ellipse/><mask rle left top width height/><tag label/></image>`. Pixels
are counted from 0 and corners are corners. Classes have the order in which the task lists them. Several such files (one
a job or a split) are read together.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from saccade.data.dataset import DataSet, Ledger
from saccade.data.formats.boxes import check_numbers
from saccade.data.formats.drawn import Drawn, Page, check_window, ellipse, make_dataset, take_upright
from saccade.data.formats.listing import files_with, relative
from saccade.data.formats.splits import split_of_file, split_of_folder
from saccade.data.formats.voc import parse_xml
from saccade.errors import DataError

_HEAD = 4096
_DEPTH = 3
_MAX_BYTES = 1 << 30  # of one file: a task may hold all pictures of a set
_NO_AREA = ("points", "polyline", "skeleton", "cuboid")


def looks_like(root: Path) -> bool:
    """True for an XML file of CVAT's, and for a folder that holds one."""
    return bool(_files(root))


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() == ".xml" and _is_cvat(root) else []
    return [path for path in files_with(root, ".xml", _DEPTH) if _is_cvat(path)]


def _is_cvat(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    return re.search(rb"<annotations\b.*<(version|meta|image|track)\b", head, re.DOTALL) is not None


def read(root: Path, task: str | None = None) -> DataSet:
    """Read annotations.xml, or all such files of a folder.

    Raises:
        DataError: no well-formed XML, the form for videos (tracks), or nothing that can be used.
    """
    ledger, base = Ledger(), root if root.is_dir() else root.parent
    pages: list[Page] = []
    classes: dict[str, None] = {}
    for path in _files(root):
        place = relative(path, base)
        tree = parse_xml(path, place, _MAX_BYTES)
        if isinstance(tree, str):
            raise DataError(f"{place}: {tree}")
        if tree.find("track") is not None and tree.find("image") is None:
            raise DataError(f"{place}: CVAT for video (tracks), which is not read; export 'CVAT for images 1.1'")
        classes |= dict.fromkeys(name for name in (_text(e) for e in tree.iterfind("meta//label/name")) if name)
        by_file = split_of_file(path.stem)
        for number, image in enumerate(tree.iterfind("image"), start=1):
            page = _page(image, place, number)
            page.split = page.split or by_file
            pages.append(page)
    return make_dataset(base, "cvat", pages, ledger, task, list(classes))


def _text(element: ET.Element) -> str:
    return (element.text or "").strip()


def _page(image: ET.Element, place: str, number: int) -> Page:
    name = image.get("name", "").strip()
    where = f"{place}: image {image.get('id', number)}"
    try:
        size: tuple[int, int] | None = (int(image.get("height", "0")), int(image.get("width", "0")))
    except ValueError:
        size = None
    subset = image.get("subset", "")
    page = Page(where, [name] if name else [], size=size, split=split_of_folder(subset) if subset else None)
    for count, element in enumerate(image, start=1):
        label = element.get("label", "").strip()
        if element.tag == "tag":
            page.words += [label] if label else []
        elif element.get("label") is not None:
            page.objects.append(_drawn(element, label, f"{where}, {element.tag[:20]} {count}"))
    return page


def _drawn(element: ET.Element, label: str, where: str) -> Drawn:
    """One shape; with a fault where it cannot be read."""
    drawn = Drawn(where, label)
    try:
        if element.tag == "box":
            x1, y1, x2, y2 = _numbers(element, "xtl", "ytl", "xbr", "ybr")
            drawn.box = (x1, y1, x2, y2)
            (degrees,) = _numbers(element, "rotation") if element.get("rotation") else (0.0,)
            if degrees:
                corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
                take_upright(drawn, ((x1 + x2) / 2, (y1 + y2) / 2), corners, degrees)
        elif element.tag == "polygon":
            drawn.polygons = [check_numbers(re.split(r"[;,]", element.get("points", "")), "points")]
        elif element.tag == "ellipse":
            (degrees,) = _numbers(element, "rotation") if element.get("rotation") else (0.0,)
            cx, cy, rx, ry = _numbers(element, "cx", "cy", "rx", "ry")
            drawn.polygons = [ellipse(cx, cy, rx, ry, degrees)]
        elif element.tag == "mask":
            drawn.mask = _mask(element)
        elif element.tag in _NO_AREA:
            raise DataError(f"<{element.tag}> is not read; draw a rectangle, polygon or mask")
        else:
            raise DataError(f"the shape <{element.tag[:40]}> is not known")
    except DataError as error:
        drawn.fault = str(error)
    return drawn


def _numbers(element: ET.Element, *names: str) -> list[float]:
    return check_numbers([element.get(name) for name in names], "/".join(names))


def _mask(element: ET.Element) -> tuple[np.ndarray, int, int]:
    """Runs of 0 and 1 in turn, 0 first, along the rows of a window. Raises DataError."""
    left, top, width, height = (int(v) for v in _numbers(element, "left", "top", "width", "height"))
    check_window(height, width)
    runs = [int(v) for v in check_numbers(element.get("rle", "").split(","), "rle")]
    if min(runs) < 0 or sum(runs) > height * width:
        raise DataError(f"run lengths sum to {sum(runs)}, the window of {width} x {height} has {height * width}")
    runs.append(height * width - sum(runs))
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width), left, top
