"""Distances in masks: exact, and the same bits every time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import ndimage

from saccade.ops.distance import distance_inside


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


def test_a_mask_without_an_outside() -> None:
    assert (distance_inside(np.ones((3, 4), bool)) == 5).all()
