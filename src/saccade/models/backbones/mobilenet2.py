"""MobileNet v2 (Sandler et al. 2018): inverted residuals with linear bottlenecks (section 3, tables 1 and 2).

A block widens t times by a 1x1 convolution, filters every channel by itself (3x3 depthwise), and narrows again by a
1x1 convolution *without* activation, because a ReLU would lose information in few channels (section 3.2). The shortcut
joins the narrow ends. State dicts have the keys of the public torchvision checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Natural, Positive, Share

PAPER = Paper(
    title="MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    authors="Sandler, Howard, Zhu, Zhmoginov, Chen",
    year=2018,
    where="CVPR 2018, arXiv 1801.04381",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are those of full width."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    width: Positive = 1.0  # width multiplier; channels are rounded to multiples of 8
    dropout: Share = 0.2  # before the classifier
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


VARIANTS: dict[str, Config] = {"mobilenet_v2": Config()}
SIZE = 224

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"weight_decay": 4e-5},
    },
    "paper": {
        # Section 6.1: RMSprop, decay and momentum 0.9; 0.045, times 0.98 an epoch (0.96 every second); 16 workers with
        # 96 images each. The number of epochs is not stated; epsilon is that of the authors' TensorFlow release.
        "*": {
            "size": 224,
            "batch": 1536,
            "epochs": 200,
            "optimizer": "rmsprop",
            "rms_decay": 0.9,
            "rms_eps": 1.0,
            "lr": 0.045,
            "momentum": 0.9,
            "weight_decay": 4e-5,
            "schedule": "step",
            "milestones": tuple(i / 100 for i in range(1, 100)),
            "gamma": 0.96,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
        },
    },
}

# Table 2: expansion t, channels c, blocks n, stride s of the first block
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def round_channels(channels: float) -> int:
    """The nearest multiple of 8 (halves up), at least 8, and one more step up where that loses over a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """1x1 to `expansion * channels_in`, 3x3 depthwise, 1x1 to `channels_out` without activation (figure 4, d).

    [b, c_in, H, W] -> [b, c_out, ceil(H / stride), ceil(W / stride)], plus its input where the shapes agree. An
    expansion of 1 has no first convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.residual = stride == 1 and channels_in == channels_out
        wide = channels_in * expansion
        layers: list[nn.Module] = [] if expansion == 1 else [conv_norm_relu(channels_in, wide, 1)]
        layers.append(conv_norm_relu(wide, wide, 3, stride, groups=wide))
        layers.append(nn.Conv2d(wide, channels_out, 1, bias=False))
        layers.append(nn.BatchNorm2d(channels_out))
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


def conv_norm_relu(channels_in: int, channels_out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the side (but for the stride), batch norm, ReLU6."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(inplace=True),
    )


class Stages(nn.Module):
    """The convolutions: images [b, 3, H, W] in [0, 1] -> maps at strides 4, 8, 16, 32.

    Children are named by their number in the public flat list, which gives the keys `features.0.0.weight`, ... The last
    of them, a 1x1 convolution to 1280 channels, belongs to the classifier and is absent from a trunk.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.normalize = Normalize(config.mean, config.std)
        channels = round_channels(32 * config.width)
        self.add_module("0", conv_norm_relu(3, channels, 3, 2))
        stride, number = 2, 0
        self.ends: dict[int, int] = {}  # stride -> number of its last block
        for expansion, full, blocks, first_stride in _STAGES:
            width = round_channels(full * config.width)
            for i in range(blocks):
                number += 1
                self.add_module(
                    str(number), InvertedResidual(channels, width, first_stride if i == 0 else 1, expansion)
                )
                channels = width
            stride *= first_stride
            self.ends[stride] = number
        self.length = number + 1
        self.last = str(self.length) if config.classes else ""
        self.channels_last = max(1280, round_channels(1280 * config.width))  # section 6.1: never narrower
        if self.last:
            self.add_module(self.last, conv_norm_relu(channels, self.channels_last, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.normalize(images)
        maps = []
        for i in range(self.length):
            x = self.get_submodule(str(i))(x)
            if i in self.ends.values():
                maps.append(x)
        return maps[1:]  # the first is at stride 2


class Model(nn.Module):
    """A MobileNet v2; with `classes=0` a trunk whose `forward` gives the maps at strides 4, 8, 16, 32.

    As in VGG the public layout's `features` is a module, called like the method that other trunks have.

    Attributes:
        channels: channels of each map of `features`: 24, 32, 96, 320 at full width.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.channels = [round_channels(full * config.width) for full in (24, 32, 96, 320)]
        self.strides = [4, 8, 16, 32]
        self.features = Stages(config)
        self.classifier: nn.Sequential | None = None
        if config.classes:
            self.classifier = nn.Sequential(
                nn.Dropout(config.dropout), nn.Linear(self.features.channels_last, config.classes)
            )
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-out, as the public checkpoint was trained; a small classifier."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`.

        Those are [b, channels[i], ceil(H / strides[i]), ceil(W / strides[i])].
        """
        maps = self.features(images)
        if self.classifier is None:
            return tuple(maps)
        return self.classifier(global_pool(self.features.get_submodule(self.features.last)(maps[-1])))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)
