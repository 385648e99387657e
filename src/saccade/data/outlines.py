"""Masks in other words: outlines as polygons, and all masks of an image in one map of numbers.

`data/rle.py` has the way back, from polygons to masks.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from saccade.errors import DataError

MOST = np.iinfo(np.uint16).max  # objects that a map can number
_Point = tuple[int, int]


def outlines(mask: np.ndarray) -> list[list[float]]:
    """The polygons [x1, y1, x2, y2, ...] around a mask [H, W], along the edges of its pixels, clockwise on the screen.

    One for each part whose pixels share sides; drawn as COCO draws them they give the mask again, but that COCO's
    polygons have no holes, so that those of the mask are filled. An empty mask has none.
    """
    ahead = _edges(mask)
    polygons = []
    while ahead:
        point = start = next(iter(ahead))
        step, ring = ahead[start][0], [start]
        while (point := _follow(ahead, point, step)) != start:
            right = (-step[1], step[0])  # where two parts touch at a corner, this way stays with the same pixel
            turn = right if right in ahead[point] else ahead[point][0]
            if turn != step:
                ring.append(point)
            step = turn
        x, y = np.array(ring, dtype=np.int64).T
        if (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() > 0:  # a hole runs the other way
            polygons.append([float(v) for corner in ring for v in corner])
    return polygons


def _edges(mask: np.ndarray) -> dict[_Point, list[_Point]]:
    """The steps of length 1 that lead from each corner along the border, with the mask on the right hand."""
    inside = np.pad(np.asarray(mask, dtype=bool), 1)
    core = inside[1:-1, 1:-1]
    sides = (  # neighbour, corner from which the side starts, step
        (inside[:-2, 1:-1], (0, 0), (1, 0)),
        (inside[1:-1, 2:], (1, 0), (0, 1)),
        (inside[2:, 1:-1], (1, 1), (-1, 0)),
        (inside[1:-1, :-2], (0, 1), (0, -1)),
    )
    ahead: dict[_Point, list[_Point]] = {}
    for neighbour, (dx, dy), step in sides:
        for y, x in np.argwhere(core & ~neighbour).tolist():
            ahead.setdefault((x + dx, y + dy), []).append(step)
    return ahead


def _follow(ahead: dict[_Point, list[_Point]], point: _Point, step: _Point) -> _Point:
    """Take a step away from the table, and go it."""
    ahead[point].remove(step)
    if not ahead[point]:
        del ahead[point]
    return point[0] + step[0], point[1] + step[1]


def instance_map(masks: Tensor) -> np.ndarray:
    """[H, W] uint16 of masks [n, H, W] bool: i + 1 where object i is, 0 where none is. Where several overlap the first
    counts, which is the surest where they stand by falling score.

    Raises:
        DataError: more objects than numbers.
    """
    if len(masks) > MOST:
        raise DataError(f"{len(masks):,} objects; a 16-bit map numbers {MOST:,}")
    out = np.zeros(masks.shape[1:], np.uint16)
    for i in range(len(masks) - 1, -1, -1):
        out[masks[i].numpy()] = i + 1
    return out


def simple_outlines(mask: np.ndarray) -> list[list[float]]:
    """As `outlines`, of polygons that together have no holes: a part with holes is cut in two through one of them, and
    so on, until none is left. Drawn as COCO draws them they give exactly the mask."""
    from scipy import ndimage

    found = []
    parts, _ = ndimage.label(mask)
    for i, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[rows, columns] == i
        holes = ndimage.binary_fill_holes(part) & ~part
        if not holes.any():
            polygons = outlines(part)
        else:
            middle = int(np.median(np.nonzero(holes)[1])) + 1  # right of the middle of the holes, or of one of them
            polygons = simple_outlines(part[:, :middle])
            polygons += [_shifted(p, middle, 0) for p in simple_outlines(part[:, middle:])]
        found += [_shifted(p, columns.start, rows.start) for p in polygons]
    return found


def _shifted(polygon: list[float], x: int, y: int) -> list[float]:
    return [value + (y if place % 2 else x) for place, value in enumerate(polygon)]
