"""Which truth each anchor (or proposal) answers for."""

from __future__ import annotations

import torch
from torch import Tensor

BACKGROUND = -1  # the anchor must find nothing
IGNORED = -2  # the anchor takes no part in the loss


def match(
    iou: Tensor, high: float, low: float, force_best: bool, crowd_cover: Tensor | None = None, crowd_limit: float = 0.5
) -> Tensor:
    """Match anchors to truths by overlap.

    An anchor takes the truth that it overlaps most if that IoU is >= `high`; below `low` it is BACKGROUND; in between
    it is IGNORED. Of truths with equal IoU the first wins.

    Args:
        iou: [t, a] IoU of t truths (no crowd regions) with a anchors; t may be 0.
        high: in [low, 1]. Faster R-CNN's RPN 0.7, its head 0.5, SSD 0.5 (the paper says "higher than": a tie is
            of no consequence in float32).
        low: RPN 0.3, RetinaNet 0.4; equal to `high` for no ignored band.
        force_best: also give every truth that touches any anchor one of its own, whatever the IoU: pairs are formed by
            falling IoU, each truth and each anchor once, so no truth goes without (of equal pairs the first truth,
            then the first anchor). SSD section 2.2 "Matching strategy"; RPN section 3.1.2 (i).
        crowd_cover: [a] largest share of each anchor's area that a crowd region covers (`cover`); anchors that would be
            BACKGROUND with a share above `crowd_limit` are IGNORED, as objects there are not drawn one by one.
        crowd_limit: in [0, 1].

    Returns:
        [a] int64: index of a truth, or BACKGROUND, or IGNORED.

    Raises:
        ValueError: low > high.
    """
    if low > high:
        raise ValueError(f"low {low} is above high {high}")
    truths, anchors = iou.shape
    if truths == 0:
        matches = torch.full((anchors,), BACKGROUND, dtype=torch.int64, device=iou.device)
    else:
        best, matches = iou.max(dim=0)
        matches = torch.where(best >= high, matches, torch.where(best < low, BACKGROUND, IGNORED))
    if crowd_cover is not None:
        matches = torch.where((matches == BACKGROUND) & (crowd_cover > crowd_limit), IGNORED, matches)
    if force_best and truths and anchors:
        rows, columns = best_pairs(iou)
        matches[columns] = rows
    return matches


def best_pairs(iou: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs (truths [p], anchors [p]) of IoU > 0 by falling IoU, each truth and each anchor at most once (greedy).

    `iou` is [t, a] with t, a >= 1. Of equal pairs the first truth, then the first anchor comes first.
    """
    best, columns = iou.max(dim=1)
    rows = torch.arange(len(best), device=iou.device)
    if columns.unique().numel() == len(columns):  # no two truths want the same anchor: the common case
        touching = best > 0
        return rows[touching], columns[touching]
    free = iou.clone()
    pairs: list[tuple[int, int]] = []
    for _ in range(len(best)):
        row = int(best.argmax())
        if best[row] <= 0:
            break
        column = int(columns[row])
        pairs.append((row, column))
        free[row] = -1
        free[:, column] = -1
        stale = columns == column
        best[stale], columns[stale] = free[stale].max(dim=1)
        best[row] = -1
    paired = torch.tensor(pairs, dtype=torch.int64, device=iou.device).view(-1, 2)
    return paired[:, 0], paired[:, 1]


def cover(anchors: Tensor, regions: Tensor) -> Tensor:
    """The largest share [a] of each anchor's area, in [0, 1], that one of `regions` [r, 4] covers; 0 where r = 0.

    Boxes are x1 y1 x2 y2. The measure that COCO's evaluation uses for crowd regions (overlap / area of the detection).
    """
    if len(regions) == 0:
        return anchors.new_zeros(len(anchors))
    overlap_start = torch.maximum(anchors[:, None, :2], regions[None, :, :2])
    overlap_end = torch.minimum(anchors[:, None, 2:], regions[None, :, 2:])
    overlap = (overlap_end - overlap_start).clamp(min=0).prod(dim=2)
    area = (anchors[:, 2:] - anchors[:, :2]).prod(dim=1).clamp(min=1e-9)
    return (overlap / area[:, None]).amax(dim=1)
