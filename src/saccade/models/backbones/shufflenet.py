"""ShuffleNet (Zhang et al. 2018): grouped 1x1 convolutions, and a shuffle of channels between them.

In nets of depthwise convolutions most work is in the 1x1 convolutions, so these are split into g groups too; the
shuffle after the first lets every group of the second see channels of all groups (section 3.1, figure 1c). More groups
allow more channels at equal work: table 1, about 140 million multiply-adds for each g. There is no common public
checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool, join
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
    authors="Zhang, Zhou, Lin, Sun",
    year=2018,
    where="CVPR 2018, arXiv 1707.01083",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are shufflenet_g3's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    groups: Count = 3  # g of the 1x1 convolutions
    width: Count = 240  # channels of stage 2, a multiple of 4 g; doubled in stages 3 and 4
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


VARIANTS: dict[str, Config] = {  # table 1
    "shufflenet_g1": Config(groups=1, width=144),
    "shufflenet_g2": Config(groups=2, width=200),
    "shufflenet_g3": Config(groups=3, width=240),
    "shufflenet_g4": Config(groups=4, width=272),
    "shufflenet_g8": Config(groups=8, width=384),
}
SIZE = 224

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"weight_decay": 4e-5},
    },
    "paper": {
        "*": {  # section 4: as ResNeXt, but for the decay, the linear schedule, and less aggressive scaling
            "size": 224,
            "batch": 1024,
            "epochs": 240,  # 3e5 steps of 1024 over 1.28 million images
            "optimizer": "sgd",
            "lr": 0.5,
            "momentum": 0.9,
            "weight_decay": 4e-5,
            "schedule": "poly",
            "power": 1.0,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
            "crop_min": 0.25,
        },
    },
}

_DEPTHS = (4, 8, 4)  # units of stages 2, 3, 4
_STEM = 24  # channels


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """[b, g * n, H, W] -> the same, channel i * n + j moved to j * g + i: the g x n table of channels transposed.

    Channels stay last in memory, where they are while training and predicting.
    """
    return x.permute(0, 2, 3, 1).unflatten(3, (groups, -1)).transpose(3, 4).flatten(3).permute(0, 3, 1, 2)


class Unit(nn.Module):
    """Figure 2: grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1; relu(x + F(x)) at stride 1 (b).

    At stride 2 (c) the shortcut is a 3x3 average pool, joined by concatenation, so that F adds only the new channels.
    [b, c_in, H, W] -> [b, c_out, ceil(H / stride), ceil(W / stride)]; c_in equals c_out at stride 1.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        narrow = channels_out // 4
        added = channels_out - (channels_in if stride == 2 else 0)
        self.conv1 = nn.Conv2d(channels_in, narrow, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, padding=1, groups=narrow, bias=False)
        self.bn2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, added, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(added)

    def forward(self, x: Tensor) -> Tensor:
        y = channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        y = self.bn3(self.conv3(self.bn2(self.conv2(y))))
        if self.stride == 1:
            return F.relu(x + y)
        return F.relu(join([F.avg_pool2d(x, 3, 2, padding=1), y]))


class Model(nn.Module):
    """A ShuffleNet; with `classes=0` a trunk whose `forward` gives the maps at strides 4, 8, 16, 32.

    Attributes:
        channels: channels of each map of `features`: 24 after the stem's pool, then 1, 2, 4 times the width.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.width % (4 * config.groups):
            raise ValueError(f"width {config.width} is not a multiple of 4 x {config.groups} groups")
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv1 = nn.Conv2d(3, _STEM, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.channels = [_STEM, *(config.width * 2**i for i in range(len(_DEPTHS)))]
        self.strides = [4, 8, 16, 32]
        for i, depth in enumerate(_DEPTHS):
            channels_in, channels_out = self.channels[i : i + 2]
            # section 3.2: the stem's few channels are not split into groups
            units = [Unit(channels_in, channels_out, 2, config.groups, 1 if i == 0 else config.groups)]
            units += [Unit(channels_out, channels_out, 1, config.groups, config.groups) for _ in range(depth - 1)]
            self.add_module(f"stage{i + 2}", nn.Sequential(*units))
        self.fc = nn.Linear(self.channels[-1], config.classes) if config.classes else None
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-out of each group of channels; norms start as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], ceil(H / strides[i]), ceil(W / strides[i])] of images [b, 3, H, W] in [0, 1]."""
        x = F.relu(self.bn1(self.conv1(self.normalize(images))))
        maps = [F.max_pool2d(x, 3, 2, padding=1)]
        for i in range(len(_DEPTHS)):
            maps.append(self.get_submodule(f"stage{i + 2}")(maps[-1]))
        return self.maps(maps)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.fc is None:
            return tuple(maps)
        return self.fc(global_pool(maps[-1]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)
