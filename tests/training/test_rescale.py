"""Multi-scale training: truth follows the images; the factor follows from seed and step."""

from __future__ import annotations

import dataclasses

import torch

from saccade.config import Settings
from saccade.data.types import Annotation, Batch, Objects
from saccade.training.rescale import STRIDE, random_scale


def _batch() -> Batch:
    image = torch.zeros(1, 3, 128, 192)
    image[:, :, 32:64, 48:96] = 1
    semantic = (image[0, 0] > 0).to(torch.uint8)
    objects = Objects(torch.tensor([[48.0, 32.0, 96.0, 64.0]]), torch.tensor([0]))
    return Batch(
        image, [(128, 192)], [Annotation((128, 192), semantic=semantic, objects=objects, weights=1.0 + semantic)], ["a"]
    )


def test_off_changes_nothing() -> None:
    batch = _batch()
    assert random_scale(batch, Settings(), 0) is batch


def test_boxes_and_maps_follow_the_image() -> None:
    settings = dataclasses.replace(Settings(), multi_scale=0.5)
    shapes = set()
    for step in range(20):
        scaled = random_scale(_batch(), settings, step)
        shapes.add(scaled.images.shape[-2:])
        assert scaled.truth is not None
        truth = scaled.truth[0]
        assert truth.objects is not None
        assert truth.semantic is not None
        assert scaled.images.shape[-2] % STRIDE == scaled.images.shape[-1] % STRIDE == 0
        assert truth.size == scaled.sizes[0] == tuple(truth.semantic.shape) == tuple(scaled.images.shape[-2:])
        rows, columns = torch.nonzero(scaled.images[0, 0] > 0.5, as_tuple=True)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        torch.testing.assert_close(found, truth.objects.boxes[0], atol=1.0, rtol=0)
        rows, columns = torch.nonzero(truth.semantic, as_tuple=True)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        torch.testing.assert_close(found, truth.objects.boxes[0], atol=1.0, rtol=0)
        torch.testing.assert_close(truth.weights, 1.0 + truth.semantic)
    assert len(shapes) > 5


def test_the_same_seed_and_step_give_the_same_size() -> None:
    settings = dataclasses.replace(Settings(), multi_scale=0.5)
    one, two = (random_scale(_batch(), settings, 7) for _ in range(2))
    assert torch.equal(one.images, two.images)
