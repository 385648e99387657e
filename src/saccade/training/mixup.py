"""mixup and CutMix: training images and their truth blended in pairs, on the batch that is ready for the step.

Sources: mixup (Zhang et al. 2018, section 2), CutMix (Yun et al. 2019, section 3.1, algorithm in appendix A).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from saccade.config import Settings
from saccade.data.types import Batch

_STREAM = 2  # apart from the loader's random numbers, which follow from (0, ...) and (1, ...)


def mix(batch: Batch, settings: Settings, step: int, progress: float, rank: int = 0) -> Batch:
    """Blend every image of a batch with another one of it; what is drawn follows from (seed, step, rank) alone.

    mixup: x + share * (other - x), share from Beta(mixup, mixup). CutMix: a window of the other image, of the share
    drawn from Beta(cutmix, cutmix) as far as it lies inside, at the same place. Each image draws for itself; where both
    are set, one of them by an even chance. `truth[i].mixed` holds the other truth and its share, which for CutMix is
    the window's part of the frame in whole pixels.

    Args:
        batch: images [b, 3, H, W] float on their device.
        progress: share of the run that is done; from `mix_until` on batches stay as they are.
        rank: of this process.
    """
    if not (settings.mixup or settings.cutmix) or progress >= settings.mix_until or batch.truth is None:
        return batch
    rng = np.random.default_rng([_STREAM, settings.seed, step, rank])
    if rng.random() >= settings.mix_probability:
        return batch
    count, (height, width) = len(batch), batch.images.shape[-2:]
    partners = rng.permutation(count)
    weight = np.zeros((count, 1, 1, 1), np.float32)  # of the other image, everywhere alike
    if settings.mixup:
        weight[:, 0, 0, 0] = rng.beta(settings.mixup, settings.mixup, count)
    if settings.cutmix:
        windows = cutmix_masks(rng.beta(settings.cutmix, settings.cutmix, count), height, width, rng)
        cut = rng.random(count) < (0.5 if settings.mixup else 1.0)
        weight = np.where(cut[:, None, None, None], windows, weight)
    order = torch.from_numpy(partners).to(batch.images.device)
    images = torch.lerp(batch.images, batch.images[order], torch.from_numpy(weight).to(batch.images))
    shares = weight.mean(axis=(1, 2, 3), dtype=np.float64).tolist()
    truth = [
        dataclasses.replace(own, mixed=(batch.truth[partner], share))
        for own, partner, share in zip(batch.truth, partners, shares, strict=True)
    ]
    return dataclasses.replace(batch, images=images, truth=truth)


def cutmix_masks(shares: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[b, 1, height, width] float32: 1 in windows of the aspect of the frame, about random points, cut at the frame.

    Args:
        shares: [b], area of each window as a part of the frame, before it is cut.
    """
    half_h, half_w = np.sqrt(shares) * height / 2, np.sqrt(shares) * width / 2
    y, x = rng.uniform(0, height, len(shares)), rng.uniform(0, width, len(shares))
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    inside_y = np.abs(rows - y[:, None]) < half_h[:, None]
    inside_x = np.abs(columns - x[:, None]) < half_w[:, None]
    return (inside_y[:, None, :, None] & inside_x[:, None, None, :]).astype(np.float32)
