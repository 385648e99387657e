"""U-Net's elastic deformation: random displacements on a coarse grid, interpolated bicubically to every pixel.

Source: U-Net (Ronneberger et al. 2015), section 3.1: 3 x 3 grid, standard deviation 10 pixels (on 512 x 512 images).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from saccade.data.geometry import MIN_VISIBLE, Move, Size, moved
from saccade.data.types import Sample

OUTLINE = 8  # points on each side of a box whose images give the hull of the bent box
STEEPEST = 0.04  # largest standard deviation in shorter sides: keeps the map one to one, see `Field`


@dataclass(frozen=True)
class Field:
    """A smooth map between the pixels of the deformed image and those of the image before, both of `size`.

    `grid` [3, 3, 2] holds displacements (x, y) in pixels at the corners, edge middles and centre of the image. They
    stay within two standard deviations and those within 4 % of the shorter side, so the map's Jacobian differs from
    the identity by less than 1 in the infinity norm: it is one to one and `forward` converges.
    """

    size: Size
    grid: np.ndarray

    def backward(self, points: np.ndarray) -> np.ndarray:
        """[n, 2] points (x, y) of the deformed image -> where they came from."""
        height, width = self.size
        along_x, along_y = weights(points[:, 0] / width), weights(points[:, 1] / height)
        return points + np.einsum("ni,nj,ijc->nc", along_y, along_x, self.grid)

    def forward(self, points: np.ndarray, rounds: int = 30) -> np.ndarray:
        """[..., 2] points of the image before -> where they go, by fixed-point iteration on `backward`."""
        start = points.reshape(-1, 2)
        found = start.copy()
        for _ in range(rounds):
            error = self.backward(found) - start
            found -= error
            if not error.size or np.abs(error).max() < 1e-3:
                break
        return found.reshape(points.shape)

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Two [H, W] float32 tables for OpenCV's remap (pixel centres counted from 0)."""
        height, width = self.size
        across, down = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        along_x = weights((across + 0.5) / width).T.astype(np.float32)
        along_y = weights((down[:, 0] + 0.5) / height)
        by_column = np.einsum("yi,ijc->cjy", along_y, self.grid).astype(np.float32)[..., None]
        x, y = (columns[0] * along_x[0] + columns[1] * along_x[1] + columns[2] * along_x[2] for columns in by_column)
        return x + across, y + down


def weights(t: np.ndarray) -> np.ndarray:
    """[n] positions in 0..1 -> [n, 3] weights of control points at 0, 1/2 and 1.

    Cubic convolution (Keys 1981, a = -1/2) with the end points repeated; positions outside take the border's value.
    """
    u = np.clip(t, 0, 1) * 2
    cell = np.minimum(u.astype(np.int64), 1)
    f = u - cell
    taps = np.stack(
        [
            ((-0.5 * f + 1) * f - 0.5) * f,
            (1.5 * f - 2.5) * f * f + 1,
            ((-1.5 * f + 2) * f + 0.5) * f,
            (0.5 * f - 0.5) * f * f,
        ],
        axis=1,
    )
    out = np.zeros((len(u), 3))
    rows = np.arange(len(u))
    for k in range(4):
        np.add.at(out, (rows, np.clip(cell + k - 1, 0, 2)), taps[:, k])
    return out


@dataclass(frozen=True)
class Elastic:
    """With `probability`, bend the image, its masks and its class map; the border is continued by reflection.

    `sigma` is the standard deviation in pixels, cut to 4 % of the shorter side on images below 250 pixels.
    `to_original` stays as it is (no matrix describes the bend): `Field.backward` of `field(...)` takes points back
    exactly. A box becomes the hull of its mask, or of its bent outline where there are no masks.
    """

    probability: float = 1.0
    sigma: float = 10.0
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        return bend(sample, self.field(sample.truth.size, rng), self.min_visible)

    def field(self, size: Size, rng: np.random.Generator) -> Field:
        """Draw the displacements for an image of `size` (height, width)."""
        sigma = min(self.sigma, STEEPEST * min(size))
        return Field(size, np.clip(rng.standard_normal((3, 3, 2)), -2, 2) * sigma)


def bend(sample: Sample, field: Field, min_visible: float = MIN_VISIBLE) -> Sample:
    """The sample deformed by `field`."""
    maps = field.maps()
    x, y = cv2.convertMaps(*maps, cv2.CV_16SC2)
    image = cv2.remap(sample.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)

    def bent_masks(masks: Tensor) -> Tensor:
        planes = np.zeros(masks.shape, np.uint8)
        for row, mask in enumerate(masks.numpy().view(np.uint8)):
            planes[row] = cv2.remap(mask, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return torch.from_numpy(planes.view(bool))

    def bent_semantic(semantic: Tensor) -> Tensor:
        bent = cv2.remap(semantic.numpy(), *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT)
        return torch.from_numpy(bent)

    move = Move(field.size, field.forward, partial(bent_hulls, field=field), bent_masks)
    return moved(sample, move, image, bent_semantic, min_visible)


def bent_hulls(boxes: np.ndarray, field: Field) -> np.ndarray:
    """[n, 4] -> [n, 4] float64 upright hulls of the outlines of the boxes after the deformation, not clipped."""
    t = np.linspace(0, 1, OUTLINE, endpoint=False)
    zero = np.zeros(OUTLINE)
    ring = np.stack([np.r_[t, zero + 1, 1 - t, zero], np.r_[zero, t, zero + 1, 1 - t]], axis=1)
    boxes = boxes.astype(np.float64)
    corner, side = boxes[:, None, :2], (boxes[:, 2:] - boxes[:, :2])[:, None]
    points = field.forward(corner + ring * side)
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
