"""Colour changes stay in range, keep gray gray and agree with the floating point formulas."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from saccade.data.photometric import DEVIATIONS, DIRECTIONS, Lighting, PhotometricDistortion, recolor, tone
from saccade.data.types import Annotation, Sample


def sample_of(image: np.ndarray) -> Sample:
    return Sample(image, Annotation(image.shape[:2], label=0), "x", image.shape[:2])


@pytest.mark.parametrize(("saturation", "hue"), [(1.0, 0.0), (0.5, 0.0), (1.5, 0.0), (1.0, 18.0), (0.7, -18.0)])
def test_colours_agree_with_the_standard_library(saturation: float, hue: float) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (300, 3), dtype=np.uint8)
    got = recolor(colours[None], saturation, hue)[0].astype(float)
    for colour, result in zip(colours, got, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(colour / 255))
        expected = 255 * np.array(colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1, s * saturation), v))
        assert np.abs(result - expected).max() <= 6  # hue and saturation have 8 bits


def test_gray_images_stay_gray() -> None:
    image = np.repeat(np.random.default_rng(0).integers(0, 256, (20, 30, 1), dtype=np.uint8), 3, axis=2)
    changed = 0
    for seed in range(30):
        out = PhotometricDistortion(2.0)(sample_of(image), np.random.default_rng(seed)).image
        assert np.ptp(out, axis=2).max() == 0
        changed += not np.array_equal(out, image)
    assert changed > 15


def test_tone_clips_and_leaves_the_identity_alone() -> None:
    image = np.array([[[0, 100, 250]]], np.uint8)
    assert tone(image, 1.5, 10).tolist() == [[[10, 160, 255]]]
    assert tone(image, 1.0, -32).tolist() == [[[0, 68, 218]]]
    assert tone(image, 1.0, 0.0) is image


def test_strength_bounds_the_change() -> None:
    image = np.full((4, 4, 3), 128, np.uint8)
    values = [
        int(PhotometricDistortion(1.0)(sample_of(image), np.random.default_rng(s)).image[0, 0, 0]) for s in range(300)
    ]
    assert min(values) < 70
    assert max(values) > 180
    assert min(values) >= np.floor((128 - 32) * 0.5)
    assert max(values) <= np.ceil((128 + 32) * 1.5)
    weak = [
        int(PhotometricDistortion(0.1)(sample_of(image), np.random.default_rng(s)).image[0, 0, 0]) for s in range(100)
    ]
    assert max(abs(v - 128) for v in weak) <= 11


def test_lighting_moves_colours_along_the_principal_components() -> None:
    image = np.full((2, 2, 3), 128, np.uint8)
    moved = np.array([Lighting(0.1)(sample_of(image), np.random.default_rng(s)).image[0, 0] for s in range(3000)])
    found = np.cov((moved.astype(float) - 128).T / 255)
    expected = 0.01 * DIRECTIONS @ np.diag(DEVIATIONS**2) @ DIRECTIONS.T
    assert np.abs(found - expected).max() < 5e-5  # of 3e-4 to 1.6e-4
    np.testing.assert_allclose(DIRECTIONS.T @ DIRECTIONS, np.eye(3), atol=2e-3)
    assert np.array_equal(Lighting(0.0)(sample_of(image), np.random.default_rng(0)).image, image)
