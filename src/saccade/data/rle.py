"""Run-length masks as COCO writes them: runs of 0 and 1 in turn, 0 first, down the columns of the mask.

`{"size": [height, width], "counts": [n0, n1, ...]}`, or the same counts as a compressed string: every count (from the
fourth on its difference to the count two before) in groups of five bits, lowest group first; bit 5 says that another
follows, bit 4 of the last group is the sign, and 48 is added to make it printable
(Lin et al. 2014, the mask API of COCO).

Polygons become masks here and nowhere else, drawn as COCO's own mask API draws them: corners are rounded to a fifth of
a pixel and a pixel is inside by the crossings of the upsampled outline. Scores of masks then agree with COCO's to the
last digit; the rule of pixel centres, for one, moves their AP by half a point where objects are small.

All functions check a mask before they allocate for it, and raise DataError with the reason; the caller knows the place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from saccade.errors import DataError

MAX_PIXELS = 100_000_000  # the limit of pictures too: a "size" alone must not be able to ask for memory
MAX_OUTLINE = 2_000_000  # pixels along one polygon: drawing takes memory and time in proportion, not to the image
_MAX_GROUPS = 7  # 35 bits hold every difference of two counts below MAX_PIXELS


def rle_size(rle: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of a run-length mask. Raises DataError unless both are whole, >= 1, and within MAX_PIXELS."""
    size = rle.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or any(type(v) is not int or v < 1 for v in size):
        raise DataError(f"RLE size {str(size)[:60]} is not [height, width] with whole numbers of 1 or more")
    height, width = size
    if height * width > MAX_PIXELS:
        raise DataError(f"RLE size {str(size)[:60]} is over the limit of {MAX_PIXELS} pixels")
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


def encode_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> dict[str, Any]:
    """`{"size": [H, W], "counts": str}` of the union of polygons, each x1 y1 x2 y2 ... in pixels.

    Parts outside of the image of `size` (height, width) are cut off. Raises DataError as `check_outline` does.
    """
    height, width = size
    return {"size": [height, width], "counts": _drawn(polygons, size)["counts"].decode("ascii")}


def draw_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """The mask [H, W] bool of `encode_polygons`."""
    drawn = _drawn(polygons, size)
    x, y, width, height = coco_mask.toBbox(drawn).astype(int)
    window = np.s_[y : y + height, x : x + width]  # the rest need not be turned from columns to rows
    mask = np.zeros(size, dtype=bool)
    mask[window] = coco_mask.decode(drawn)[window]
    return mask


def check_outline(polygon: Sequence[float]) -> None:
    """Raises DataError where a polygon has fewer than 3 points or is longer than MAX_OUTLINE pixels."""
    points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
    length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() if len(points) else 0.0
    if len(points) < 3:
        raise DataError(f"a polygon has {len(points)} points inside of the image, at least 3 are needed")
    if not length <= MAX_OUTLINE:
        raise DataError(f"the outline of a polygon is {length:.3g} pixels long; allowed: {MAX_OUTLINE:,}")


def _drawn(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> dict[str, Any]:
    """COCO's own run lengths, counts in bytes."""
    for polygon in polygons:
        check_outline(polygon)
    parts = [[float(v) for v in polygon] for polygon in polygons]
    drawn: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(parts, *size))
    return drawn


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
