"""SegNet as one writes it in plain torch on torchvision's VGG-16: what `segnet` is held against. No one publishes it as
a package; the names of its tensors are those of models/segmenters/segnet.py, so that both sides have the same weights.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import nn

CLASSES = 11


class Block(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.conv(x)))


class SegNet(nn.Module):
    """Logits [b, CLASSES, H, W] of normalised images [b, 3, H, W] whose sides are multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk: Any = nn.Module()
        self.trunk.features = torchvision.models.vgg16_bn(weights=None).features
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.decoder: Any = nn.Module()
        widths = [(512, 512, 512, 512), (512, 512, 512, 256), (256, 256, 256, 128), (128, 128, 64), (64, 64)]
        stages: list[list[nn.Module]] = [[Block(a, b) for a, b in pairwise(row)] for row in widths]
        stages[-1].append(nn.Conv2d(64, CLASSES, 3, padding=1))
        self.decoder.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for layer in self.trunk.features:
            if isinstance(layer, nn.MaxPool2d):
                x, indices = self.pool(x)
                kept.append(indices)
            else:
                x = layer(x)
        for stage in self.decoder.stages:
            x = stage(self.unpool(x, kept.pop()))
        return x
