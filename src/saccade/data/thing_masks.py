"""The masks of the objects of a record, from run lengths, maps of ids and polygons alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.image import decode_values
from saccade.data.pictures import cut
from saccade.data.rle import decode_rle, draw_polygons
from saccade.errors import DataError


def masks_of(things: Sequence[Thing], record: Record, dataset: DataSet, reduction: int = 1) -> Iterator[np.ndarray]:
    """The mask of each object in order, bool of the record's size over `reduction`, rounded up.

    Raises:
        DataError: an object without one, or a mask that is unreadable or of another size than the image.
    """
    maps: dict[str, np.ndarray] = {}
    for row, thing in enumerate(things):
        where = f"{record.id}: object {row}" + ("" if thing.id is None else f" (annotation {thing.id})")
        if thing.rle is not None:
            try:
                full = decode_rle(thing.rle)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
            if full.shape != record.size:
                raise DataError(
                    f"{where}: the mask is {full.shape[0]} x {full.shape[1]} (height x width), its image {record.id} "
                    f"is {record.size[0]} x {record.size[1]}"
                )
            yield every(full, reduction)
        elif thing.mask is not None:
            name, value = thing.mask
            if name not in maps:
                maps[name] = cut(decode_values(dataset.root / name), record, str(dataset.root / name))
            yield every(maps[name], reduction) == value
        elif thing.polygons is not None:
            scaled = [[v / reduction for v in polygon] for polygon in thing.polygons]
            yield draw_polygons(scaled, reduced(record.size, reduction))
        else:
            raise DataError(f"{where}: has a box but no mask; train on it with task 'detect'")


def reduced(size: tuple[int, int], s: int) -> tuple[int, int]:
    """The size of an image decoded at 1/s: rounded up, as JPEG decoders do."""
    return -(-size[0] // s), -(-size[1] // s)


def every(values: np.ndarray, s: int) -> np.ndarray:
    """Every s-th value, from the middle of each s x s block; the last block may be smaller."""
    if s == 1:
        return values
    rows = np.minimum(np.arange(0, values.shape[0], s) + s // 2, values.shape[0] - 1)
    columns = np.minimum(np.arange(0, values.shape[1], s) + s // 2, values.shape[1] - 1)
    return values[rows[:, None], columns]
