"""Losses of whole images with one label or several tags; each gives the loss of every image, [b].

Logits are [b, classes], labels [b] int64, tags [b, classes] of 0 and 1. Weights are [classes]: of the true class, or
of the tags that hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12  # keeps the slope of x ** gamma finite where gamma < 1
CLASSIFY = ("cross_entropy", "hinge", "focal")
TAG = ("cross_entropy", "focal", "softmax", "ranking", "warp")


@dataclass(frozen=True)
class Objective:
    """Which loss labels and tags are trained with; a part of the Config of every classifier."""

    loss: str = "cross_entropy"  # one of CLASSIFY or TAG
    label_smoothing: float = 0.0  # classify, cross_entropy: share of the target spread over all classes
    focal_gamma: float = 2.0  # focal: power of 1 - p
    class_weights: tuple[float, ...] = ()  # one a class; none: 1 each


CROSS_ENTROPY = Objective()


def label_losses(logits: Tensor, labels: Tensor, objective: Objective = CROSS_ENTROPY) -> Tensor:
    """The loss of every image, [b], that has one label. Raises ValueError for a loss that is not in CLASSIFY."""
    if objective.loss == "cross_entropy":
        losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=objective.label_smoothing)
    elif objective.loss == "hinge":
        losses = multiclass_hinge(logits, labels)
    elif objective.loss == "focal":
        losses = softmax_focal(logits, labels, objective.focal_gamma)
    else:
        raise ValueError(f"loss {objective.loss!r} is not for one label an image; allowed: {', '.join(CLASSIFY)}")
    weights = _weights(logits, objective)
    return losses if weights is None else losses * weights[labels]


def tag_losses(logits: Tensor, tags: Tensor, objective: Objective = CROSS_ENTROPY) -> Tensor:
    """The loss of every image, [b], that has tags. Raises ValueError for a loss that is not in TAG."""
    weights = _weights(logits, objective)
    if objective.loss == "cross_entropy":
        losses = F.binary_cross_entropy_with_logits(logits, tags, pos_weight=weights, reduction="none")
        return losses.sum(1)
    if objective.loss == "focal":
        return tag_focal(logits, tags, objective.focal_gamma, weights)
    if objective.loss == "softmax":
        return tag_softmax(logits, tags, weights)
    if objective.loss == "ranking":
        return pairwise_ranking(logits, tags, tags if weights is None else tags * weights)
    if objective.loss == "warp":
        importance = rank_weights(sampled_ranks(logits, tags), logits.shape[1])
        return pairwise_ranking(logits, tags, importance if weights is None else importance * weights)
    raise ValueError(f"loss {objective.loss!r} is not for tags; allowed: {', '.join(TAG)}")


def _weights(logits: Tensor, objective: Objective) -> Tensor | None:
    if not objective.class_weights:
        return None
    return torch.tensor(objective.class_weights, dtype=logits.dtype).to(logits.device, non_blocking=True)


def multiclass_hinge(logits: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Sum over the other classes of max(0, s_j - s_y + margin).

    Source: Weston & Watkins 1999, "Support vector machines for multi-class pattern recognition".
    """
    right = logits.gather(1, labels[:, None])
    return (logits - right + margin).clamp(min=0).sum(1) - margin  # the true class adds the margin itself


def softmax_focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    """-(1 - p_y)^gamma ln p_y of the softmax probability of the true class; gamma 0 is cross-entropy.

    The form without alpha: what balances the classes are the weights of `label_losses`. The form on independent
    sigmoids is `losses/detection.py: sigmoid_focal`. Source: Lin et al. 2017, "Focal loss", equation 4.
    """
    log_p = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    return -(-torch.expm1(log_p)).clamp(min=TINY).pow(gamma) * log_p


def tag_focal(logits: Tensor, tags: Tensor, gamma: float = 2.0, weights: Tensor | None = None) -> Tensor:
    """Sum over the labels of (1 - p_t)^gamma times the logistic cross-entropy, p_t the probability of what is true."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, tags, pos_weight=weights, reduction="none")
    p = logits.sigmoid()
    wrong = p * (1 - tags) + (1 - p) * tags
    return (wrong.clamp(min=TINY).pow(gamma) * cross_entropy).sum(1)


def tag_softmax(logits: Tensor, tags: Tensor, weights: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy with a target of 1 / (number of tags) at every tag; 0 for an image without tags.

    Source: Gong et al. 2014, "Deep convolutional ranking for multilabel image annotation", section 3.2.1.
    """
    target = tags / tags.sum(1, keepdim=True).clamp(min=1)
    if weights is not None:
        target = target * weights
    return -(target * logits.log_softmax(1)).sum(1)


def pairwise_ranking(logits: Tensor, tags: Tensor, importance: Tensor) -> Tensor:
    """Sum over tags j and labels k that do not hold of importance_j max(0, 1 - s_j + s_k); 0 where one side is empty.

    Takes memory for [b, classes, classes].

    Args:
        importance: [b, classes]; counts only at the tags. 1 for all is equation 3 of Gong et al. 2014; `rank_weights`
            of the tags' ranks make it WARP, equation 4.
    """
    margins = (1 - logits[:, :, None] + logits[:, None, :]).clamp(min=0)
    return torch.einsum("bj,bjk,bk->b", importance * tags, margins, 1 - tags)


def sampled_ranks(logits: Tensor, tags: Tensor) -> Tensor:
    """An estimate of how many labels stand before each tag, [b, classes] int64; 0 at a tag that none violates.

    For a tag, labels that do not hold are drawn with replacement until one violates the margin; after s draws the rank
    is floor((classes - 1) / s), at least 1. The number of draws is geometric in the share of violators, so one random
    number a tag does it (from torch's generator, which a resumed run restores). Values at labels without the tag mean
    nothing. Source: Gong et al. 2014, section 3.2.3, after Weston et al. 2011 (WSABIE).
    """
    absent = 1 - tags
    violates = (1 - logits.detach()[:, :, None] + logits.detach()[:, None, :] > 0).to(absent)
    violators = torch.einsum("bjk,bk->bj", violates, absent)
    share = violators / absent.sum(1, keepdim=True).clamp(min=1)
    luck = torch.rand(share.shape, dtype=share.dtype, device=share.device).clamp(1e-12, 1 - 1e-7)
    draws = (luck.log() / torch.log1p(-share.clamp(1e-6, 1 - 1e-6))).ceil().clamp(min=1)
    others = tags.shape[1] - 1
    ranks = (others / draws).floor().clamp(min=1)
    return torch.where(violators > 0, ranks, torch.zeros_like(ranks)).long()


def rank_weights(ranks: Tensor, classes: int) -> Tensor:
    """L(r) = 1 + 1/2 + ... + 1/r of ranks 0 .. classes; L(0) = 0."""
    steps = torch.arange(classes + 1, dtype=torch.float64)
    steps[1:] = 1 / steps[1:]
    return steps.cumsum(0).float().to(ranks.device, non_blocking=True)[ranks]
