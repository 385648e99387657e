"""Write boxes, polygons, masks and keypoints as COCO: images/ and annotations/instances_SPLIT.json."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats.output import Images, file_names, place_image, sentences, whole_folder
from saccade.data.image import decode_values
from saccade.data.rle import encode_mask, encode_polygons, rle_area
from saccade.errors import DataError


def write(dataset: DataSet, out: Path, images: Images = "copy") -> list[str]:
    """Write `dataset` to the new folder `out`; image, category and annotation ids stay where they came from COCO.

    Returns:
        What COCO cannot hold, a sentence each.

    Raises:
        UsageError, ResourceError, DataError: as `whole_folder` and `place_image`; an id mask that cannot be read.
    """
    lost: Counter[str] = Counter()
    names = file_names(dataset.records)
    image_ids = _image_ids(dataset)
    categories = _categories(dataset)
    ids = [t.id for r in dataset.records for t in r.things or []]
    keep_ids = None not in ids and len(set(ids)) == len(ids)
    number = 0
    with whole_folder(out) as folder:
        (folder / "annotations").mkdir()
        (folder / "images").mkdir()
        for split in [*dataset.splits, None]:
            records = [r for r in dataset.records if r.split == split]
            if not records:
                continue
            annotations = []
            for record in records:
                place_image(dataset, record, folder / "images" / names[record.id], images)
                maps: dict[str, np.ndarray] = {}
                for thing in record.things or []:
                    number += 1
                    lost["difficult flags"] += thing.difficult
                    row = _annotation(dataset, record, thing, maps)
                    row |= {"id": thing.id if keep_ids else number, "image_id": image_ids[record.id]}
                    annotations.append(row | {"category_id": categories[thing.label]["id"]})
            described = [
                {"id": image_ids[r.id], "file_name": names[r.id], "height": r.size[0], "width": r.size[1]}
                for r in records
            ]
            content = {"info": {"contributor": "saccade"}, "images": described, "annotations": annotations}
            content["categories"] = categories
            file = folder / "annotations" / (f"instances_{split}.json" if split else "instances.json")
            file.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    return sentences(lost)


def _image_ids(dataset: DataSet) -> dict[str, int | str]:
    stated = [r.source_id for r in dataset.records]
    if None not in stated and len(set(stated)) == len(stated):
        return {r.id: r.source_id for r in dataset.records if r.source_id is not None}
    return {r.id: i for i, r in enumerate(dataset.records, start=1)}


def _categories(dataset: DataSet) -> list[dict[str, Any]]:
    """In order of class. Other formats count from 0, which many COCO tools take for background: 1, 2, ... then."""
    stated = dataset.category_ids if dataset.format == "coco" else None
    ids = stated or list(range(1, len(dataset.classes) + 1))
    rows: list[dict[str, Any]] = [{"id": i, "name": n} for i, n in zip(ids, dataset.classes, strict=True)]
    for row in rows:
        if dataset.joints is not None:
            row["keypoints"] = list(dataset.joints.names)
            row["skeleton"] = [[a + 1, b + 1] for a, b in dataset.joints.bones]  # COCO counts joints from 1
            row["flip_pairs"] = [[a + 1, b + 1] for a, b in dataset.joints.pairs]  # ours: names need not tell the sides
    return rows


def _annotation(dataset: DataSet, record: Record, thing: Thing, maps: dict[str, np.ndarray]) -> dict[str, Any]:
    """The row of one object without its ids; `maps` keeps the id masks of the image, so that each is read once."""
    x1, y1, x2, y2 = thing.box
    rle = thing.rle
    if rle is None and not thing.polygons and thing.mask is not None:
        name, value = thing.mask
        if name not in maps:
            maps[name] = _read_ids(dataset.root, name, record.size)
        rle = encode_mask(maps[name] == value)
    row: dict[str, Any] = {"bbox": [round(v, 4) for v in (x1, y1, x2 - x1, y2 - y1)], "iscrowd": int(thing.crowd)}
    row["segmentation"] = [[round(v, 4) for v in p] for p in thing.polygons] if thing.polygons else rle or []
    if thing.area is not None:
        row["area"] = thing.area
    elif thing.polygons:
        row["area"] = rle_area(encode_polygons(thing.polygons, record.size))
    else:
        row["area"] = rle_area(rle) if rle else round((x2 - x1) * (y2 - y1), 4)
    if thing.keypoints and dataset.joints is not None:
        row["keypoints"] = [round(v, 4) for point in thing.keypoints for v in point]
        row["num_keypoints"] = sum(v > 0 for _, _, v in thing.keypoints)
    return row


def _read_ids(root: Path, name: str, size: tuple[int, int]) -> np.ndarray:
    ids = decode_values(root / name)
    if ids.shape != size:
        found = f"{ids.shape[1]} x {ids.shape[0]}"
        raise DataError(f"{name}: is {found} (width x height), its image {size[1]} x {size[0]}")
    return ids
