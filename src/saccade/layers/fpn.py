"""Feature pyramid: every level as rich in meaning as the deepest (Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.ops.boxes import box_area


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions, nearest upsampling from above, sum, 3x3 convolutions (section 3, figure 3): maps
    [b, channels_in[i], H_i, W_i] -> levels [b, channels, H_i, W_i].

    State dicts have the public keys `inner_blocks.i.0` (lateral) and `layer_blocks.i.0` (3x3), finest level first, and
    `extra_blocks.p6`, `extra_blocks.p7` of the convolutions that make coarser levels.

    Args:
        channels_in: of each map, finest first.
        channels: of every level.
        norm: a batch norm `.1` after the convolutions of the maps' own levels, which the paper has not and training
            from scratch needs.
        extra: coarser levels added, each of half the side of the one before: P6, P7, ... of maps C2 to C5.
        top: what makes them. subsample: every second pixel of the level before, for the anchors of the largest objects
            (section 4.1, footnote 1). c5, p5: 3x3 convolutions of stride 2, the first on the coarsest map (RetinaNet,
            Lin et al., ICCV 2017, section 4, footnote 2) or on its level (the public RetinaNet weights), each further
            one on the ReLU of the level before.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels: int,
        norm: bool = False,
        extra: int = 1,
        top: Literal["subsample", "c5", "p5"] = "subsample",
    ) -> None:
        super().__init__()
        self.extra, self.top = extra, top
        self.inner_blocks = nn.ModuleList(_convolution(c, channels, 1, norm) for c in channels_in)
        self.layer_blocks = nn.ModuleList(_convolution(channels, channels, 3, norm) for _ in channels_in)
        self.extra_blocks = nn.ModuleDict()
        if top != "subsample":
            first = channels_in[-1] if top == "c5" else channels
            for i in range(extra):
                convolution = nn.Conv2d(first if i == 0 else channels, channels, 3, stride=2, padding=1)
                self.extra_blocks[f"p{6 + i}"] = _start(convolution)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [b, channels_in[i], H_i, W_i], finest first -> levels [b, channels, H_i, W_i], and `extra` more, each of
        half the sides of the one before, rounded up."""
        inner = self.inner_blocks[-1](maps[-1])
        levels = [self.layer_blocks[-1](inner)]
        for i in range(len(maps) - 2, -1, -1):
            lateral = self.inner_blocks[i](maps[i])
            inner = lateral + F.interpolate(inner, size=lateral.shape[-2:], mode="nearest")
            levels.insert(0, self.layer_blocks[i](inner))
        if self.top == "subsample":
            for _ in range(self.extra):
                levels.append(levels[-1][:, :, ::2, ::2])
            return levels
        coarser = maps[-1] if self.top == "c5" else levels[-1]
        for i, convolution in enumerate(self.extra_blocks.values()):
            coarser = convolution(coarser if i == 0 else F.relu(coarser))
            levels.append(coarser)
        return levels


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
    convolution = _start(nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, bias=not norm))
    return nn.Sequential(convolution, nn.BatchNorm2d(channels)) if norm else nn.Sequential(convolution)


def _start(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution with the weights that the release starts from: by fan-in (uniform), no bias."""
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
