"""Mosaic and cutout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.data.geometry import mask_hulls
from saccade.data.mixing import Cutout, Mosaic, join
from saccade.data.types import Annotation, Objects, Sample


def tile(value: int, size: tuple[int, int], box: tuple[int, int, int, int] | None) -> Sample:
    """A gray image of one value with a box of value + 100 in it, labelled by the value."""
    image = np.full((*size, 3), value, np.uint8)
    masks = torch.zeros(0 if box is None else 1, *size, dtype=torch.bool)
    if box is not None:
        x1, y1, x2, y2 = box
        image[y1:y2, x1:x2] = value + 100
        masks[0, y1:y2, x1:x2] = True
    boxes = torch.tensor([box] if box else [], dtype=torch.float32).reshape(-1, 4)
    points = torch.cat([boxes[:, :2], torch.full((len(boxes), 1), 2.0)], dim=1)[:, None]
    objects = Objects(boxes, torch.full((len(boxes),), value), masks=masks, keypoints=points)
    return Sample(image, Annotation(size, objects=objects), str(value), size)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(30, 150), width=st.integers(30, 150))
def test_boxes_lie_on_their_objects(seed: int, height: int, width: int) -> None:
    others = [tile(30, (width, height), (3, 4, 20, 28)), tile(50, (60, 90), None), tile(70, (80, 40), (0, 0, 40, 80))]
    rest = iter(others)
    out = Mosaic((128, 160))(tile(10, (height, width), (5, 5, 25, 25)), np.random.default_rng(seed), lambda: next(rest))
    assert next(rest, None) is None  # three others were fetched
    assert out.image.shape == (128, 160, 3)
    assert out.truth.size == (128, 160)
    assert out.id == "10"
    objects = out.truth.objects
    assert set(objects.labels.tolist()) <= {10, 30, 70}
    assert objects.masks.shape[1:] == (128, 160)
    for row in range(len(objects)):
        x1, y1, x2, y2 = objects.boxes[row].round().int().tolist()
        inner = out.image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1, 0]
        assert inner.size == 0 or np.median(inner) == int(objects.labels[row]) + 100
        hull = mask_hulls(objects.masks[row : row + 1])[0][0]
        assert np.abs(hull - objects.boxes[row].numpy()).max() <= 1.5
        x, y, visible = objects.keypoints[row, 0].tolist()
        if visible:  # the corner of the box, but that a box which was cut is its mask's hull, in whole pixels
            assert np.abs(np.array([x, y]) - objects.boxes[row, :2].numpy()).max() <= 1


def test_without_luck_nothing_is_fetched() -> None:
    sample = tile(10, (30, 30), None)

    def fetch() -> Sample:
        raise AssertionError

    assert Mosaic((64, 64), probability=0)(sample, np.random.default_rng(0), fetch) is sample


def test_a_mosaic_of_empty_images_is_empty() -> None:
    out = Mosaic((64, 64))(tile(10, (30, 30), None), np.random.default_rng(0), lambda: tile(20, (1, 200), None))
    assert len(out.truth.objects) == 0


def test_join_fills_flags_and_areas_and_refuses_missing_masks() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 5]])
    one = Objects(boxes, torch.tensor([1]), crowd=torch.tensor([True]), area=torch.tensor([7.0]))
    two = Objects(boxes, torch.tensor([2]))
    both = join([one, two, Objects.empty()])
    assert both.crowd.tolist() == [True, False]
    assert both.area.tolist() == [7, 20]
    assert both.difficult is None
    masked = Objects(boxes, torch.tensor([1]), masks=torch.ones(1, 5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="masks"):
        join([masked, two])


def test_cutout_blanks_at_most_its_square() -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    sample = Sample(image, Annotation((32, 48), label=0), "x", (32, 48))
    blanked = [int((Cutout(1.0)(sample, np.random.default_rng(s)).image == 114).all(axis=2).sum()) for s in range(60)]
    assert max(blanked) == 16 * 16
    assert min(blanked) >= 8 * 8
    assert image.max() == 0
