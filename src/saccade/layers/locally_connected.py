"""Convolution whose weights are those of one place alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LocallyConnected2d(nn.Module):
    """A convolution with weights of its own for every output place: [b, c, H, W] -> [b, n, h, w].

    Used where the parts of an image always lie at the same place, as in aligned faces, or where the place itself says
    something. It has h w n (c k^2 + 1) numbers. `weight` is [h w, n, c k k], places by rows, and `bias` [n, h, w].

    Args:
        channels_in: c.
        channels_out: n.
        side: (H, W) of the maps that it takes, and no others.
        kernel: k.
        stride, padding: as of a convolution.

    Source: Taigman et al., "DeepFace", CVPR 2014, section 3, layers L4 to L6; Darknet's `[local]`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        side: tuple[int, int],
        kernel: int,
        stride: int = 1,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.side, self.kernel, self.stride, self.padding = side, kernel, stride, padding
        h, w = (math.floor((n - kernel + 2 * padding) / stride) + 1 for n in side)
        fan_in = channels_in * kernel**2
        self.weight = nn.Parameter(torch.empty(h * w, channels_out, fan_in))
        self.bias = nn.Parameter(torch.zeros(channels_out, h, w))
        nn.init.normal_(self.weight, std=math.sqrt(2 / fan_in))  # He et al. 2015: keeps the variance behind a ReLU

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, H, W] -> [b, n, h, w]. Raises ValueError for maps of another side."""
        if tuple(x.shape[-2:]) != tuple(self.side):
            raise ValueError(f"this layer has weights for maps of {self.side}, not of {tuple(x.shape[-2:])}")
        windows = F.unfold(x, self.kernel, padding=self.padding, stride=self.stride)  # [b, c k k, h w]
        answers = torch.matmul(self.weight, windows.permute(2, 1, 0))  # [h w, n, b]
        return answers.permute(2, 1, 0).reshape(x.shape[0], *self.bias.shape) + self.bias
