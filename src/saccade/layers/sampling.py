"""Which matched anchors enter the loss: the remedies for a background that outnumbers objects a thousand to one."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.layers.matching import BACKGROUND


def sample_anchors(
    matches: Tensor, batch: int, positive_share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw up to `batch` anchors of one image, at most `positive_share` of them positive, the rest background.

    Args:
        matches: [a] from `match`: index of a truth, BACKGROUND or IGNORED (never drawn).
        batch: RPN 256, box head 512 (128 in the first papers).
        positive_share: RPN 0.5, box head 0.25. Where positives are too few, background fills up.
        generator: source of randomness; a CPU generator gives the same draw on every device. None: torch's own.

    Returns:
        (positives [p], negatives [m]): indices into anchors, each in rising order.

    Source: Ren et al., "Faster R-CNN", NIPS 2015, section 3.1.3; Girshick, "Fast R-CNN", ICCV 2015, section 2.3.
    """
    positives = torch.nonzero(matches >= 0).flatten()
    negatives = torch.nonzero(matches == BACKGROUND).flatten()
    positives = _draw(positives, int(batch * positive_share), generator)
    return positives, _draw(negatives, batch - len(positives), generator)


def _draw(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    if len(indices) <= count:
        return indices
    chosen = torch.randperm(len(indices), generator=generator)[:count].sort().values
    return indices[chosen.to(indices.device)]


def hard_negatives(losses: Tensor, matches: Tensor, ratio: float = 3.0, at_least: int = 0) -> Tensor:
    """The background anchors of highest loss in each image, `ratio` for each positive.

    Args:
        losses: [b, a] classification loss of every anchor.
        matches: [b, a] from `match`; IGNORED anchors are never chosen.
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
