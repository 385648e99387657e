"""Write boxes and polygons as YOLO: images/SPLIT, labels/SPLIT and data.yaml."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats.boxes import clip_polygon, polygon_box
from saccade.data.formats.output import Images, file_names, place_image, sentences, whole_folder
from saccade.data.formats.yolo_rows import format_row


def write(dataset: DataSet, out: Path, images: Images = "copy") -> list[str]:
    """Write `dataset` to the new folder `out`. Without splits the images lie in images/ itself.

    An object of several polygons becomes one polygon that runs through all of them, over bridges without area.

    Returns:
        What YOLO cannot hold, a sentence each.

    Raises:
        UsageError, ResourceError, DataError: as `whole_folder` and `place_image`.
    """
    lost: Counter[str] = Counter()
    names = file_names(dataset.records)
    described: dict[str, Any] = {split: f"images/{split}" for split in dataset.splits}
    described["names"] = dict(enumerate(dataset.classes))
    with whole_folder(out) as folder:
        for part in ["", *(record.split or "" for record in dataset.records)]:
            for kind in ("images", "labels"):
                (folder / kind / part).mkdir(parents=True, exist_ok=True)
        for record in dataset.records:
            name = Path(record.split or "") / names[record.id]
            place_image(dataset, record, folder / "images" / name, images)
            rows = [row for thing in record.things or [] if (row := _row(thing, record, lost)) is not None]
            text = "".join(f"{row}\n" for row in rows)
            (folder / "labels" / name).with_suffix(".txt").write_text(text, encoding="utf-8")
        if dataset.splits:
            lost["images without a split (data.yaml does not name them)"] = sum(
                r.split is None for r in dataset.records
            )
        breaks = any(set(name) & set("\x85\u2028\u2029") for name in dataset.classes)  # lost unless they are escaped
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=not breaks)
        (folder / "data.yaml").write_text(text, encoding="utf-8")
    return sentences(lost)


def _row(thing: Thing, record: Record, lost: Counter[str]) -> str | None:
    if thing.crowd:
        lost["crowd regions (left out)"] += 1
        return None
    lost["difficult flags"] += thing.difficult
    lost["objects with keypoints (boxes are kept)"] += bool(thing.keypoints)
    lost["masks (their boxes are kept)"] += not thing.polygons and bool(thing.rle or thing.mask)
    if not thing.polygons:
        return format_row(thing, record.size, None)
    polygons = [inside for p in thing.polygons if len(inside := clip_polygon(p, record.size)) >= 6]  # YOLO has 0 to 1
    if not polygons:
        return format_row(thing, record.size, None)
    around = polygon_box(polygons)
    differs = any(abs(a - b) > 0.01 for a, b in zip(around, thing.box, strict=True))
    lost["boxes that differ from the box around their polygon (which replaces them)"] += differs
    return format_row(thing, record.size, _joined(polygons))


def _joined(polygons: list[list[float]]) -> list[float]:
    """One closed walk: around each polygon in turn, then back over the same bridges to the first point of the first."""
    if len(polygons) == 1:
        return polygons[0]
    walk = [v for polygon in polygons for v in (*polygon, *polygon[:2])]
    for polygon in reversed(polygons[1:-1]):
        walk += polygon[:2]
    return walk
