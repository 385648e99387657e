"""U-Net (Ronneberger et al. 2015): a contracting path, an expanding path, maps of the first copied to the second.

Three forms. `unet_paper`: convolutions without padding, so that 572 pixels in give 388 out, and the context that an
image lacks at its border is mirrored (figures 1 and 2). `unet`, `unet_64`: same padding and batch norm, the form that
people use. `unet_<backbone>`: any trunk of the zoo contracts, a light decoder expands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.layout import join, whole_gradient
from saccade.layers.normalize import Normalize
from saccade.losses.segmentation import (
    balanced_weights,
    cross_entropy_and_dice,
    dice_loss,
    pixel_cross_entropy,
    stack_border_weights,
    stack_targets,
)
from saccade.models.backbones import create_trunk, refuse_strides
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
    authors="Ronneberger, Fischer, Brox",
    year=2015,
    where="MICCAI 2015, arXiv 1505.04597",
)
TASKS = ("segment",)


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are those of `unet`."""

    classes: Count = 21
    in_channels: Literal[1, 3] = 3  # 1: the network sees the mean of R, G and B
    width: Count = 16  # channels of the first level; twice as many at each further one (paper: 64)
    levels: Count = 4  # poolings
    padding: Literal["same", "valid"] = "same"
    batch_norm: bool = True
    dropout: Share = 0.0  # on the two coarsest maps (section 3.1, "at the end of the contracting path")
    tile: Count = 388  # valid: output side of a tile in prediction
    # Any classification network that gives feature maps, in place of the contracting path; none: that of the paper.
    trunk: str | None = None
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    decoder_width: Count = 16  # with a trunk: channels at stride s are decoder_width * min(s, 16)
    head_stride: Count = 1  # with a trunk: the finest level; the logits are enlarged from there, as `logits` says
    # With head_stride over 1: bilinear, or subpixel: each pixel of a cell has scores of its own (Shi et al. 2016), with
    # which thin things can be drawn that are narrower than a cell
    logits: Literal["bilinear", "subpixel"] = "bilinear"
    dice: NonNegative = 0.5  # weight of the Dice loss beside the cross-entropy
    focal: NonNegative = 0.0  # power of 1 - p that quiets pixels which are right (Lin et al. 2017: 2); 0 for none
    balance: NonNegative = 0.25  # power of the inverse class frequency in `adapt`'s class weights; 0 for none
    class_weights: tuple[NonNegative, ...] | None = None  # one a class; `adapt` fills it
    border: NonNegative = 0.0  # strength of the weight between touching things (paper: 10); 0 for none
    mean: tuple[Share, ...] = (0.5, 0.5, 0.5)  # RGB in [0, 1]
    std: tuple[Positive, ...] = (0.25, 0.25, 0.25)


VARIANTS: dict[str, Config] = {
    "unet_paper": Config(
        classes=2,
        in_channels=1,
        width=64,
        padding="valid",
        batch_norm=False,
        dropout=0.5,
        dice=0.0,
        balance=1.0,
        border=10.0,
    ),
    "unet": Config(),
    "unet_32": Config(width=32),
    "unet_64": Config(width=64),
    "unet_light": Config(trunk="resnet18", trunk_width=32, decoder_width=8, head_stride=2),  # for scenes, on CPUs
    **{f"unet_{trunk}": Config(trunk=trunk) for trunk in ("resnet18", "resnet34", "resnet50", "vgg16_bn")},
}
SIZE: dict[str, int] = {name: 572 if name == "unet_paper" else 256 for name in VARIANTS}

_DEFAULT: dict[str, Any] = {
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
}
# What the paper's own form is for, few images without an upright side, in which every update counts.
_MICROSCOPE: dict[str, Any] = _DEFAULT | {"batch": 4, "flip_vertical": 0.5, "transpose": 0.5}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": _DEFAULT,
        "unet": _MICROSCOPE,
        "unet_32": _MICROSCOPE,
        "unet_64": _MICROSCOPE,
        "unet_paper": {
            "size": 388,
            "batch": 1,
            "epochs": 100,
            "optimizer": "adamw",
            "lr": 0.0003,
            "weight_decay": 0.01,
            "warmup": 0.05,
            "clip_norm": 5.0,
            "flip_vertical": 0.5,
            "rotate": 180.0,
            "elastic": 0.5,
        },
    },
    "paper": {
        "*": {  # section 3
            "size": 388,
            "batch": 1,
            "epochs": 600,
            "optimizer": "sgd",
            "lr": 0.001,  # not stated in the paper
            "momentum": 0.99,
            "weight_decay": 0.0,
            "schedule": "constant",
            "warmup": 0.0,
            "flip": 0.5,
            "flip_vertical": 0.5,
            "rotate": 180.0,
            "jitter": 0.1,
            "elastic": 1.0,
            "color": 0.3,
        },
    },
}


def output_side(side: int, levels: int = 4) -> int:
    """What the valid form makes of `side` pixels: 572 -> 388.

    Raises:
        ValueError: a pooling meets an odd side (its last row would be lost and the copies could not be aligned), or
            nothing is left.
    """
    n = side
    for _ in range(levels):
        n -= 4
        if n <= 0 or n % 2:
            raise ValueError(f"a side of {side} does not pass {levels} poolings without padding")
        n //= 2
    for _ in range(levels + 1):
        n -= 4
        if n <= 0:
            raise ValueError(f"a side of {side} is too small for {levels} levels without padding")
        n *= 2
    return n // 2


def input_side(side: int, levels: int = 4) -> int:
    """The smallest input side whose output without padding has at least `side` pixels: 388 -> 572."""
    n = side
    while True:
        try:
            if output_side(n, levels) >= side:
                return n
        except ValueError:
            pass
        n += 1


def mirror(images: Tensor, before: int, height: int, width: int) -> Tensor:
    """[b, c, H, W] -> [b, c, height, width]: `before` mirrored rows and columns above and left, the rest below, right.

    The border pixel is not repeated (figure 2); where more is needed than the image has, the mirror images go on.
    """

    def indices(n: int, length: int) -> Tensor:
        period = max(2 * (n - 1), 1)
        phase = torch.arange(-before, length - before, device=images.device) % period
        return torch.minimum(phase, period - phase).clamp(max=n - 1)

    rows, columns = indices(images.shape[2], height), indices(images.shape[3], width)
    return images[:, :, rows][:, :, :, columns]


class DoubleConv(nn.Module):
    """Twice 3x3 convolution, (batch norm,) ReLU; valid padding takes 4 pixels off each side length."""

    def __init__(self, channels_in: int, channels_out: int, valid: bool = False, norm: bool = True) -> None:
        super().__init__()
        padding = 0 if valid else 1
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=padding, bias=not norm)
        self.norm1 = nn.BatchNorm2d(channels_out) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=padding, bias=not norm)
        self.norm2 = nn.BatchNorm2d(channels_out) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(x)))


class Contracting(nn.Module):
    """The left half of figure 1: maps of levels 0..levels, each half the side and twice the channels of the last."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.channels = [config.width * 2**i for i in range(config.levels + 1)]
        inputs = [config.in_channels, *self.channels]
        valid = config.padding == "valid"
        self.levels = nn.ModuleList(
            DoubleConv(c_in, c_out, valid, config.batch_norm)
            for c_in, c_out in zip(inputs, self.channels, strict=False)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []
        for i, level in enumerate(self.levels):
            x = level(x if i == 0 else F.max_pool2d(x, 2))
            if i >= len(self.levels) - 2:
                x = self.dropout(x)
            maps.append(x)
        return maps


class Expanding(nn.Module):
    """The right half of figure 1: 2x2 up-convolution, the centre of the copied map beside it, two convolutions."""

    def __init__(self, config: Config, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = list(zip(channels[:0:-1], channels[-2::-1], strict=True))  # from the coarsest level to the finest
        self.ups = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for coarse, fine in pairs)
        valid = config.padding == "valid"
        self.blocks = nn.ModuleList(DoubleConv(2 * fine, fine, valid, config.batch_norm) for _, fine in pairs)
        self.out_channels = channels[0]

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = maps[-1]
        for copied, up, block in zip(maps[-2::-1], self.ups, self.blocks, strict=True):
            x = up(x)
            top, left = (copied.shape[2] - x.shape[2]) // 2, (copied.shape[3] - x.shape[3]) // 2
            copied = copied[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            x = block(join([copied, x]))
        return x


class TrunkDecoder(nn.Module):
    """The expanding path over a trunk: bilinear enlargement to the finer map, concatenation, two convolutions.

    Levels finer than the trunk's finest (strides 2 and 1 of a ResNet) copy one convolution of the image itself, since
    the trunk has no map to copy there.

    Raises:
        UsageError: the trunk has no map as coarse as `head_stride`.
    """

    def __init__(self, config: Config, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        fine = [s for s in (1, 2, 4, 8, 16) if config.head_stride <= s < strides[0]]

        def width(stride: int) -> int:
            return config.decoder_width * min(stride, 16)

        self.details = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, width(s), 3, s, 1, bias=False), nn.BatchNorm2d(width(s)), nn.ReLU())
            for s in fine
        )
        self.kept = [i for i, s in enumerate(strides) if s >= config.head_stride]
        if not self.kept:
            least = config.head_stride
            raise refuse_strides(str(config.trunk), strides, f"one at {least} (head_stride) or coarser", least)
        copied = [(width(s), s) for s in fine] + [(channels[i], strides[i]) for i in self.kept]
        coarse = copied[-1][0]
        blocks = []
        for c, s in copied[-2::-1]:
            blocks.append(DoubleConv(coarse + c, width(s)))
            coarse = width(s)
        self.blocks = nn.ModuleList(blocks)
        self.out_channels = coarse

    def forward(self, images: Tensor, maps: list[Tensor]) -> Tensor:
        copied = [detail(images) for detail in self.details] + [maps[i] for i in self.kept]
        x = copied[-1]
        for finer, block in zip(copied[-2::-1], self.blocks, strict=True):
            x = F.interpolate(x, size=finer.shape[-2:], mode="bilinear", align_corners=False)
            x = block(join([finer, whole_gradient(x)]))
        return x


class Model(nn.Module):
    """U-Net in any of its forms."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.contracting: Contracting | None = None
        if config.trunk is None:
            self.contracting = Contracting(config)
            self.expanding = Expanding(config, self.contracting.channels)
            out_channels = self.expanding.out_channels
        else:
            self.trunk = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
            self.decoder = TrunkDecoder(config, self.trunk.channels, self.trunk.strides)
            out_channels = self.decoder.out_channels
        self.inside = 1 if config.trunk is None or config.logits == "bilinear" else config.head_stride
        self.classifier = nn.Conv2d(out_channels, config.classes * self.inside**2, 1)
        weights = None if config.class_weights is None else torch.tensor(config.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-in (section 3: standard deviation sqrt(2 / N), N the incoming nodes of a neuron).

        The pixels of a cell begin with the same scores, so that no grid is learnt from.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.inside > 1:
            with torch.no_grad():
                first = self.classifier.weight[:: self.inside**2]
                self.classifier.weight.copy_(first.repeat_interleave(self.inside**2, 0))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images [b, 3, H, W] in [0, 1].

        Same padding: [b, classes, H, W], any H and W. Valid: [b, classes, output_side(H), output_side(W)], of the
        pixels in the middle.

        Raises:
            ValueError: valid form, and a side that does not pass the poolings.
        """
        height, width = images.shape[-2:]
        x = self.normalize(images)
        if self.contracting is None:
            maps = self.trunk.features(images)
            logits = self.classifier(self.decoder(x, maps))
            if self.config.head_stride == 1:
                return logits
            if self.inside > 1:
                return F.pixel_shuffle(logits, self.inside)[:, :, :height, :width]
            return F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)
        if self.config.in_channels == 1:
            x = x.mean(1, keepdim=True)
        if self.config.padding == "valid":
            output_side(height, self.config.levels), output_side(width, self.config.levels)
        else:
            step = 2**self.config.levels
            x = F.pad(x, (0, -width % step, 0, -height % step), mode="replicate")
        logits = self.classifier(self.expanding(self.contracting(x)))
        return logits if self.config.padding == "valid" else logits[:, :, :height, :width]

    def _whole(self, images: Tensor) -> Tensor:
        """Logits [b, classes, H, W] of every pixel, in one pass; valid form: with mirrored context."""
        if self.config.padding == "same":
            return self(images)
        levels = self.config.levels
        height, width = images.shape[-2:]
        sides = input_side(height, levels), input_side(width, levels)
        margin = (sides[0] - output_side(sides[0], levels)) // 2
        return self(mirror(images, margin, *sides))[:, :, :height, :width]

    def _tiled(self, images: Tensor) -> Tensor:
        """As `_whole`, in tiles of at most `config.tile` output pixels a side (figure 2).

        Tiles start at multiples of 2 ** levels, so that poolings fall on the same pixels as in one pass and the
        result is the same.
        """
        levels = self.config.levels
        height, width = images.shape[-2:]
        side = input_side(self.config.tile, levels)
        tile = output_side(side, levels)
        step = tile // 2**levels * 2**levels
        rows, columns = range(0, height, step), range(0, width, step)
        margin = (side - tile) // 2
        padded = mirror(images, margin, rows[-1] + side, columns[-1] + side)
        logits = images.new_zeros(images.shape[0], self.config.classes, rows[-1] + tile, columns[-1] + tile)
        for y in rows:
            for x in columns:
                logits[:, :, y : y + tile, x : x + tile] = self(padded[:, :, y : y + side, x : x + side])
        return logits[:, :, :height, :width]

    def dense(self, images: Tensor) -> Tensor:
        """Logits [b, classes, H, W] of every pixel, as `predict` reads them: of the valid form in tiles."""
        return self._tiled(images) if self.config.padding == "valid" else self(images)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`cross_entropy`, and `dice` where its weight is not zero; finite (zero) where every pixel is ignored."""
        logits = self._whole(batch.images)
        height, width = logits.shape[-2:]
        target = stack_targets(batch.truth, height, width, logits.device)
        classes = self.class_weights if isinstance(self.class_weights, Tensor) else None
        border = self.config.border
        pixels = stack_border_weights(batch.truth or [], target, border) if border > 0 else None
        focal = self.config.focal
        if self.config.dice == 0:
            return {"cross_entropy": pixel_cross_entropy(logits, target, classes, pixels, focal)}
        if focal > 0:
            cross_entropy, dice = pixel_cross_entropy(logits, target, classes, pixels, focal), dice_loss(logits, target)
        else:
            cross_entropy, dice = cross_entropy_and_dice(logits, target, classes, pixels)
        return {"cross_entropy": cross_entropy, "dice": self.config.dice * dice}

    def predict(self, batch: Batch) -> list[Annotation]:
        """The most probable class of every pixel, [h, w] uint8 at each image's own size."""
        if self.config.padding == "valid":
            # Each image is mirrored at its own border, not at that of the batch.
            maps = [
                self._tiled(batch.images[i : i + 1, :, :h, :w])[0].argmax(0) for i, (h, w) in enumerate(batch.sizes)
            ]
        else:
            whole = self._whole(batch.images).argmax(1)
            maps = [m[:h, :w] for m, (h, w) in zip(whole, batch.sizes, strict=True)]
        return [Annotation(size, semantic=m.to(torch.uint8)) for size, m in zip(batch.sizes, maps, strict=True)]


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Class weights from the class frequencies of the training images; those that the user has set are kept."""
    if config.balance == 0 or config.class_weights is not None:
        return config
    return dataclasses.replace(config, class_weights=balanced_weights(examples, config.classes, config.balance))
