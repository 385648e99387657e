"""Batches: what travels with the images, by rows and to a device."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from saccade.data.types import Annotation, Batch, Objects


def boxes(count: int) -> Objects:
    return Objects(torch.rand(count, 4), torch.zeros(count, dtype=torch.int64), scores=torch.rand(count))


def batch() -> Batch:
    filled = Batch(
        torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8),
        [(8, 8), (7, 8), (8, 6)],
        truth=[Annotation((8, 8), label=i, semantic=torch.zeros(8, 8, dtype=torch.uint8)) for i in range(3)],
        ids=["a", "b", "c"],
        original_sizes=[(16, 16)] * 3,
        to_original=[np.eye(3) * i for i in range(3)],
        given=[boxes(4), boxes(0), boxes(2)],
        cameras=[np.eye(3, 4), None, np.eye(3, 4)],
    )
    assert all(getattr(filled, field.name) is not None for field in dataclasses.fields(Batch))
    return filled


def test_rows_take_everything_along() -> None:
    whole = batch()
    part = whole[1:]
    assert len(part) == 2
    for field in dataclasses.fields(Batch):
        assert len(getattr(part, field.name)) == 2, field.name
    assert part.ids == ["b", "c"]
    assert [len(given) for given in part.given] == [0, 2]
    bare = Batch(whole.images, whole.sizes)[:1]
    assert bare.truth is bare.given is None
    assert bare.ids == []


def test_a_device_gets_images_and_maps_and_no_small_numbers() -> None:
    whole = batch()
    moved = whole.to("meta")
    assert moved.images.device.type == "meta"
    assert moved.truth[0].semantic.device.type == "meta"
    assert moved.given[0].boxes.device.type == "cpu"
    assert (moved.ids, moved.sizes, moved.original_sizes) == (whole.ids, whole.sizes, whole.original_sizes)
    assert moved.images.dtype == torch.float32
