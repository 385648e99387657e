"""Which matched anchors enter the loss: the remedies for a background that outnumbers objects a thousand to one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.layers.matching import BACKGROUND


@dataclass(slots=True)
class Drawn:
    """Anchors drawn from each image: m places an image, of which those that are not `valid` count for nothing."""

    rows: Tensor  # [b, m] int64: numbers of anchors, positives first; of some anchor where nothing was drawn
    valid: Tensor  # [b, m] bool


def sample_anchors(
    matches: Tensor, batch: int, positive_share: float, generator: torch.Generator | None = None
) -> Drawn:
    """Draw up to `batch` anchors of each image, at most `positive_share` of them positive, the rest background.

    Every anchor is given a random number; the highest of the positives are drawn, then the highest of the background,
    so that nothing here depends on how many there are.

    Args:
        matches: [b, a] int64 from `match`: index of a truth, BACKGROUND or IGNORED (never drawn).
        batch: anchors an image: RPN 256, box head 512 (128 in the first papers).
        positive_share: RPN 0.5, box head 0.25. Where positives are too few, background fills up.
        generator: source of randomness, of the device of `matches`. None: torch's own.

    Returns:
        m = min(batch, a) places an image; not valid where fewer could be drawn.

    Source: Ren et al., "Faster R-CNN", TPAMI 2017, section 3.1.3; Girshick, "Fast R-CNN", ICCV 2015, section 2.3.
    """
    number = torch.rand(matches.shape, generator=generator, device=matches.device)
    quota = min(int(batch * positive_share), matches.shape[1])
    highest, places = number.masked_fill(matches < 0, -1).topk(quota, dim=1)
    positive = torch.zeros_like(matches, dtype=torch.bool).scatter_(1, places, highest >= 0)
    number = number.masked_fill(matches != BACKGROUND, -1).masked_fill(positive, 2)
    highest, anchors = number.topk(min(batch, matches.shape[1]), dim=1)
    return Drawn(anchors, highest >= 0)


def hard_negatives(losses: Tensor, matches: Tensor, ratio: float = 3.0, at_least: int = 0) -> Tensor:
    """The background anchors of highest loss in each image, `ratio` for each positive.

    Args:
        losses: [b, a] classification loss of every anchor.
        matches: [b, a] int64 from `match`; IGNORED anchors are never chosen.
        ratio: negatives for one positive; SSD 3.
        at_least: negatives in an image even with fewer positives, images without objects included.

    Returns:
        [b, a] bool. Of equal losses the first anchors are taken.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2, "Hard negative mining".
    """
    background = matches == BACKGROUND
    wanted = ((matches >= 0).sum(dim=1, keepdim=True) * ratio).clamp(min=at_least)
    ranked = losses.detach().masked_fill(~background, float("-inf")).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(ranked)
    rank.scatter_(1, ranked, torch.arange(losses.shape[1], device=losses.device).expand_as(ranked))
    return background & (rank < wanted)
