"""Losses on pixels. Logits are [b, classes, H, W], targets [b, H, W] int64 with 255 (IGNORE) taking no part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from saccade.data.types import IGNORE, Annotation
from saccade.losses.across import mean_over_processes
from saccade.ops.distance import nearly_distance_inside, settled

TINY = 1e-7  # a pixel that is right beyond doubt: powers below 1 keep a finite gradient


def stack_targets(truth: Sequence[Annotation] | None, height: int, width: int, device: torch.device) -> Tensor:
    """The class maps of a batch as [b, height, width] int64; what lies outside an image's own size is IGNORE.

    Raises:
        ValueError: no truth, an image without class map, or a map larger than the batch.
    """
    if truth is None:
        raise ValueError("a loss needs a batch with truth")
    target = torch.full((len(truth), height, width), IGNORE, dtype=torch.int64, device=device)
    for i, annotation in enumerate(truth):
        if annotation.semantic is None:
            raise ValueError(f"image {i} of the batch has no class map; segment needs one an image")
        h, w = annotation.semantic.shape
        if h > height or w > width:
            raise ValueError(f"image {i} of the batch has a class map of {h}x{w}, the batch is {height}x{width}")
        target[i, :h, :w] = annotation.semantic.to(device, non_blocking=True)
    return target


def stack_border_weights(truth: Sequence[Annotation], target: Tensor, strength: float) -> Tensor:
    """1 plus U-Net's border weights of a batch (Ronneberger et al. 2015, equation 2), [b, H, W] as `target`: those that
    the loader has made (`Annotation.weights`), else of the class maps, for which a GPU waits."""
    if any(annotation.weights is None for annotation in truth):
        extra = [torch.from_numpy(border_weights(plane, strength)) for plane in target.cpu().numpy()]
        return torch.stack(extra).to(target.device) + 1
    weights = torch.ones(target.shape, device=target.device)
    for i, annotation in enumerate(truth):
        if annotation.weights is not None:
            h, w = annotation.weights.shape
            weights[i, :h, :w] = annotation.weights.to(target.device, non_blocking=True)
    return weights


def pixel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    focal: float = 0.0,
) -> Tensor:
    """Softmax cross-entropy of logits [b, classes, H, W] with classes [b, H, W], weighted by class [classes] and
    by pixel [b, H, W], summed, over the number of labelled pixels; [].

    The normaliser is the *number* of labelled pixels (its mean over processes), not the sum of the weights, so that the
    gradients of several processes add up to those of one. Without a labelled pixel the loss is a zero that still
    reaches the logits.

    With `focal` above 0 each pixel is weighted by (1 - p) ** focal besides, p the probability of its class, so that the
    many that are right leave room for those that are not.

    Source: Long et al. 2015, section 4; weights by pixel: Ronneberger et al. 2015, equation 1; focal: Lin et al. 2017,
    equation 4.
    """
    if focal > 0:
        own = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="none")  # -log p, 0 where ignored
        loss = (-torch.expm1(-own)).clamp(min=TINY).pow(focal) * own
        if class_weights is not None:
            loss = loss * class_weights.float()[target.masked_fill(target == IGNORE, 0)]
    else:
        loss = F.cross_entropy(logits.float(), target, class_weights, ignore_index=IGNORE, reduction="none")
    if pixel_weights is not None:
        loss = loss * pixel_weights
    labelled = mean_over_processes((target != IGNORE).sum())
    return loss.sum() / labelled.clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice overlap of logits [b, classes, H, W] with classes [b, H, W], mean over the classes that occur in
    the batch; [] (Milletari et al. 2016, "V-Net", section 3).

    Dice of a class = (2 sum p t + smooth) / (sum p^2 + sum t^2 + smooth) over all labelled pixels of the batch, p the
    softmax probability, t the 0/1 truth. A class that does not occur is left out: it has no overlap to improve. Without
    a labelled pixel the loss is a zero that reaches the logits. Not additive: processes average their own batches'.
    """
    labelled = (target != IGNORE).unsqueeze(1)
    p = logits.float().softmax(1) * labelled
    truth = F.one_hot(target.masked_fill(target == IGNORE, 0), logits.shape[1]).movedim(-1, 1) * labelled
    overlap = 2 * (p * truth).sum((0, 2, 3)) + smooth
    dice = overlap / (p.square().sum((0, 2, 3)) + truth.sum((0, 2, 3)) + smooth)
    present = (truth.sum((0, 2, 3)) > 0).to(dice)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def cross_entropy_and_dice(
    logits: Tensor,
    target: Tensor,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
    smooth: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """`pixel_cross_entropy` and `dice_loss` of the same logits [b, classes, H, W] and classes [b, H, W], in a few
    passes over them instead of some thirty.

    One softmax serves both, and gradients are written down instead of traced. Cannot be differentiated twice.

    Sources: Long et al. 2015, section 4; Milletari et al. 2016, "V-Net", section 3.
    """
    labelled = target != IGNORE
    rows = target.masked_fill(~labelled, 0)
    weights = labelled.float() if class_weights is None else class_weights.float()[rows] * labelled
    if pixel_weights is not None:
        weights = weights * pixel_weights
    summed, dice = _CrossEntropyAndDice.apply(logits, rows, labelled, weights, smooth)
    return summed / mean_over_processes(labelled.sum()).clamp(min=1), dice


class _CrossEntropyAndDice(torch.autograd.Function):
    """Letters: p probabilities (zero at ignored pixels), t the 0/1 truth, y its class, w the pixel's weight, and of
    each class Q = sum p^2, T = sum t, D = (2 sum p t + smooth) / (Q + T + smooth).

    Image by image, in planes [classes, pixels], so that the passes over one find it in the processor's cache.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Tensor, labelled: Tensor, weights: Tensor, smooth: float
    ) -> tuple[Tensor, Tensor]:
        """Logits [b, classes, H, W]; rows (0 where ignored), labelled and weights (0 where ignored) [b, H, W]."""
        b, classes = logits.shape[:2]
        rows, labelled, weights = rows.flatten(1), labelled.flatten(1), weights.flatten(1)
        p = logits.new_empty((b, classes, rows.shape[1]), dtype=torch.float32)
        p_y = torch.empty_like(weights)
        summed = weights.new_zeros(())
        squares, overlap, count = (weights.new_zeros(classes) for _ in range(3))
        for i in range(b):
            z = logits[i].flatten(1).to(torch.float32, memory_format=torch.contiguous_format)
            log_p = z.log_softmax(0)
            log_p_y = log_p.gather(0, rows[i : i + 1])[0]
            summed -= (weights[i] * log_p_y).sum()
            torch.exp(log_p, out=p[i])
            p[i] *= labelled[i]
            p_y[i] = log_p_y.exp() * labelled[i]
            squares += p[i].square().sum(1)
            overlap.index_add_(0, rows[i], p_y[i])
            count.index_add_(0, rows[i], labelled[i].float())
        present = (count > 0).float()
        share = present / present.sum().clamp(min=1)
        union = squares + count + smooth
        dice = (2 * overlap + smooth) / union
        ctx.save_for_backward(p, p_y, rows, weights, 2 * share * dice / union, 2 * share / union)
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        ctx.layout = torch.channels_last if logits.stride(1) == 1 else torch.contiguous_format
        return summed, ((1 - dice) * share).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_summed: Tensor, grad_dice: Tensor) -> tuple[Tensor | None, ...]:
        """With a = 2 D / (Q + T + smooth) and c = 2 / (Q + T + smooth), each over the number of classes present:

        d dice / dp = a p - c t, so through the softmax d dice / dz = p (a p - s) - t c_y p_y, s = sum a p^2 - c_y p_y;
        d cross-entropy / dz = w (p - t).
        """
        p, p_y, rows, weights, a, c = ctx.saved_tensors
        gradient = torch.empty(ctx.shape, dtype=ctx.dtype, device=p.device, memory_format=ctx.layout)
        a, c = a * grad_dice, c * grad_dice
        for i in range(len(p)):
            truth = c[rows[i]] * p_y[i]
            weight = weights[i] * grad_summed
            dz = p[i].square().mul_(a[:, None])
            dz.addcmul_(p[i], weight - (dz.sum(0) - truth))
            dz.scatter_add_(0, rows[i : i + 1], -(weight + truth)[None])
            gradient[i] = dz.view(ctx.shape[1:])
        return gradient, None, None, None, None


def border_weights(target: np.ndarray, strength: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """U-Net's extra weight of the background between things (Ronneberger et al. 2015, equation 2, second term).

    strength * exp(-(d1 + d2)^2 / (2 sigma^2)) at background pixels (class 0), d1 and d2 the distances in pixels to the
    nearest and second nearest thing: 4-connected components of classes 1 and up. Zero on things, on ignored pixels, and
    everywhere when there are fewer than two things.

    Args:
        target: [H, W] class map; 255 is ignored.

    Returns:
        [H, W] float32.
    """
    things = (target > 0) & (target != IGNORE)
    count, components = cv2.connectedComponents(things.astype(np.uint8), connectivity=4)
    nearest = np.full(target.shape, np.inf, dtype=np.float32)
    second = nearest.copy()
    for i in range(1, count):
        away = nearly_distance_inside(components != i)
        second = np.minimum(second, np.maximum(nearest, away))
        nearest = np.minimum(nearest, away)
    weights = strength * np.exp(-np.square(settled(nearest) + settled(second)) / (2 * sigma * sigma))
    return np.where(target == 0, weights, 0).astype(np.float32)


def balanced_weights(truth: Sequence[Annotation], classes: int, power: float) -> tuple[float, ...]:
    """Class weights (1 / frequency) ** power, scaled so that the mean weight of a labelled pixel is 1.

    Power 1 gives every class the same total weight (as median-frequency balancing does, Eigen & Fergus 2015, up to a
    factor), 0 none. A class that never occurs has weight 1; it cannot matter. Weights are kept within 0.1 to 10.
    """
    counts = np.zeros(classes, dtype=np.float64)
    for annotation in truth:
        if annotation.semantic is not None:
            counts += np.bincount(annotation.semantic.cpu().numpy().ravel(), minlength=IGNORE + 1)[:classes]
    if counts.sum() == 0:
        return (1.0,) * classes
    frequency = counts / counts.sum()
    raw = np.where(counts > 0, np.maximum(frequency, 1e-12) ** -power, 0)
    weights = np.clip(raw / (raw * frequency).sum(), 0.1, 10)
    return tuple(float(w) for w in np.where(counts > 0, weights, 1).round(4))


def median_frequency_weights(truth: Sequence[Annotation], classes: int, power: float = 1.0) -> tuple[float, ...]:
    """Class weights (median frequency / frequency) ** power.

    The frequency of a class is the share that its pixels have of the labelled pixels of the images in which it occurs;
    the median is over the classes that occur at all. One that never occurs has weight 1; it cannot matter.

    Source: Eigen & Fergus 2015, section 6.3.1; Badrinarayanan et al. 2017, section 4.1.
    """
    own, around = np.zeros(classes, dtype=np.float64), np.zeros(classes, dtype=np.float64)
    for annotation in truth:
        if annotation.semantic is not None:
            counts = np.bincount(annotation.semantic.cpu().numpy().ravel(), minlength=IGNORE + 1)[:classes]
            own += counts
            around += counts.sum() * (counts > 0)
    occurs = own > 0
    if not occurs.any():
        return (1.0,) * classes
    frequency = own[occurs] / around[occurs]
    weights = np.ones(classes)
    weights[occurs] = (np.median(frequency) / frequency) ** power
    return tuple(float(w) for w in weights.round(4))
