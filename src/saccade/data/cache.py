"""Images, and class maps, kept in memory and shared by worker processes: decoding dominates where images are small."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kept:
    """What is kept of a sample; the rest of it is read from its record again."""

    image: np.ndarray  # [H, W, 3] uint8
    semantic: np.ndarray | None  # [H, W] uint8, the class map of task segment
    scale: tuple[float, float]  # original pixels for a pixel of the image, along x and y


class ImageCache:
    """One place for each image, filled by whichever process makes it first; all others then see it.

    The memory is an anonymous shared mapping: it belongs to no file and no /dev/shm, and pages that nobody fills cost
    nothing. Two processes that fill the same place write the same bytes.

    Args:
        sizes: (height, width) of each image, or more.
        maps: whether there is a class map with every image.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], maps: bool = False) -> None:
        self._planes = 4 if maps else 3
        self._starts = np.concatenate([[0], np.cumsum([h * w * self._planes for h, w in sizes], dtype=np.int64)])
        self._bytes = np.frombuffer(mmap.mmap(-1, max(int(self._starts[-1]), 1)), dtype=np.uint8)
        # (height, width) as kept, which may be smaller than announced; height 0 where there is no image yet
        self._sizes = np.frombuffer(mmap.mmap(-1, len(sizes) * 8), dtype=np.int32).reshape(-1, 2)
        self._scales = np.frombuffer(mmap.mmap(-1, len(sizes) * 16), dtype=np.float64).reshape(-1, 2)

    @classmethod
    def for_sizes(cls, sizes: Sequence[tuple[int, int]], limit: int, maps: bool = False) -> ImageCache | None:
        """A cache for images of these (height, width), or None where they take more than `limit` bytes, or where
        workers do not inherit memory (start method other than fork)."""
        needed = sum(h * w for h, w in sizes) * (4 if maps else 3)
        if not sizes or needed > limit or multiprocessing.get_start_method() != "fork":
            return None
        return cls(sizes, maps)

    def get(self, index: int) -> Kept | None:
        """Copies of what was put there, or None where nothing has been put yet."""
        height, width = self._sizes[index].tolist()
        if height == 0:
            return None
        start, area = int(self._starts[index]), height * width
        image = self._bytes[start : start + 3 * area].reshape(height, width, 3).copy()
        semantic = None
        if self._planes == 4:
            semantic = self._bytes[start + 3 * area : start + 4 * area].reshape(height, width).copy()
        x, y = self._scales[index].tolist()
        return Kept(image, semantic, (x, y))

    def put(self, index: int, kept: Kept) -> None:
        """Keep an image, and its class map if there are any, no larger than the size that was announced."""
        start, area = int(self._starts[index]), kept.image.shape[0] * kept.image.shape[1]
        if area * self._planes > int(self._starts[index + 1]) - start:
            raise ValueError(f"image {index} of {kept.image.shape} is larger than announced")
        self._bytes[start : start + 3 * area] = kept.image.ravel()
        if kept.semantic is not None:
            self._bytes[start + 3 * area : start + 4 * area] = kept.semantic.ravel()
        self._scales[index] = kept.scale
        self._sizes[index] = (0, kept.image.shape[1])
        self._sizes[index, 0] = kept.image.shape[0]  # last: it tells the others that the place is filled
