"""Residual networks and the plain networks that they were compared with (He et al. 2016).

Two families of one design. ImageNet form: 7x7/2 stem, 3x3/2 max-pool, four stages of widths w, 2w, 4w, 8w at strides
4, 8, 16, 32 (section 3.3, table 1). CIFAR form: 3x3 stem, three stages of widths w, 2w, 4w at strides 1, 2, 4, depth
6n + 2 (section 4.2). State dicts have the keys of the public torchvision checkpoints; as there, the bottleneck strides
in its 3x3 convolution ("v1.5"), where the paper strides in the first 1x1: same count, a little more accurate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.frozen_norm import FrozenBatchNorm2d
from saccade.layers.layout import global_pool
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Deep Residual Learning for Image Recognition",
    authors="He, Zhang, Ren, Sun",
    year=2016,
    where="CVPR 2016, arXiv 1512.03385",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are resnet18's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    block: Literal["basic", "bottleneck"] = "basic"  # figure 5, left and right
    depths: tuple[Natural, ...] = (2, 2, 2, 2)  # blocks of each stage
    width: Count = 64  # channels of the stem; stage i has width * 2**i (times 4 after a bottleneck)
    stem: Literal["imagenet", "cifar"] = "imagenet"  # 7x7/2 and max-pool, or 3x3
    # Section 3.3 and 4.1: A zero-padded identity, B projection where the shape changes, C projection everywhere;
    # none: no shortcuts at all, the plain network.
    shortcut: Literal["A", "B", "C", "none"] = "B"
    norm: Literal["batch", "frozen"] = "batch"  # frozen: fixed statistics, for detectors
    norm_eps: NonNegative = 1e-5
    # last stage at the stride of the one before, its later 3x3 spread by 2: every other pixel is the usual network's
    dilated: bool = False
    tail: bool = False  # of a trunk: its last stage (res5) is no map but `tail`, for regions of the map before
    # last scale of each block starts at 0, so that blocks start as identity (Goyal et al. 2017, 5.1)
    zero_init: bool = False
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


def _imagenet(block: Literal["basic", "bottleneck"], *depths: int) -> Config:
    return Config(block=block, depths=depths)


def _cifar(depth: int, shortcut: Literal["A", "none"]) -> Config:
    return Config(classes=10, depths=((depth - 2) // 6,) * 3, width=16, stem="cifar", shortcut=shortcut)


VARIANTS: dict[str, Config] = {
    "resnet18": _imagenet("basic", 2, 2, 2, 2),
    "resnet34": _imagenet("basic", 3, 4, 6, 3),
    "resnet50": _imagenet("bottleneck", 3, 4, 6, 3),
    "resnet101": _imagenet("bottleneck", 3, 4, 23, 3),
    "resnet152": _imagenet("bottleneck", 3, 8, 36, 3),
    "plain18": Config(depths=(2, 2, 2, 2), shortcut="none"),
    "plain34": Config(depths=(3, 4, 6, 3), shortcut="none"),
    **{f"resnet{depth}": _cifar(depth, "A") for depth in (20, 32, 44, 56, 110)},
    **{f"plain{depth}": _cifar(depth, "none") for depth in (20, 32, 44, 56)},
}
SIZE: dict[str, int] = {name: 32 if config.stem == "cifar" else 224 for name, config in VARIANTS.items()}

_SMALL: dict[str, Any] = {  # for thousands of images: a short run needs more decay than the 64k steps of the paper
    "size": 32,
    "batch": 128,
    "epochs": 100,
    "optimizer": "sgd",
    "lr": 0.2,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 2e-3,
    "schedule": "cosine",
    "warmup": 0.1,
    "ema": 0.99,
    "resize": "crop",
    "pad": 4,
    "color": 0.0,
    "policy": "randaugment",
}
_SMALL_PAPER: dict[str, Any] = {  # section 4.2
    "size": 32,
    "batch": 128,
    "epochs": 164,  # 64k steps of 128 over 50,000 images; steps at 32k and 48k
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (0.5, 0.75),
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "crop",
    "pad": 4,
    "color": 0.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS,
        **{name: _SMALL for name, config in VARIANTS.items() if config.stem == "cifar"},
    },
    "paper": {
        "*": {  # section 3.4
            "size": 224,
            "batch": 256,
            "epochs": 120,  # 6e5 steps of 256 over 1.28 million images
            "optimizer": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "step",
            "milestones": (0.333, 0.667),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
            "color": 0.0,
            "lighting": 0.1,  # "the standard color augmentation", AlexNet's
        },
        **{name: _SMALL_PAPER for name, config in VARIANTS.items() if config.stem == "cifar"},
    },
}


class PaddedShortcut(nn.Module):
    """Option A: keep every stride-th pixel, pad the new channels with zeros, half of them on each side. No parameters.

    [b, c_in, H, W] -> [b, c_out, ceil(H / stride), ceil(W / stride)]; an odd surplus puts the larger half last.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        surplus = channels_out - channels_in
        self.before, self.after = surplus // 2, surplus - surplus // 2

    def forward(self, x: Tensor) -> Tensor:
        kept = F.avg_pool2d(x, 1, self.stride)  # its gradient keeps channels last, that of a slice does not
        return F.pad(kept, (0, 0, 0, 0, self.before, self.after))


def norm_layer(config: Config, channels: int) -> nn.Module:
    """Batch norm, or its frozen form, of `config.norm` and `config.norm_eps`."""
    if config.norm == "frozen":
        return FrozenBatchNorm2d(channels, config.norm_eps)
    return nn.BatchNorm2d(channels, config.norm_eps)


def shortcut_layer(config: Config, channels_in: int, channels_out: int, stride: int) -> nn.Module | None:
    """The path beside the convolutions; None where it is the identity, or absent in a plain network."""
    changes = stride != 1 or channels_in != channels_out
    if config.shortcut == "none" or not (changes or config.shortcut == "C"):
        return None
    if config.shortcut == "A":
        return PaddedShortcut(channels_in, channels_out, stride)
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), norm_layer(config, channels_out))


class BasicBlock(nn.Module):
    """relu(x + F(x)) with F = 3x3 conv, norm, relu, 3x3 conv, norm (figure 5, left)."""

    expansion = 1

    def __init__(self, config: Config, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = config.shortcut != "none"
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = norm_layer(config, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm_layer(config, width)
        self.downsample = shortcut_layer(config, channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.residual:
            y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y)


class Bottleneck(nn.Module):
    """1x1 down to `width`, 3x3 with the stride, 1x1 up to 4 * width (figure 5, right)."""

    expansion = 4

    def __init__(self, config: Config, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = config.shortcut != "none"
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = norm_layer(config, width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = norm_layer(config, width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = norm_layer(config, width * self.expansion)
        self.downsample = shortcut_layer(config, channels_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.residual:
            y = y + (x if self.downsample is None else self.downsample(x))
        return F.relu(y)


def dilate(stage: nn.Module, first: int = 1, rest: int = 2) -> None:
    """Take the stride out of a stage by the a-trous algorithm: what came behind it sees the pixels that it saw before.

    Args:
        first: dilation of the 3x3 convolution that had the stride: that of the stage before.
        rest: of the others.

    Source: Chen et al., "Semantic Image Segmentation with Deep Convolutional Nets", ICLR 2015, section 3.1.
    """
    for module in stage.modules():
        if isinstance(module, PaddedShortcut):
            module.stride = 1
        elif isinstance(module, nn.Conv2d):
            dilation = first if module.stride != (1, 1) else rest
            module.stride = (1, 1)
            if module.kernel_size != (1, 1):
                module.dilation = module.padding = (dilation, dilation)


class Model(nn.Module):
    """A residual (or plain) network; with `classes=0` a trunk whose `forward` gives the maps of all stages.

    Attributes:
        channels: channels of each map of `features`.
        strides: input pixels between neighbours of each map (4, 8, 16, 32, or 1, 2, 4 in the CIFAR form); with
            `dilated` the last is that of the map before.
        tail_channels, tail_side: of a trunk with `tail`: channels of the last stage, and the 14 pixels that it takes
            at 224.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if config.block == "basic" else Bottleneck
        imagenet = config.stem == "imagenet"
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv1 = nn.Conv2d(
            3, config.width, 7 if imagenet else 3, 2 if imagenet else 1, 3 if imagenet else 1, bias=False
        )
        self.bn1 = norm_layer(config, config.width)
        channels = config.width
        self.channels: list[int] = []
        self.strides = [(4 if imagenet else 1) * 2**i for i in range(len(config.depths))]
        for i, depth in enumerate(config.depths):
            blocks = []
            for j in range(depth):
                blocks.append(block(config, channels, config.width * 2**i, 2 if i > 0 and j == 0 else 1))
                channels = config.width * 2**i * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            self.channels.append(channels)
        if config.dilated and len(config.depths) > 1:
            dilate(self.get_submodule(f"layer{len(config.depths)}"))
            self.strides[-1] = self.strides[-2]
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
            elif isinstance(module, BasicBlock | Bottleneck) and self.config.zero_init:
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)  # type: ignore[arg-type]

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
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict.

    Takes torchvision's layout (unchanged) and that of the CIFAR networks of akamaster/pytorch_resnet_cifar10:
    `module.` of DataParallel in front, the classifier called `linear`. Batch counters, which old files lack, are
    filled on loading.
    """
    repaired = {}
    for key, value in state_dict.items():
        key = key.removeprefix("module.")
        if key.startswith("linear."):
            key = "fc." + key.removeprefix("linear.")
        repaired[key] = value
    return repaired
