"""Boundary IoU: whether the outlines of regions are right, whatever the size of what they enclose (Cheng et al. 2021,
"Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR, equation 1)."""

from __future__ import annotations

import cv2
import numpy as np

from saccade.data.types import IGNORE

WIDTH = 0.02  # of a band, in diagonals of the image (the paper, section 5)


def bands(classes: np.ndarray, width: int) -> np.ndarray:
    """[H, W] bool: pixels with one of another class, or the edge of the image, within `width` pixels (chessboard), as
    the released code erodes masks. One pass serves all classes.

    Args:
        classes: [H, W] uint8, below 255.
    """
    around = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    least = cv2.erode(classes, around, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE)
    most = cv2.dilate(classes, around, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE)
    band: np.ndarray = (least != classes) | (most != classes)
    return band


def count_boundaries(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """[3, classes] pixels that lie in the bands of a class in both maps, in the truth, in the prediction.

    The band is WIDTH of the diagonal wide, and at least a pixel. Where the truth is IGNORE it is taken to be as
    predicted, and nothing is counted; a pixel predicted IGNORE elsewhere is an error.

    Args:
        truth, prediction: [H, W] uint8, 0..classes-1 or IGNORE.
    """
    width = max(1, round(WIDTH * float(np.hypot(*truth.shape))))
    counted = truth != IGNORE
    filled = np.where(counted, truth, prediction)
    near_true, near_predicted = counted & bands(filled, width), counted & bands(prediction, width)
    both = near_true & near_predicted & (truth == prediction)
    return np.stack(
        [
            np.bincount(values[where], minlength=IGNORE + 1)[:classes]
            for values, where in ((truth, both), (truth, near_true), (prediction, near_predicted))
        ]
    )
