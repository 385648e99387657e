"""Graph segmentation: an image is cut into regions whose pixels differ less from each other than from the neighbours.

Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004. Letters: H, W sides of the image,
c channels, e edges, n regions.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from saccade.ops.compiled import compiled

SIGMA = 0.8  # pixels, of the Gaussian before the first cut (released code)


class Graph:
    """The pixels of an image joined to their eight neighbours, edges by rising difference: cut at any scale.

    Source: Felzenszwalb & Huttenlocher 2004, algorithm 1.

    Args:
        planes: [H, W, c] float32.
        sigma: of the Gaussian that smooths them, in pixels; 0 for none.
    """

    def __init__(self, planes: np.ndarray, sigma: float = SIGMA) -> None:
        smooth = cv2.GaussianBlur(planes, (0, 0), sigma) if sigma else planes
        self.shape = planes.shape[:2]
        weights, starts, ends = _edges(smooth.reshape(*self.shape, -1).astype(np.float32))
        order = _sorted_by_bits(weights.view(np.uint32))
        self._weights, self._starts, self._ends = weights[order], starts[order], ends[order]

    def segment(self, scale: float, min_size: int) -> np.ndarray:
        """Regions of pixels: two are joined by an edge that is no heavier than what holds each together plus
        scale / size (equations 3 to 5); then those below `min_size` pixels join the neighbour across their
        lightest edge.

        Returns:
            [H, W] int32, regions 0..n - 1 in the order of their first pixel.
        """
        labels = _merge(self._weights, self._starts, self._ends, math.prod(self.shape), scale, min_size)
        return labels.reshape(self.shape)


@compiled
def _edges(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances [e] of neighbouring pixels of planes [H, W, c], and the numbers of both."""
    height, width, channels = planes.shape
    count = 4 * height * width - 3 * (height + width) + 2  # right, below, and both diagonals
    weights, starts, ends = np.empty(count, np.float32), np.empty(count, np.int32), np.empty(count, np.int32)
    e = 0
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if y + dy < height and 0 <= x + dx < width:
                    total = np.float32(0)
                    for c in range(channels):
                        gap = planes[y, x, c] - planes[y + dy, x + dx, c]
                        total += gap * gap
                    weights[e] = math.sqrt(total)
                    starts[e], ends[e] = y * width + x, (y + dy) * width + x + dx
                    e += 1
    return weights, starts, ends


@compiled
def _sorted_by_bits(keys: np.ndarray) -> np.ndarray:
    """[e] int32, the stable order of keys [e] uint32: bits of floats that are not negative rise with the floats."""
    order, other = np.arange(len(keys)).astype(np.int32), np.empty(len(keys), np.int32)
    for shift in (0, 11, 22):
        starts = np.zeros(2049, np.int64)
        for key in keys:
            starts[((key >> shift) & 2047) + 1] += 1
        starts = np.cumsum(starts)
        for i in order:
            digit = (keys[i] >> shift) & 2047
            other[starts[digit]] = i
            starts[digit] += 1
        order, other = other, order
    return order


@compiled
def _root(parents: np.ndarray, i: int) -> int:
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@compiled
def _merge(
    weights: np.ndarray, starts: np.ndarray, ends: np.ndarray, pixels: int, scale: float, min_size: int
) -> np.ndarray:
    """[pixels] int32 regions by edges of rising weight; see `Graph.segment`."""
    parents = np.arange(pixels).astype(np.int32)
    sizes = np.ones(pixels, np.int32)
    limits = np.full(pixels, scale, np.float32)  # of a region: its heaviest edge, plus scale / size
    for e in range(len(weights)):
        a, b = _root(parents, starts[e]), _root(parents, ends[e])
        if a != b and weights[e] <= limits[a] and weights[e] <= limits[b]:
            parents[b] = a
            sizes[a] += sizes[b]
            limits[a] = weights[e] + scale / sizes[a]
    for e in range(len(weights)):
        a, b = _root(parents, starts[e]), _root(parents, ends[e])
        if a != b and min(sizes[a], sizes[b]) < min_size:
            parents[b] = a
            sizes[a] += sizes[b]
    labels = np.empty(pixels, np.int32)
    numbers = np.full(pixels, -1, np.int32)
    count = 0
    for i in range(pixels):
        root = _root(parents, i)
        if numbers[root] < 0:
            numbers[root] = count
            count += 1
        labels[i] = numbers[root]
    return labels
