"""Filters and maps of layers as gray or coloured tiles.

Source: Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", section 4 (first-layer filters,
strongest activations); Krizhevsky et al. 2012, figure 3.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def first_filters(model: nn.Module) -> tuple[str, np.ndarray] | None:
    """Name and filters of the first convolution as images; None where it does not look at three colours.

    Returns:
        [filters, k, k', 3] uint8: each filter on a scale of its own, zero is the middle gray 128.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().float().cpu()
            if weight.shape[1] != 3 or weight[0, 0].numel() == 1:
                return None
            largest = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
            if getattr(getattr(model, "config", None), "bgr", False):  # the layout of Caffe: blue first
                weight = weight.flip(1)
            pixels = (128 + 127 * weight / largest).round().to(torch.uint8)
            return name, pixels.permute(0, 2, 3, 1).numpy()
    return None


def strongest_channels(maps: Tensor, count: int) -> list[int]:
    """The channels with the largest mean of their positive part, strongest first; at a tie the lower one.

    Args:
        maps: [c, h, w].
    """
    strength = maps.clamp(min=0).mean((1, 2))
    return [int(k) for k in strength.argsort(descending=True, stable=True)[:count]]


def channel_image(plane: Tensor) -> np.ndarray:
    """[h, w] -> [h, w, 3] uint8: the least value black, the largest white; one value everywhere is black."""
    low, high = float(plane.min()), float(plane.max())
    shade = ((plane - low) / max(high - low, 1e-12) * 255).round().to(torch.uint8).numpy()
    return np.repeat(shade[..., None], 3, axis=2)
