"""Selective search: the first cut against scikit-image's, the merging against a plain second implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.segmentation import felzenszwalb

from saccade.ops.boxes import box_iou
from saccade.ops.graph_segmentation import Graph
from saccade.ops.selective_search import (
    ALL,
    FILL,
    MIN_SIDE,
    MODES,
    NEAR,
    SIZE,
    WIDTH,
    WITHOUT_COLOUR,
    _group,
    _PixelBins,
    _regions,
    region_growth,
    selective_search,
    working_size,
)


def scene(seed: int = 0, height: int = 90, width: int = 120) -> np.ndarray:
    """Noisy rectangles of many colours on a noisy ground."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 90.0)
    for _ in range(7):
        x, y = rng.integers(0, width - 30), rng.integers(0, height - 30)
        w, h = rng.integers(12, 40, 2)
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def test_the_first_cut_is_that_of_scikit_image() -> None:
    """Without smoothing both compute the same weights; theirs lie in [0, 1], so that their scale is 255 times ours."""
    image = scene().astype(np.float32)
    ours = Graph(image, sigma=0).segment(100, 30)
    theirs = felzenszwalb(image / 255, scale=100, sigma=0, min_size=30)
    pairs = len(np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1).T)
    assert ours.max() + 1 >= 5
    # Ties between edges of equal weight are broken by chance of the order: nearly every region is the same.
    assert pairs <= 1.1 * max(ours.max(), theirs.max()) + 1


def test_regions_are_numbered_in_order_and_none_is_small() -> None:
    labels = Graph(scene().astype(np.float32)).segment(50, 40)
    counts = np.bincount(labels.ravel())
    assert counts.min() >= 40
    first = [np.flatnonzero(labels.ravel() == i)[0] for i in range(len(counts))]
    assert first == sorted(first)


def merged_plainly(labels: np.ndarray, pixels: _PixelBins, weights: np.ndarray) -> list[tuple[int, ...]]:
    """Algorithm 1 with sets of pixels and histograms counted anew, in words of the paper."""

    def histogram(mask: np.ndarray, bins: np.ndarray, size: int) -> np.ndarray:
        counts = [np.bincount(bins[mask][:, c], minlength=size) for c in range(bins.shape[2])]
        return np.concatenate(counts) / (mask.sum() * bins.shape[2])

    def box(mask: np.ndarray) -> tuple[int, int, int, int]:
        ys, xs = np.nonzero(mask)
        return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        x1, y1, x2, y2 = box(a | b)
        whole = a.size
        parts = (
            np.minimum(histogram(a, pixels.colour, 25), histogram(b, pixels.colour, 25)).sum(),
            np.minimum(histogram(a, pixels.texture, 10), histogram(b, pixels.texture, 10)).sum(),
            1 - (a.sum() + b.sum()) / whole,
            1 - ((x2 - x1) * (y2 - y1) - a.sum() - b.sum()) / whole,
        )
        return float(np.dot(weights, parts))

    def touch(a: np.ndarray, b: np.ndarray) -> bool:
        down, across = a[:-1] & b[1:] | b[:-1] & a[1:], a[:, :-1] & b[:, 1:] | b[:, :-1] & a[:, 1:]
        return bool(down.any() or across.any())

    regions = {i: labels == i for i in range(labels.max() + 1)}
    boxes = [box(mask) for mask in regions.values()]
    while len(regions) > 1:
        pairs = [(i, j) for i in regions for j in regions if i < j and touch(regions[i], regions[j])]
        i, j = max(pairs, key=lambda pair: alike(regions[pair[0]], regions[pair[1]]))
        new = regions.pop(i) | regions.pop(j)
        regions[len(boxes)] = new
        boxes.append(box(new))
    return boxes


@pytest.mark.parametrize("weights", [ALL, WITHOUT_COLOUR, FILL, SIZE])
def test_merging_is_that_of_the_paper(weights: tuple[float, ...]) -> None:
    image = scene(3, 36, 44).astype(np.float32)
    labels = Graph(image).segment(60, 60)
    assert 5 <= labels.max() + 1 <= 14
    pixels = _PixelBins(image)
    found, pairs = _group(_regions(pixels, labels), np.array(weights, np.float32), float(labels.size))
    expected = merged_plainly(labels, pixels, np.array(weights))
    assert len(found) == 2 * (labels.max() + 1) - 1
    assert sorted(pairs.ravel().tolist()) == list(range(len(found) - 1))  # each is merged once, but for the last
    # Equal similarities may be taken in either order, after which the ways part: most boxes are the same.
    same = {tuple(row) for row in found.tolist()} & set(expected)
    assert len(same) >= 0.9 * len(set(expected))
    assert tuple(found[-1]) == (0, 0, 44, 36)


def test_regions_grow_together() -> None:
    image = scene(4)
    first, *later = region_growth(image, [8, 3, 1])
    assert first.shape == working_size(*image.shape[:2]) == (375, 500)
    assert [int(cut.max()) + 1 for cut in later] == [8, 3, 1]
    for fine, coarse in zip([first, *later], later, strict=False):  # every region lies within one
        pairs = np.unique(np.stack([fine.ravel(), coarse.ravel()]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1]
    assert len(region_growth(np.full((50, 60, 3), 9, np.uint8), [5])) == 1


def test_a_huge_image_costs_no_more_than_a_small_one() -> None:
    """Whatever its size an image is worked on at 500 pixels; boxes come back in its own."""
    small = scene(6, 375, 500)
    huge = np.repeat(np.repeat(small, 16, axis=0), 16, axis=1)
    assert huge.shape == (6000, 8000, 3)
    assert working_size(6000, 8000) == working_size(375, 500) == (375, 500)
    boxes = selective_search(huge)
    assert boxes.max(axis=0).tolist() == [*boxes.max(axis=0)[:2].tolist(), 8000, 6000]
    np.testing.assert_array_equal(boxes, 16 * selective_search(small))


def test_boxes_that_are_nearly_the_same_wait_behind_the_others() -> None:
    boxes = torch.from_numpy(selective_search(scene(6, 375, 500), "quality"))
    overlaps = box_iou(boxes, boxes).triu(1)
    near = (overlaps > NEAR).any(0)
    front = int((~near).cumprod(0).sum())  # until the first that is nearly one before it
    assert 20 < front < len(boxes)
    assert (overlaps[:front, front:] > NEAR).any(0).all()
    assert len(boxes.unique(dim=0)) == len(boxes)


def test_objects_that_stand_apart_are_found() -> None:
    image = np.full((200, 300, 3), 60, np.uint8)
    truth = [[20, 30, 110, 120], [150, 50, 280, 170]]
    for (x1, y1, x2, y2), colour in zip(truth, ([200, 30, 30], [30, 60, 220]), strict=True):
        image[y1:y2, x1:x2] = colour
    boxes = selective_search(image)
    best = box_iou(torch.tensor(truth).float(), torch.from_numpy(boxes)).amax(1)
    assert (best > 0.9).all()


@pytest.mark.parametrize(
    "image",
    [
        np.full((64, 80, 3), 128, np.uint8),
        np.full((1, 1, 3), 3, np.uint8),
        np.full((2, 3, 3), 7, np.uint8),
        np.full((3, 900, 3), 3, np.uint8),
        np.full((2000, 3, 3), 3, np.uint8),
    ],
    ids=["flat", "one pixel", "six pixels", "flat strip", "upright strip"],
)
def test_an_image_without_parts_is_one_proposal(image: np.ndarray) -> None:
    height, width = image.shape[:2]
    np.testing.assert_allclose(selective_search(image), [[0, 0, width, height]], atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_boxes_lie_in_the_image_once_each_and_none_is_small(mode: str) -> None:
    image = scene(1)
    boxes = selective_search(image, mode)
    height, width = image.shape[:2]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [width + 1e-3, height + 1e-3]).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) * WIDTH / width >= MIN_SIDE - 0.1).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes) > 10


def test_the_order_follows_from_the_seed() -> None:
    image = scene(2)
    first, again, other = (selective_search(image, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert {tuple(box) for box in first.tolist()} == {tuple(box) for box in other.tolist()}


@pytest.mark.parametrize(
    ("image", "mode", "message"),
    [
        (np.zeros((5, 5), np.uint8), "fast", "must be"),
        (np.zeros((5, 5, 3), np.float32), "fast", "uint8"),
        (np.zeros((0, 5, 3), np.uint8), "fast", "must be"),
        (np.zeros((5, 5, 3), np.uint8), "slow", "allowed: fast, quality"),
    ],
)
def test_other_input_is_refused(image: np.ndarray, mode: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_search(image, mode)


def test_edges_come_by_rising_weight() -> None:
    graph = Graph(scene(5, 50, 60).astype(np.float32), sigma=0)
    assert (np.diff(graph._weights) >= 0).all()
    assert len(graph._weights) == 4 * 50 * 60 - 3 * (50 + 60) + 2
    assert math.isclose(float(graph._weights[-1]), float(graph._weights.max()))
