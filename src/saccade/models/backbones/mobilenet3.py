"""MobileNet v3 (Howard et al. 2019): inverted residuals found by search, with squeeze-and-excitation and hard swish.

Tables 1 (large) and 2 (small). Against v2: 5x5 kernels in places, a gate per channel computed from the channel means
(squeeze-and-excitation, a quarter as wide as the block), hard swish x * relu6(x + 3) / 6 in the deeper half, and a last
stage that pools *before* its widest layer (section 5.1). State dicts have the keys of the public torchvision
checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.backbones.mobilenet2 import round_channels
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Natural, Positive, Share

PAPER = Paper(
    title="Searching for MobileNetV3",
    authors="Howard, Sandler, Chu, Chen, Chen, Tan, Wang, Zhu, Pang, Vasudevan, Le, Adam",
    year=2019,
    where="ICCV 2019, arXiv 1905.02244",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are the small one's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    design: Literal["small", "large"] = "small"  # table 2 or 1
    width: Positive = 1.0  # width multiplier; channels are rounded to multiples of 8
    dropout: Share = 0.2  # before the classifier
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


VARIANTS: dict[str, Config] = {
    "mobilenet_v3_small": Config(),
    "mobilenet_v3_large": Config(design="large"),
}
SIZE = 224

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"weight_decay": 4e-5},
    },
    "paper": {
        # Section 6.1.1: RMSprop with momentum 0.9; 0.1 falling by 0.01 of itself every 3 epochs (by 0.03 every 9);
        # averaged weights. The number of epochs is not stated; decay and epsilon are those of the authors' release.
        "*": {
            "size": 224,
            "batch": 4096,
            "epochs": 600,
            "optimizer": "rmsprop",
            "rms_decay": 0.9,
            "rms_eps": 1.0,
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-5,
            "schedule": "step",
            "milestones": tuple(round(i * 9 / 600, 3) for i in range(1, 67)),
            "gamma": 0.97,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "ema": 0.9999,
            "resize": "crop",
        },
    },
}


@dataclass(frozen=True)
class Row:
    """One block of the tables."""

    kernel: int
    wide: int  # channels between the 1x1 convolutions ("exp size")
    channels: int  # output
    gate: bool  # squeeze-and-excitation
    hard_swish: bool  # else ReLU
    stride: int


_ROWS: dict[str, tuple[Row, ...]] = {
    "large": (
        Row(3, 16, 16, False, False, 1),
        Row(3, 64, 24, False, False, 2),
        Row(3, 72, 24, False, False, 1),
        Row(5, 72, 40, True, False, 2),
        Row(5, 120, 40, True, False, 1),
        Row(5, 120, 40, True, False, 1),
        Row(3, 240, 80, False, True, 2),
        Row(3, 200, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 184, 80, False, True, 1),
        Row(3, 480, 112, True, True, 1),
        Row(3, 672, 112, True, True, 1),
        Row(5, 672, 160, True, True, 2),
        Row(5, 960, 160, True, True, 1),
        Row(5, 960, 160, True, True, 1),
    ),
    "small": (
        Row(3, 16, 16, True, False, 2),
        Row(3, 72, 24, False, False, 2),
        Row(3, 88, 24, False, False, 1),
        Row(5, 96, 40, True, True, 2),
        Row(5, 240, 40, True, True, 1),
        Row(5, 240, 40, True, True, 1),
        Row(5, 120, 48, True, True, 1),
        Row(5, 144, 48, True, True, 1),
        Row(5, 288, 96, True, True, 2),
        Row(5, 576, 96, True, True, 1),
        Row(5, 576, 96, True, True, 1),
    ),
}
_HIDDEN = {"large": 1280, "small": 1024}  # units of the layer between the mean and the classifier


def conv_norm(
    channels_in: int, channels_out: int, size: int, stride: int, groups: int, activation: nn.Module | None
) -> nn.Sequential:
    """Convolution that keeps the side (but for the stride), batch norm with the authors' 0.001, activation.

    The statistics follow by a tenth each step: with the paper's hundredth a short training on small data is evaluated
    with stale ones.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out, eps=1e-3),
    ]
    return nn.Sequential(*layers) if activation is None else nn.Sequential(*layers, activation)


class Gate(nn.Module):
    """Squeeze-and-excitation: x [b, c, H, W] times a factor in [0, 1] per channel, made of the channel means.

    Mean over the map, 1x1 to about c / 4, ReLU, 1x1 to c, hard sigmoid relu6(x + 3) / 6 (section 5.3).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc2(F.relu(self.fc1(global_pool(x)[:, :, None, None]))))


class Block(nn.Module):
    """Widen, filter each channel, gate, narrow without activation (figure 4); plus the input where shapes agree.

    [b, c_in, H, W] -> [b, c_out, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, channels_in: int, row: Row, width: float) -> None:
        super().__init__()
        wide, channels_out = round_channels(row.wide * width), round_channels(row.channels * width)
        activation = nn.Hardswish if row.hard_swish else nn.ReLU
        self.residual = row.stride == 1 and channels_in == channels_out
        layers: list[nn.Module] = []
        if wide != channels_in:
            layers.append(conv_norm(channels_in, wide, 1, 1, 1, activation()))
        layers.append(conv_norm(wide, wide, row.kernel, row.stride, wide, activation()))
        if row.gate:
            layers.append(Gate(wide))
        layers.append(conv_norm(wide, channels_out, 1, 1, 1, None))
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class Stages(nn.Module):
    """The convolutions: images [b, 3, H, W] in [0, 1] -> maps at strides 4, 8, 16, 32.

    Children are named by their number in the public flat list, which gives the keys `features.0.0.weight`, ... The last
    of them, a 1x1 convolution that widens six times, belongs to the classifier and is absent from a trunk.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.normalize = Normalize(config.mean, config.std)
        channels, stride = round_channels(16 * config.width), 2
        self.add_module("0", conv_norm(3, channels, 3, 2, 1, nn.Hardswish()))
        self.ends: dict[int, int] = {}  # stride -> number of its last block
        widths: dict[int, int] = {}
        for i, row in enumerate(_ROWS[config.design], 1):
            self.add_module(str(i), Block(channels, row, config.width))
            channels, stride = round_channels(row.channels * config.width), stride * row.stride
            self.ends[stride], widths[stride] = i, channels
        self.channels = [widths[s] for s in (4, 8, 16, 32)]
        self.length = len(_ROWS[config.design]) + 1
        self.last = str(self.length) if config.classes else ""
        self.channels_last = 6 * channels
        if self.last:
            self.add_module(self.last, conv_norm(channels, self.channels_last, 1, 1, 1, nn.Hardswish()))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.normalize(images)
        maps = {}
        for i in range(self.length):
            x = self.get_submodule(str(i))(x)
            maps[i] = x
        return [maps[self.ends[stride]] for stride in (4, 8, 16, 32)]


class Model(nn.Module):
    """A MobileNet v3; with `classes=0` a trunk whose `forward` gives the maps at strides 4, 8, 16, 32.

    As in VGG the public layout's `features` is a module, called like the method that other trunks have.

    Attributes:
        channels: channels of each map of `features`: 24, 40, 112, 160 (large) or 16, 24, 48, 96 (small).
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.features = Stages(config)
        self.channels = self.features.channels
        self.strides = [4, 8, 16, 32]
        self.classifier: nn.Sequential | None = None
        if config.classes:
            hidden = round_channels(_HIDDEN[config.design] * config.width)
            self.classifier = nn.Sequential(
                nn.Linear(self.features.channels_last, hidden),
                nn.Hardswish(),
                nn.Dropout(config.dropout),
                nn.Linear(hidden, config.classes),
            )
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-out, as the public checkpoints were trained; a small classifier."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
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
