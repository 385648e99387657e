"""mixup and CutMix: training images and their truth blended in pairs, on the batch that is ready for the step.

Sources: mixup (Zhang et al. 2018, section 2), CutMix (Yun et al. 2019, section 3.1, algorithm in appendix A); of images
with objects Zhang et al. 2019, "Bag of Freebies for Training Object Detection Neural Networks" (visually coherent
mixup). There the loss of an object counts by the share of its image; here all count alike, as in the even blend of that
paper's comparison and in YOLOX (Ge et al. 2021), so that no loss of a detector has to know of it. What is hardly seen
must then not be asked for: the shares of the two have to be near each other.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from saccade.config import Settings
from saccade.data.mixing import compose
from saccade.data.types import Batch, Objects
from saccade.errors import UsageError
from saccade.tasks.table import Task

LEAST = 1.0  # of mixup where images have objects: below it most shares lie near 0 and 1
_CORNERS = ((0, 0), (0, 0))  # both images begin at the upper left
_STREAM = 2  # apart from the loader's random numbers, which follow from (0, ...) and (1, ...)


def mix(batch: Batch, settings: Settings, step: int, progress: float, rank: int = 0) -> Batch:
    """Blend every image of a batch with another one of it; what is drawn follows from (seed, step, rank) alone.

    mixup: x + share * (other - x), share from Beta(mixup, mixup). CutMix: a window of the other image, of the share
    drawn from Beta(cutmix, cutmix) as far as it lies inside, at the same place. Each image draws for itself; where both
    are set, one of them by an even chance. `truth[i].mixed` holds the other truth and its share, which for CutMix is
    the window's part of the frame in whole pixels. Images with objects are blended by mixup alone: the truth is then
    the objects of both, over the larger of their sizes, and the same of boxes that are given. One that would be blended
    with itself, or has a class in place of boxes, stays as it is.

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
    if any(each.objects is not None for each in batch.truth):
        return _with_both_objects(batch, partners, rng.beta(settings.mixup, settings.mixup, count).astype(np.float32))
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


def refuse_mixing(kind: Task, settings: Settings) -> None:
    """Raises UsageError where an image made of two is no example of the task, or one of the two is often too faint."""
    blends = kind.whole_image and not kind.embedding
    if settings.cutmix and not blends:
        raise UsageError(f"cutmix blends the labels of whole images: for classify and tag, not {kind.name} (cutmix=0)")
    if not settings.mixup or blends:
        return
    if not kind.many_objects or kind.cuboids:
        allowed = "for classify, tag, detect, instances and pose"
        raise UsageError(
            f"mixup blends labels, or joins the objects of two images: {allowed}, not {kind.name} (mixup=0)"
        )
    if settings.mixup < LEAST:
        raise UsageError(
            f"mixup={settings.mixup:g} leaves one image of most pairs too faint, whose objects are to be found all the "
            f"same: for {kind.name} at least {LEAST:g}, such as 8 (mix_probability is the share of the batches)"
        )


def _with_both_objects(batch: Batch, partners: np.ndarray, shares: np.ndarray) -> Batch:
    """Each image with its partner at `shares` [b], and the objects of both."""
    assert batch.truth is not None
    truth, sizes, shares = list(batch.truth), list(batch.sizes), shares.copy()
    given = None if batch.given is None else list(batch.given)
    for i, j in enumerate(partners):
        own, other = batch.truth[i], batch.truth[j]
        if i == j or own.label is not None or other.label is not None:
            shares[i] = 0
            continue
        sizes[i] = max(own.size[0], other.size[0]), max(own.size[1], other.size[1])
        both = [Objects.empty() if each.objects is None else each.objects for each in (own, other)]
        truth[i] = dataclasses.replace(own, size=sizes[i], objects=compose(both, _CORNERS, sizes[i]))
        if given is not None and batch.given is not None:
            given[i] = compose([batch.given[i], batch.given[j]], _CORNERS, sizes[i])
    height, width = batch.images.shape[-2:]
    everywhere = np.tile(np.array([0, 0, height, width]), (len(batch), 1))
    images = _blend(batch.images, partners, everywhere, shares)
    return dataclasses.replace(batch, images=images, sizes=sizes, truth=truth, given=given)


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
