"""SSD's sampling keeps what it promises, whatever the boxes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.data.geometry import map_boxes
from saccade.data.sampling import MEAN, MODES, WHOLE, MinOverlapCrop, expanded, overlap
from saccade.data.types import Annotation, Objects, Sample


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Of two boxes, written out."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def sample_of(size: tuple[int, int], boxes: np.ndarray) -> Sample:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    objects = Objects(torch.from_numpy(boxes.astype(np.float32)), torch.arange(len(boxes)))
    return Sample(image, Annotation(size, objects=objects), "x", size)


def random_boxes(rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
    corners = rng.random((n, 2, 2)) * (size[1], size[0])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1) + 1], axis=1).clip(0, [size[1], size[0]] * 2)


@settings(max_examples=60, deadline=None)
@given(mode=st.sampled_from([m for m in MODES if m != WHOLE]), seed=st.integers(0, 2**32), n=st.integers(1, 6))
def test_crops_respect_the_minimum_overlap(mode: float, seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(40, 200)), int(rng.integers(40, 200)))
    boxes = random_boxes(rng, n, size)
    canvas = (0, 0, size[1], size[0])
    window = MinOverlapCrop(modes=(mode,)).crop_window(boxes, canvas, rng)
    x1, y1, x2, y2 = window
    assert x1 >= 0
    assert y1 >= 0
    assert x2 <= size[1]
    assert y2 <= size[0]
    if window == canvas:
        return  # no crop of the mode was found
    assert x2 - x1 >= 0.14 * size[1]
    assert y2 - y1 >= 0.14 * size[0]
    kept = [b for b in boxes if x1 < (b[0] + b[2]) / 2 < x2 and y1 < (b[1] + b[3]) / 2 < y2]
    assert kept
    assert max(iou(tuple(b), window) for b in kept) >= mode


def test_boxes_whose_centre_leaves_are_dropped_and_the_others_clipped() -> None:
    boxes = np.array([[0, 0, 40, 40], [30, 30, 90, 90], [60, 0, 100, 30]], float)
    for seed in range(40):
        sample = sample_of((100, 100), boxes)
        out = MinOverlapCrop(expand=0.3)(sample, np.random.default_rng(seed))
        window = map_boxes(np.array([[0.0, 0, out.truth.size[1], out.truth.size[0]]]), out.to_original)[0]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres > window[:2]) & (centres < window[2:])).all(axis=1)
        assert out.truth.objects.labels.tolist() == np.flatnonzero(inside).tolist()
        back = map_boxes(out.truth.objects.boxes.numpy(), out.to_original)
        assert np.allclose(back, np.clip(boxes[inside], np.tile(window[:2], 2), np.tile(window[2:], 2)), atol=1e-3)


def test_all_modes_occur() -> None:
    sample = sample_of((120, 160), np.array([[20, 20, 140, 110]], float))
    areas = [
        np.prod(MinOverlapCrop(expand=0)(sample, np.random.default_rng(seed)).truth.size) / (120 * 160)
        for seed in range(200)
    ]
    assert 0.05 < np.mean(np.array(areas) == 1) < 0.45  # a seventh, and the modes that found nothing
    assert min(areas) < 0.3


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), ratio=st.floats(1, 4), seed=st.integers(0, 2**32))
def test_expansion_holds_the_whole_image(height: int, width: int, ratio: float, seed: int) -> None:
    x1, y1, x2, y2 = expanded(height, width, ratio, np.random.default_rng(seed))
    assert x1 <= 0 <= width <= x2
    assert y1 <= 0 <= height <= y2
    assert (x2 - x1, y2 - y1) == (round(width * ratio), round(height * ratio))


def test_the_canvas_is_the_mean() -> None:
    sample = sample_of((50, 50), np.array([[10, 10, 40, 40]], float))
    out = MinOverlapCrop(expand=1, modes=(WHOLE,))(sample, np.random.default_rng(1))
    outside = (out.image == MEAN).all(axis=2).sum()
    assert outside >= out.image.shape[0] * out.image.shape[1] - 50 * 50
    assert (out.truth.objects.boxes[:, 2:] - out.truth.objects.boxes[:, :2]).tolist() == [[30, 30]]


def test_overlap_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10]], float)
    windows = np.array([[0, 0, 10, 20], [6, 0, 20, 10], [0, 0, 8, 10]])  # IoU 0.5, centre outside, 0.8
    assert overlap(boxes, windows, 0.5).tolist() == [True, False, True]
    assert overlap(boxes, windows, 0.51).tolist() == [False, False, True]
    assert overlap(boxes, windows, 0.0).tolist() == [True, False, True]
