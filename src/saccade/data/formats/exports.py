"""Exports of labelling tools, and layouts of known collections, that are not read: recognised, so that the message can
say what was seen and which export to choose instead. Names, and the first bytes of a few files, are looked at.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from saccade.data.formats.folder import flat_splits
from saccade.data.formats.listing import list_files, list_images, relative
from saccade.data.formats.splits import split_of_folder
from saccade.data.formats.table import Table, head_of_table

_HEAD = 16_384  # bytes of a file
_FILES = 10  # of each suffix that are opened, in each folder
_TABLES = 20  # that are opened in all
_BOXES = "COCO JSON, YOLO or Pascal VOC XML"
_OUTLINES = "COCO JSON, YOLO segmentation, or masks as PNG files with one class index a pixel"

_JSON = (  # words that are all in the head of a file; what wrote it; what to choose there
    ((b'"coordinates"', b'"annotations"', b'"image"'), "CreateML's JSON", f"choose the export {_BOXES}"),
    ((b'"classTitle"', b'"objects"'), "Supervisely's JSON", f"choose the export {_BOXES} there"),
    ((b'"media_type"', b'"items"', b'"categories"'), "Datumaro's JSON", f"choose the export {_BOXES}"),
    ((b'"imgHeight"', b'"objects"', b'"polygon"'), "Cityscapes' polygons", "use its *_labelIds.png masks"),
    ((b'"segments_info"',), "panoptic JSON", "the instances of the same set are read (instances_*.json)"),
)
_XML = ((rb"<dataset\b.*<images\b", "XML of dlib's imglab", f"convert it to {_BOXES}"),)


def describe_export(root: Path) -> str | None:
    """What labels were seen in the folder `root`, by which tool, and what to do; None where nothing is known."""
    heads: Counter[tuple[Path, str]] = Counter()
    for path in list_files(root):
        name, suffix = path.name.lower(), path.suffix.lower()
        heads[path.parent, suffix] += 1
        place = relative(path, root)
        if ".tfrecord" in name or suffix in (".record", ".records"):
            return f"{place}: TFRecords, which are not read; choose the export {_BOXES}"
        if name == "labelmap.txt" and b"label:color_rgb" in _head(path):
            return f"{place}: colour masks of CVAT (Segmentation mask 1.1), which are not read; choose {_OUTLINES}"
        if heads[path.parent, suffix] <= _FILES and (known := _of_head(path, suffix)):
            return f"{place}: {known[0]}, which is not read; {known[1]}"
    return None


def _of_head(path: Path, suffix: str) -> tuple[str, str] | None:
    if suffix == ".json":
        head = _head(path)
        return next(((tool, advice) for words, tool, advice in _JSON if all(word in head for word in words)), None)
    if suffix == ".xml":
        head = _head(path)
        return next(((tool, advice) for pattern, tool, advice in _XML if re.search(pattern, head, re.DOTALL)), None)
    return None


def describe_file(path: Path) -> str | None:
    """What labels the file at `path` holds, by which tool, and what to do; None where nothing is known."""
    if known := _of_head(path, path.suffix.lower()):
        return f"{known[0]}, which is not read; {known[1]}"
    table = head_of_table(path) if path.suffix.lower() in (".csv", ".tsv") else None
    return None if table is None else _of_table(table)


def describe_run(root: Path) -> str | None:
    """What to say of a folder that `saccade train` left, where data are asked for; None for any other."""
    if next(root.glob("*.safetensors"), None) is None:
        return None
    try:
        stated = json.loads((root / "config.json").read_text(encoding="utf-8"))
        return f"the folder of a run, not of data; it was trained on {stated['data']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def describe_layout(root: Path) -> str | None:
    """What the folder `root` seems to be where no reader takes it: one of the exports above, Cityscapes, tables or
    masks of Roboflow, or splits that hold pictures without labels."""
    known = describe_export(root) or _cityscapes(root)
    if known:
        return known
    flat = flat_splits(root)
    files = list_files(root)
    named = [path for path in files if path.suffix.lower() in (".csv", ".tsv")][:_TABLES]
    tables = [(path, head) for path in named if (head := head_of_table(path)) is not None]
    for path, table in tables:
        if says := _of_table(table):
            return f"{relative(path, root)}: {says}"
    if flat:
        return _of_splits(root, flat, [table for _, table in tables])
    for path in files:
        if path.suffix.lower() == ".jsonl" and b'"file_name"' in _head(path):
            place = relative(path, root)
            return f"{place}: Hugging Face's JSON lines, which are not read; write a .csv with file_name,label instead"
        if path.suffix.lower() in (".parquet", ".arrow"):
            return f"{relative(path, root)}: a {path.suffix} table, which is not read; save its pictures as files"
    unknown = next((path for path in files if path.suffix.lower() == ".xml"), None)
    tag = None if unknown is None else re.search(rb"<([A-Za-z][\w:.-]{0,40})", _head(unknown))
    if unknown is not None and tag is not None and tag[1] != b"annotation":
        return (
            f"{relative(unknown, root)}: XML with <{tag[1].decode()}> at its top, which is not known; VOC's has "
            f"<annotation>. Choose the export {_BOXES}"
        )
    return None


def _cityscapes(root: Path) -> str | None:
    names = {part for path in list_images(root)[:1000] for part in path.relative_to(root.parent).parts[:-1]}
    seen = sorted(names & {"leftImg8bit", "gtFine", "gtCoarse"})
    if not seen:
        return None
    return (
        f"{', '.join(f'{name}/' for name in seen)}: the layout of Cityscapes. Put the pictures in images/train/, "
        "images/val/ and the *_labelTrainIds.png (or *_labelIds.png) in masks/train/, masks/val/, and a classes.txt "
        "with one name a line beside them"
    )


def _of_table(table: Table) -> str | None:
    """What a table that states no classes of pictures holds."""
    names = set(table.names)
    if {"pixelvalue", "class"} <= names:
        return (
            "values of Roboflow's mask export (pictures beside *_mask.png). Choose the export COCO Segmentation, or "
            "put the pictures in images/, the masks in masks/ (with the folders of the splits in both), and beside "
            "them a classes.txt with one name a line, from value 0 on"
        )
    if {"xmin", "ymin", "xmax", "ymax"} <= names or {"x1", "y1", "x2", "y2"} <= names or "bbox" in names:
        return f"a table of boxes ({table.describe()}) without a column of pictures; call that 'image'"
    if names & {"encodedpixels", "rle"}:
        return f"a table of run lengths ({table.describe()}) without a column of pictures; call that 'image'"
    return None


def _of_splits(root: Path, flat: Sequence[Path], tables: Sequence[Table]) -> str:
    """Advice for folders of splits that hold pictures, and nothing that is known to label them."""
    shown = ", ".join(f"{relative(folder, root)}/" for folder in flat[:6])
    says = f"{shown}: folders with the names of splits hold the pictures, and such folders are never classes. "
    for folder in sorted(flat, key=lambda f: split_of_folder(f.name) != "train"):
        stems = Counter(re.split(r"[._\-\d ]", path.stem, maxsplit=1)[0] for path in list_images(folder)[:1000])
        words = sorted(word for word, count in stems.items() if word and count > 1)
        if len(words) > 1:
            classes = ", ".join(map(repr, words[:5])) + (", ..." if len(words) > 5 else "")
            return (
                f"{says}The names of the files seem to say the classes ({classes}): move the files into folders, such "
                f"as {relative(folder, root)}/{words[0]}/, or write a CSV file with the columns image,label"
            )
    if tables:
        return (
            f"{says}Found {tables[0].describe()}: call its columns 'image' and 'label' (one class) or 'tags' (a list), "
            "or write a 0/1 column for each class"
        )
    return f"{says}Put a folder for each class into each of them, or write a CSV file with the columns image,label"


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError:
        return b""
