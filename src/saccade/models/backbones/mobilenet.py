"""MobileNet (Howard et al. 2017): depthwise separable convolutions from end to end (section 3.2, table 1).

A 3x3 convolution with stride 2, then 13 pairs of a 3x3 convolution of each channel by itself (depthwise) and a 1x1
convolution over all channels (pointwise), each followed by batch norm and ReLU6 (as in the authors' code and the public
weights; the paper draws a ReLU). Two settings trade accuracy for work: `width`, the share of channels kept everywhere
(section 3.3), and the resolution multiplier (section 3.4), which is no part of the network: it is the input side, the
training setting `size` of 224, 192, 160 or 128. State dicts have the keys of timm's mobilenetv1_100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool
from saccade.layers.maps import Maps
from saccade.layers.normalize import Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Natural, Positive, Share

PAPER = Paper(
    title="MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    authors="Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam",
    year=2017,
    where="arXiv 1704.04861",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are those of full width."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    width: Positive = 1.0  # width multiplier alpha: every layer has int(alpha * its channels)
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.5, 0.5, 0.5)  # RGB in [0, 1]: the network sees [-1, 1]
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)


VARIANTS: dict[str, Config] = {
    "mobilenet": Config(),
    "mobilenet_w75": Config(width=0.75),
    "mobilenet_w50": Config(width=0.5),
    "mobilenet_w25": Config(width=0.25),
}
SIZE = 224

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"weight_decay": 1e-4},
    },
    "paper": {
        # Section 3.2: RMSprop as for Inception v3 (0.045, times 0.94 every two epochs) and little augmentation.
        "*": {
            "size": 224,
            "batch": 256,
            "epochs": 100,
            "optimizer": "rmsprop",
            "rms_decay": 0.9,
            "rms_eps": 1.0,
            "lr": 0.045,
            "momentum": 0.9,
            "weight_decay": 4e-5,
            "schedule": "step",
            "milestones": tuple(i / 50 for i in range(1, 50)),
            "gamma": 0.94,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
            "color": 0.0,
        },
    },
}

_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))  # channels, pairs, stride of the first pair


class Separable(nn.Module):
    """3x3 depthwise, norm, ReLU6, 1x1 pointwise, norm, ReLU6 (figure 3, right).

    [b, c_in, H, W] -> [b, c_out, ceil(H / stride), ceil(W / stride)]. The work, against a full 3x3 convolution of the
    same shapes, is 1 / c_out + 1 / 9 (section 3.1).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(channels_in, channels_in, 3, stride, padding=1, groups=channels_in, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv_pw = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv_dw(x)))
        return F.relu6(self.bn2(self.conv_pw(x)))


class Model(nn.Module):
    """A MobileNet; with `classes=0` a trunk whose `forward` gives the maps at strides 4, 8, 16, 32.

    Attributes:
        channels: channels of each map of `features`: 128, 256, 512, 1024 times the width.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        channels = int(32 * config.width)
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        stages = []
        for full, pairs, stride in _STAGES:
            width = int(full * config.width)
            first = Separable(channels, width, stride)
            stages.append(nn.Sequential(first, *(Separable(width, width, 1) for _ in range(pairs - 1))))
            channels = width
        self.blocks = nn.Sequential(*stages)
        self.channels = [int(full * config.width) for full, _, _ in _STAGES[1:]]
        self.strides = [4, 8, 16, 32]
        self.classifier = nn.Linear(channels, config.classes) if config.classes else None
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-out of each group of channels; norms start as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], ceil(H / strides[i]), ceil(W / strides[i])] of images [b, 3, H, W] in [0, 1]."""
        x = F.relu6(self.bn1(self.conv_stem(self.normalize(images))))
        maps = []
        for stage in self.blocks:
            x = stage(x)
            maps.append(x)
        return self.maps(maps[1:])

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.classifier is None:
            return tuple(maps)
        return self.classifier(global_pool(maps[-1]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)
