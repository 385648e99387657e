"""Pictures that are the same or nearly the same: re-encoded, resized, consecutive frames of a still scene.

Two pictures count as near-duplicates where their difference hashes (64 bits: is a cell of a 9 x 8 gray thumbnail
brighter than its left neighbour) differ in at most 8 bits, with 16 bits in a row alike, and the thumbnails by less
than a tenth of their contrast (standard deviation) on average. The hash finds candidates fast, the thumbnail decides.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from saccade.data.image import FORMATS

_BITS = 8  # of 64
_CONTRAST = 0.1  # mean absolute difference as a share of the standard deviation
_FLOOR = 0.5  # gray levels: what rounding does to a flat picture
_BANDS = 4  # of 16 bits, one of which must be equal: certain for 3 differing bits, likely for 8
_CROWD = 400  # pictures of one band value beyond which only equal hashes are compared


def read_thumbnails(paths: Sequence[Path]) -> list[np.ndarray | None]:
    """What `find_duplicates` compares, [16, 18] uint8 gray of each picture; None where it cannot be read.

    Each picture is decoded once, JPEGs at a reduced size.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(_thumbnail, paths))


def find_duplicates(thumbnails: Sequence[np.ndarray | None]) -> list[int]:
    """The group of each picture: the index of the first of its near-duplicates (its own index where it has none).

    Groups are closed: where a is near b and b near c, all three are one group. Pictures without a thumbnail stand
    alone.
    """
    readable = [i for i, t in enumerate(thumbnails) if t is not None]
    parent = list(range(len(thumbnails)))
    if not readable:
        return parent
    cells = np.stack([t for t in thumbnails if t is not None]).astype(np.int16)  # [n, 16, 18]
    hashes = _hash(cells)
    contrast = cells.std(axis=(1, 2))
    for a, b in _candidates(hashes):
        if np.abs(cells[a] - cells[b]).mean() < _FLOOR + _CONTRAST * min(contrast[a], contrast[b]):
            first, second = sorted((_top(parent, readable[a]), _top(parent, readable[b])))
            parent[second] = first
    return [_top(parent, i) for i in range(len(thumbnails))]


def _thumbnail(path: Path) -> np.ndarray | None:
    """[16, 18] uint8 gray; the file as stored (duplicates share their orientation)."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.draft("L", (144, 128))
            if image.mode.startswith("I"):  # 16 bits: Pillow would clip
                gray = Image.fromarray((np.asarray(image).astype(np.float64) / 257).astype(np.uint8))
            else:
                gray = image.convert("L")
            return np.asarray(gray.resize((18, 16), Image.Resampling.BOX))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _hash(cells: np.ndarray) -> np.ndarray:
    """[n] uint64 from thumbnails [n, 16, 18]: 8 rows of 9 cells of 2 x 2 pixels."""
    coarse = cells.reshape(len(cells), 8, 2, 9, 2).mean(axis=(2, 4))
    bits = (coarse[:, :, 1:] > coarse[:, :, :-1]).reshape(len(cells), 64)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _candidates(hashes: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows whose hashes have a band in common and differ in at most 8 bits."""
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        keys = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(keys, kind="stable")
        cuts = np.flatnonzero(np.diff(keys[order])) + 1
        for rows in np.split(order, cuts):
            if len(rows) > _CROWD:
                rows = rows[np.argsort(hashes[rows], kind="stable")]
                same = np.flatnonzero(hashes[rows][1:] == hashes[rows][:-1])
                pairs.update((int(rows[i]), int(rows[i + 1])) for i in same)
            elif len(rows) > 1:
                apart = np.bitwise_count(hashes[rows][:, None] ^ hashes[rows][None, :])
                near = np.argwhere(np.triu(apart <= _BITS, k=1))
                pairs.update((int(rows[i]), int(rows[j])) for i, j in near)
    return sorted(pairs)


def _top(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i
