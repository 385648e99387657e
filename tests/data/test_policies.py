"""The operators against PIL's, which the authors of the policies use; the policies draw all of them, evenly."""

from __future__ import annotations

import collections

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from saccade.data import policies
from saccade.data.policies import GEOMETRIC, PHOTOMETRIC, PLAIN, WIDE, RandAugment, TrivialAugment, operate
from saccade.data.types import Annotation, Objects, Sample


def picture(seed: int = 0, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """Smooth colours with some noise, not over the whole range."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 220, (5, 7, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_LINEAR).astype(int)
    return np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def sample_of(image: np.ndarray) -> Sample:
    return Sample(image, Annotation(image.shape[:2], label=3), "x", image.shape[:2])


@pytest.mark.parametrize("factor", [0.1, 0.73, 1.0, 1.9])
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancement_equals_pil(name: str, factor: float) -> None:
    image = picture()
    expected = np.asarray(getattr(ImageEnhance, name.capitalize())(Image.fromarray(image)).enhance(factor))
    got = policies.enhance(image, name, factor)
    assert np.abs(got.astype(int) - expected).max() <= 2  # PIL cuts where we round, also between the steps


@pytest.mark.parametrize("seed", range(4))
def test_tables_equal_pil(seed: int) -> None:
    image = picture(seed)
    whole = Image.fromarray(image)
    assert np.array_equal(policies.equalize(image), ImageOps.equalize(whole))
    assert np.abs(policies.auto_contrast(image).astype(int) - np.asarray(ImageOps.autocontrast(whole))).max() <= 1
    for bits in (2, 4, 8):
        assert np.array_equal(policies.posterize(image, bits), ImageOps.posterize(whole, bits))
    for threshold in (0, 100, 255):
        assert np.array_equal(policies.solarize(image, threshold), ImageOps.solarize(whole, threshold))


def test_pictures_of_one_colour_and_one_pixel_survive_every_operator() -> None:
    for size in ((1, 1), (2, 3), (1, 50), (20, 20)):
        sample = sample_of(np.full((*size, 3), 77, np.uint8))
        for name in PHOTOMETRIC + GEOMETRIC:
            for level in (0, 15, 30):
                out = operate(sample, name, level, -1, WIDE)
                assert out.image.shape == sample.image.shape
                assert out.image.dtype == np.uint8
                assert out.truth.size == size


def test_geometry_by_hand() -> None:
    image = np.zeros((33, 33, 3), np.uint8)
    image[16, 16] = image[16, 20] = image[10, 16] = 200
    right = operate(sample_of(image), "translate_x", 30 * 5 / 32, 1, WIDE)
    assert right.image[16, 21, 0] == right.image[16, 25, 0] == 200  # 5 of 32 pixels
    assert (right.image[:, :5] == 114).all()
    assert np.allclose(right.to_original @ [21.5, 16.5, 1], [16.5, 16.5, 1])
    up = operate(sample_of(image), "translate_y", 30, -1, PLAIN)
    assert np.allclose(up.to_original, [[1, 0, 0], [0, 1, 33 * 150 / 331], [0, 0, 1]])
    turned = operate(sample_of(image), "rotate", 20, 1, WIDE)  # 90 degrees: what lay to the right lies below
    assert turned.image[16, 16, 0] == turned.image[20, 16, 0] == turned.image[16, 22, 0] == 200
    sheared = operate(sample_of(image), "shear_x", 30, 1, PLAIN)  # 0.3 pixels a row, about the centre
    assert sheared.image[16, 16, 0] == sheared.image[16, 20, 0] == 200
    assert sheared.image[10, 14, 0] > 100 > 50 > sheared.image[10, 16, 0]


def test_policies_draw_every_operator_and_both_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, float, int]] = []

    def note(sample, name, level, sign, ranges, fill):
        drawn.append((name, level, sign))
        return sample

    monkeypatch.setattr(policies, "operate", note)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        RandAugment(3, 7.5)(sample_of(picture()), rng)
    assert {level for _, level, _ in drawn} == {7.5}
    counts = collections.Counter((name, sign) for name, _, sign in drawn)
    assert len(counts) == 28
    assert min(counts.values()) > 60 < 3000 / 28 < max(counts.values()) < 160
    drawn.clear()
    for _ in range(1000):
        TrivialAugment(geometric=False)(sample_of(picture()), rng)
    assert {name for name, _, _ in drawn} == set(PHOTOMETRIC)
    assert {level for _, level, _ in drawn} == set(range(31))


@pytest.mark.parametrize("policy", [RandAugment(), TrivialAugment()])
def test_the_seed_decides_and_the_input_stays(policy: RandAugment | TrivialAugment) -> None:
    image = picture()
    before, sample = image.copy(), sample_of(image)
    results = [policy(sample, np.random.default_rng(seed)).image for seed in (1, 1, *range(2, 20))]
    assert np.array_equal(results[0], results[1])
    assert len({r.tobytes() for r in results}) > 10
    assert np.array_equal(image, before)


def test_without_geometry_objects_stay_where_they_are() -> None:
    objects = Objects(torch.tensor([[3.0, 4.0, 20.0, 30.0]]), torch.tensor([1]))
    sample = Sample(picture(), Annotation((40, 56), objects=objects), "x", (40, 56))
    for seed in range(30):
        out = TrivialAugment(geometric=False)(sample, np.random.default_rng(seed))
        assert out.truth is sample.truth
        assert np.array_equal(out.to_original, np.eye(3))
