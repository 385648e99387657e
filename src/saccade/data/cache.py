"""Decoded images kept in memory and shared by worker processes: decoding dominates where images are small."""

from __future__ import annotations

import mmap
import multiprocessing
from collections.abc import Sequence

import numpy as np


class ImageCache:
    """One place for each image, filled by whichever process decodes it first; all others then see it.

    The memory is an anonymous shared mapping: it belongs to no file and no /dev/shm, and pages that nobody fills cost
    nothing. Two processes that fill the same place write the same bytes.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self._starts = np.concatenate([[0], np.cumsum([h * w * 3 for h, w in sizes], dtype=np.int64)])
        self._pixels = np.frombuffer(mmap.mmap(-1, max(int(self._starts[-1]), 1)), dtype=np.uint8)
        # (height, width) as decoded, which may be a reduced size; height 0 where there is no image yet
        self._sizes = np.frombuffer(mmap.mmap(-1, len(sizes) * 8), dtype=np.int32).reshape(-1, 2)

    @classmethod
    def for_sizes(cls, sizes: Sequence[tuple[int, int]], limit: int) -> ImageCache | None:
        """A cache for images of these (height, width), or None where they take more than `limit` bytes, or where
        workers do not inherit memory (start method other than fork)."""
        needed = sum(h * w * 3 for h, w in sizes)
        if not sizes or needed > limit or multiprocessing.get_start_method() != "fork":
            return None
        return cls(sizes)

    def get(self, index: int) -> np.ndarray | None:
        """A copy [H, W, 3] uint8, or None where the image has not been put yet."""
        height, width = (int(v) for v in self._sizes[index])
        if height == 0:
            return None
        start = int(self._starts[index])
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3).copy()

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep an image [H, W, 3] uint8 no larger than the size that was announced."""
        start = int(self._starts[index])
        if image.size > int(self._starts[index + 1]) - start:
            raise ValueError(f"image {index} of {image.shape} is larger than announced")
        self._pixels[start : start + image.size] = image.ravel()
        self._sizes[index] = (0, image.shape[1])
        self._sizes[index, 0] = image.shape[0]  # last: it tells the others that the place is filled
