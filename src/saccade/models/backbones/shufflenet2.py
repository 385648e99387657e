"""ShuffleNet v2 (Ma et al. 2018): a unit designed by measured speed rather than by counted operations.

Guidelines G1 to G4 (section 2) speak against grouped 1x1 convolutions, branches and additions. So half of the channels
pass untouched (channel split), the other half goes through 1x1, 3x3 depthwise, 1x1, all of one width, both are
concatenated and shuffled, which mixes the halves for the next unit (figure 3, c and d; table 5). State dicts have the
keys of the public torchvision checkpoints.
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
from saccade.models.backbones.shufflenet import channel_shuffle
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design",
    authors="Ma, Zhang, Zheng, Sun",
    year=2018,
    where="ECCV 2018, arXiv 1807.11164",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are shufflenet_v2_x1_0's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    width: Count = 116  # channels of stage 2, an even number; doubled in stages 3 and 4
    last: Count = 1024  # channels of the last 1x1 convolution, which a trunk does not have
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


VARIANTS: dict[str, Config] = {  # table 5; x2.0 as released: 244 channels where the paper's first print has 224
    "shufflenet_v2_x0_5": Config(width=48),
    "shufflenet_v2_x1_0": Config(width=116),
    "shufflenet_v2_x1_5": Config(width=176),
    "shufflenet_v2_x2_0": Config(width=244, last=2048),
}
SIZE = 224

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"weight_decay": 4e-5},
    },
    "paper": {
        "*": {  # section 4: the settings of ShuffleNet
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


def _conv(channels_in: int, channels_out: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution that keeps the side (but for the stride) and batch norm."""
    conv = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels_out)]


class Unit(nn.Module):
    """Figure 3 c (stride 1): split, transform the second half, concatenate, shuffle. d (stride 2): transform both.

    [b, c_in, H, W] -> [b, c_out, ceil(H / stride), ceil(W / stride)]; c_in equals c_out at stride 1. At stride 2
    nothing is split: the first branch is 3x3 depthwise, 1x1, and each branch gives half of the channels.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.branch1: nn.Sequential | None = None
        if stride == 2:
            depthwise = _conv(channels_in, channels_in, 3, 2, groups=channels_in)
            self.branch1 = nn.Sequential(*depthwise, *_conv(channels_in, half, 1), nn.ReLU(inplace=True))
        self.branch2 = nn.Sequential(
            *_conv(half if stride == 1 else channels_in, half, 1),
            nn.ReLU(inplace=True),
            *_conv(half, half, 3, stride, groups=half),
            *_conv(half, half, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.branch1 is None:
            kept, changed = x.chunk(2, 1)
            halves = [kept, self.branch2(changed)]
        else:
            halves = [self.branch1(x), self.branch2(x)]
        return channel_shuffle(join(halves), 2)


class Model(nn.Module):
    """A ShuffleNet v2; with `classes=0` a trunk whose `forward` gives the maps at strides 4, 8, 16, 32.

    Attributes:
        channels: channels of each map of `features`: 24 after the stem's pool, then 1, 2, 4 times the width.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.width % 2:
            raise ValueError(f"width {config.width} is odd; units split their channels into halves")
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv1 = nn.Sequential(*_conv(3, _STEM, 3, 2), nn.ReLU(inplace=True))
        self.channels = [_STEM, *(config.width * 2**i for i in range(len(_DEPTHS)))]
        self.strides = [4, 8, 16, 32]
        for i, depth in enumerate(_DEPTHS):
            units = [Unit(self.channels[i], self.channels[i + 1], 2)]
            units += [Unit(self.channels[i + 1], self.channels[i + 1], 1) for _ in range(depth - 1)]
            self.add_module(f"stage{i + 2}", nn.Sequential(*units))
        self.conv5: nn.Sequential | None = None
        self.fc: nn.Linear | None = None
        if config.classes:
            self.conv5 = nn.Sequential(*_conv(self.channels[-1], config.last, 1), nn.ReLU(inplace=True))
            self.fc = nn.Linear(config.last, config.classes)
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-out of each group of channels; norms start as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0, (2 / fan_out) ** 0.5)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], ceil(H / strides[i]), ceil(W / strides[i])] of images [b, 3, H, W] in [0, 1]."""
        maps = [F.max_pool2d(self.conv1(self.normalize(images)), 3, 2, padding=1)]
        for i in range(len(_DEPTHS)):
            maps.append(self.get_submodule(f"stage{i + 2}")(maps[-1]))
        return self.maps(maps)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.conv5 is None or self.fc is None:
            return tuple(maps)
        return self.fc(global_pool(self.conv5(maps[-1])))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)
