"""Occlusion sensitivity: how far the score falls when a gray patch covers a part of the image.

Source: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saccade.data.geometry import GRAY, Size
from saccade.tasks.contract import Scores

PIXELS = 2**20  # of all images in a forward pass: large ones go one by one
SHARE = 5  # the patch is the shorter side divided by this: some 150 patches on a square image


def patch_of(size: Size) -> tuple[int, int]:
    """Side of the patch and its step in pixels for an image of (height, width)."""
    side = max(1, round(min(size) / SHARE))
    return side, max(1, side // 2)


def patch_places(size: Size, side: int, step: int) -> list[tuple[int, int]]:
    """Upper left corners (y, x) of all patches; the last ones of rows and columns end at the border."""
    rows, columns = ([*range(0, max(length - side, 0), step), max(length - side, 0)] for length in size)
    return [(y, x) for y in rows for x in columns]


@torch.no_grad()
def occlusion(
    images: Tensor,
    scores: Scores,
    size: Size,
    side: int,
    step: int,
    advance: Callable[[int], object] = lambda patches: None,
) -> Tensor:
    """The mean fall of each score over the patches that cover a pixel.

    Args:
        images: [1, 3, H, W] in [0, 1].
        scores: `likelihoods` of the task.
        size: (height, width) of what is to be covered, the upper left part of the image; the rest is padding.
        side: of the square patch, pixels.
        step: between neighbouring patches, pixels.
        advance: is told the number of patches after each pass.

    Returns:
        [targets, H, W] float32; above 0 where the score needs the pixels, below 0 where they speak against it; 0 in the
        padding.
    """
    places = patch_places(size, side, step)
    batch = max(1, min(16, PIXELS // images[0, 0].numel()))
    before = scores(images)[0].float().cpu()
    fall = torch.zeros(len(before), *images.shape[2:])
    covered = torch.zeros(images.shape[2:])
    for start in range(0, len(places), batch):
        part = places[start : start + batch]
        changed = images.repeat(len(part), 1, 1, 1)
        for i, (y, x) in enumerate(part):
            changed[i, :, y : min(y + side, size[0]), x : min(x + side, size[1])] = GRAY / 255
        after = scores(changed).float().cpu()
        for (y, x), values in zip(part, after, strict=True):
            window = (slice(y, min(y + side, size[0])), slice(x, min(x + side, size[1])))
            fall[:, *window] += (before - values)[:, None, None]
            covered[window] += 1
        advance(len(part))
    return fall / covered.clamp(min=1)
