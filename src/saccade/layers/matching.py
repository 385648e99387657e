"""Which truth each anchor (or proposal) answers for."""

from __future__ import annotations

from collections.abc import Sequence

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
        crowd_cover: [a] largest share of each anchor's area that one crowd region covers (`ops.boxes.box_iof`);
            anchors that would be BACKGROUND with a share above `crowd_limit` are IGNORED, as objects there are not
            drawn one by one.
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


def match_adaptive(
    iou: Tensor,
    anchors: Tensor,
    truths: Tensor,
    per_level: Sequence[int],
    candidates: Sequence[int],
    crowd_cover: Tensor | None = None,
    crowd_limit: float = 0.5,
) -> Tensor:
    """Match with a threshold that every truth sets for itself (ATSS), instead of one number for all sizes and shapes.

    The candidates of a truth are, on each level, the anchors whose centres are nearest to its centre. Of these, those
    inside the truth whose IoU reaches the mean plus the standard deviation of all candidates' IoU take it; an anchor
    that two truths claim takes the one with the higher IoU (the first, if equal). Truths that end without any anchor,
    as tiny ones between cell centres would, then get the free anchor of highest IoU, an addition to the paper.

    Args:
        iou: [t, a] IoU of t truths with a anchors.
        anchors: [a, 4] x1 y1 x2 y2, level after level.
        truths: [t, 4].
        per_level: anchors of each level; their sum is a.
        candidates: how many to take on each level; the paper's 9 for one anchor a cell.
        crowd_cover, crowd_limit: as in `match`.

    Returns:
        [a] int64: index of a truth, BACKGROUND or IGNORED.

    Source: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection", CVPR 2020, algorithm 1.
    """
    matches = torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=iou.device)
    if crowd_cover is not None:
        matches = torch.where(crowd_cover > crowd_limit, IGNORED, matches)
    if len(truths) == 0:
        return matches
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    distance = torch.cdist((truths[:, :2] + truths[:, 2:]) / 2, centers)
    nearest = []
    start = 0
    for count, wanted in zip(per_level, candidates, strict=True):
        level = distance[:, start : start + count].topk(min(wanted, count), dim=1, largest=False).indices
        nearest.append(level + start)
        start += count
    chosen = torch.cat(nearest, dim=1)
    chosen_iou = iou.gather(1, chosen)
    threshold = chosen_iou.mean(dim=1) + chosen_iou.std(dim=1, correction=int(chosen.shape[1] > 1))
    center = centers[chosen]
    inside = ((center > truths[:, None, :2]) & (center < truths[:, None, 2:])).all(dim=2)
    claim = torch.where(inside & (chosen_iou >= threshold[:, None]), chosen_iou, -1)
    best, owner = torch.full_like(iou, -1).scatter_(1, chosen, claim).max(dim=0)
    matches = torch.where(best >= 0, owner, matches)
    alone = torch.ones(len(truths), dtype=torch.bool, device=iou.device)
    alone[owner[best >= 0]] = False
    rows = torch.nonzero(alone).flatten()
    if len(rows):
        given, columns = best_pairs(iou[rows].masked_fill(matches >= 0, 0))
        matches[columns] = rows[given]
    return matches
