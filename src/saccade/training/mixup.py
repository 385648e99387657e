"""mixup and CutMix: training images and their truth blended in pairs, on the batch that is ready for the step.

Sources: mixup (Zhang et al. 2018, section 2), CutMix (Yun et al. 2019, section 3.1, algorithm in appendix A).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

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
    shares = np.zeros(count, np.float32)  # of the other image
    windows = np.tile(np.array([0, 0, height, width]), (count, 1))  # where it is seen: everywhere
    weights = shares  # there
    if settings.mixup:
        shares = weights = rng.beta(settings.mixup, settings.mixup, count).astype(np.float32)
    if settings.cutmix:
        cuts = cutmix_windows(rng.beta(settings.cutmix, settings.cutmix, count), height, width, rng)
        cut = rng.random(count) < (0.5 if settings.mixup else 1.0)
        windows, weights = np.where(cut[:, None], cuts, windows), np.where(cut, 1, weights)
        shares = np.where(cut, (cuts[:, 2:] - cuts[:, :2]).prod(1) / (height * width), shares)
    images = _blend(batch.images, partners, windows, weights)
    truth = [
        dataclasses.replace(own, mixed=(batch.truth[partner], share))
        for own, partner, share in zip(batch.truth, partners, shares.tolist(), strict=True)
    ]
    return dataclasses.replace(batch, images=images, truth=truth)


def cutmix_windows(shares: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[b, 4] int64 top, left, bottom, right (exclusive) of windows of the aspect of the frame, about random points, cut
    at the frame; they hold the pixels whose centres are inside.

    Args:
        shares: [b], area of each window as a part of the frame, before it is cut.
    """
    half = np.sqrt(shares)[:, None] * [height / 2, width / 2]
    y, x = rng.uniform(0, height, len(shares)), rng.uniform(0, width, len(shares))
    centre = np.stack([y, x], 1)
    first = np.floor(centre - half + 0.5).clip(0, [height, width])
    end = np.ceil(centre + half - 0.5).clip(first, [height, width])
    return np.concatenate([first, end], 1).astype(np.int64)


def _blend(images: Tensor, partners: np.ndarray, windows: np.ndarray, weights: np.ndarray) -> Tensor:
    """Each image with its partner at `weights` [b] inside of `windows` [b, 4], on their device and without a wait."""

    def moved(numbers: np.ndarray) -> Tensor:
        return torch.from_numpy(numbers).to(images.device, non_blocking=True)

    height, width = images.shape[-2:]
    top, left, bottom, right = moved(windows)[:, :, None, None, None].unbind(1)
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    weight = inside * moved(weights)[:, None, None, None]
    return torch.lerp(images, images[moved(partners)], weight.to(images.dtype))
