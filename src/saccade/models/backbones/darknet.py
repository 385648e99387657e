"""The classification networks under the YOLO detectors (Redmon et al. 2016, 2017, 2018), as Darknet defines them.

Plain form: 3x3 convolutions that double the channels after every 2x2 max-pool, with 1x1 convolutions between them that
halve them; the classes are means of 1x1 convolution maps. `darknet_reference` is the small one, `extraction` was made
for YOLO, `darknet19` for YOLO9000 (table 6). Residual form: `darknet53` of YOLOv3 (table 1), stages of 1x1, 3x3 and a
shortcut, halved by a 3x3 convolution of stride 2. Everywhere batch norm and leaky ReLU of slope 0.1.

The published numbers are Darknet's binary files (`darknet19.weights`, `darknet53.weights`, ...), read by this room.
`darknet53_timm` is the same network as timm trained it, whose layout both have: slope 0.01, other colours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.darknet_weights import read_for_model
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

_YOLO3 = Paper(
    title="YOLOv3: An Incremental Improvement", authors="Redmon, Farhadi", year=2018, where="arXiv 1804.02767"
)
_YOLO2 = Paper(
    title="YOLO9000: Better, Faster, Stronger",
    authors="Redmon, Farhadi",
    year=2017,
    where="CVPR 2017, arXiv 1612.08242",
)
_YOLO1 = Paper(
    title="You Only Look Once: Unified, Real-Time Object Detection",
    authors="Redmon, Divvala, Girshick, Farhadi",
    year=2016,
    where="CVPR 2016, arXiv 1506.02640",
)
PAPER: dict[str, Paper] = {
    "darknet_reference": _YOLO1,
    "extraction": _YOLO1,
    "darknet19": _YOLO2,
    "darknet53": _YOLO3,
    "darknet53_timm": _YOLO3,
}
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are darknet19's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    # Plain form: channels of each stage's convolutions; kernels alternate 1x1 and 3x3, and end with 3x3.
    stages: tuple[tuple[Count, ...], ...] = (
        (32,),
        (64,),
        (128, 64, 128),
        (256, 128, 256),
        (512, 256, 512, 256, 512),
        (1024, 512, 1024, 512, 1024),
    )
    stem_kernel: Count = 3  # plain: of the first convolution; 7 has stride 2
    # How the last map [b, c, H, W] becomes class scores: "maps" 1x1 convolution, then mean over the map; "leaky maps"
    # with a leaky ReLU between the two; "mean" first.
    scores: Literal["maps", "leaky maps", "mean"] = "maps"
    blocks: tuple[Count, ...] = ()  # residual form: blocks of each stage, instead of `stages`
    width: Count = 32  # residual: channels of the first convolution, doubled by every stage
    slope: NonNegative = 0.1  # of the leaky ReLU below 0
    # Plain form: the last max-pool has stride 1, so that the last map is as fine as the one before (yolov3-tiny.cfg).
    dilated: bool = False
    norm: bool = True  # batch norm behind every convolution; without it they have biases, as YOLO's paper prints them
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.0, 0.0, 0.0)  # RGB in [0, 1], which Darknet takes as it is
    std: tuple[Positive, ...] = (1.0, 1.0, 1.0)


VARIANTS: dict[str, Config] = {
    "darknet_reference": Config(
        stages=((16,), (32,), (64,), (128,), (256,), (512,), (1024,)),
        scores="mean",
    ),
    "extraction": Config(
        stages=(
            (64,),
            (192,),
            (128, 256, 256, 512),
            (256, 512, 256, 512, 256, 512, 256, 512, 512, 1024),
            (512, 1024, 512, 1024),
        ),
        stem_kernel=7,
        scores="leaky maps",
    ),
    "darknet19": Config(),
    "darknet53": Config(stages=(), blocks=(1, 2, 8, 8, 4), scores="mean"),
    "darknet53_timm": Config(
        stages=(), blocks=(1, 2, 8, 8, 4), scores="mean", slope=0.01, mean=IMAGENET_MEAN, std=IMAGENET_STD
    ),
}
SIZE: dict[str, int] = {name: 256 if config.blocks else 224 for name, config in VARIANTS.items()}

_DEFAULT: dict[str, Any] = PHOTOGRAPHS
_PAPER: dict[str, Any] = {  # YOLO9000 section 3, "training for classification"
    "size": 224,
    "batch": 128,
    "epochs": 160,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "poly",
    "power": 4.0,
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "crop",
    "rotate": 7.0,
    "color": 0.5,
}
_PAPER53: dict[str, Any] = {**_PAPER, "size": 256, "epochs": 80}  # darknet53.cfg: 800,000 steps of 128
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": _DEFAULT,
        "darknet53": {**_DEFAULT, "size": 256},
        "darknet53_timm": {**_DEFAULT, "size": 256},
    },
    "paper": {"*": _PAPER, "darknet53": _PAPER53, "darknet53_timm": _PAPER53},
}


class ConvNorm(nn.Module):
    """Convolution that keeps the side (but for the stride), batch norm, leaky ReLU; begins as He et al. 2015 say, by
    fan-out for the slope."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, slope: float, norm: bool = True
    ) -> None:
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=not norm)
        self.bn = nn.BatchNorm2d(channels_out) if norm else nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, a=slope, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.conv(x)), self.slope)


class Residual(nn.Module):
    """x plus 1x1 to half of the channels and 3x3 back, with no activation after the sum (YOLOv3, table 1)."""

    def __init__(self, channels: int, slope: float, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels // 2, 1, 1, slope, norm)
        self.conv2 = ConvNorm(channels // 2, channels, 3, 1, slope, norm)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class ResidualStage(nn.Module):
    """3x3 convolution of stride 2 that doubles the channels, then residual blocks.

    [b, c, H, W] -> [b, 2 c, ceil(H / 2), ceil(W / 2)].
    """

    def __init__(self, channels_in: int, blocks: int, slope: float, norm: bool = True) -> None:
        super().__init__()
        self.conv_down = ConvNorm(channels_in, 2 * channels_in, 3, 2, slope, norm)
        self.blocks = nn.Sequential(*(Residual(2 * channels_in, slope, norm) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.conv_down(x))


class StillPool(nn.Module):
    """Darknet's 2x2 max-pool of stride 1, padded on the right and below: [b, c, H, W] -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2, 1)


def _plain_stage(channels: int, filters: tuple[int, ...], config: Config, number: int) -> nn.Sequential:
    """A max-pool (but for the first stage) that rounds odd sides up as Darknet's does, then the convolutions."""
    first, last = number == 0, number == len(config.stages) - 1
    layers: list[nn.Module] = [] if first else [nn.MaxPool2d(2, 2, ceil_mode=True)]
    if last and config.dilated:
        layers = [StillPool()]
    for i, width in enumerate(filters):
        kernel = 3 if (len(filters) - i) % 2 else 1
        if first and i == 0:
            kernel = config.stem_kernel
        layers.append(ConvNorm(channels, width, kernel, 2 if kernel == 7 else 1, config.slope, config.norm))
        channels = width
    return nn.Sequential(*layers)


class Model(nn.Module):
    """A Darknet; with `classes=0` a trunk whose `forward` gives the last map of every stage from stride 4 on.

    Attributes:
        channels: channels of each map of `features`.
        strides: 4, 8, 16, 32, and 64 in darknet_reference; with `dilated` the last is that of the map before.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.head: nn.Sequential | None = None
        if config.blocks:
            self.stem = nn.Sequential(OrderedDict(conv1=ConvNorm(3, config.width, 3, 1, config.slope, config.norm)))
            widths = [config.width * 2 ** (i + 1) for i in range(len(config.blocks))]
            stages: list[nn.Module] = [
                ResidualStage(width // 2, blocks, config.slope, config.norm)
                for width, blocks in zip(widths, config.blocks, strict=True)
            ]
            stride = 2
        else:
            self.stem = nn.Sequential()
            widths = [filters[-1] for filters in config.stages]
            stages = [
                _plain_stage(channels, filters, config, i)
                for i, (channels, filters) in enumerate(zip([3, *widths[:-1]], config.stages, strict=True))
            ]
            stride = 2 if config.stem_kernel == 7 else 1
        self.stages = nn.Sequential(*stages)
        strides = [stride * 2**i for i in range(len(widths))]
        if config.dilated and not config.blocks:
            strides[-1] = strides[-2]
        self.strides = [s for s in strides if s >= 4]
        self.channels = [c for c, s in zip(widths, strides, strict=True) if s >= 4]
        if config.classes and config.scores == "mean":
            self.head = nn.Sequential(OrderedDict(fc=nn.Linear(widths[-1], config.classes)))
        elif config.classes:
            self.head = nn.Sequential(OrderedDict(conv=nn.Conv2d(widths[-1], config.classes, 1)))

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], ceil(H / strides[i]), ceil(W / strides[i])] of images [b, 3, H, W] in [0, 1]."""
        x = self.stem(self.normalize(images))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.maps(maps[-len(self.channels) :])

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.head is None:
            return tuple(maps)
        if self.config.scores == "mean":
            return self.head(global_pool(maps[-1]))
        scores = self.head(maps[-1])
        if self.config.scores == "leaky maps":
            scores = F.leaky_relu(scores, self.config.slope)
        return global_pool(scores)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


FILES: dict[str, Callable[[Path, nn.Module], dict[str, Tensor]]] = {".weights": read_for_model}
