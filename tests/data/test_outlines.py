from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from saccade.data.outlines import instance_map, outlines, simple_outlines
from saccade.data.rle import draw_polygons


def test_outlines_by_hand() -> None:
    """Two parts that touch at a corner stay two; corners of pixels, clockwise from the upper left."""
    mask = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    assert outlines(mask) == [[0, 0, 2, 0, 2, 2, 1, 2, 1, 1, 0, 1], [2, 2, 3, 2, 3, 3, 2, 3]]
    assert outlines(np.ones((2, 5))) == [[0, 0, 5, 0, 5, 2, 0, 2]]
    assert outlines(np.zeros((2, 5))) == []


def test_a_hole_is_filled() -> None:
    ring = np.ones((5, 5))
    ring[2, 2] = ring[1, 1] = 0  # which touch at a corner
    assert outlines(ring) == [[0, 0, 5, 0, 5, 5, 0, 5]]


@pytest.mark.parametrize("grain", [0.3, 1.0, 3.0])
def test_drawn_again_they_give_the_mask_without_its_holes(grain: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        height, width = (int(v) for v in rng.integers(1, 40, 2))
        mask = cv2.GaussianBlur(rng.random((height, width), dtype=np.float32), (0, 0), grain) > 0.5
        polygons = outlines(mask)
        parts, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        assert len(polygons) == parts - 1
        _, ground = cv2.connectedComponents(1 - np.pad(mask, 1).astype(np.uint8), connectivity=8)
        drawn = draw_polygons(polygons, (height, width)) if polygons else np.zeros((height, width), bool)
        assert (drawn == (ground != ground[0, 0])[1:-1, 1:-1]).all()


def test_in_a_map_the_first_lies_on_top() -> None:
    masks = torch.zeros(2, 1, 4, dtype=torch.bool)
    masks[0, 0, 1:3], masks[1, 0, 2:] = True, True
    found = instance_map(masks)
    assert found.dtype == np.uint16
    assert found.tolist() == [[0, 1, 1, 2]]
    assert instance_map(masks[:0]).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(6))
def test_simple_outlines_give_the_mask_with_its_holes(seed: int) -> None:
    """Noise, and noise enlarged, with holes in holes and parts that touch at corners."""
    rng = np.random.default_rng(seed)
    factor = 1 + seed % 3
    mask = np.kron(rng.random((17, 23)) < 0.3 + 0.1 * seed, np.ones((factor, factor), bool))
    polygons = simple_outlines(mask)
    planes = [draw_polygons([polygon], mask.shape) for polygon in polygons]
    assert (np.sum(planes, axis=0) == mask).all()  # each pixel in one of them


def test_simple_outlines_of_a_ring() -> None:
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    assert len(simple_outlines(ring)) == 2
    assert simple_outlines(np.zeros((3, 3), bool)) == []
