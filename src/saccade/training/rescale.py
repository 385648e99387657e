"""Multi-scale training: another input side for every batch (YOLO9000, Redmon & Farhadi 2017, section 2)."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from saccade.config import Settings
from saccade.data.geometry import Move, move_camera, move_objects
from saccade.data.resampling import resizing
from saccade.data.types import Annotation, Batch

STRIDE = 32  # sides stay multiples of it


def random_scale(batch: Batch, settings: Settings, step: int) -> Batch:
    """Resize a batch on its device by a factor in 1 +- `multi_scale` that follows from (seed, step).

    The truth follows: objects with all their columns, class maps, weights of pixels.
    """
    if settings.multi_scale == 0:
        return batch
    factor = np.random.default_rng((settings.seed, step)).uniform(1 - settings.multi_scale, 1 + settings.multi_scale)
    old_h, old_w = batch.images.shape[-2:]
    new_h, new_w = scaled_side(old_h, factor), scaled_side(old_w, factor)
    if (new_h, new_w) == (old_h, old_w):
        return batch
    images = F.interpolate(batch.images, (new_h, new_w), mode="bilinear", align_corners=False, antialias=factor < 1)
    fy, fx = new_h / old_h, new_w / old_w
    sizes = [(max(1, round(h * fy)), max(1, round(w * fx))) for h, w in batch.sizes]
    moves = [resizing(fx, fy, size) for size in sizes]
    truth = given = None
    if batch.truth is not None:
        truth = [_scaled(t, move) for t, move in zip(batch.truth, moves, strict=True)]
    if batch.given is not None:
        given = [move_objects(g, move, "all") for g, move in zip(batch.given, moves, strict=True)]
    cameras = [move_camera(camera, move) for camera, move in zip(batch.cameras, moves, strict=False)]
    return dataclasses.replace(batch, images=images, sizes=sizes, truth=truth, given=given, cameras=cameras)


def scaled_side(side: int, factor: float) -> int:
    """A side in pixels times `factor`, rounded to a multiple of STRIDE that is not 0."""
    return max(STRIDE, round(side * factor / STRIDE) * STRIDE)


def _scaled(truth: Annotation, move: Move) -> Annotation:
    semantic, weights, objects = truth.semantic, truth.weights, truth.objects
    if semantic is not None:
        semantic = _nearest(semantic, move.size)
    if weights is not None:
        weights = _nearest(weights, move.size)
    if objects is not None:
        objects = move_objects(objects, move, "all")
    camera = move_camera(truth.camera, move)
    return dataclasses.replace(
        truth, size=move.size, semantic=semantic, weights=weights, objects=objects, camera=camera
    )


def _nearest(plane: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(plane[None, None].float(), size, mode="nearest")[0, 0].to(plane.dtype)
