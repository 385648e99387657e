"""Boundary IoU against the released code's erosion, and by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from saccade.data.types import Annotation
from saccade.metrics.boundary import bands, count_boundaries
from saccade.tasks.contract import task_of


def eroded_band(mask: np.ndarray, width: int) -> np.ndarray:
    """As the released code: the mask without what `width` erosions of a frame of zeros leave of it."""
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    return mask & (inner == 0)


@pytest.mark.parametrize("width", [1, 3])
def test_bands_of_all_classes_are_those_of_each(width: int) -> None:
    rng = np.random.default_rng(0)
    classes = cv2.resize(rng.integers(0, 4, (9, 12), np.uint8), (96, 70), interpolation=cv2.INTER_NEAREST)
    band = bands(classes, width)
    for k in range(4):
        assert (band & (classes == k) == eroded_band(classes == k, width)).all()


def test_by_hand() -> None:
    """A square of 10 on 50 x 50 (a band of one pixel, 1.4 rounded), predicted a pixel to the right: of its 36 pixels
    of outline 2 x 9 + ... are shared."""
    truth, shifted = np.zeros((50, 50), np.uint8), np.zeros((50, 50), np.uint8)
    truth[20:30, 20:30], shifted[20:30, 21:31] = 1, 1
    hit, true, predicted = count_boundaries(truth, shifted, 2)
    assert (true[1], predicted[1]) == (36, 36)
    assert hit[1] == 2 * 9  # upper and lower side but for a pixel
    metric = task_of("segment").make_metric(["background", "square"])
    metric.add("x", *(Annotation((50, 50), semantic=torch.from_numpy(m)) for m in (truth, shifted)))
    found = metric.result(bootstrap=0)
    assert found.per_class[1]["boundary_iou"] == pytest.approx(18 / (72 - 18))
    background = (hit / (true + predicted - hit))[0]
    assert found.metrics["boundary_iou"].value == pytest.approx((18 / 54 + background) / 2)


def test_what_is_ignored_has_no_outline() -> None:
    """VOC's: a ring of 255 around a thing; a prediction whose outline lies in the ring is right."""
    truth = np.zeros((50, 50), np.uint8)
    truth[18:32, 18:32], truth[20:30, 20:30] = 255, 1
    prediction = np.zeros((50, 50), np.uint8)
    prediction[19:31, 19:31] = 1
    hit, true, predicted = count_boundaries(truth, prediction, 2)
    assert (hit == true).all()
    assert (hit == predicted).all()
    assert hit[1] == 0  # all of the thing's band is ignored
