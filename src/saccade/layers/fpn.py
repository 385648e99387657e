"""Feature pyramid: every level as rich in meaning as the deepest (Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.ops.boxes import box_area


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, nearest upsampling from above, sum, 3x3 convolutions (section 3, figure 3).

    State dicts have the public keys `inner_blocks.i.0` (lateral) and `layer_blocks.i.0` (3x3), finest level first; with
    `norm`, each is followed by a batch norm `.1`, which the paper has not and training from scratch needs.
    """

    def __init__(self, channels_in: Sequence[int], channels: int, norm: bool = False) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(_convolution(c, channels, 1, norm) for c in channels_in)
        self.layer_blocks = nn.ModuleList(_convolution(channels, channels, 3, norm) for _ in channels_in)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [b, channels_in[i], H_i, W_i], finest first -> [b, channels, H_i, W_i] each, and one more of half the
        size: every second pixel of the coarsest, for the anchors of the largest objects (P6, section 4.1).
        """
        inner = self.inner_blocks[-1](maps[-1])
        levels = [self.layer_blocks[-1](inner)]
        for i in range(len(maps) - 2, -1, -1):
            lateral = self.inner_blocks[i](maps[i])
            inner = lateral + F.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
            levels.insert(0, self.layer_blocks[i](inner))
        return [*levels, levels[-1][:, :, ::2, ::2]]


def assign_levels(
    boxes: Tensor, lowest: int, highest: int, canonical_level: int = 4, canonical_size: float = 224.0
) -> Tensor:
    """The pyramid level whose map a region is read from, k = floor(k0 + log2(sqrt(w h) / size)) (equation 1).

    Args:
        boxes: [..., 4] x1 y1 x2 y2 in image pixels.
        lowest, highest: of the pyramid, such as 2 and 5; levels outside are moved to these.
        canonical_level, canonical_size: a box of this side belongs to this level.

    Returns:
        [...] int64 in 0..highest - lowest, 0 for the finest. A box without area is given the finest.
    """
    side = box_area(boxes).sqrt().clamp(min=1e-6)
    # 1e-6: a box of exactly a power of two times the canonical size must not fall below by the error of log2.
    level = (canonical_level + torch.log2(side / canonical_size) + 1e-6).floor()
    return level.clamp(lowest, highest).to(torch.int64) - lowest


def _convolution(channels_in: int, channels: int, kernel: int, norm: bool) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if norm:
        return nn.Sequential(convolution, nn.BatchNorm2d(channels))
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution)
