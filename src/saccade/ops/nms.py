"""Non-maximum suppression: of boxes that overlap, keep the one with the highest score.

Greedy, by falling score, ties to the lower index; a box goes when its IoU with a box that was *kept* is above the
threshold (strictly). Boxes that were suppressed suppress nothing, so that a chain A-B-C of neighbours keeps A and C.

`_suppress_reference` is plain torch (and the path of the GPU); `_suppress_compiled` is the same in numba for CPUs.
Letters: n boxes an image, b images, K places in the answer.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from saccade.ops.boxes import box_iou

_BLOCK = 2048  # boxes that the reference compares at once: 2048^2 IoUs are 16 MiB


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes kept, by falling score.

    Args:
        boxes: [n, 4] x1 y1 x2 y2 in any unit.
        scores: [n].
        iou_threshold: in [0, 1]; IoU above it (not equal) suppresses.

    Returns:
        [kept] int64, on the device of the boxes; empty for no boxes.

    Raises:
        ValueError: shapes do not fit, or the threshold is outside [0, 1].
    """
    _check(boxes, scores, iou_threshold)
    groups = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return _keep(boxes, scores, groups, iou_threshold, len(boxes))


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """As `nms`, but only boxes of equal label (class, level, image) suppress each other.

    Args:
        boxes: [n, 4].
        scores: [n].
        labels: [n] integers, any values.
        iou_threshold: in [0, 1].

    Returns:
        [kept] int64 over all labels, by falling score.

    Raises:
        ValueError: shapes do not fit, or the threshold is outside [0, 1].
    """
    _check(boxes, scores, iou_threshold)
    if labels.shape != scores.shape:
        raise ValueError(f"labels must be {list(scores.shape)} like the scores, got {list(labels.shape)}")
    groups = labels.unique(return_inverse=True)[1]
    return _keep(boxes, scores, groups, iou_threshold, len(boxes))


@torch.library.custom_op("saccade::nms_padded", mutates_args=())
def nms_padded(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """NMS of many images with an answer of fixed shape, for graphs that are exported.

    Args:
        boxes: [b, n, 4].
        scores: [b, n]; a box with score -inf is absent and is never kept.
        groups: [n] int64 in 0..n-1: only boxes of the same group suppress each other.
        iou_threshold: in [0, 1].
        limit: K, the most boxes kept an image.

    Returns:
        [b, K] int64 indices by falling score, filled up with -1.
    """
    kept = boxes.new_full((len(boxes), limit), -1, dtype=torch.int64)
    for i in range(len(boxes)):
        present = (scores[i] != -torch.inf).nonzero()[:, 0]
        rows = present[_keep(boxes[i, present], scores[i, present], groups[present], iou_threshold, limit)]
        kept[i, : len(rows)] = rows
    return kept


@nms_padded.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, limit: int) -> Tensor:
    return boxes.new_empty((boxes.shape[0], limit), dtype=torch.int64)


def _check(boxes: Tensor, scores: Tensor, iou_threshold: float) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must be [n, 4], got {list(boxes.shape)}")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must be [{len(boxes)}], one a box, got {list(scores.shape)}")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in [0, 1], got {iou_threshold}")


def _keep(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Sort, suppress, and give at most `limit` indices back; groups count from 0 without large gaps."""
    order = scores.detach().sort(descending=True, stable=True).indices
    ranked = boxes.detach()[order]
    if ranked.dtype not in (torch.float32, torch.float64):
        ranked = ranked.float()
    suppress = _suppress_compiled if boxes.device.type == "cpu" else _suppress_reference
    return order[suppress(ranked, groups[order], iou_threshold, limit)]


def _suppress_reference(boxes: Tensor, groups: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Positions kept of boxes [n, 4] that are sorted by falling score; block by block, so that memory stays bounded."""
    kept = groups.new_zeros(0)
    for start in range(0, len(boxes), _BLOCK):
        block = torch.arange(start, min(start + _BLOCK, len(boxes)), device=boxes.device)
        block = block[~_overlaps(boxes, groups, kept, block, iou_threshold).any(0)]
        over = _overlaps(boxes, groups, block, block, iou_threshold).triu(1)
        # A box stays if no *staying* box before it overlaps it. From "all stay", each round settles at least one more
        # box (the first depends on none, the second on the first, ...): the fixed point is the greedy answer.
        stays = torch.ones_like(block, dtype=torch.bool)
        while True:
            settled = ~(over & stays[:, None]).any(0)
            if torch.equal(settled, stays):
                break
            stays = settled
        kept = torch.cat((kept, block[stays]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def _overlaps(boxes: Tensor, groups: Tensor, first: Tensor, second: Tensor, iou_threshold: float) -> Tensor:
    """[first, second] bool: same group and IoU above the threshold."""
    same = groups[first][:, None] == groups[second][None]
    return (box_iou(boxes[first], boxes[second]) > iou_threshold) & same


def _suppress_compiled(boxes: Tensor, groups: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """`_suppress_reference` for CPU tensors."""
    corners = boxes.contiguous().numpy()
    threshold = corners.dtype.type(iou_threshold)
    return torch.from_numpy(_scan(corners, groups.contiguous().numpy(), threshold, limit))


@numba.njit(cache=True, nogil=True)
def _scan(boxes: np.ndarray, groups: np.ndarray, threshold: float, limit: int) -> np.ndarray:
    """Compare each box only with the kept boxes of its group, newest first (near in score is often near in place)."""
    n = len(boxes)
    areas = np.empty(n, boxes.dtype)
    for i in range(n):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        areas[i] = width * height if width > 0 and height > 0 else 0
    newest = np.full(groups.max() + 1 if n else 0, -1, np.int64)  # position of the last kept box of each group
    previous = np.empty(n, np.int64)  # position of the kept box of the same group before this one
    kept = np.empty(min(n, limit), np.int64)
    count = 0
    for i in range(n):
        if count == len(kept):
            break
        k = newest[groups[i]]
        while k >= 0:
            width = min(boxes[i, 2], boxes[k, 2]) - max(boxes[i, 0], boxes[k, 0])
            height = min(boxes[i, 3], boxes[k, 3]) - max(boxes[i, 1], boxes[k, 1])
            if width > 0 and height > 0:
                shared = width * height
                union = areas[k] + areas[i] - shared
                if union > 0 and shared / union > threshold:
                    break
            k = previous[k]
        if k < 0:
            previous[i] = newest[groups[i]]
            newest[groups[i]] = i
            kept[count] = i
            count += 1
    return kept[:count]
