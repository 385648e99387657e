"""Run-length masks as COCO writes them: runs of 0 and 1 in turn, 0 first, down the columns of the mask.

`{"size": [height, width], "counts": [n0, n1, ...]}`, or the same counts as a compressed string: every count (from the
fourth on its difference to the count two before) in groups of five bits, lowest group first; bit 5 says that another
follows, bit 4 of the last group is the sign, and 48 is added to make it printable
(Lin et al. 2014, the mask API of COCO).

All functions check a mask before they allocate for it, and raise DataError with the reason; the caller knows the place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from saccade.errors import DataError

MAX_PIXELS = 100_000_000  # the limit of pictures too: a "size" alone must not be able to ask for memory
_MAX_GROUPS = 7  # 35 bits hold every difference of two counts below MAX_PIXELS


def rle_size(rle: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of a run-length mask. Raises DataError unless both are whole, >= 1, and within MAX_PIXELS."""
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or any(type(v) is not int or v < 1 for v in size):
        raise DataError(f"RLE size {str(size)[:60]} is not [height, width] with whole numbers of 1 or more")
    height, width = size
    if height * width > MAX_PIXELS:
        raise DataError(f"RLE size {height} x {width} is over the limit of {MAX_PIXELS} pixels")
    return height, width


def rle_counts(rle: dict[str, Any]) -> np.ndarray:
    """The run lengths [runs] int64, 0 first, of a list or of a compressed string.

    Raises:
        DataError: negative runs, a damaged string, or a sum that differs from height x width.
    """
    height, width = rle_size(rle)
    raw = rle.get("counts")
    if isinstance(raw, bytes):
        raw = raw.decode("ascii", errors="replace")
    if isinstance(raw, str):
        counts = _unpack(raw)
    elif isinstance(raw, list) and all(type(v) is int for v in raw):
        counts = raw
    else:
        raise DataError("RLE counts are neither a list of whole numbers nor a string")
    if any(not 0 <= v <= height * width for v in counts):
        raise DataError("RLE has a run below 0 or longer than the mask")
    if sum(counts) != height * width:
        raise DataError(f"RLE runs sum to {sum(counts)}, size {height} x {width} needs {height * width}")
    return np.asarray(counts, dtype=np.int64)


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """The mask [H, W] bool. Raises DataError as `rle_counts` does."""
    counts = rle_counts(rle)
    height, width = rle_size(rle)
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """`{"size": [H, W], "counts": str}` of a mask [H, W]; everything but 0 belongs to the mask."""
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"a mask is [H, W] with H, W >= 1, got {list(mask.shape)}")
    height, width = mask.shape
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]]))
    if flat[0]:
        counts = np.concatenate([[0], counts])
    return {"size": [height, width], "counts": pack_counts(counts.tolist())}


def rle_area(rle: dict[str, Any]) -> int:
    """Pixels of the mask."""
    return int(rle_counts(rle)[1::2].sum())


def rle_box(rle: dict[str, Any]) -> tuple[float, float, float, float]:
    """x1 y1 x2 y2 around the mask; zeros where it is empty."""
    height, _ = rle_size(rle)
    ends = np.cumsum(rle_counts(rle))
    starts = np.concatenate([[0], ends])[:-1][1::2]
    ends = ends[1::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(starts):
        return 0.0, 0.0, 0.0, 0.0
    columns = starts // height, (ends - 1) // height
    if (columns[1] > columns[0]).any():  # a run over the end of a column touches the bottom row and the top row
        top, bottom = 0, height
    else:
        top, bottom = int((starts % height).min()), int(((ends - 1) % height).max()) + 1
    return float(columns[0].min()), float(top), float(columns[1].max() + 1), float(bottom)


def pack_counts(counts: list[int]) -> str:
    """Run lengths as COCO's compressed string."""
    packed = []
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        while True:
            group = value & 0x1F
            value >>= 5  # arithmetic: the sign stays
            done = value == (-1 if group & 0x10 else 0)
            packed.append(chr(48 + (group if done else group | 0x20)))
            if done:
                break
    return "".join(packed)


def _unpack(text: str) -> list[int]:
    counts: list[int] = []
    value, groups = 0, 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or groups == _MAX_GROUPS:
            raise DataError(f"RLE string is damaged at run {len(counts) + 1}")
        value |= (group & 0x1F) << (5 * groups)
        groups += 1
        if group & 0x20:
            continue
        if group & 0x10:
            value -= 1 << (5 * groups)
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, groups = 0, 0
    if groups:
        raise DataError("RLE string ends in the middle of a run")
    return counts
