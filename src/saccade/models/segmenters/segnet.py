"""SegNet (Badrinarayanan et al. 2017): a decoder that puts values back to where the encoder's poolings took them.

The encoder is VGG-16 with batch norm up to its last pooling. The decoder mirrors it: every pooling is undone by the
indices that it kept, which leaves a sparse map, and as many convolutions as the encoder's stage has make that dense.
Nothing but indices is copied across, so that the maps themselves need not be kept, and nothing is learnt in enlarging.

What stands in the place of the indices can be chosen (`upsampling`), as the paper does in section 3.3: of the functions
of `layers/upsampling.py` each one, or a transposed convolution, all else being equal (`benchmarks/upsampling.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.maps import Pooled
from saccade.layers.upsampling import bed_of_nails, bilinear, max_unpool, nearest, output_padding
from saccade.losses.segmentation import median_frequency_weights, pixel_cross_entropy, stack_targets
from saccade.models.backbones import create_trunk
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, NonNegative

PAPER = Paper(
    title="SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
    authors="Badrinarayanan, Kendall, Cipolla",
    year=2017,
    where="PAMI 2017, arXiv 1511.00561",
)
TASKS = ("segment",)


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are those of `segnet`."""

    classes: Count = 11  # CamVid's
    # The encoder, which must give the places of its maxima: a VGG. Its public weights fit (--weights imagenet).
    trunk: str = "vgg16_bn"
    trunk_width: Count | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, and so of the decoder
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    # How the decoder enlarges a map: unpool, by the indices of the pooling (the paper); transposed_3, transposed_4: a
    # transposed convolution of that side, a kernel for each channel, which is learnt
    upsampling: Literal["unpool", "nearest", "bed_of_nails", "bilinear", "transposed_3", "transposed_4"] = "unpool"
    # power of (median frequency / frequency of the class) in `adapt`'s class weights; 0 for none
    balance: NonNegative = 1.0
    class_weights: tuple[NonNegative, ...] | None = None  # one a class; `adapt` fills it


VARIANTS: dict[str, Config] = {
    "segnet": Config(),
    "segnet_small": Config(trunk="vgg11_bn", trunk_width=16, balance=0.25),  # for little data, on CPUs
}
SIZE = 256

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": {
            "size": 256,
            "batch": 8,
            "epochs": 100,
            "optimizer": "adamw",
            "lr": 0.002,
            "weight_decay": 0.01,
            "schedule": "cosine",
            "warmup": 0.05,
            "clip_norm": 5.0,
            "ema": 0.99,
            "jitter": 0.25,
            "flip": 0.5,
            "color": 0.3,
        },
        "segnet": {"lr": 0.0005},
    },
    "paper": {
        "*": {  # section 4.1, on images of 360 x 480
            "size": (360, 480),
            "batch": 12,
            "epochs": 300,  # until the loss stands still; not stated in numbers
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 0.0005,  # of the released solver
            "schedule": "constant",
            "warmup": 0.0,
            "flip": 0.0,
            "jitter": 0.0,
            "color": 0.0,
            "balance": 1.0,
        },
    },
}


class Block(nn.Module):
    """3x3 convolution, batch norm, ReLU: [b, channels_in, H, W] -> [b, channels_out, H, W], values >= 0 (section 3)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Decoder(nn.Module):
    """The mirror of the encoder (figure 2): enlarge, then as many convolutions as its stage has.

    The last convolution of every stage has the channels of the next finer one; that of the finest stage gives logits
    and has neither norm nor ReLU.

    Attributes:
        enlarge: by 2, in front of each stage.
        stages: one for each pooling, from coarse to fine.
    """

    def __init__(self, channels: Sequence[int], depths: Sequence[int], config: Config) -> None:
        """Channels and depths of the encoder's stages, from fine to coarse."""
        super().__init__()
        classes = config.classes
        self.enlarge, self.stages = nn.ModuleList(), nn.ModuleList()
        for (finer, own), depth in zip(reversed(list(pairwise([0, *channels]))), reversed(depths), strict=True):
            self.enlarge.append(Enlarge(config.upsampling, own))
            blocks: list[nn.Module] = [Block(own, own) for _ in range(depth - 1)]
            blocks.append(Block(own, finer) if finer else nn.Conv2d(own, classes, 3, padding=1))
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, pooled: Pooled) -> Tensor:
        """Logits [b, classes, H, W] of the map behind the last pooling of an image of H x W."""
        x = pooled.map
        kept = zip(reversed(pooled.indices), reversed(pooled.sizes), strict=True)
        for enlarge, stage, (indices, size) in zip(self.enlarge, self.stages, kept, strict=True):
            x = stage(enlarge(x, indices, size))
        return x


class Enlarge(nn.Module):
    """A map [b, c, H, W] at twice its sides, in the way of `Config.upsampling` (layers/upsampling.py says what each
    computes)."""

    def __init__(self, way: str, channels: int) -> None:
        super().__init__()
        self.way = way
        self.transposed: nn.ConvTranspose2d | None = None
        if way.startswith("transposed"):
            side = int(way[-1])
            more = output_padding(1, 2, side, 2, 1)
            self.transposed = nn.ConvTranspose2d(channels, channels, side, 2, 1, more, groups=channels, bias=False)
            nn.init.normal_(self.transposed.weight, mean=4 / side**2, std=1 / side)  # each value stands for four

    def forward(self, x: Tensor, indices: Tensor, size: tuple[int, int]) -> Tensor:
        """[b, c, *size], of which H and W are half. `indices` are those of the pooling that made it so small."""
        if self.transposed is not None:
            enlarged: Tensor = self.transposed(x)
            return enlarged
        if self.way == "unpool":
            return max_unpool(x, indices, size)
        return {"nearest": nearest, "bed_of_nails": bed_of_nails, "bilinear": bilinear}[self.way](x, 2)


class Model(nn.Module):
    """SegNet over a VGG.

    Raises:
        UsageError: the trunk does not give the places of its maxima.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.trunk = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
        if not hasattr(self.trunk, "pooled"):
            raise UsageError(
                f"the trunk {config.trunk} does not keep the places of its maxima, which SegNet's decoder needs; take "
                "a VGG, such as vgg16_bn or vgg11_bn"
            )
        self.decoder = Decoder(self.trunk.channels, self.trunk.config.depths, config)
        for module in self.decoder.modules():
            if isinstance(module, nn.Conv2d):  # section 4.1: as He et al. 2015
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        weights = None if config.class_weights is None else torch.tensor(config.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, classes, H, W] of images [b, 3, H, W] in [0, 1], any H and W.

        Sides that five poolings do not divide are continued by their last row and column, and the logits cut off there.
        """
        height, width = images.shape[-2:]
        step = 2 * self.trunk.strides[-1]
        images = F.pad(images, (0, -width % step, 0, -height % step), mode="replicate")
        return self.decoder(self.trunk.pooled(images))[:, :, :height, :width]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`cross_entropy`, weighted by class; finite (zero) where every pixel is ignored."""
        logits = self(batch.images)
        target = stack_targets(batch.truth, logits.shape[2], logits.shape[3], logits.device)
        weights = self.class_weights if isinstance(self.class_weights, Tensor) else None
        return {"cross_entropy": pixel_cross_entropy(logits, target, weights)}

    def predict(self, batch: Batch) -> list[Annotation]:
        """The most probable class of every pixel, [h, w] uint8 at each image's own size."""
        maps = self(batch.images).argmax(1).to(torch.uint8)
        return [Annotation((h, w), semantic=m[:h, :w]) for m, (h, w) in zip(maps, batch.sizes, strict=True)]


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Class weights by the median frequency of the training images; those that the user has set are kept."""
    if config.balance == 0 or config.class_weights is not None:
        return config
    weights = median_frequency_weights(examples, config.classes, config.balance)
    return dataclasses.replace(config, class_weights=weights)
