"""Objects for detectors that are timed on noise: the same on both sides. Needs numpy alone."""

from __future__ import annotations

import numpy as np

COUNT = 10  # of an image


def disc_masks(images: int, size: int) -> np.ndarray:
    """[images, COUNT, size, size] bool: discs with diameters of a twentieth to a third of the side, anywhere inside."""
    rng = np.random.default_rng(0)
    axis = np.arange(size) + 0.5
    masks = np.zeros((images, COUNT, size, size), dtype=bool)
    for mask in masks.reshape(-1, size, size):
        radius = rng.uniform(size / 40, size / 6)
        x, y = rng.uniform(radius, size - radius, 2)
        mask[:] = (axis[None] - x) ** 2 + (axis[:, None] - y) ** 2 <= radius**2
    return masks


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """Boxes [n, 4] float32 x1 y1 x2 y2 of masks [n, H, W]."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
