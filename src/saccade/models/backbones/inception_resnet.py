"""Inception-ResNet v1 and v2 (Szegedy et al. 2017): Inception modules as residual blocks.

The joined branches pass a linear 1x1 convolution, are scaled down to keep training stable (section 3.3) and added to
the module's input. v2 is the network that the authors released, in the keys of the public timm checkpoint: the stem of
Inception v3, 10, 20 and 10 blocks, the last one linear and unscaled, and a 1x1 convolution to 1536 channels; the paper
draws a larger stem and half the blocks. v1 follows the paper (figures 10 to 14); its face form, which `from_public`
reads from facenet-pytorch's checkpoints, adds a linear last block and an embedding before the classifier.
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
from saccade.layers.maps import Maps
from saccade.layers.normalize import Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Natural, NonNegative, Positive, Share

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
    """The network; defaults are those of the public v2 checkpoint."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    version: Literal[1, 2] = 2
    depths: tuple[Natural, Natural, Natural] = (10, 20, 10)  # blocks at 35x35, 17x17 and 8x8
    # of their residuals (section 3.3: 0.1 to 0.3)
    scales: tuple[NonNegative, NonNegative, NonNegative] = (0.17, 0.10, 0.20)
    linear_end: bool = True  # the last block has neither scale nor ReLU
    embedding: Natural = 0  # length of a normalised linear layer before the classifier; 0 for none
    width: Positive = 1.0  # factor on all channels, a multiple of 1/8
    # same: also pad where a map shrinks, so that map pixels lie over the image at equal strides (detectors, segmenters)
    padding: Literal["valid", "same"] = "valid"
    dropout: Share = 0.2  # after the average: "keep 0.8" in figure 15
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.5, 0.5, 0.5)  # RGB in [0, 1]
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)


_V1 = Config(version=1, depths=(5, 10, 5), linear_end=False)
_FACE = Config(
    classes=8631,  # identities of the VGGFace2 training set
    version=1,
    depths=(5, 10, 6),
    embedding=512,
    dropout=0.6,
    std=(128 / 255, 128 / 255, 128 / 255),
)
VARIANTS: dict[str, Config] = {
    "inception_resnet_v1": _V1,
    "inception_resnet_v1_face": _FACE,
    "inception_resnet_v2": Config(),
}
SIZE = {"inception_resnet_v1": 299, "inception_resnet_v1_face": 160, "inception_resnet_v2": 299}
AS_TRUNK = {"padding": "same"}  # map pixels lie over the image at equal strides

_DEFAULT: dict[str, Any] = PHOTOGRAPHS | {"weight_decay": 2e-4, "clip_norm": 5.0}
_PAPER: dict[str, Any] = {  # section 4
    "size": 299,
    "batch": 32,  # of each of 20 replicas
    "epochs": 160,  # the length of the curves in figures 23 and 24
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
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT, "inception_resnet_v1_face": {**_DEFAULT, "size": 160, "crop_min": 0.6}},
    "paper": {"*": _PAPER, "inception_resnet_v1_face": {**_PAPER, "size": 160, "crop_min": 0.6}},
}

Branch = tuple[int, ...]  # channels of its convolutions, first to last


@dataclass(frozen=True)
class Plan:
    """The channels of one version."""

    maps: tuple[int, int, int]  # of the maps at 35x35, 17x17 and 8x8
    block35: tuple[Branch, ...]
    reduction_a: tuple[Branch, ...]
    block17: tuple[Branch, ...]
    reduction_b: tuple[Branch, ...]
    block8: tuple[Branch, ...]


PLANS = {
    1: Plan(  # figures 10 to 13; k, l, m, n of reduction A = 192, 192, 256, 384 (table 1)
        maps=(256, 896, 1792),
        block35=((32,), (32, 32), (32, 32, 32)),
        reduction_a=((384,), (192, 192, 256)),
        block17=((128,), (128, 128, 128)),
        reduction_b=((256, 384), (256, 256), (256, 256, 256)),
        block8=((192,), (192, 192, 192)),
    ),
    2: Plan(  # figures 16 to 19, with the map widths of the release
        maps=(320, 1088, 2080),
        block35=((32,), (32, 32), (32, 48, 64)),
        reduction_a=((384,), (256, 256, 384)),
        block17=((192,), (128, 160, 192)),
        reduction_b=((256, 384), (256, 288), (256, 288, 320)),
        block8=((192,), (192, 224, 256)),
    ),
}


def _conv(config: Config, channels_in: int, channels_out: int, kernel: Kernel = 1) -> ConvNormRelu:
    """A convolution that keeps the size of its map; channels before the width factor."""
    width = config.width
    return ConvNormRelu(scaled(channels_in, width), scaled(channels_out, width), kernel, padding=half(kernel))


def _shrinking(config: Config, channels_in: int, channels_out: int, stride: int = 2) -> ConvNormRelu:
    """A 3x3 convolution at the places that the paper marks V; the image's 3 channels are not scaled."""
    channels_in = channels_in if channels_in == 3 else scaled(channels_in, config.width)
    return ConvNormRelu(channels_in, scaled(channels_out, config.width), 3, stride, int(config.padding == "same"))


def _pool(config: Config, x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, padding=int(config.padding == "same"))


def _add_branches(module: nn.Module, branches: list[list[nn.Module]]) -> None:
    """Children `branch0`, ... of a module, the public layout: chains of layers, a lone layer not wrapped."""
    for i, layers in enumerate(branches):
        module.add_module(f"branch{i}", layers[0] if len(layers) == 1 else nn.Sequential(*layers))


def _branch_maps(module: nn.Module, x: Tensor) -> list[Tensor]:
    return [child(x) for name, child in module.named_children() if name.startswith("branch")]


class InceptionA(nn.Module):
    """The Inception module with which the stem of v2 ends (v3, figure 5). [b, 192, H, W] -> [b, 320, H, W]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        average = nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
        branches: list[list[nn.Module]] = [
            [_conv(config, 192, 96)],
            [_conv(config, 192, 48), _conv(config, 48, 64, 5)],
            [_conv(config, 192, 64), _conv(config, 64, 96, 3), _conv(config, 96, 96, 3)],
            [average, _conv(config, 192, 64)],
        ]
        _add_branches(self, branches)

    def forward(self, x: Tensor) -> Tensor:
        return join(_branch_maps(self, x))


class Reduction(nn.Module):
    """Halve the map: branches that end in a 3x3/2 convolution, and a 3x3/2 max-pool (figures 7, 12 and 18).

    A branch of one layer is that convolution, of two starts 1x1, of three has a 3x3 between.
    [b, c, H, W] -> [b, c + last channels of the branches, H / 2, W / 2].
    """

    def __init__(self, config: Config, channels: int, branches: tuple[Branch, ...]) -> None:
        super().__init__()
        self.config = config
        chains: list[list[nn.Module]] = []
        for widths in branches:
            sizes = (channels, *widths)
            inner = [_conv(config, sizes[i], sizes[i + 1], 3 if i else 1) for i in range(len(widths) - 1)]
            chains.append([*inner, _shrinking(config, sizes[-2], sizes[-1])])
        _add_branches(self, chains)

    def forward(self, x: Tensor) -> Tensor:
        return join([*_branch_maps(self, x), _pool(self.config, x)])


class Block(nn.Module):
    """x + scale * linear 1x1 of the joined branches, then ReLU (figures 10, 11, 13). The shape stays.

    Args:
        kernels: of the second and third layer of a branch; the first is 1x1.
        scale: None for the linear block at the end of the released networks: unscaled, without ReLU.
    """

    def __init__(
        self,
        config: Config,
        channels: int,
        branches: tuple[Branch, ...],
        kernels: tuple[Kernel, Kernel],
        scale: float | None,
    ) -> None:
        super().__init__()
        chains: list[list[nn.Module]] = []
        for widths in branches:
            sizes, sides = (channels, *widths), (1, *kernels)
            chains.append([_conv(config, sizes[i], sizes[i + 1], sides[i]) for i in range(len(widths))])
        _add_branches(self, chains)
        self.scale = scale
        joined = sum(widths[-1] for widths in branches)
        self.conv2d = nn.Conv2d(scaled(joined, config.width), scaled(channels, config.width), 1)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2d(join(_branch_maps(self, x)))
        return x + residual if self.scale is None else F.relu(x + self.scale * residual)


class Model(nn.Module):
    """An Inception-ResNet; with `classes=0` a trunk whose `forward` gives the maps of `features`.

    Attributes:
        channels: channels of each map of `features`: of the stem at stride 4, then of the three kinds of block, the
            last after the closing 1x1 convolution of v2; times the width.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        plan = PLANS[config.version]
        first, second, third = plan.maps
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv2d_1a = _shrinking(config, 3, 32)
        self.conv2d_2a = _shrinking(config, 32, 32, 1)
        self.conv2d_2b = _conv(config, 32, 64, 3)
        self.conv2d_3b = _conv(config, 64, 80)
        self.conv2d_4a = _shrinking(config, 80, 192, 1)
        self.conv2d_4b = _shrinking(config, 192, first) if config.version == 1 else None
        self.mixed_5b = InceptionA(config) if config.version == 2 else None

        def blocks(stage: int, count: int, branches: tuple[Branch, ...], kernels: tuple[Kernel, Kernel]) -> nn.Module:
            channels, scale = plan.maps[stage], config.scales[stage]
            return nn.Sequential(*(Block(config, channels, branches, kernels, scale) for _ in range(count)))

        self.repeat = blocks(0, config.depths[0], plan.block35, (3, 3))
        self.mixed_6a = Reduction(config, first, plan.reduction_a)
        self.repeat_1 = blocks(1, config.depths[1], plan.block17, ((1, 7), (7, 1)))
        self.mixed_7a = Reduction(config, second, plan.reduction_b)
        self.repeat_2 = blocks(2, config.depths[2] - config.linear_end, plan.block8, ((1, 3), (3, 1)))
        self.block8 = Block(config, third, plan.block8, ((1, 3), (3, 1)), None) if config.linear_end else None
        self.conv2d_7b = _conv(config, third, 1536) if config.version == 2 else None
        maps = (192, first, second, third if config.version == 1 else 1536)
        self.channels = [scaled(channels, config.width) for channels in maps]
        self.strides = [4, 8, 16, 32]
        length = self.channels[-1]
        self.last_linear: nn.Linear | None = None
        self.last_bn: nn.BatchNorm1d | None = None
        if config.classes and config.embedding:
            self.last_linear = nn.Linear(length, config.embedding, bias=False)
            self.last_bn = nn.BatchNorm1d(config.embedding, eps=1e-3)
            length = config.embedding
        self.classif = nn.Linear(length, config.classes) if config.classes else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps [b, channels[i], h, w] of images [b, 3, H, W] in [0, 1], each the last before the map shrinks.

        With `padding="same"` h = ceil(H / strides[i]). Unpadded, maps lose their borders: 71, 35, 17 and 8 of 299.

        Raises:
            UsageError: the network is unpadded and H or W is less than MINIMUM.
        """
        if self.config.padding == "valid":
            refuse_small(images, MINIMUM)
        x = self.conv2d_2a(self.conv2d_1a(self.normalize(images)))
        x = _pool(self.config, self.conv2d_2b(x))
        quarter = self.conv2d_4a(self.conv2d_3b(x))
        x = _pool(self.config, quarter) if self.conv2d_4b is None else self.conv2d_4b(quarter)
        eighth = self.repeat(x if self.mixed_5b is None else self.mixed_5b(x))
        sixteenth = self.repeat_1(self.mixed_6a(eighth))
        last = self.repeat_2(self.mixed_7a(sixteenth))
        if self.block8 is not None:
            last = self.block8(last)
        if self.conv2d_7b is not None:
            last = self.conv2d_7b(last)
        return self.maps([quarter, eighth, sixteenth, last])

    def _top(self, last: Tensor) -> Tensor:
        """What the classifier sees: the averaged last map [b, length], or the embedding before its normalisation."""
        x = F.dropout(global_pool(last), self.config.dropout, self.training)
        if self.last_linear is not None and self.last_bn is not None:
            x = self.last_bn(self.last_linear(x))
        return x

    def embed(self, images: Tensor) -> Tensor:
        """Vectors [b, embedding] of length 1 of images [b, 3, H, W] in [0, 1], to compare faces by distance.

        Raises:
            ValueError: the network has no embedding layer.
        """
        if self.last_linear is None:
            raise ValueError("this network has no embedding layer: set embedding to its length, and classes")
        return F.normalize(self._top(self.features(images)[-1]))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`."""
        maps = self.features(images)
        return tuple(maps) if self.classif is None else self.classif(self._top(maps[-1]))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


_FACE_KEYS = {"repeat_1": "repeat", "repeat_2": "repeat_1", "repeat_3": "repeat_2", "logits": "classif"}


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict: timm's v2 unchanged, facenet-pytorch's v1 renamed.

    The latter counts the three groups of blocks from 1 and calls the classifier `logits`. Of the 1001 outputs of
    timm's older v2 files the first, TensorFlow's class for the background, is left out.
    """
    if not any(key.startswith("repeat_3.") for key in state_dict):
        return {
            key: value[1:] if key.startswith("classif.") and len(value) == 1001 else value
            for key, value in state_dict.items()
        }
    repaired = {}
    for key, value in state_dict.items():
        first, dot, rest = key.partition(".")
        repaired[_FACE_KEYS.get(first, first) + dot + rest] = value
    return repaired
