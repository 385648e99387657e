"""DeconvNet (Noh et al. 2015): VGG-16 turned round behind its last layer.

The encoder is VGG-16 with batch norm, fc6 and fc7 included, as convolutions of 7x7 and 1x1. A transposed convolution of
7x7 opens what they say of a whole image to a map again; then each pooling is undone by its switches, the places of the
maxima, and transposed convolutions of 3x3 make the sparse map dense. Every one has batch norm, without which so deep a
network does not start (section 4.1).

Recipes `paper` and `staged` train it in two stages (section 4.2): first on crops around single things, each in the
middle and at one size, then on the images as they are. These are whole images and crops of them, in place of the
paper's windows around proposals; and what else stands in a crop keeps its class, where the paper calls it background.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.upsampling import max_unpool
from saccade.losses.segmentation import balanced_weights, pixel_cross_entropy, stack_targets
from saccade.models.backbones import create_trunk
from saccade.models.paper import Paper
from saccade.models.stage import Fit
from saccade.ranges import Count, Natural, NonNegative

PAPER = Paper(
    title="Learning Deconvolution Network for Semantic Segmentation",
    authors="Noh, Hong, Han",
    year=2015,
    where="ICCV 2015, arXiv 1505.04366",
)
TASKS = ("segment",)
CONTEXT = 1.2  # sides of the first stage's crops, of those of the thing's box (section 5.1)


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are those of `deconvnet`."""

    classes: Count = 21
    # The encoder, which must give the places of its maxima: a VGG. Its public weights fit (--weights imagenet).
    trunk: str = "vgg16_bn"
    trunk_width: Count | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, and so of the decoder
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    hidden: Count = 4096  # channels of fc6 and fc7
    window: Count = 7  # side of fc6 in cells of 32 pixels: images smaller than that are continued
    balance: NonNegative = 0.0  # power of the inverse class frequency in `adapt`'s class weights; 0 for none
    class_weights: tuple[NonNegative, ...] | None = None  # one a class; `adapt` fills it


VARIANTS: dict[str, Config] = {
    "deconvnet": Config(),
    # Ours, for little data and CPUs.
    "deconvnet_small": Config(trunk="vgg11_bn", trunk_width=16, hidden=256, window=3, balance=0.25),
}
SIZE = 224

_DEFAULT: dict[str, dict[str, Any]] = {
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
    "deconvnet": {"lr": 0.0003},
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": _DEFAULT,
    "staged": _DEFAULT,
    "paper": {
        "*": {  # section 5.1
            "size": 224,  # a random crop, as of 250 x 250 in the paper
            "batch": 64,
            "epochs": 100,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "schedule": "step",  # "by an order of magnitude whenever validation accuracy does not improve"
            "milestones": (0.5, 0.8),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "flip": 0.5,
            "jitter": 0.0,
            "color": 0.0,
        },
    },
}


class Block(nn.Module):
    """A convolution of stride 1, or a transposed one, then batch norm and ReLU (section 4.1).

    [b, channels_in, H, W] -> [b, channels_out, H', W'], values >= 0.
    """

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels)
        nn.init.kaiming_normal_(conv.weight, mode=_FAN[type(conv)], nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


# The weights of a transposed convolution are [in, out, k, k]: what torch calls its fan-out comes in.
_FAN: dict[type[nn.Module], Literal["fan_in", "fan_out"]] = {nn.Conv2d: "fan_in", nn.ConvTranspose2d: "fan_out"}


class Model(nn.Module):
    """DeconvNet over a VGG.

    Attributes:
        stages: of the decoder, one for each pooling, from coarse to fine.

    Raises:
        UsageError: the trunk does not give the places of its maxima.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.trunk = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
        if not hasattr(self.trunk, "pooled"):
            raise UsageError(
                f"the trunk {config.trunk} does not keep the places of its maxima, which DeconvNet's decoder needs; "
                "take a VGG, such as vgg16_bn or vgg11_bn"
            )
        channels, hidden = self.trunk.channels, config.hidden
        self.fc6 = Block(nn.Conv2d(channels[-1], hidden, config.window))
        self.fc7 = Block(nn.Conv2d(hidden, hidden, 1))
        self.opened = Block(nn.ConvTranspose2d(hidden, channels[-1], config.window))
        self.stages = nn.ModuleList()
        pairs = reversed(list(pairwise([channels[0], *channels])))
        for (finer, own), depth in zip(pairs, reversed(self.trunk.config.depths), strict=True):
            widths = [own] * depth + [finer]
            self.stages.append(
                nn.Sequential(*(Block(nn.ConvTranspose2d(a, b, 3, padding=1)) for a, b in pairwise(widths)))
            )
        self.score = nn.Conv2d(channels[0], config.classes, 1)
        weights = None if config.class_weights is None else torch.tensor(config.class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, classes, H, W] of images [b, 3, H, W] in [0, 1], any H and W.

        Sides that five poolings do not divide, or that fc6 does not fit into, are continued by their last row and
        column, and the logits cut off there.
        """
        height, width = images.shape[-2:]
        cell = 2 * self.trunk.strides[-1]
        rows, columns = (max(-(-side // cell), self.config.window) for side in (height, width))
        images = F.pad(images, (0, columns * cell - width, 0, rows * cell - height), mode="replicate")
        pooled = self.trunk.pooled(images)
        x = self.opened(self.fc7(self.fc6(pooled.map)))
        for stage, switches, size in zip(self.stages, reversed(pooled.indices), reversed(pooled.sizes), strict=True):
            x = stage(max_unpool(x, switches, size))
        return self.score(x)[:, :, :height, :width]

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
    """Class weights from the class frequencies of the training images; those that the user has set are kept."""
    if config.balance == 0 or config.class_weights is not None:
        return config
    return dataclasses.replace(config, class_weights=balanced_weights(examples, config.classes, config.balance))


def stages(name: str, recipe: str) -> list[Fit]:
    """The course: recipes `paper` and `staged` train on crops around single things, and from there on the images."""
    whole = Fit(name, name)
    if recipe not in ("paper", "staged"):
        return [whole]
    return [Fit("objects", name, settings={"object_crop": CONTEXT}), whole]


def from_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fc6 and fc7 of VGG as convolutions; their classifier's windows have a side of 7."""
    placed = {}
    for layer, name in (("classifier.0", "fc6"), ("classifier.3", "fc7")):
        if f"{layer}.weight" in state_dict:
            weight = state_dict[f"{layer}.weight"]
            side = 7 if name == "fc6" else 1
            placed[f"{name}.conv.weight"] = weight.unflatten(1, (-1, side, side))
            placed[f"{name}.conv.bias"] = state_dict[f"{layer}.bias"]
    return placed
