"""The elastic deformation is one to one, and image, boxes, masks and points follow the same field."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.data.elastic import Elastic, bend, weights
from saccade.data.geometry import mask_hulls
from saccade.data.types import Annotation, Objects, Sample


def sample_of(size: tuple[int, int], box: tuple[int, int, int, int], masks: bool) -> Sample:
    plane = torch.zeros(1, *size, dtype=torch.bool)
    plane[0, box[1] : box[3], box[0] : box[2]] = True
    image = np.repeat(plane[0].numpy().astype(np.uint8)[..., None] * np.uint8(255), 3, axis=2)
    points = torch.tensor([[[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, 2.0]]])
    boxes = torch.tensor([box], dtype=torch.float32)
    objects = Objects(boxes, torch.zeros(1, dtype=torch.int64), masks=plane if masks else None, keypoints=points)
    return Sample(image, Annotation(size, semantic=plane[0].to(torch.uint8), objects=objects), "x", size)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 600), width=st.integers(1, 600), seed=st.integers(0, 2**32))
def test_forward_undoes_backward(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    field = Elastic().field((height, width), rng)
    points = rng.random((50, 2)) * (width, height)
    assert np.abs(field.backward(field.forward(points)) - points).max() < 0.01
    assert np.abs(field.forward(field.backward(points)) - points).max() < 0.2


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(120, 300), width=st.integers(120, 300))
def test_all_parts_follow_the_field(seed: int, height: int, width: int) -> None:
    box = (width // 3, height // 4, 2 * width // 3, 3 * height // 4)  # far from the border, nothing is reflected
    rng = np.random.default_rng(seed)
    field = Elastic().field((height, width), rng)
    plain, masked = (bend(sample_of((height, width), box, masks), field) for masks in (False, True))
    seen = mask_hulls(torch.from_numpy(plain.image[None, ..., 0] > 127))[0][0]
    classes = mask_hulls(plain.truth.semantic[None] == 1)[0][0]
    assert np.abs(plain.truth.objects.boxes[0].numpy() - seen).max() <= 1.5
    assert np.abs(masked.truth.objects.boxes[0].numpy() - seen).max() <= 1
    assert np.abs(classes - seen).max() <= 1
    x, y, _ = plain.truth.objects.keypoints[0, 0].tolist()
    back = field.backward(np.array([[x, y]]))[0]
    assert np.abs(back - [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]).max() < 0.01
    pixels = np.argwhere(plain.image[..., 0] > 127)[:, ::-1] + 0.5
    origin = field.backward(pixels)
    assert (origin > np.array(box[:2]) - 0.75).all()
    assert (origin < np.array(box[2:]) + 0.75).all()


def test_maps_are_the_backward_field() -> None:
    field = Elastic().field((40, 70), np.random.default_rng(3))
    x, y = field.maps()
    rows, columns = np.mgrid[:40, :70]
    points = field.backward(np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5) - 0.5
    assert np.allclose(np.stack([x.ravel(), y.ravel()], axis=1), points, atol=1e-3)


def test_sigma_is_the_papers_on_the_papers_images() -> None:
    draws = np.stack([Elastic().field((512, 512), np.random.default_rng(s)).grid for s in range(400)])
    assert 8.5 < draws.std() < 10  # cut at two standard deviations
    assert np.abs(draws).max() <= 20
    small = np.stack([Elastic().field((50, 512), np.random.default_rng(s)).grid for s in range(100)])
    assert np.abs(small).max() <= 4


def test_weights_interpolate_and_reproduce_lines() -> None:
    assert weights(np.array([0, 0.5, 1])).tolist() == np.eye(3).tolist()
    t = np.linspace(0, 1, 101)
    assert np.allclose(weights(t).sum(axis=1), 1)
    assert np.allclose(weights(t)[::-1, ::-1], weights(t))
