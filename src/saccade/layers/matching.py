"""Which truth each anchor (or proposal) answers for.

All images of a batch at once, and without a look at values where a GPU would have to wait for it: only `best_pairs`
looks, once a round. Letters: b images with t_i truths (no crowd regions), a anchors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

BACKGROUND = -1  # the anchor must find nothing
IGNORED = -2  # the anchor takes no part in the loss


def match_by_overlap(
    overlaps: Sequence[Tensor],
    high: float,
    low: float,
    force_best: bool,
    crowd_cover: Tensor | None = None,
    crowd_limit: float = 0.5,
    floor: float = 0.0,
) -> Tensor:
    """Match anchors to truths by overlap.

    An anchor takes the truth that it overlaps most if that IoU is >= `high`; below `low` it is BACKGROUND; in between,
    and below `floor`, it is IGNORED. Of truths with equal IoU the first wins.

    Args:
        overlaps: for each image the IoU [t_i, a] of its truths with the anchors, in [0, 1]; t_i may be 0.
        high: in [low, 1]. Faster R-CNN's RPN 0.7, its head 0.5, SSD 0.5 (the paper says "higher than": a tie is
            of no consequence in float32).
        low: RPN 0.3, RetinaNet 0.4; equal to `high` for no ignored band.
        force_best: also give every truth that touches any anchor one of its own, whatever the IoU: pairs are formed by
            falling IoU, each truth and each anchor once, so no truth goes without (of equal pairs the first truth,
            then the first anchor). SSD section 2.2 "Matching strategy"; RPN section 3.1.2 (i).
        crowd_cover: [b, a] largest share of each anchor's area that one crowd region covers (`Targets.crowd_cover`);
            anchors that would be BACKGROUND with a share above `crowd_limit` are IGNORED, as objects there are not
            drawn one by one.
        crowd_limit: in [0, 1].
        floor: least IoU of BACKGROUND, in [0, low]: Fast R-CNN 0.1 (section 2.3), as what overlaps less is easy.
            Above 0 an image without truths has no background, for its IoUs are 0.

    Returns:
        [b, a] int64: index of a truth of the anchor's image, or BACKGROUND, or IGNORED.

    Raises:
        ValueError: low > high.

    Source: Ren et al., "Faster R-CNN", TPAMI 2017, section 3.1.2; Girshick, "Fast R-CNN", ICCV 2015, section 2.3.
    """
    if low > high:
        raise ValueError(f"low {low} is above high {high}")
    best, owner = _best_truths(overlaps)
    matches = torch.where(
        best >= high, owner, torch.where((best < low) & (best.clamp(min=0) >= floor), BACKGROUND, IGNORED)
    )
    if crowd_cover is not None:
        matches = torch.where((matches == BACKGROUND) & (crowd_cover > crowd_limit), IGNORED, matches)
    if force_best:
        truths = [list(range(len(overlap))) for overlap in overlaps]
        matches = _give(matches, truths, best_pairs(overlaps))
    return matches


def best_pairs(overlaps: Sequence[Tensor]) -> Tensor:
    """The anchor of every truth where pairs are formed by falling IoU > 0, each truth and each anchor once (greedy).

    Of equal pairs the first truth, then the first anchor comes first. Every truth asks for the anchor that it overlaps
    most; of those that ask for the same one the best overlap has it, and the others ask for their next. This ends in
    the greedy pairs, mostly after one round.

    Args:
        overlaps: for each image the IoU [t_i, a].

    Returns:
        [sum of t_i] int64, image after image; -1 for a truth that is left without one.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2, "Matching strategy"; by deferred acceptance: Gale & Shapley,
    "College Admissions and the Stability of Marriage", 1962.
    """
    counts = [len(overlap) for overlap in overlaps]
    left = [overlap if overlap.numel() else overlap.new_zeros(len(overlap), 1) for overlap in overlaps]
    image = _on_device([i for i, count in enumerate(counts) for _ in range(count)], left[0].device)
    asked = [overlap.max(dim=1) for overlap in left]
    while True:
        best, anchor = torch.cat([each[0] for each in asked]), torch.cat([each[1] for each in asked])
        order = best.argsort(descending=True, stable=True)
        seat = image * max(overlap.shape[1] for overlap in left) + anchor
        order = order[seat[order].argsort(stable=True)]  # by anchor, then by falling IoU, then by number
        lost = torch.zeros_like(best, dtype=torch.bool)
        lost[order[1:]] = seat[order[1:]] == seat[order[:-1]]
        lost &= best > 0
        losers = lost.tolist()  # the one wait of a round
        if not any(losers):
            return torch.where(best > 0, anchor, -1)
        start = 0
        for i, count in enumerate(counts):
            rows = [row for row in range(count) if losers[start + row]]
            start += count
            if rows:
                refused = _on_device(rows, best.device)
                left[i] = left[i].index_put((refused, asked[i][1][refused]), best.new_full((), -1))
                asked[i] = left[i].max(dim=1)


def match_adaptive(
    overlaps: Sequence[Tensor],
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
        overlaps: for each image the IoU [t_i, a].
        anchors: [a, 4] x1 y1 x2 y2, level after level.
        truths: [b, T, 4], of which the first t_i count.
        per_level: anchors of each level; their sum is a.
        candidates: how many to take on each level; the paper's 9 for one anchor a cell.
        crowd_cover, crowd_limit: as in `match`.

    Returns:
        [b, a] int64: index of a truth of the anchor's image, BACKGROUND or IGNORED.

    Source: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection", CVPR 2020, algorithm 1.
    """
    matches = torch.full((len(overlaps), len(anchors)), BACKGROUND, dtype=torch.int64, device=anchors.device)
    if crowd_cover is not None:
        matches = torch.where(crowd_cover > crowd_limit, IGNORED, matches)
    counts = [len(overlap) for overlap in overlaps]
    if not any(counts):
        return matches
    each = torch.cat([boxes[:count] for boxes, count in zip(truths, counts, strict=True)])
    chosen, claims = _claims(overlaps, anchors, each, per_level, candidates)
    claimed = [
        torch.full_like(overlap, -1).scatter_(1, rows, claim)
        for overlap, rows, claim in zip(overlaps, chosen.split(counts), claims.split(counts), strict=True)
    ]
    best, owner = _best_truths(claimed)
    matches = torch.where(best >= 0, owner, matches)
    number = [(i, row) for i, count in enumerate(counts) for row in range(count)]
    image, own = _on_device(number, matches.device).unbind(1)
    served = (matches[image[:, None], chosen] == own[:, None]).any(dim=1).tolist()
    alone: list[list[int]] = [[] for _ in counts]
    for (i, row), has_one in zip(number, served, strict=True):
        if not has_one:
            alone[i].append(row)
    if any(alone):
        free = [
            overlap[_on_device(rows, overlap.device)].masked_fill(taken >= 0, 0)
            for overlap, rows, taken in zip(overlaps, alone, matches, strict=True)
        ]
        matches = _give(matches, alone, best_pairs(free))
    return matches


def _claims(
    overlaps: Sequence[Tensor], anchors: Tensor, truths: Tensor, per_level: Sequence[int], candidates: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The candidates [n, k] of every truth [n, 4] of the batch, and their IoU with it, -1 for those that it leaves."""
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    distance = torch.cdist((truths[:, :2] + truths[:, 2:]) / 2, centers)
    nearest = []
    start = 0
    for count, wanted in zip(per_level, candidates, strict=True):
        level = distance[:, start : start + count].topk(min(wanted, count), dim=1, largest=False).indices
        nearest.append(level + start)
        start += count
    chosen = torch.cat(nearest, dim=1)
    rows = chosen.split([len(overlap) for overlap in overlaps])
    iou = torch.cat([overlap.gather(1, row) for overlap, row in zip(overlaps, rows, strict=True)])
    threshold = iou.mean(dim=1) + iou.std(dim=1, correction=int(chosen.shape[1] > 1))
    center = centers[chosen]
    inside = ((center > truths[:, None, :2]) & (center < truths[:, None, 2:])).all(dim=2)
    return chosen, torch.where(inside & (iou >= threshold[:, None]), iou, -1)


def _best_truths(overlaps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The highest IoU [b, a] of every anchor and the truth it belongs to, the first if equal; -1 and 0 without any."""
    shape = (len(overlaps), overlaps[0].shape[1])
    best, owner = overlaps[0].new_full(shape, -1), overlaps[0].new_zeros(shape, dtype=torch.int64)
    for i, overlap in enumerate(overlaps):
        if len(overlap):
            torch.max(overlap, dim=0, out=(best[i], owner[i]))
    return best, owner


def _give(matches: Tensor, truths: Sequence[Sequence[int]], anchors: Tensor) -> Tensor:
    """`matches` [b, a] in which the truths of each image have the anchors [n] (those of all images), -1: none."""
    rows = [(i, row) for i, own in enumerate(truths) for row in own]
    image, truth = _on_device(rows, matches.device).view(-1, 2).unbind(1)
    given = functional.pad(matches, (0, 1))
    given[image, anchors] = truth  # -1 is the place that was added
    return given[:, :-1]


def _on_device(numbers: Sequence[int] | Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """int64, moved without waiting for the device."""
    return torch.tensor(numbers, dtype=torch.int64).to(device, non_blocking=True)
