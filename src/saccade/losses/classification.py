"""Losses of whole images with one label or several tags.

`classification_loss` is what every classifier and tagger is trained with; the formulas, one of which `Objective` names,
give the loss of every image, [b]. Logits are [b, classes], labels [b] int64, tags [b, classes] of 0 and 1. Weights are
[classes]: of the true class, or of the tags that hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data.types import Annotation
from saccade.ranges import NonNegative, Range

TINY = 1e-12  # keeps the slope of x ** gamma finite where gamma < 1


@dataclass(frozen=True)
class Objective:
    """What labels and tags of whole images are trained with; a part of the Config of every model that has them.

    Users name its fields as they name those of the Config. `class_weights` follows from `class_balance` and the images.
    """

    # classify, localize: cross_entropy, hinge, focal; tag: cross_entropy (logistic), focal, softmax, ranking, warp
    loss: Literal["cross_entropy", "hinge", "focal", "softmax", "ranking", "warp"] = "cross_entropy"
    # classify, localize by cross_entropy: share of the target spread over all classes
    label_smoothing: Annotated[float, Range(0, 0.9)] = 0.0
    # focal: power of 1 - p, which quiets easy images
    focal_gamma: Annotated[float, Range(0, 10)] = 2.0
    # weight classes (or tags that hold) by 1 / images, or by their effective number
    class_balance: Literal["none", "inverse", "effective"] = "none"
    # class_balance=effective: share that the next image adds (Cui et al. 2019)
    effective_beta: Annotated[float, Range(0, 0.999999)] = 0.999
    # tag: the best checkpoint keeps each label's threshold with the best F1 on the validation images
    tune_thresholds: bool = True
    class_weights: tuple[NonNegative, ...] = ()  # one a class; none: 1 each


CROSS_ENTROPY = Objective()
ImageLoss = Callable[[Tensor, Tensor, Objective], Tensor]  # logits, labels or tags, objective -> [b]


def classification_loss(
    logits: Tensor, truth: Sequence[Annotation] | None, task: str, objective: Objective = CROSS_ENTROPY
) -> dict[str, Tensor]:
    """The training loss of logits [b, classes], the mean over images of what `objective` names.

    classify: softmax cross-entropy, with `label_smoothing` of the target spread evenly over all classes (Szegedy et al.
    2016, section 7), or multi-class hinge, or focal. tag: logistic cross-entropy summed over the labels of an image, so
    that one label weighs as much as in `classify` however many labels there are; or focal, softmax, ranking, WARP.
    The truth of a blended image (mixup, CutMix) counts by the shares of its two parts.

    Returns:
        {"classification": scalar}, float32 whatever the type of the logits.

    Raises:
        ValueError: no truth, an image whose label or tags are missing, a task other than these two, or a loss that is
            not the task's.
    """
    logits = logits.float()
    losses = []
    for part in parts_of(truth):
        if task == "classify":
            labels = label_tensor(part, logits.device)
            losses.append(label_loss(objective.loss)(logits, labels, objective))
        elif task == "tag":
            tags = tag_tensor(part).to(logits.device, logits.dtype, non_blocking=True)
            losses.append(tag_loss(objective.loss)(logits, tags, objective))
        else:
            raise ValueError(f"task {task!r} is not classify or tag")
    return {"classification": mean_of_parts(losses, truth)}


def parts_of(truth: Sequence[Annotation] | None) -> list[Sequence[Annotation]]:
    """The truth of a batch, and behind it, where some image is blended of two (mixup, CutMix), that of the others.

    Raises:
        ValueError: no truth.
    """
    if truth is None:
        raise ValueError("a loss needs a batch with truth")
    if all(t.mixed is None for t in truth):
        return [truth]
    return [truth, [t if t.mixed is None else t.mixed[0] for t in truth]]


def mean_of_parts(losses: Sequence[Tensor], truth: Sequence[Annotation] | None) -> Tensor:
    """The mean over images of losses [b], one tensor for each of `parts_of(truth)`, by the shares of each image.

    Source: Zhang et al. 2018, "mixup", section 2, and Yun et al. 2019, "CutMix", equation 1, where the two targets are
    blended; the cross-entropy is linear in them, so that blending the losses is the same, and serves any other loss.
    """
    if len(losses) == 1:
        return losses[0].mean()
    own, others = losses
    shares = torch.tensor([0.0 if t.mixed is None else t.mixed[1] for t in truth or []])
    return torch.lerp(own, others, shares.to(own.device, own.dtype, non_blocking=True)).mean()


def label_tensor(truth: Sequence[Annotation], device: torch.device) -> Tensor:
    """Labels [b] int64. Raises ValueError for an image without one."""
    labels = [t.label for t in truth]
    if any(label is None for label in labels):
        raise ValueError(f"image {labels.index(None)} of the batch has no label; classify needs one an image")
    return torch.tensor(labels, dtype=torch.int64).to(device, non_blocking=True)


def tag_tensor(truth: Sequence[Annotation]) -> Tensor:
    """Tags [b, classes] bool. Raises ValueError for an image without any."""
    tags = [t.tags for t in truth if t.tags is not None]
    if len(tags) != len(truth):
        raise ValueError(f"{len(truth) - len(tags)} of {len(truth)} images of the batch have no tags")
    return torch.stack(tags)


def label_loss(name: str) -> ImageLoss:
    """The formula for one label an image. Raises ValueError for a name that is not in CLASSIFY."""
    if name not in LABEL_LOSSES:
        raise ValueError(f"loss {name!r} is not for one label an image; allowed: {', '.join(CLASSIFY)}")
    return LABEL_LOSSES[name]


def tag_loss(name: str) -> ImageLoss:
    """The formula for several tags an image. Raises ValueError for a name that is not in TAG."""
    if name not in TAG_LOSSES:
        raise ValueError(f"loss {name!r} is not for tags; allowed: {', '.join(TAG)}")
    return TAG_LOSSES[name]


def _class_weights(logits: Tensor, objective: Objective) -> Tensor | None:
    if not objective.class_weights:
        return None
    return torch.tensor(objective.class_weights, dtype=logits.dtype).to(logits.device, non_blocking=True)


def _weighted(losses: Tensor, labels: Tensor, objective: Objective) -> Tensor:
    """Losses [b] times the weight of each image's true class."""
    weights = _class_weights(losses, objective)
    return losses if weights is None else losses * weights[labels]


def label_cross_entropy(logits: Tensor, labels: Tensor, objective: Objective = CROSS_ENTROPY) -> Tensor:
    """-sum_k t_k ln p_k of the softmax p, [b]; t is 1 - e at the true class and e / classes everywhere besides.

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture", section 7 (e is `label_smoothing`).
    """
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=objective.label_smoothing)
    return _weighted(losses, labels, objective)


def multiclass_hinge(
    logits: Tensor, labels: Tensor, objective: Objective = CROSS_ENTROPY, margin: float = 1.0
) -> Tensor:
    """Sum over the other classes of max(0, s_j - s_y + margin), [b].

    Source: Weston & Watkins 1999, "Support vector machines for multi-class pattern recognition".
    """
    true = logits.gather(1, labels[:, None])
    losses = (logits - true + margin).clamp(min=0).sum(1) - margin  # the true class adds the margin itself
    return _weighted(losses, labels, objective)


def softmax_focal(logits: Tensor, labels: Tensor, objective: Objective = CROSS_ENTROPY) -> Tensor:
    """-(1 - p_y)^gamma ln p_y of the softmax probability of the true class, [b]; gamma 0 is cross-entropy.

    The form without alpha: what balances the classes are the objective's weights. The form on independent sigmoids is
    `losses/detection.py: sigmoid_focal`. Source: Lin et al. 2017, "Focal loss", equation 4.
    """
    log_p = logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    losses = -(-torch.expm1(log_p)).clamp(min=TINY).pow(objective.focal_gamma) * log_p
    return _weighted(losses, labels, objective)


def tag_cross_entropy(logits: Tensor, tags: Tensor, objective: Objective = CROSS_ENTROPY) -> Tensor:
    """Sum over the labels of the logistic cross-entropy, [b]: one label weighs as much as in `label_cross_entropy`.

    Source: Bishop 2006, "Pattern recognition and machine learning", equation 5.23.
    """
    weights = _class_weights(logits, objective)
    return F.binary_cross_entropy_with_logits(logits, tags, pos_weight=weights, reduction="none").sum(1)


def tag_focal(logits: Tensor, tags: Tensor, objective: Objective = CROSS_ENTROPY) -> Tensor:
    """Sum over the labels of (1 - p_t)^gamma times the logistic cross-entropy, [b]; p_t the probability of what is
    true. Source: Lin et al. 2017, "Focal loss", equation 4."""
    weights = _class_weights(logits, objective)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, tags, pos_weight=weights, reduction="none")
    p = logits.sigmoid()
    wrong = p * (1 - tags) + (1 - p) * tags
    return (wrong.clamp(min=TINY).pow(objective.focal_gamma) * cross_entropy).sum(1)


def tag_softmax(logits: Tensor, tags: Tensor, objective: Objective = CROSS_ENTROPY) -> Tensor:
    """Softmax cross-entropy with a target of 1 / (number of tags) at every tag, [b]; 0 for an image without tags.

    Source: Gong et al. 2014, "Deep convolutional ranking for multilabel image annotation", section 3.2.1.
    """
    weights = _class_weights(logits, objective)
    target = tags / tags.sum(1, keepdim=True).clamp(min=1)
    if weights is not None:
        target = target * weights
    return -(target * logits.log_softmax(1)).sum(1)


def pairwise_ranking(
    logits: Tensor, tags: Tensor, objective: Objective = CROSS_ENTROPY, importance: Tensor | None = None
) -> Tensor:
    """Sum over tags j and labels k that do not hold of importance_j max(0, 1 - s_j + s_k), [b]; 0 where one side is
    empty. Takes memory for [b, classes, classes]. Source: Gong et al. 2014, section 3.2.2, equation 3.

    Args:
        importance: [b, classes]; counts only at the tags. None: 1 for all.
    """
    weights = _class_weights(logits, objective)
    importance = tags if importance is None else importance
    importance = importance if weights is None else importance * weights
    margins = (1 - logits[:, :, None] + logits[:, None, :]).clamp(min=0)
    return torch.einsum("bj,bjk,bk->b", importance * tags, margins, 1 - tags)


def tag_warp(logits: Tensor, tags: Tensor, objective: Objective = CROSS_ENTROPY) -> Tensor:
    """WARP: `pairwise_ranking` in which a tag counts by its rank, [b]. Source: Gong et al. 2014, equation 4."""
    importance = rank_weights(sampled_ranks(logits, tags), logits.shape[1])
    return pairwise_ranking(logits, tags, objective, importance)


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
    """L(r) = 1 + 1/2 + ... + 1/r of ranks [...] in 0 .. classes, float32 of that shape; L(0) = 0.

    Source: Weston, Bengio, Usunier 2011 (WSABIE), equation 2, with their choice of alpha = 1 / rank.
    """
    steps = torch.arange(classes + 1, dtype=torch.float64)
    steps[1:] = 1 / steps[1:]
    return steps.cumsum(0).float().to(ranks.device, non_blocking=True)[ranks]


LABEL_LOSSES: dict[str, ImageLoss] = {
    "cross_entropy": label_cross_entropy,
    "hinge": multiclass_hinge,
    "focal": softmax_focal,
}
TAG_LOSSES: dict[str, ImageLoss] = {
    "cross_entropy": tag_cross_entropy,
    "focal": tag_focal,
    "softmax": tag_softmax,
    "ranking": pairwise_ranking,
    "warp": tag_warp,
}
CLASSIFY, TAG = tuple(LABEL_LOSSES), tuple(TAG_LOSSES)
