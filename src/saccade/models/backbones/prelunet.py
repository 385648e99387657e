"""PReLU-net (He et al. 2015): rectifiers whose slope below zero is learned, and a start for deep nets of them.

Table 3: a 7x7 convolution of stride 2, then three stages of five or six 3x3 convolutions each, with 2x2 max-pools
between them, spatial pyramid pooling to 63 bins a channel and three fully connected layers. Model A has the time of
VGG-19, B is deeper, C is wider. Every convolution and hidden layer is followed by a PReLU with a slope for each of its
channels, and begins with weights of variance 2 / ((1 + a^2) n), a being the slope at the start and n the inputs of an
output (equation 15). Slopes have no weight decay (section 2.1): `training/optimizer.py` decays no tensor of one
dimension. No weights of these networks were published.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ops.spatial_pyramid import pyramid_pool_maps
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification",
    authors="He, Zhang, Ren, Sun",
    year=2015,
    where="ICCV 2015, arXiv 1502.01852",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are prelunet_a's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    stem: tuple[Count, Count, Count] = (7, 2, 96)  # first convolution: side of its kernel, stride, channels
    widths: tuple[Count, ...] = (256, 512, 512)  # channels of the stages
    depths: tuple[Natural, ...] = (5, 5, 5)  # 3x3 convolutions of each stage
    width: Positive = 1.0  # share of the channels kept in every convolution
    grids: tuple[Count, ...] = (7, 3, 2, 1)  # sides of the pyramid's grids
    hidden: Count = 4096  # units of the two hidden fully connected layers
    dropout: Share = 0.5  # on both hidden layers
    slope: NonNegative = 0.25  # of every PReLU at the start (section 2.1)
    # of a trunk: it keeps the pyramid and the two hidden layers (fc6 and fc7) as `tail`, for regions of its last map
    tail: bool = False
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


VARIANTS: dict[str, Config] = {
    "prelunet_a": Config(),
    "prelunet_b": Config(depths=(6, 6, 6)),
    "prelunet_c": Config(depths=(6, 6, 6), widths=(384, 768, 896)),
    # Ours: for images of 32 pixels and for CPUs. The first layer keeps their size, and the pyramid ends in 4x4.
    "prelunet_small": Config(
        classes=10,
        stem=(3, 1, 32),
        widths=(64, 128, 128),
        depths=(2, 2, 2),
        grids=(4, 2, 1),
        hidden=256,
    ),
}
SIZE: dict[str, int] = {"prelunet_a": 224, "prelunet_b": 224, "prelunet_c": 224, "prelunet_small": 32}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"lr": 0.01, "warmup": 0.1, "clip_norm": 5.0},
        "prelunet_small": PHOTOGRAPHS
        | {"size": 32, "batch": 64, "epochs": 60, "lr": 0.02, "warmup": 0.1, "clip_norm": 5.0, "pad": 4, "color": 0.0},
    },
    "paper": {
        "*": {  # section 4, "Training"; the rate fell when the error stood still, to 1e-3 and 1e-4
            "size": 224,
            "batch": 128,
            "epochs": 80,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (0.333, 0.667),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
            "crop_min": (224 / 512) ** 2,  # 224 pixels of images whose shorter side is up to 512
            "color": 0.3,  # "random color altering"
        },
        "prelunet_small": {"size": 32, "pad": 4},
    },
}


class PyramidLayers(nn.Sequential):
    """Fully connected layers behind a pyramid: [n, inputs] -> what the last of them gives.

    Maps or regions [n, channels, H, W] are pooled first.

    Args:
        grids: sides of the pyramid's grids.
    """

    def __init__(self, grids: Sequence[int], *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.grids = tuple(grids)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(pyramid_pool_maps(x, self.grids) if x.ndim == 4 else x)
        return out


class Model(nn.Module):
    """A PReLU-net; with `classes=0` a trunk whose `forward` gives the maps of `features`.

    Attributes:
        channels: channels of the maps of the first layer and of the three stages.
        strides: 2, 4, 8, 16; of prelunet_small 1, 2, 4, 8.
        tail_channels, tail_side: of a trunk with `tail`: units of fc7, and the side of the finest grid.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        kernel, stride, first = config.stem
        self.channels = [max(1, int(config.width * channels)) for channels in (first, *config.widths)]
        self.strides = [stride * 2**i for i in range(len(self.channels))]
        self.normalize = Normalize(config.mean, config.std)
        self.stem = nn.Sequential(
            nn.Conv2d(3, self.channels[0], kernel, stride, padding=kernel // 2),
            nn.PReLU(self.channels[0], config.slope),
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True)  # sides are ceil(H / stride)
        self.maps = Maps()
        self.stages = nn.ModuleList(
            _stage(self.channels[i], self.channels[i + 1], depth, config.slope) for i, depth in enumerate(config.depths)
        )
        self.tail_channels, self.tail_side = config.hidden, max(config.grids)
        self.classifier: PyramidLayers | None = None
        if config.classes or config.tail:
            pooled = self.channels[-1] * sum(k * k for k in config.grids)
            self.classifier = PyramidLayers(
                config.grids,
                nn.Linear(pooled, config.hidden),
                nn.PReLU(config.hidden, config.slope),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.hidden),
                nn.PReLU(config.hidden, config.slope),
                nn.Dropout(config.dropout),
            )
        if self.classifier is not None and config.classes:
            self.classifier.append(nn.Linear(config.hidden, config.classes))
        self._initialise()

    def _initialise(self) -> None:
        """Equation 15 with the inputs of an output, biases 0; the output layer, behind which is no PReLU, 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                inputs = module.weight[0].numel()
                nn.init.normal_(module.weight, 0, math.sqrt(2 / ((1 + self.config.slope**2) * inputs)))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.classifier is not None and self.config.classes:
            nn.init.normal_(self.classifier[-1].weight, 0, 0.01)  # type: ignore[arg-type]

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps of the first layer and of the stages, each after its last PReLU, of images [b, 3, H, W] in [0, 1].

        Sides are H / stride rounded up: 112, 56, 28, 14 of 224.
        """
        maps = [self.stem(self.normalize(images))]
        for stage in self.stages:
            maps.append(stage(self.pool(maps[-1])))
        out: list[Tensor] = self.maps(maps)
        return out

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1] of any size, which the pyramid takes as they are; of a
        trunk the maps of `features`."""
        maps = self.features(images)
        if self.classifier is None or not self.config.classes:
            return tuple(maps)
        out: Tensor = self.classifier(pyramid_pool_maps(maps[-1], self.config.grids))
        return out

    @property
    def tail(self) -> nn.Module:
        """Of a trunk with `tail`: the pyramid, fc6 and fc7, regions [n, channels, s, s] of the last map -> [n, hidden];
        also of features that are pooled already [n, channels * bins]."""
        assert self.classifier is not None
        return self.classifier

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


def _stage(channels_in: int, channels: int, depth: int, slope: float) -> nn.Sequential:
    """3x3 convolutions, each with its PReLU: [b, channels_in, H, W] -> [b, channels, H, W]."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(channels if i else channels_in, channels, 3, padding=1), nn.PReLU(channels, slope)]
    return nn.Sequential(*layers)
