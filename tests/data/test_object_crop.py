from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from saccade.config import Settings
from saccade.data.object_crop import ObjectCrop
from saccade.data.pipelines import training_transforms
from saccade.data.transforms import RandomCrop
from saccade.data.types import IGNORE, Annotation, Sample


def sample_of(plane: np.ndarray) -> Sample:
    """An image that shows its class map: a class as that many times 40."""
    image = np.repeat((plane * np.uint8(40))[..., None], 3, axis=2)
    return Sample(image, Annotation(plane.shape, semantic=torch.from_numpy(plane)), "x", plane.shape)


def test_the_window_has_the_box_in_the_middle() -> None:
    crop = ObjectCrop((40, 80), context=1.5)
    rng = np.random.default_rng(0)
    windows = np.array([crop.window((100, 50, 140, 90), rng) for _ in range(400)])
    assert set((windows[:, 2] - windows[:, 0]).tolist()) == {120}
    assert set((windows[:, 3] - windows[:, 1]).tolist()) == {60}
    middle = (windows[:, :2] + windows[:, 2:]) / 2
    assert (np.abs(middle - [120, 70]).max(0) <= [6.5, 3.5]).all()  # a twentieth of its sides, and rounding
    assert np.abs(middle.mean(0) - [120, 70]).max() < 1


def test_every_class_is_as_likely_and_each_of_its_things() -> None:
    plane = np.zeros((100, 100), np.uint8)
    plane[10:20, 10:20] = plane[10:20, 70:80] = 1
    plane[60:90, 60:90] = 2
    plane[50, 50] = 3  # too small to be a thing
    plane[:5] = IGNORE
    crop, rng = ObjectCrop((32, 32)), np.random.default_rng(0)
    shares = {(10, 10, 20, 20): 1 / 6, (70, 10, 80, 20): 1 / 6, (60, 60, 90, 90): 1 / 3, (0, 5, 100, 100): 1 / 3}
    drawn = Counter(crop.choose(sample_of(plane), rng) for _ in range(600))
    assert set(drawn) == set(shares)
    assert all(abs(drawn[box] / 600 - share) < 0.06 for box, share in shares.items())


def test_image_and_map_show_the_thing_at_the_same_size() -> None:
    plane = np.zeros((100, 100), np.uint8)
    plane[40:60, 45:55] = 2
    plane[:, :] = np.where(plane == 2, 2, IGNORE)  # one class alone
    shown = ObjectCrop((48, 48), context=2.0)(sample_of(plane), np.random.default_rng(0))
    semantic = shown.truth.semantic
    assert semantic is not None
    assert semantic.shape == (48, 48)
    assert shown.image.shape == (48, 48, 3)
    rows, columns = torch.nonzero(semantic == 2).T
    assert abs(int(rows.max() - rows.min()) + 1 - 24) <= 1  # half of the window
    assert abs(int(columns.max() - columns.min()) + 1 - 12) <= 1
    assert int(shown.image[int(rows.float().mean()), int(columns.float().mean()), 0]) == 80


def test_outside_the_image_nothing_is_labelled() -> None:
    plane = np.full((60, 60), 1, np.uint8)
    shown = ObjectCrop((32, 32), context=2.0)(sample_of(plane), np.random.default_rng(0))
    semantic = shown.truth.semantic
    assert semantic is not None
    assert int(semantic[0, 0]) == IGNORE
    assert int(semantic[16, 16]) == 1
    assert abs(float((semantic == 1).float().mean()) - 0.25) < 0.05


def test_an_image_without_a_thing_is_shown_whole() -> None:
    plane = np.full((30, 60), IGNORE, np.uint8)
    shown = ObjectCrop((20, 40), context=1.0)(sample_of(plane), np.random.default_rng(0))
    assert shown.image.shape == (20, 40, 3)


def test_the_setting_puts_it_in_the_place_of_random_crops() -> None:
    one = training_transforms("segment", Settings(size=(64, 96), object_crop=1.2))
    assert [step for step in one if isinstance(step, ObjectCrop)] == [ObjectCrop((64, 96), 1.2)]
    assert not any(isinstance(step, RandomCrop) for step in one)
    assert any(isinstance(step, RandomCrop) for step in training_transforms("segment", Settings(size=(64, 96))))
