"""Distances in masks that are the same bits every time."""

from __future__ import annotations

import cv2
import numpy as np


def distance_inside(mask: np.ndarray) -> np.ndarray:
    """[H, W] float32: how far each pixel of a mask [H, W] of bool lies from the nearest one outside of it, middle to
    middle, in pixels; 0 outside. The diagonal where nothing is outside."""
    if mask.all():
        return np.full(mask.shape, np.hypot(*mask.shape), np.float32)
    return settled(nearly_distance_inside(mask))


def nearly_distance_inside(mask: np.ndarray) -> np.ndarray:
    """As `distance_inside` of a mask [H, W] with an outside, before it is `settled`.

    Source: Felzenszwalb & Huttenlocher 2012, "Distance transforms of sampled functions", as OpenCV has it, which leaves
    the last bits to chance, from one call to the next.
    """
    found: np.ndarray = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return found


def settled(distances: np.ndarray) -> np.ndarray:
    """Distances between pixels [H, W], the same bits every time, float32: their squares are whole numbers, to which
    they are rounded. Up to 1,500 pixels that is what exact arithmetic gives. The least or greatest of several may be
    settled in place of each."""
    rounded: np.ndarray = np.sqrt(np.rint(np.square(distances, dtype=np.float64))).astype(np.float32)
    return rounded
