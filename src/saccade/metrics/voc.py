"""Pascal VOC's average precision (Everingham et al. 2010, sec. 4.2, and the development kits of 2007 and 2012)."""

from __future__ import annotations

import numpy as np

from saccade.metrics.matching import FALSE, IGNORED, TRUE

# VOC 2007: mean of the precision at these recalls. The values are those of the public Python implementations, in which
# 0.3, 0.6 and 0.7 are one rounding too large, so that a recall of exactly 6/10 does not reach the seventh point.
ELEVEN = np.linspace(0, 1, 11)
EVERY = np.zeros(0)  # from 2010: area under the monotone precision curve
_BLOCK = 250_000  # pairs of boxes compared at once: thousands of boxes an image need little memory beside the answer


def numpy_box_iou(a: np.ndarray, b: np.ndarray, inclusive: bool = False, crowd: np.ndarray | None = None) -> np.ndarray:
    """Intersection over union [n, m] of boxes x1 y1 x2 y2 [n, 4] and [m, 4]; 0 where both have no area.

    With `inclusive` the coordinates are pixel indices and a side is x2 - x1 + 1 (VOC's development kit). For columns
    that are `crowd` [m] it is the intersection over the area of `a` (COCO).
    """
    ious = np.zeros((len(a), len(b)))
    some = max(1, _BLOCK // max(len(b), 1))
    for start in range(0, len(a), some):
        rows = slice(start, start + some)
        ious[rows] = _box_iou(a[rows], b, 1.0 if inclusive else 0.0, crowd)
    return ious


def _box_iou(a: np.ndarray, b: np.ndarray, one: float, crowd: np.ndarray | None) -> np.ndarray:
    width, height = (
        np.minimum(a[:, None, i + 2], b[None, :, i + 2]) - np.maximum(a[:, None, i], b[None, :, i]) + one
        for i in (0, 1)
    )
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = (np.clip(x[:, 2:] - x[:, :2] + one, 0, None).prod(1) for x in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    if crowd is not None:
        union = np.where(crowd[None], area_a[:, None], union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def voc_states(
    boxes: np.ndarray, truth: np.ndarray, ignored: np.ndarray, threshold: float = 0.5, inclusive: bool = False
) -> np.ndarray:
    """What becomes of the detections of one image and class: [d] uint8 of FALSE, TRUE, IGNORED.

    In order of score, every detection looks at the truth of highest IoU (the first among equals), taken or not:
    below the threshold, or already taken, it is FALSE; an ignored truth makes it IGNORED, any number of times.

    Args:
        boxes: [d, 4] x1 y1 x2 y2 in falling order of score.
        truth: [g, 4]; ignored: [g] bool, VOC's "difficult".
    """
    out = np.full(len(boxes), FALSE, dtype=np.uint8)
    if not len(truth):
        return out
    ious = numpy_box_iou(boxes, truth, inclusive)
    taken = np.zeros(len(truth), dtype=bool)
    for i, j in enumerate(ious.argmax(1)):
        if ious[i, j] < threshold:
            continue
        if ignored[j]:
            out[i] = IGNORED
        elif not taken[j]:
            out[i] = TRUE
            taken[j] = True
    return out
