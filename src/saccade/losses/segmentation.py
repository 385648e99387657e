"""Losses on pixels. Logits are [b, classes, H, W], targets [b, H, W] int64 with 255 (IGNORE) taking no part."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data.types import IGNORE, Annotation
from saccade.losses.across import mean_over_processes


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
        target[i, :h, :w] = annotation.semantic.to(device)
    return target


def pixel_cross_entropy(
    logits: Tensor, target: Tensor, class_weights: Tensor | None = None, pixel_weights: Tensor | None = None
) -> Tensor:
    """Softmax cross-entropy, weighted by class [classes] and by pixel [b, H, W], summed, over the number of pixels.

    The normaliser is the *number* of labelled pixels (its mean over processes), not the sum of the weights, so that the
    gradients of several processes add up to those of one. Without a labelled pixel the loss is a zero that still
    reaches the logits.
    """
    loss = F.cross_entropy(logits.float(), target, class_weights, ignore_index=IGNORE, reduction="none")
    if pixel_weights is not None:
        loss = loss * pixel_weights
    labelled = mean_over_processes((target != IGNORE).sum())
    return loss.sum() / labelled.clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice overlap, mean over the classes that occur in the batch (Milletari et al. 2016, section 3).

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
        away = cv2.distanceTransform((components != i).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        second = np.minimum(second, np.maximum(nearest, away))
        nearest = np.minimum(nearest, away)
    weights = strength * np.exp(-np.square(nearest + second) / (2 * sigma * sigma))
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
