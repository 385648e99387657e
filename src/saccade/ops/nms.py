"""Non-maximum suppression: of boxes that overlap, keep the one with the highest score.

Greedy, by falling score, ties to the lower index; a box goes when its IoU with a box that was *kept* is above the
threshold (strictly). Boxes that were suppressed suppress nothing, so that a chain A-B-C of neighbours keeps A and C
(Felzenszwalb et al., "Object Detection with Discriminatively Trained Part Based Models", TPAMI 2010, section 7.2).

`_settle` is the greedy answer in plain torch (and the path of the GPU, which waits for the device once in many rounds);
`_suppress_compiled` is the same in numba for CPUs.
Letters: n boxes an image, b images, g groups of m boxes an image, K places in the answer.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from saccade.ops.boxes import box_iou, iou
from saccade.ops.compiled import compiled_as_numpy

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

    Source: Felzenszwalb et al. 2010, section 7.2.
    """
    _check(boxes, scores, iou_threshold)
    groups = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return _keep(boxes, scores, groups, iou_threshold, len(boxes))


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, limit: int | None = None
) -> Tensor:
    """As `nms`, but only boxes of equal label (class, level, image) suppress each other.

    Args:
        boxes: [n, 4].
        scores: [n].
        labels: [n] integers, any values.
        iou_threshold: in [0, 1].
        limit: the most that are kept, after which no other box is looked at; None: all.

    Returns:
        [kept] int64 over all labels, by falling score.

    Raises:
        ValueError: shapes do not fit, or the threshold is outside [0, 1].

    Source: Felzenszwalb et al. 2010, section 7.2.
    """
    _check(boxes, scores, iou_threshold)
    if labels.shape != scores.shape:
        raise ValueError(f"labels must be {list(scores.shape)} like the scores, got {list(labels.shape)}")
    groups = labels.unique(return_inverse=True)[1]
    return _keep(boxes, scores, groups, iou_threshold, len(boxes) if limit is None else limit)


@torch.library.custom_op("saccade::nms_padded", mutates_args=())
def nms_padded(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """NMS of many images with an answer of fixed shape, for graphs that are exported.

    Args:
        boxes: [b, g, m, 4]: only boxes of the same image and group (level, class) suppress each other; [b, 1, m, 4]
            where all groups have the same boxes, of other scores.
        scores: [b, g, m]; a box with score -inf is absent and is never kept.
        iou_threshold: in [0, 1].
        limit: K, the most boxes kept an image.

    Returns:
        [b, K] int64 indices into the g m scores of an image by falling score, filled up with -1.

    Source: Felzenszwalb et al. 2010, section 7.2.
    """
    if boxes.device.type != "cpu":
        return _padded_reference(boxes, scores, iou_threshold, limit)
    kept = boxes.new_full((len(boxes), limit), -1, dtype=torch.int64)
    each, shared = boxes.shape[2], boxes.shape[1] == 1
    for i, (box, score) in enumerate(zip(boxes.flatten(1, 2), scores.flatten(1), strict=True)):
        present = (score != -torch.inf).nonzero()[:, 0]
        own = box[present % each if shared else present]
        groups = torch.div(present, each, rounding_mode="floor")
        rows = present[_keep(own, score[present], groups, iou_threshold, limit)]
        kept[i, : len(rows)] = rows
    return kept


@nms_padded.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    return boxes.new_empty((boxes.shape[0], limit), dtype=torch.int64)


def _padded_reference(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """`nms_padded` in plain torch: the groups of all images at once."""
    b, g, m = scores.shape
    ranked, order = scores.flatten(0, 1).sort(dim=1, descending=True, stable=True)
    own = boxes.expand(-1, g, -1, -1).flatten(0, 1)
    box = own.gather(1, order[..., None].expand(-1, -1, 4))
    at_once = max(1, _BLOCK**2 // max(m, 1) ** 2)
    over = torch.cat([iou(part[:, :, None], part[:, None]) > iou_threshold for part in box.split(at_once)])
    stays = _settle(over.triu(1), ranked != -torch.inf)
    stays = torch.zeros_like(stays).scatter_(1, order, stays).view(b, g * m)
    best, kept = scores.flatten(1).masked_fill(~stays, -torch.inf).sort(dim=1, descending=True, stable=True)
    kept = kept.masked_fill(best == -torch.inf, -1)[:, :limit]
    return functional.pad(kept, (0, limit - kept.shape[1]), value=-1)


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
    ranked = boxes.detach().index_select(0, order)  # half the time of an index where there are few
    if ranked.dtype not in (torch.float32, torch.float64):
        ranked = ranked.float()
    suppress = _suppress_compiled if boxes.device.type == "cpu" else _suppress_reference
    kept = suppress(ranked, groups.index_select(0, order), iou_threshold, limit)
    return order.index_select(0, kept)


def _suppress_reference(boxes: Tensor, groups: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Positions kept of boxes [n, 4] that are sorted by falling score; block by block, so that memory stays bounded."""
    kept = groups.new_zeros(0)
    for start in range(0, len(boxes), _BLOCK):
        block = torch.arange(start, min(start + _BLOCK, len(boxes)), device=boxes.device)
        present = ~_overlaps(boxes, groups, kept, block, iou_threshold).any(0)
        over = _overlaps(boxes, groups, block, block, iou_threshold).triu(1)
        kept = torch.cat((kept, block[_settle(over[None], present[None])[0]]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def _settle(over: Tensor, present: Tensor) -> Tensor:
    """Which boxes of each set stay, [sets, n] bool.

    Args:
        over: [sets, n, n] bool, [s, i, j]: box i of set s suppresses j if it stays; only for i before j.
        present: [sets, n] bool, which boxes there are.
    """
    # A box stays if no *staying* box before it overlaps it. From "all stay", each round settles at least one more box
    # (the first depends on none, the second on the first, ...): the fixed point is the greedy answer. To ask whether it
    # is reached makes a GPU wait, so that it is asked after 2, 6, 14, 30, ... rounds.
    stays, rounds = present, 2
    while True:
        for _ in range(rounds):
            before, stays = stays, present & ~(over & stays[..., None]).any(1)
        if torch.equal(before, stays):
            return stays
        rounds *= 2


def _overlaps(boxes: Tensor, groups: Tensor, first: Tensor, second: Tensor, iou_threshold: float) -> Tensor:
    """[first, second] bool: same group and IoU above the threshold."""
    same = groups[first][:, None] == groups[second][None]
    return (box_iou(boxes[first], boxes[second]) > iou_threshold) & same


def _suppress_compiled(boxes: Tensor, groups: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """`_suppress_reference` for CPU tensors."""
    if iou_threshold >= 0.5:
        reach = 1 - iou_threshold
    else:
        reach = (1 - iou_threshold) / (2 * iou_threshold) if iou_threshold > 0 else math.inf
    corners = boxes.contiguous().numpy()
    threshold = corners.dtype.type(iou_threshold)
    # A thousandth more than exact arithmetic needs: IoUs are rounded.
    return torch.from_numpy(_scan(corners, groups.contiguous().numpy(), threshold, reach * 1.001, limit))


@compiled_as_numpy
def _scan(boxes: np.ndarray, groups: np.ndarray, threshold: float, reach: float, limit: int) -> np.ndarray:
    """Compare each box only with the kept boxes of its group whose centres are near.

    Where the IoU of boxes of widths v and w is above t, their overlap is wider than t max(v, w); it is at most
    (v + w) / 2 less the distance of the centres, and v and w differ at most by the factor t. Hence the centres are
    nearer than `reach` w along x: (1 - t) w for t >= 1/2, else (1 - t) / (2 t) w; likewise along y. The kept boxes of
    each group lie in lists, one for each cell of a grid over the centres.
    """
    n = len(boxes)
    areas = np.empty(n, boxes.dtype)
    origin, far, mean = np.full(2, np.inf), np.full(2, -np.inf), np.zeros(2)
    solid = 0  # boxes with a finite area: the others overlap nothing
    for i in range(n):
        width, height = boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]
        area = width * height if width > 0 and height > 0 else boxes.dtype.type(0)
        areas[i] = area if area < np.inf else 0
        if areas[i] > 0:
            solid += 1
            for axis in range(2):
                side = np.float64(boxes[i, axis + 2]) - np.float64(boxes[i, axis])
                centre = np.float64(boxes[i, axis]) + side / 2
                origin[axis], far[axis] = min(origin[axis], centre), max(far[axis], centre)
                mean[axis] += side
    many = groups.max() + 1 if n else 0
    cell, cells = np.ones(2), np.ones(2, np.int64)
    if solid:
        for axis in range(2):  # half a mean side, but so many cells at most that all groups have n together
            cell[axis] = max(mean[axis] / solid / 2, (far[axis] - origin[axis]) / math.sqrt(max(n // many, 1)))
            cells[axis] = int((far[axis] - origin[axis]) / cell[axis]) + 1
    newest = np.full((many, cells[0], cells[1]), -1, np.int64)  # the last kept box of each cell
    previous = np.empty(n, np.int64)  # the kept box of the same cell before this one
    kept = np.empty(min(n, limit), np.int64)
    count = 0
    low, high, own = np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2, np.int64)
    for i in range(n):
        if count == len(kept):
            break
        if areas[i] > 0:
            for axis in range(2):
                side = np.float64(boxes[i, axis + 2]) - np.float64(boxes[i, axis])
                place = np.float64(boxes[i, axis]) + side / 2 - origin[axis]
                own[axis] = int(place / cell[axis])
                low[axis] = int(max((place - reach * side) / cell[axis], 0.0))
                high[axis] = int(min((place + reach * side) / cell[axis], cells[axis] - 1.0))
            if _suppressed(i, boxes, areas, threshold, newest[groups[i]], previous, low, high):
                continue
            previous[i] = newest[groups[i], own[0], own[1]]
            newest[groups[i], own[0], own[1]] = i
        kept[count] = i
        count += 1
    return kept[:count]


@compiled_as_numpy
def _suppressed(
    i: int,
    boxes: np.ndarray,
    areas: np.ndarray,
    threshold: float,
    newest: np.ndarray,
    previous: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> bool:
    """Whether a kept box in the cells low..high overlaps box i."""
    left, top, right, bottom, area = boxes[i, 0], boxes[i, 1], boxes[i, 2], boxes[i, 3], areas[i]
    for p in range(low[0], high[0] + 1):
        for q in range(low[1], high[1] + 1):
            k = newest[p, q]
            while k >= 0:
                width = min(right, boxes[k, 2]) - max(left, boxes[k, 0])
                height = min(bottom, boxes[k, 3]) - max(top, boxes[k, 1])
                if width > 0 and height > 0:
                    shared = width * height
                    if shared / (areas[k] + area - shared) > threshold:
                        return True
                k = previous[k]
    return False
