"""BN-Inception, also called Inception v2 (Ioffe & Szegedy 2015): GoogLeNet with batch norm after every convolution.

Against the first Inception network, two 3x3 convolutions stand for each 5x5, 3c and 4e halve the map by themselves
(no 1x1 branch, the pool passed through), and pools inside modules average, but for that of 5b (appendix, figure 5).
`bn_inception` has the paper's 576 channels in 4c and 4d, `bn_inception_caffe` the 608 of the released Caffe network,
whose PyTorch port (Cadene's `bninception`) `from_public` reads. As in that release, convolutions keep their bias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.conv import ConvNormRelu, scaled
from saccade.layers.layout import global_pool, join
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
    authors="Ioffe, Szegedy",
    year=2015,
    where="ICML 2015, arXiv 1502.03167",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are the paper's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    late_pool: Count = 96  # channels of the pool projections of 4c and 4d: 96 in the paper, 128 in the Caffe release
    bias: bool = True  # of the convolutions; without effect on what the network can say, as a norm follows
    width: Positive = 1.0  # factor on all channels, a multiple of 1/8
    dropout: Share = 0.0  # before the classifier; the paper leaves it out (section 4.2.1)
    norm_eps: NonNegative = 1e-5
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


VARIANTS: dict[str, Config] = {
    "bn_inception": Config(),
    "bn_inception_caffe": Config(
        late_pool=128, mean=(128 / 255, 117 / 255, 104 / 255), std=(1 / 255, 1 / 255, 1 / 255)
    ),
}
SIZE = 224

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"weight_decay": 2e-4},
    },
    "paper": {
        "*": {  # BN-x5 of section 4.2
            "size": 224,
            "batch": 32,
            "epochs": 52,  # 2.1 million steps of 32 over 1.28 million images
            "optimizer": "sgd",
            "lr": 0.0075,  # five times GoogLeNet's
            "momentum": 0.9,
            "weight_decay": 4e-5,  # a fifth of GoogLeNet's
            "schedule": "step",
            "milestones": tuple(step / 39 for step in range(1, 39)),  # 4 % every 8 / 6 epochs: six times as fast
            "gamma": 0.96,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
            "crop_min": 0.08,
            "color": 0.0,  # fewer photometric distortions, so that the images look more real
        },
    },
}

# Figure 5. 1x1, 3x3 reduce, 3x3, double 3x3 reduce, each of the double 3x3, pool projection; 0 where there is none.
MODULES: dict[str, tuple[int, int, int, int, int, int]] = {
    "3a": (64, 64, 64, 64, 96, 32),
    "3b": (64, 64, 96, 64, 96, 64),
    "3c": (0, 128, 160, 64, 96, 0),
    "4a": (224, 64, 96, 96, 128, 128),
    "4b": (192, 96, 128, 96, 128, 128),
    "4c": (160, 128, 160, 128, 160, 96),
    "4d": (96, 128, 192, 160, 192, 96),
    "4e": (0, 128, 192, 192, 256, 0),
    "5a": (352, 192, 320, 160, 224, 128),
    "5b": (352, 192, 320, 192, 224, 128),
}


def _conv(config: Config, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> ConvNormRelu:
    padding = kernel // 2
    return ConvNormRelu(channels_in, channels_out, kernel, stride, padding, bias=config.bias, eps=config.norm_eps)


def _halve(x: Tensor) -> Tensor:
    """3x3/2 max-pool, [b, c, H, W] -> [b, c, ceil(H / 2), ceil(W / 2)].

    On even sides it rounds up without padding, as Caffe does; odd sides are padded, to meet the stride-2 convolutions.
    """
    return F.max_pool2d(x, 3, 2, padding=(x.shape[2] % 2, x.shape[3] % 2), ceil_mode=True)


class Inception(nn.Module):
    """Four branches, joined: 1x1; 1x1, 3x3; 1x1, 3x3, 3x3; pool, 1x1. Without the first and the last 1x1 it halves.

    [b, channels_in, H, W] -> [b, channels, H, W], or [b, channels, ceil(H / 2), ceil(W / 2)].
    """

    def __init__(self, config: Config, channels_in: int, name: str) -> None:
        super().__init__()
        one, reduce, three, double_reduce, double, pool = MODULES[name]
        self.halves = one == 0
        self.max_pool = name == "5b"
        stride = 2 if self.halves else 1
        width = config.width
        three, double, reduce, double_reduce = (scaled(n, width) for n in (three, double, reduce, double_reduce))
        self.conv3x3_reduce = _conv(config, channels_in, reduce, 1)
        self.conv3x3 = _conv(config, reduce, three, 3, stride)
        self.double3x3_reduce = _conv(config, channels_in, double_reduce, 1)
        self.double3x3_1 = _conv(config, double_reduce, double, 3)
        self.double3x3_2 = _conv(config, double, double, 3, stride)
        self.channels = three + double
        if self.halves:
            self.channels += channels_in
        else:
            one = scaled(one, width)
            pool = scaled(config.late_pool if name in ("4c", "4d") else pool, width)
            self.conv1x1 = _conv(config, channels_in, one, 1)
            self.pool_proj = _conv(config, channels_in, pool, 1)
            self.channels += one + pool

    def forward(self, x: Tensor) -> Tensor:
        three = self.conv3x3(self.conv3x3_reduce(x))
        double = self.double3x3_2(self.double3x3_1(self.double3x3_reduce(x)))
        if self.halves:
            return join([three, double, _halve(x)])
        pooled = F.max_pool2d(x, 3, 1, 1) if self.max_pool else F.avg_pool2d(x, 3, 1, 1)
        return join([self.conv1x1(x), three, double, self.pool_proj(pooled)])


class Model(nn.Module):
    """BN-Inception; with `classes=0` a trunk whose `forward` gives the maps of `features`. Any image size will do.

    Attributes:
        channels: channels of each map of `features`: after the stem, 3b, 4d and 5b.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        stem, wide = scaled(64, config.width), scaled(192, config.width)
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv1 = _conv(config, 3, stem, 7, 2)
        self.conv2_reduce = _conv(config, stem, stem, 1)
        self.conv2 = _conv(config, stem, wide, 3)
        self.channels = [wide]
        self.strides = [4, 8, 16, 32]
        channels = wide
        for name in MODULES:
            module = Inception(config, channels, name)
            self.add_module(f"inception_{name}", module)
            channels = module.channels
            if name in ("3b", "4d", "5b"):
                self.channels.append(channels)
        self.fc = nn.Linear(channels, config.classes) if config.classes else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], ceil(H / strides[i]), ceil(W / strides[i])] of images [b, 3, H, W] in [0, 1].

        Each is the last one of its size, before the module or pool that halves it.
        """
        x = _halve(self.conv1(self.normalize(images)))
        x = self.conv2(self.conv2_reduce(x))
        maps = [x]
        x = _halve(x)
        for name in MODULES:
            x = self.get_submodule(f"inception_{name}")(x)
            if name in ("3b", "4d", "5b"):
                maps.append(x)
        return self.maps(maps)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        if self.fc is None:
            return tuple(maps)
        return self.fc(F.dropout(global_pool(maps[-1]), self.config.dropout, self.training))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


_STEM = {"conv1_7x7_s2": "conv1", "conv2_3x3_reduce": "conv2_reduce", "conv2_3x3": "conv2"}


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a state dict of Cadene's port of the Caffe release (for `bn_inception_caffe`).

    There a layer `inception_3a_3x3` has its norm beside it, as `inception_3a_3x3_bn`, and the images are BGR: the
    input channels of the first convolution are turned round. In the released file the vectors of norms are of shape
    [1, C]. Other state dicts pass unchanged.
    """
    if "conv1_7x7_s2.weight" not in state_dict:
        return dict(state_dict)
    repaired = {}
    for key, value in state_dict.items():
        layer, _, tensor = key.rpartition(".")
        if layer == "last_linear":
            repaired[f"fc.{tensor}"] = value
            continue
        part = "bn" if layer.endswith("_bn") else "conv"
        if part == "bn" and value.ndim == 2:
            value = value.squeeze(0)
        layer = layer.removesuffix("_bn")
        inside = re.fullmatch(r"(inception_\d[a-e])_(.+)", layer)
        if inside:
            name = inside[2].replace("double_3x3", "double3x3")
            layer = f"{inside[1]}.{'conv' if name[0].isdigit() else ''}{name}"
        else:
            layer = _STEM.get(layer, layer)
        if layer == "conv1" and part == "conv" and tensor == "weight":
            value = value.flip(1)
        repaired[f"{layer}.{part}.{tensor}"] = value
    return repaired
