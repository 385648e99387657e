"""ResNeXt (Xie et al. 2017): residual bottlenecks whose 3x3 convolution is split into many narrow groups.

A block sums `groups` transformations of one shape ("cardinality", equation 2). Figure 3 shows that the sum of separate
paths, their early concatenation, and one bottleneck with a grouped convolution compute the same; this file holds the
last. `32x4d` reads: 32 groups, each 4 channels wide in the first stage.

ImageNet form: stem and stages of ResNet-50 and -101, strides 4, 8, 16, 32 (table 1). CIFAR form: 29 layers, three
stages of three blocks at strides 1, 2, 4 (section 5.3). State dicts have the keys of the public torchvision and timm
checkpoints (one layout).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.backbones import resnet
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Aggregated Residual Transformations for Deep Neural Networks",
    authors="Xie, Girshick, Dollár, Tu, He",
    year=2017,
    where="CVPR 2017, arXiv 1611.05431",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are resnext50_32x4d's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    depths: tuple[Natural, ...] = (3, 4, 6, 3)  # blocks of each stage
    groups: Count = 32  # cardinality C
    group_width: Count = 4  # channels d of a group in the first stage; doubled in each following stage
    width: Count = 64  # channels of the stem; stage i gives 4 * width * 2**i
    stem: Literal["imagenet", "cifar"] = "imagenet"  # 7x7/2 and max-pool, or 3x3
    norm: Literal["batch", "frozen"] = "batch"  # frozen: fixed statistics, for detectors
    norm_eps: NonNegative = 1e-5
    tail: bool = False  # of a trunk: its last stage (res5) is no map but `tail`, for regions of the map before
    zero_init: bool = False  # last scale of each block starts at 0, so that blocks start as identity
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


def _cifar(groups: int) -> Config:
    return Config(classes=10, depths=(3, 3, 3), groups=groups, group_width=64, stem="cifar")


VARIANTS: dict[str, Config] = {
    "resnext50_32x4d": Config(),
    "resnext101_32x4d": Config(depths=(3, 4, 23, 3)),
    "resnext101_64x4d": Config(depths=(3, 4, 23, 3), groups=64),
    "resnext101_32x8d": Config(depths=(3, 4, 23, 3), group_width=8),
    "resnext29_8x64d": _cifar(8),
    "resnext29_16x64d": _cifar(16),
}
SIZE: dict[str, int] = {name: 32 if config.stem == "cifar" else 224 for name, config in VARIANTS.items()}

_SMALL_PAPER: dict[str, Any] = {  # section 5.3
    "size": 32,
    "batch": 128,
    "epochs": 300,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (0.5, 0.75),
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "crop",
    "pad": 4,
    "color": 0.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {  # what serves ResNet serves here too
        "*": resnet.RECIPES["default"]["*"],
        **{name: resnet.RECIPES["default"]["resnet20"] for name, c in VARIANTS.items() if c.stem == "cifar"},
    },
    "paper": {
        "*": {  # section 4: the rate falls three times, on the schedule of the public Torch implementation of ResNet
            "size": 224,
            "batch": 256,
            "epochs": 100,
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "step",
            "milestones": (0.3, 0.6, 0.9),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
            "crop_min": 0.08,
        },
        **{name: _SMALL_PAPER for name, c in VARIANTS.items() if c.stem == "cifar"},
    },
}


class Block(nn.Module):
    """relu(x + sum of `groups` paths), each path 1x1, 3x3 with the stride, 1x1 (figure 3c).

    [b, channels_in, H, W] -> [b, channels_out, ceil(H / stride), ceil(W / stride)]; `inner` channels, a multiple of
    `groups`, between the 1x1 convolutions.
    """

    def __init__(
        self, norms: resnet.Config, channels_in: int, inner: int, groups: int, channels_out: int, stride: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = resnet.norm_layer(norms, inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = resnet.norm_layer(norms, inner)
        self.conv3 = nn.Conv2d(inner, channels_out, 1, bias=False)
        self.bn3 = resnet.norm_layer(norms, channels_out)
        self.downsample = resnet.shortcut_layer(norms, channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Model(nn.Module):
    """A ResNeXt; with `classes=0` a trunk whose `forward` gives the maps of all stages.

    Attributes:
        channels: channels of each map of `features`.
        strides: input pixels between neighbours of each map (4, 8, 16, 32, or 1, 2, 4 in the CIFAR form).
        tail_channels, tail_side: of a trunk with `tail`: channels of the last stage, and the 14 pixels that it takes
            at 224.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        imagenet = config.stem == "imagenet"
        norms = resnet.Config(norm=config.norm, norm_eps=config.norm_eps)  # and projection shortcuts, option B
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv1 = nn.Conv2d(
            3, config.width, 7 if imagenet else 3, 2 if imagenet else 1, 3 if imagenet else 1, bias=False
        )
        self.bn1 = resnet.norm_layer(norms, config.width)
        self.channels = [4 * config.width * 2**i for i in range(len(config.depths))]
        self.strides = [(4 if imagenet else 1) * 2**i for i in range(len(config.depths))]
        channels = config.width
        for i, depth in enumerate(config.depths):
            inner = config.groups * config.group_width * 2**i
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Block(norms, channels, inner, config.groups, self.channels[i], stride))
                channels = self.channels[i]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
        self.tail_channels, self.tail_side = channels, 14
        if config.tail and not config.classes:
            self.channels, self.strides = self.channels[:-1], self.strides[:-1]
        self.fc = nn.Linear(channels, config.classes) if config.classes else None
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation by fan-out, as the public checkpoints were trained; norms start as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block) and self.config.zero_init:
                nn.init.zeros_(module.bn3.weight)  # type: ignore[arg-type]

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], ceil(H / strides[i]), ceil(W / strides[i])] of images [b, 3, H, W] in [0, 1]."""
        x = F.relu(self.bn1(self.conv1(self.normalize(images))))
        if self.config.stem == "imagenet":
            x = F.max_pool2d(x, 3, 2, padding=1)
        maps = []
        for i in range(len(self.channels)):
            x = self.get_submodule(f"layer{i + 1}")(x)
            maps.append(x)
        return self.maps(maps)

    @property
    def tail(self) -> nn.Module:
        """Of a trunk with `tail`: the last stage, regions [n, channels, s, s] -> [n, tail_channels, s / 2, s / 2]."""
        return self.get_submodule(f"layer{len(self.config.depths)}")

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.fc is None:
            return tuple(maps)
        return self.fc(global_pool(maps[-1]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """{"classification": scalar} of a batch with truth."""
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        """One annotation an image: label (or tags) and the scores of all classes."""
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict: torchvision's and timm's are the same and stay as they are.

    `module.` of DataParallel in front is taken off.
    """
    return {key.removeprefix("module."): value for key, value in state_dict.items()}
