"""Inception v4 (Szegedy et al. 2017): one stem and three kinds of Inception module, made uniform.

State dicts have the keys of the public timm checkpoint, a port of the authors' TensorFlow release (pixels in [-1, 1],
batch norm epsilon 1e-3). Images are 299x299; convolutions and pools that shrink a map are unpadded, as in figures 3 to
9 of the paper. Its residual siblings are in `inception_resnet.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.conv import ConvNormRelu, Kernel, half, refuse_small, scaled
from saccade.layers.layout import global_pool, join
from saccade.layers.normalize import Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Natural, Positive, Share

PAPER = Paper(
    title="Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
    authors="Szegedy, Ioffe, Vanhoucke, Alemi",
    year=2017,
    where="AAAI 2017, arXiv 1602.07261",
)
TASKS = ("classify", "tag")
MINIMUM = 75  # smallest side in pixels of an unpadded network


@dataclass(frozen=True)
class Config:
    """The network; defaults are the paper's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    depths: tuple[Natural, Natural, Natural] = (4, 7, 3)  # modules A, B and C (figure 9)
    width: Positive = 1.0  # factor on all channels, a multiple of 1/8
    # same: also pad where a map shrinks, so that map pixels lie over the image at equal strides (detectors, segmenters)
    padding: Literal["valid", "same"] = "valid"
    dropout: Share = 0.2  # before the classifier: "keep 0.8" in figure 9
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.5, 0.5, 0.5)  # RGB in [0, 1]
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)


VARIANTS: dict[str, Config] = {"inception_v4": Config()}
SIZE = 299
AS_TRUNK = {"padding": "same"}  # map pixels lie over the image at equal strides

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"weight_decay": 2e-4, "clip_norm": 5.0},
    },
    "paper": {
        "*": {  # section 4
            "size": 299,
            "batch": 32,  # of each of 20 replicas
            "epochs": 160,  # the length of the curves in figure 24
            "optimizer": "rmsprop",
            "rms_decay": 0.9,
            "rms_eps": 1.0,
            "lr": 0.045,
            "momentum": 0.9,  # not printed; of the authors' TensorFlow release
            "weight_decay": 4e-5,  # not printed; of the authors' TensorFlow release
            "schedule": "step",
            "milestones": tuple(i / 80 for i in range(1, 80)),  # every two epochs
            "gamma": 0.94,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "ema": 0.9999,  # "a running average of the parameters"
            "label_smoothing": 0.1,  # as in Inception v3
            "resize": "crop",
            "crop_min": 0.08,
        },
    },
}


def _conv(config: Config, channels_in: int, channels_out: int, kernel: Kernel = 1) -> ConvNormRelu:
    """A convolution that keeps the size of its map; channels before the width factor."""
    width = config.width
    return ConvNormRelu(scaled(channels_in, width), scaled(channels_out, width), kernel, padding=half(kernel))


def _shrinking(config: Config, channels_in: int, channels_out: int, stride: int = 2) -> ConvNormRelu:
    """A 3x3 convolution at the places that the paper marks V; the image's 3 channels are not scaled."""
    channels_in = channels_in if channels_in == 3 else scaled(channels_in, config.width)
    return ConvNormRelu(channels_in, scaled(channels_out, config.width), 3, stride, int(config.padding == "same"))


def _max_pool(config: Config) -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, padding=int(config.padding == "same"))


def _average(config: Config, channels_in: int, channels_out: int) -> nn.Sequential:
    """Average over 3x3 of what lies inside the map, then 1x1."""
    return nn.Sequential(
        nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), _conv(config, channels_in, channels_out)
    )


class PoolAndConv(nn.Module):
    """Halve the map in two ways at once, a 3x3/2 pool and a 3x3/2 convolution (figure 3): channels_in + channels_out.

    Args:
        pool_first: the order in which the two are joined, which the public layout fixes.
    """

    def __init__(self, config: Config, channels_in: int, channels_out: int, pool_first: bool) -> None:
        super().__init__()
        self.conv = _shrinking(config, channels_in, channels_out)
        self.maxpool = _max_pool(config)
        self.pool_first = pool_first

    def forward(self, x: Tensor) -> Tensor:
        pooled, convolved = self.maxpool(x), self.conv(x)
        return join([pooled, convolved] if self.pool_first else [convolved, pooled])


class Branches(nn.Module):
    """Branches side by side, joined: children `branch0`, `branch1`, ... as in the public layout."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.count = len(branches)
        for i, branch in enumerate(branches):
            self.add_module(f"branch{i}", branch)

    def forward(self, x: Tensor) -> Tensor:
        return join([self.get_submodule(f"branch{i}")(x) for i in range(self.count)])


def stem_branches(config: Config) -> Branches:
    """The middle of the stem (figure 3): 160 -> 192 channels, the map loses its border."""
    short = nn.Sequential(_conv(config, 160, 64), _shrinking(config, 64, 96, 1))
    long = nn.Sequential(
        _conv(config, 160, 64),
        _conv(config, 64, 64, (1, 7)),
        _conv(config, 64, 64, (7, 1)),
        _shrinking(config, 64, 96, 1),
    )
    return Branches(short, long)


def inception_a(config: Config) -> Branches:
    """Figure 4: 384 -> 384 channels at 35x35."""
    return Branches(
        _conv(config, 384, 96),
        nn.Sequential(_conv(config, 384, 64), _conv(config, 64, 96, 3)),
        nn.Sequential(_conv(config, 384, 64), _conv(config, 64, 96, 3), _conv(config, 96, 96, 3)),
        _average(config, 384, 96),
    )


def reduction_a(config: Config) -> Branches:
    """Figure 7 with k, l, m, n = 192, 224, 256, 384: 384 -> 1024 channels, 35x35 to 17x17."""
    return Branches(
        _shrinking(config, 384, 384),
        nn.Sequential(_conv(config, 384, 192), _conv(config, 192, 224, 3), _shrinking(config, 224, 256)),
        _max_pool(config),
    )


def inception_b(config: Config) -> Branches:
    """Figure 5: 1024 -> 1024 channels at 17x17."""
    return Branches(
        _conv(config, 1024, 384),
        nn.Sequential(_conv(config, 1024, 192), _conv(config, 192, 224, (1, 7)), _conv(config, 224, 256, (7, 1))),
        nn.Sequential(
            _conv(config, 1024, 192),
            _conv(config, 192, 192, (7, 1)),
            _conv(config, 192, 224, (1, 7)),
            _conv(config, 224, 224, (7, 1)),
            _conv(config, 224, 256, (1, 7)),
        ),
        _average(config, 1024, 128),
    )


def reduction_b(config: Config) -> Branches:
    """Figure 8: 1024 -> 1536 channels, 17x17 to 8x8."""
    return Branches(
        nn.Sequential(_conv(config, 1024, 192), _shrinking(config, 192, 192)),
        nn.Sequential(
            _conv(config, 1024, 256),
            _conv(config, 256, 256, (1, 7)),
            _conv(config, 256, 320, (7, 1)),
            _shrinking(config, 320, 320),
        ),
        _max_pool(config),
    )


class InceptionC(nn.Module):
    """Figure 6: two branches fork into a 1x3 and a 3x1. [b, 1536, H, W] -> [b, 1536, H, W]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.branch0 = _conv(config, 1536, 256)
        self.branch1_0 = _conv(config, 1536, 384)
        self.branch1_1a = _conv(config, 384, 256, (1, 3))
        self.branch1_1b = _conv(config, 384, 256, (3, 1))
        self.branch2_0 = _conv(config, 1536, 384)
        self.branch2_1 = _conv(config, 384, 448, (3, 1))
        self.branch2_2 = _conv(config, 448, 512, (1, 3))
        self.branch2_3a = _conv(config, 512, 256, (1, 3))
        self.branch2_3b = _conv(config, 512, 256, (3, 1))
        self.branch3 = _average(config, 1536, 256)

    def forward(self, x: Tensor) -> Tensor:
        short = self.branch1_0(x)
        long = self.branch2_2(self.branch2_1(self.branch2_0(x)))
        forks = [self.branch1_1a(short), self.branch1_1b(short), self.branch2_3a(long), self.branch2_3b(long)]
        return join([self.branch0(x), *forks, self.branch3(x)])


class Stages(nn.Module):
    """Stem and modules: images [b, 3, H, W] in [0, 1] -> the last maps at strides 4, 8, 16, 32.

    Children are named by their number, which gives the public keys `features.0.conv.weight`, ...
    With `padding="same"` sides are ceil(H / stride). Unpadded, maps lose their borders: 71, 35, 17 and 8 of 299.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.unpadded = config.padding == "valid"
        self.normalize = Normalize(config.mean, config.std)
        a, b, c = config.depths
        layers: list[nn.Module] = [
            _shrinking(config, 3, 32),
            _shrinking(config, 32, 32, 1),
            _conv(config, 32, 64, 3),
            PoolAndConv(config, 64, 96, pool_first=True),
            stem_branches(config),
            PoolAndConv(config, 192, 192, pool_first=False),
            *(inception_a(config) for _ in range(a)),
            reduction_a(config),
            *(inception_b(config) for _ in range(b)),
            reduction_b(config),
            *(InceptionC(config) for _ in range(c)),
        ]
        self.length = len(layers)
        self.last = (4, 5 + a, 6 + a + b, 7 + a + b + c)  # numbers of the layers that end a size
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)

    def forward(self, images: Tensor) -> list[Tensor]:
        if self.unpadded:
            refuse_small(images, MINIMUM)
        x = self.normalize(images)
        maps = []
        for i in range(self.length):
            x = self.get_submodule(str(i))(x)
            if i in self.last:
                maps.append(x)
        return maps


class Model(nn.Module):
    """Inception v4; with `classes=0` a trunk whose `forward` gives the maps of `features`.

    The public layout calls the convolutions `features`, and so does the trunk contract: here it is a module, called
    like the method that other trunks have.

    Attributes:
        channels: channels of each map of `features`: 192, 384, 1024 and 1536 times the width.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.features = Stages(config)
        self.channels = [scaled(channels, config.width) for channels in (192, 384, 1024, 1536)]
        self.strides = [4, 8, 16, 32]
        self.last_linear = nn.Linear(self.channels[-1], config.classes) if config.classes else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`.

        Raises:
            UsageError: the network is unpadded and H or W is less than MINIMUM.
        """
        maps = self.features(images)
        if self.last_linear is None:
            return tuple(maps)
        return self.last_linear(F.dropout(global_pool(maps[-1]), self.config.dropout, self.training))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict: timm's and Cadene's, unchanged but for their 1001 outputs.

    The first of these is TensorFlow's class for the background; it is left out.
    """
    return {
        key: value[1:] if key.startswith("last_linear.") and len(value) == 1001 else value
        for key, value in state_dict.items()
    }
