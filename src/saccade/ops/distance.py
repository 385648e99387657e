"""Distances in masks that are the same bits every time."""

from __future__ import annotations

import cv2
import numpy as np


def distance_inside(mask: np.ndarray) -> np.ndarray:
    """[H, W] float32: how far each pixel of a mask [H, W] of bool lies from the nearest one outside of it, middle to
    middle, in pixels; 0 outside. At least the diagonal where nothing is outside.

    OpenCV's exact transform (Felzenszwalb & Huttenlocher 2012, "Distance transforms of sampled functions") leaves the
    last bits to chance, from one call to the next, and a watershed then decides ties by them. The square of a distance
    between pixels is a whole number, to which it is rounded here; up to 1,500 pixels the answer is that of exact
    arithmetic.
    """
    if mask.all():
        return np.full(mask.shape, np.hypot(*mask.shape), np.float32)
    found = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.sqrt(np.rint(np.square(found, dtype=np.float64))).astype(np.float32)
