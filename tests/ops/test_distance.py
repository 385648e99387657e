"""Distances in masks: exact, and the same bits every time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from saccade.ops.distance import distance_inside, nearly_distance_inside, settled


def test_against_scipy_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 40), (90, 130), (300, 260)):
        mask = ndimage.gaussian_filter(rng.normal(size=shape), 4) > -0.02
        mask[0, 0] = False
        assert np.array_equal(distance_inside(mask), ndimage.distance_transform_edt(mask).astype(np.float32))


def test_last_bits_that_opencv_leaves_to_chance_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.ones((60, 80), bool)
    mask[20, 30] = False
    usual, plain = cv2.distanceTransform, distance_inside(mask)
    monkeypatch.setattr(cv2, "distanceTransform", lambda *given: np.nextafter(usual(*given), np.float32(1e9)))
    assert np.array_equal(distance_inside(mask), plain)


def test_the_least_of_several_is_settled_as_each_is() -> None:
    mask = np.ones((40, 50), bool)
    mask[3, 4] = mask[30, 41] = False
    apart = [np.ones_like(mask), np.ones_like(mask)]
    apart[0][3, 4] = apart[1][30, 41] = False
    least = settled(np.minimum(*(nearly_distance_inside(each) for each in apart)))
    assert np.array_equal(least, distance_inside(mask))
    assert settled(np.array([[np.inf]], np.float32)) == np.inf


def test_a_mask_without_an_outside() -> None:
    assert (distance_inside(np.ones((3, 4), bool)) == 5).all()
