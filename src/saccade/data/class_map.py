"""Class maps as their files hold them, turned into indices of classes: one reading for training, scores and `check`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from saccade.data.image import COLOUR, decode_values
from saccade.errors import DataError

IGNORE = 255  # as in data/types.py, which imports torch
_SMALL = 1 << 16  # values below are counted, which is many times faster than sorting


def show_value(value: int) -> str:
    """A value of a mask for people; a colour as its red, green and blue."""
    return str(value) if value < COLOUR else f"({value >> 16 & 255}, {value >> 8 & 255}, {value & 255})"


def read_class_map(path: Path, values: Mapping[int, int]) -> np.ndarray:
    """[H, W] uint8 of class indices and IGNORE, upright.

    Args:
        values: value in the file -> class index or IGNORE, as `DataSet.mask_values`.

    Raises:
        DataError: as `decode_values`; a value that `values` does not know.
    """
    found = decode_values(path, any(value >= COLOUR for value in values))
    present = _distinct(found)
    unknown = [int(v) for v in present if int(v) not in values]
    if unknown:
        x, y = (int(v[0]) for v in np.nonzero(found == unknown[0])[::-1])
        allowed = ", ".join(map(show_value, sorted(values)[:20])) + (", ..." if len(values) > 20 else "")
        value = show_value(unknown[0])
        raise DataError(f"{path}: value {value} at x={x}, y={y} is no class of this data set; allowed: {allowed}")
    indices = np.array([values[int(v)] for v in present], dtype=np.uint8)
    if present[-1] >= _SMALL:
        return indices[np.searchsorted(present, found)]
    table = np.zeros(int(present[-1]) + 1, dtype=np.uint8)
    table[present] = indices
    return table[found]


def _distinct(values: np.ndarray) -> np.ndarray:
    """The values present, ascending."""
    if values.min() >= 0 and values.max() < _SMALL:
        return np.flatnonzero(np.bincount(values.ravel()))
    return np.unique(values)
