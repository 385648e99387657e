"""Losses of detectors, one value an element: the caller sums and divides by its count (`losses/across.py`).

IoU losses are 1 - `OVERLAPS[name](found, true)`: of boxes, whatever they were decoded from.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from saccade.ops.boxes import complete_iou, distance_iou, generalized_iou, iou

# Yu et al., "UnitBox", ACM MM 2016; Rezatofighi et al., CVPR 2019; Zheng et al., AAAI 2020 (the last two)
OVERLAPS = {"iou": iou, "giou": generalized_iou, "diou": distance_iou, "ciou": complete_iou}
TINY = 1e-12  # keeps the slope of x ** gamma finite where gamma < 1


def smooth_l1(prediction: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """x^2 / (2 beta) where |x| < beta, else |x| - beta / 2, for x = prediction - target, elementwise: [...] -> [...].

    beta = 1 / sigma^2 of the Faster R-CNN code (sigma 3: beta 1/9); beta = 0 is plain L1.

    Source: Girshick, "Fast R-CNN", ICCV 2015, equation 3.
    """
    distance = (prediction - target).abs()
    if beta == 0:
        return distance
    return torch.where(distance < beta, distance.square() / (2 * beta), distance - beta / 2)


def sigmoid_focal(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float | None = 0.25) -> Tensor:
    """-alpha_t (1 - p_t)^gamma ln p_t of independent sigmoids: logits [...] and targets [...] of 0 and 1 -> [...].

    Normalise its sum by the number of positive anchors. The form of one class an anchor, by a softmax and without
    alpha, is `losses/classification.py: softmax_focal`.

    Args:
        gamma: 0 or more; 0 is cross-entropy.
        alpha: weight where the target is 1, and 1 - alpha where it is 0; None: 1 for both (equation 4).

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
    """
    losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if gamma:
        p = logits.sigmoid()
        wrong = p * (1 - targets) + (1 - p) * targets
        losses = wrong.clamp(min=TINY).pow(gamma) * losses
    return losses if alpha is None else (alpha * targets + (1 - alpha) * (1 - targets)) * losses


def quality_focal(logits: Tensor, quality: Tensor, gamma: float = 2.0) -> Tensor:
    """|quality - p|^gamma times the cross-entropy of p = sigmoid(logits), [...], with the soft target `quality` [...].

    `quality` lies in [0, 1]: at a positive anchor the IoU of its predicted box with the truth at the
    truth's class, 0 elsewhere. The score then says how good the box is, which NMS and AP rank by. No gradient flows to
    `quality`. Normalise its sum by the number of positive anchors.

    Source: Li et al., "Generalized Focal Loss", NeurIPS 2020, section 3, "Quality Focal Loss".
    """
    quality = quality.detach()
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (quality - logits.sigmoid()).abs().pow(gamma) * cross_entropy
