"""The picture of a record: its file, or the region of the file's upright picture that the record stands for.

Everything that a data set says of a record (boxes, outlines, keypoints, `size`) is in pixels of this picture, which is
"the original" to which predictions return. Class maps and stored masks are files as large as the file of the picture;
they are cut as it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from saccade.data.class_map import IGNORE, read_class_map
from saccade.data.dataset import DataSet, Record
from saccade.data.image import decode, probe_and_decode
from saccade.errors import DataError


def decode_picture(record: Record, root: Path, min_side: int | None = None) -> tuple[np.ndarray, float]:
    """[H, W, 3] uint8 RGB, upright, and how many pixels of the record's picture one of it is along a side.

    Args:
        root: the folder of the data set.
        min_side: as in `data.image.decode`; a region is cut from the whole picture, whatever it says.

    Raises:
        DataError: the file cannot be read, or has changed its size since the data set was read.
        ResourceError: no permission, disk error, out of memory.
    """
    path = root / record.path
    if record.region is not None:
        return cut(decode(path), record, str(path)), 1.0
    found, image = probe_and_decode(path, min_side)
    if found.size != record.size:
        raise DataError(
            f"{path}: is {found.size[0]} x {found.size[1]} (height x width) now, was {record.size[0]} x "
            f"{record.size[1]} when the data set was read; do not change images during a run"
        )
    return image, float(found.reduction(min_side))


def cut(values: np.ndarray, record: Record, where: str) -> np.ndarray:
    """What of [H, W, ...], as large as the file of a record, belongs to the record: all of it, or a copy of its region.

    Raises:
        DataError: the region does not lie inside, or the whole is not of the record's size; names `where`.
    """
    height, width = values.shape[:2]
    if record.region is None:
        if (height, width) != record.size:
            raise DataError(
                f"{where}: the mask is {height} x {width} (height x width), its image {record.id} is "
                f"{record.size[0]} x {record.size[1]}"
            )
        return values
    x1, y1, x2, y2 = record.region
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise DataError(
            f"{where}: is {height} x {width} (height x width), the region {x1} {y1} {x2} {y2} (x1 y1 x2 y2) of "
            f"{record.id} does not lie inside"
        )
    return values[y1:y2, x1:x2].copy()


def class_map_of(record: Record, dataset: DataSet) -> np.ndarray:
    """[H, W] uint8 of class indices and IGNORE: the class map of a record that has one.

    Values of the file mean what `dataset.mask_values` says; without it, themselves.

    Raises:
        DataError: the map is missing, unreadable, of another size than the image, or holds an unknown value.
    """
    path = dataset.root / str(record.semantic)
    known = dataset.mask_values
    if known is None:
        known = {index: index for index in range(len(dataset.classes))} | {IGNORE: IGNORE}
    return cut(read_class_map(path, known), record, str(path))
