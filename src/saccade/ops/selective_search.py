"""Selective search: boxes that may hold an object, of any kind, by merging regions that look alike.

Uijlings et al., "Selective Search for Object Recognition", IJCV 2013. An image is cut into small regions by the graph
segmentation of Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004; the two most
similar neighbours are merged again and again until one region is left, and the bounding box of every region on the way
is a proposal. Several colour spaces, scales of the first cut and measures of similarity make the proposals diverse.

Letters: H, W sides of the image, n regions, p pairs of neighbours, m boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch

from saccade.ops.compiled import compiled
from saccade.ops.graph_segmentation import Graph
from saccade.ops.nms import nms

WIDTH = 500  # pixels to which an image is resized first (released code)
LONGEST = 3  # heights in widths from which an image is made smaller still
# Pixels, at that width; smaller boxes are left out. The released code has 20, made for VOC: on coco128 it loses objects
# that OpenCV's, which has no limit, finds (benchmarks/notes.md).
MIN_SIDE = 10
# IoU with a box further in front from which one waits behind all others. A box that many strategies find nearly alike
# would else take the places of others: on coco128 the first 2,000 of the quality mode met 0.62 of the objects, in this
# order 0.72 (benchmarks/notes.md). The released code drops equal boxes alone.
NEAR = 0.75
COLOUR_BINS, TEXTURE_BINS, ORIENTATIONS = 25, 10, 8  # of the histograms of each channel (section 3.2.2)

# Which of the four similarities are summed: colour, texture, size, fill (section 3.2.2).
Weights = tuple[float, float, float, float]
ALL: Weights = (1.0, 1.0, 1.0, 1.0)
WITHOUT_COLOUR: Weights = (0.0, 1.0, 1.0, 1.0)
FILL: Weights = (0.0, 0.0, 0.0, 1.0)
SIZE: Weights = (0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class Mode:
    """Which strategies are run and joined: every colour space with every scale and every sum of similarities (Uijlings
    et al. 2013, section 3.2)."""

    colours: tuple[str, ...]  # names of COLOURS
    scales: tuple[float, ...]  # k of the first cut, also the least pixels of its regions
    similarities: tuple[Weights, ...]


MODES: dict[str, Mode] = {  # the two of section 5.4 as the released code has them
    "fast": Mode(("hsv", "lab"), (50, 100), (ALL, WITHOUT_COLOUR)),
    "quality": Mode(("hsv", "lab", "rgi", "hue", "intensity"), (50, 100, 150, 300), (ALL, WITHOUT_COLOUR, FILL, SIZE)),
}


def selective_search(image: np.ndarray, mode: str = "fast", seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """Boxes that may hold an object, the likeliest first.

    The order is that of section 3.3: regions that were merged late come first, blurred by chance, so that no single
    strategy leads; of boxes that are found twice the first stays. Those that are nearly one that stands before them
    (NEAR) come behind all others, in the same order.

    Args:
        image: [H, W, 3] uint8 RGB.
        mode: a name of MODES.
        seed: of that chance.
        width: pixels to which the image is resized, its aspect kept.

    Returns:
        [m, 4] float32, x1 y1 x2 y2 in pixels of `image`, without two that are the same; at least the whole image.
        Boxes with a side below MIN_SIDE pixels at that width are left out.

    Raises:
        ValueError: another shape or type, or an unknown mode.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image must be [H, W, 3] uint8, got {list(image.shape)} {image.dtype}")
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} of selective search, allowed: {', '.join(MODES)}")
    height, across = image.shape[:2]
    side = working_size(height, across, width)[::-1]
    small = cv2.resize(image, side, interpolation=cv2.INTER_AREA if side[0] < across else cv2.INTER_LINEAR)
    rng = np.random.default_rng(seed)
    boxes, ranks = [], []
    for colour in MODES[mode].colours:
        planes = COLOURS[colour](small)
        graph = Graph(planes)
        pixels = _PixelBins(planes)
        for scale in MODES[mode].scales:
            regions = _regions(pixels, graph.segment(scale, math.ceil(scale)))
            for weights in MODES[mode].similarities:
                found, _ = _group(regions, np.array(weights, np.float32), float(side[0] * side[1]))
                boxes.append(found)
                ranks.append(np.arange(len(found), 0, -1) * rng.random(len(found)))
    every = np.concatenate(boxes)[np.argsort(np.concatenate(ranks), kind="stable")]
    every = every[((every[:, 2:] - every[:, :2]) >= MIN_SIDE).all(axis=1)]
    _, first = np.unique(every, axis=0, return_index=True)
    every = _spread(every[np.sort(first)]).astype(np.float64)
    if not len(every):  # an image that is itself no larger than the smallest box
        every = np.array([[0, 0, *side]], np.float64)
    return (every * np.tile([across / side[0], height / side[1]], 2)).astype(np.float32)


def _spread(boxes: np.ndarray) -> np.ndarray:
    """Boxes [m, 4] in the order given, those behind that are nearly one of the others."""
    falling = -torch.arange(len(boxes), dtype=torch.float32)
    front = nms(torch.from_numpy(boxes.astype(np.float32)), falling, NEAR).numpy()
    return np.concatenate([boxes[front], np.delete(boxes, front, axis=0)])


def region_growth(image: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """The regions of the first strategy of the fast mode on their way to one, its first cut first: [h, w] int32
    each, numbered from 0.

    Args:
        image: [H, W, 3] uint8 RGB; h and w are its `working_size`.
        counts: how many regions are left, falling; those above the number of the first cut are left out.

    Source: Uijlings et al. 2013, algorithm 1 and figure 2.
    """
    height, across = working_size(*image.shape[:2])
    small = cv2.resize(image, (across, height), interpolation=cv2.INTER_AREA)
    mode = MODES["fast"]
    planes = COLOURS[mode.colours[0]](small)
    labels = Graph(planes).segment(mode.scales[0], math.ceil(mode.scales[0]))
    regions = _regions(_PixelBins(planes), labels)
    _, pairs = _group(regions, np.array(mode.similarities[0], np.float32), float(labels.size))
    n = len(regions.sizes)
    found = [labels]
    for count in counts:
        if count >= n:
            continue
        owner = np.arange(2 * n - 1)  # of each region the one that it has become
        for new, (i, j) in reversed(list(enumerate(pairs[: n - count], n))):
            owner[i] = owner[j] = owner[new]
        _, numbers = np.unique(owner[:n], return_inverse=True)
        found.append(numbers.astype(np.int32)[labels])
    return found


def working_size(height: int, across: int, width: int = WIDTH) -> tuple[int, int]:
    """(height, width) to which an image of `height` and `across` pixels is resized first, its aspect kept: `width`
    across, and of a tall strip LONGEST * `width` high. Memory and time therefore do not grow with the image.
    The width is that of the released code of Girshick et al. 2014."""
    factor = min(width / across, LONGEST * width / height)
    return max(1, round(height * factor)), max(1, round(across * factor))


def _hsv(image: np.ndarray) -> np.ndarray:
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    return planes.astype(np.float32)


def _lab(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)


def _rgi(image: np.ndarray) -> np.ndarray:
    """Shares of red and green, which shadows leave alone, and the intensity."""
    values = image.astype(np.float32)
    total = values.sum(axis=2)
    shares = values[..., :2] / np.maximum(total, 1)[..., None] * 255
    return np.concatenate([shares, total[..., None] / 3], axis=2)


def _hue(image: np.ndarray) -> np.ndarray:
    return _hsv(image)[..., :1]


def _intensity(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]


# Name -> [H, W, 3] uint8 RGB to [H, W, c] float32 in [0, 255] (table 1; "rgI" of the paper is rgi here).
COLOURS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hsv": _hsv,
    "lab": _lab,
    "rgi": _rgi,
    "hue": _hue,
    "intensity": _intensity,
}


class _PixelBins:
    """The bin of every pixel in the histograms of colour and texture: [H, W, c] and [H, W, 8 c] uint8.

    Texture is the derivative in eight directions at sigma 1 (section 3.2.2): the positive and the negative part of
    each of four.
    """

    def __init__(self, planes: np.ndarray) -> None:
        planes = planes.reshape(*planes.shape[:2], -1)
        self.colour = np.minimum(planes * (COLOUR_BINS / 256), COLOUR_BINS - 1).astype(np.uint8)
        smooth = cv2.GaussianBlur(planes, (0, 0), 1.0).reshape(planes.shape)
        across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8).reshape(planes.shape)
        down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8).reshape(planes.shape)
        slopes = (across, down, (across + down) * 0.5**0.5, (down - across) * 0.5**0.5)
        bins = []
        for slope in slopes:
            for half in (slope, -slope):
                most = np.maximum(half.max(axis=(0, 1)), 1e-6)
                bins.append(np.clip(half * (TEXTURE_BINS / most), 0, TEXTURE_BINS - 1).astype(np.uint8))
        self.texture = np.concatenate(bins, axis=2)


class Regions(NamedTuple):
    """n regions of an image, and which of them touch (numba takes named tuples apart by itself)."""

    sizes: np.ndarray  # [n] float32, pixels
    boxes: np.ndarray  # [n, 4] int32
    colour: np.ndarray  # [n, 25 c] float32 histograms of sum 1
    texture: np.ndarray  # [n, 80 c] float32 histograms of sum 1
    pairs: np.ndarray  # [p, 2] int32, neighbours i < j


def _regions(pixels: _PixelBins, labels: np.ndarray) -> Regions:
    """What the merging asks of the regions [H, W] of a first cut."""
    count = int(labels.max()) + 1
    sizes, boxes, keys = _shapes(labels, count)
    pairs = np.stack(np.divmod(np.unique(keys), count), axis=1).astype(np.int32)
    colour = _histograms(labels, pixels.colour, count, COLOUR_BINS)
    texture = _histograms(labels, pixels.texture, count, TEXTURE_BINS)
    return Regions(sizes, boxes, colour, texture, pairs)


@compiled
def _shapes(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes [n], boxes [n, 4] and keys i n + j of neighbours i < j, the same pair many times, of regions [H, W]."""
    height, width = labels.shape
    sizes, boxes = np.zeros(count, np.float32), np.empty((count, 4), np.int32)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = width, height, 0, 0
    keys = np.empty(2 * height * width, np.int64)
    p = 0
    for y in range(height):
        for x in range(width):
            i = labels[y, x]
            sizes[i] += 1
            boxes[i, 0], boxes[i, 1] = min(boxes[i, 0], x), min(boxes[i, 1], y)
            boxes[i, 2], boxes[i, 3] = max(boxes[i, 2], x + 1), max(boxes[i, 3], y + 1)
            for dy, dx in ((0, 1), (1, 0)):
                if y + dy < height and x + dx < width and labels[y + dy, x + dx] != i:
                    j = labels[y + dy, x + dx]
                    keys[p] = np.int64(min(i, j)) * count + max(i, j)
                    p += 1
    return sizes, boxes, keys[:p]


@compiled
def _histograms(labels: np.ndarray, bins: np.ndarray, count: int, size: int) -> np.ndarray:
    """[n, c size] float32 of sum 1: how often each bin of [H, W, c] occurs in each region of [H, W]."""
    height, width, channels = bins.shape
    found = np.zeros((count, channels * size), np.float32)
    for y in range(height):
        for x in range(width):
            i = labels[y, x]
            for c in range(channels):
                found[i, c * size + bins[y, x, c]] += 1
    for i in range(count):
        found[i] /= found[i].sum()
    return found


@compiled
def _similarity(i: int, j: int, regions: Regions, weights: np.ndarray, area: float) -> float:
    """Equations 1 to 4: intersections of histograms, small regions first, regions that fit into each other first."""
    sizes, boxes = regions.sizes, regions.boxes
    total = 0.0
    if weights[0]:
        for k in range(regions.colour.shape[1]):
            total += weights[0] * min(regions.colour[i, k], regions.colour[j, k])
    if weights[1]:
        for k in range(regions.texture.shape[1]):
            total += weights[1] * min(regions.texture[i, k], regions.texture[j, k])
    total += weights[2] * (1 - (sizes[i] + sizes[j]) / area)
    hull = (max(boxes[i, 2], boxes[j, 2]) - min(boxes[i, 0], boxes[j, 0])) * (
        max(boxes[i, 3], boxes[j, 3]) - min(boxes[i, 1], boxes[j, 1])
    )
    return total + weights[3] * (1 - (hull - sizes[i] - sizes[j]) / area)


@compiled
def _room_for_all(regions: Regions) -> Regions:
    """The same regions in front, and behind them places for what they are merged to: 2 n - 1 in all."""
    n = len(regions.sizes)
    most = 2 * n - 1
    sizes, boxes = np.empty(most, np.float32), np.empty((most, 4), np.int32)
    colour = np.empty((most, regions.colour.shape[1]), np.float32)
    texture = np.empty((most, regions.texture.shape[1]), np.float32)
    sizes[:n], boxes[:n], colour[:n], texture[:n] = regions.sizes, regions.boxes, regions.colour, regions.texture
    return Regions(sizes, boxes, colour, texture, regions.pairs)


@compiled
def _join(i: int, j: int, new: int, regions: Regions) -> None:
    """Make region `new` of regions i and j: histograms are means by size (section 3.2.2)."""
    sizes, boxes = regions.sizes, regions.boxes
    sizes[new] = sizes[i] + sizes[j]
    share = sizes[i] / sizes[new]
    regions.colour[new] = share * regions.colour[i] + (1 - share) * regions.colour[j]
    regions.texture[new] = share * regions.texture[i] + (1 - share) * regions.texture[j]
    boxes[new, :2] = np.minimum(boxes[i, :2], boxes[j, :2])
    boxes[new, 2:] = np.maximum(boxes[i, 2:], boxes[j, 2:])


@compiled
def _group(regions: Regions, weights: np.ndarray, area: float) -> tuple[np.ndarray, np.ndarray]:
    """[2 n - 1, 4] int32 boxes of the regions and of what they are merged to, in that order (algorithm 1), and the two
    [n - 1, 2] that made each of the latter."""
    n = len(regions.sizes)
    pairs = np.empty((n - 1, 2), np.int32)
    made = _room_for_all(regions)
    first, second = regions.pairs[:, 0].copy(), regions.pairs[:, 1].copy()
    alike = np.empty(len(first))
    for p in range(len(first)):
        alike[p] = _similarity(first[p], second[p], made, weights, area)
    live = len(first)  # pairs that still count stand at the front
    neighbour_of = np.zeros(2 * n - 1, np.int32)  # the last merged region next to which a region was found
    for new in range(n, 2 * n - 1):
        best = np.argmax(alike[:live])
        i, j = first[best], second[best]
        pairs[new - n, 0], pairs[new - n, 1] = i, j
        _join(i, j, new, made)
        kept = 0
        for p in range(live):
            a, b, value = first[p], second[p], alike[p]
            if a in (i, j) or b in (i, j):
                a, b = (b if a in (i, j) else a), new
                if a in (i, j) or neighbour_of[a] == new:
                    continue
                neighbour_of[a] = new
                value = _similarity(a, b, made, weights, area)
            first[kept], second[kept], alike[kept] = a, b, value
            kept += 1
        live = kept
    return made.boxes, pairs
