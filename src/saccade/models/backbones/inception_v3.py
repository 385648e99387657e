"""Inception v3 (Szegedy et al. 2016): large convolutions factorised into small and into one-sided ones.

State dicts have the keys of the public torchvision checkpoint, whose `transform_input` is here the normalisation of
pixels to [-1, 1]. Numbers are those of that network; it is the paper's table 1 as the authors released it, with three
35x35 modules of 256 to 288 channels. Images are 299x299; convolutions and pools that shrink a map are unpadded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions
from saccade.layers.conv import ConvNormRelu, Kernel, half, refuse_small, scaled
from saccade.layers.layout import adaptive_pool, global_pool, join
from saccade.layers.maps import Maps
from saccade.layers.normalize import Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Rethinking the Inception Architecture for Computer Vision",
    authors="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
    year=2016,
    where="CVPR 2016, arXiv 1512.00567",
)
TASKS = ("classify", "tag")
MINIMUM = 75  # smallest side in pixels of an unpadded network


@dataclass(frozen=True)
class Config:
    """The network; defaults are those of the public checkpoint."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifiers
    task: str = "classify"  # or "tag": independent logistic outputs
    width: Positive = 1.0  # factor on all channels, a multiple of 1/8
    # same: also pad where a map shrinks, so that map pixels lie over the image at equal strides (detectors, segmenters)
    padding: Literal["valid", "same"] = "valid"
    auxiliary: bool = True  # classifier on the last 17x17 map, which only the loss sees (section 4)
    auxiliary_weight: NonNegative = 0.4  # not printed; of the authors' TensorFlow release
    dropout: Share = 0.5  # before the classifier; of the same release
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = (0.5, 0.5, 0.5)  # RGB in [0, 1]
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)


VARIANTS: dict[str, Config] = {"inception_v3": Config()}
SIZE = 299
AS_TRUNK = {"padding": "same"}  # map pixels lie over the image at equal strides

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"weight_decay": 2e-4, "clip_norm": 5.0},
    },
    "paper": {
        "*": {  # section 8
            "size": 299,
            "batch": 32,  # of each of 50 replicas
            "epochs": 100,
            "optimizer": "rmsprop",
            "rms_decay": 0.9,
            "rms_eps": 1.0,
            "lr": 0.045,
            "momentum": 0.9,  # not printed; of the authors' TensorFlow release
            "weight_decay": 4e-5,  # not printed; of the authors' TensorFlow release
            "schedule": "step",
            "milestones": tuple(i / 50 for i in range(1, 50)),  # every two epochs
            "gamma": 0.94,
            "warmup": 0.0,
            "clip_norm": 2.0,
            "ema": 0.9999,
            "label_smoothing": 0.1,
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
    """A 3x3 convolution at the places that the paper leaves unpadded; the image's 3 channels are not scaled."""
    channels_in = channels_in if channels_in == 3 else scaled(channels_in, config.width)
    return ConvNormRelu(channels_in, scaled(channels_out, config.width), 3, stride, int(config.padding == "same"))


def _pool(config: Config, x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2, padding=int(config.padding == "same"))


class InceptionA(nn.Module):
    """1x1; 5x5; two 3x3 in place of a larger one; average pool (figure 5). [b, c, H, W] -> [b, 224 + pool, H, W]."""

    def __init__(self, config: Config, channels: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = _conv(config, channels, 64)
        self.branch5x5_1 = _conv(config, channels, 48)
        self.branch5x5_2 = _conv(config, 48, 64, 5)
        self.branch3x3dbl_1 = _conv(config, channels, 64)
        self.branch3x3dbl_2 = _conv(config, 64, 96, 3)
        self.branch3x3dbl_3 = _conv(config, 96, 96, 3)
        self.branch_pool = _conv(config, channels, pool)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return join([self.branch1x1(x), five, double, pooled])


class ReductionA(nn.Module):
    """35x35 to 17x17 (figure 10): strided convolutions beside a pool. [b, c, H, W] -> [b, 480 + c, H / 2, W / 2]."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config = config
        self.branch3x3 = _shrinking(config, channels, 384)
        self.branch3x3dbl_1 = _conv(config, channels, 64)
        self.branch3x3dbl_2 = _conv(config, 64, 96, 3)
        self.branch3x3dbl_3 = _shrinking(config, 96, 96)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return join([self.branch3x3(x), double, _pool(self.config, x)])


class InceptionB(nn.Module):
    """7x7 convolutions as 1x7 and 7x1 (figure 6, n = 7). [b, 768, H, W] -> [b, 768, H, W].

    Args:
        inner: channels between the one-sided convolutions, which grow with depth.
    """

    def __init__(self, config: Config, channels: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = _conv(config, channels, 192)
        self.branch7x7_1 = _conv(config, channels, inner)
        self.branch7x7_2 = _conv(config, inner, inner, (1, 7))
        self.branch7x7_3 = _conv(config, inner, 192, (7, 1))
        self.branch7x7dbl_1 = _conv(config, channels, inner)
        self.branch7x7dbl_2 = _conv(config, inner, inner, (7, 1))
        self.branch7x7dbl_3 = _conv(config, inner, inner, (1, 7))
        self.branch7x7dbl_4 = _conv(config, inner, inner, (7, 1))
        self.branch7x7dbl_5 = _conv(config, inner, 192, (1, 7))
        self.branch_pool = _conv(config, channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return join([self.branch1x1(x), seven, double, pooled])


class ReductionB(nn.Module):
    """17x17 to 8x8. [b, 768, H, W] -> [b, 1280, H / 2, W / 2]."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.config = config
        self.branch3x3_1 = _conv(config, channels, 192)
        self.branch3x3_2 = _shrinking(config, 192, 320)
        self.branch7x7x3_1 = _conv(config, channels, 192)
        self.branch7x7x3_2 = _conv(config, 192, 192, (1, 7))
        self.branch7x7x3_3 = _conv(config, 192, 192, (7, 1))
        self.branch7x7x3_4 = _shrinking(config, 192, 192)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return join([three, self.branch7x7x3_4(seven), _pool(self.config, x)])


class InceptionC(nn.Module):
    """Branches that end in a 1x3 beside a 3x1, on the smallest map (figure 7). [b, c, H, W] -> [b, 2048, H, W]."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.branch1x1 = _conv(config, channels, 320)
        self.branch3x3_1 = _conv(config, channels, 384)
        self.branch3x3_2a = _conv(config, 384, 384, (1, 3))
        self.branch3x3_2b = _conv(config, 384, 384, (3, 1))
        self.branch3x3dbl_1 = _conv(config, channels, 448)
        self.branch3x3dbl_2 = _conv(config, 448, 384, 3)
        self.branch3x3dbl_3a = _conv(config, 384, 384, (1, 3))
        self.branch3x3dbl_3b = _conv(config, 384, 384, (3, 1))
        self.branch_pool = _conv(config, channels, 192)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        ends = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        ends += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return join([self.branch1x1(x), *ends, pooled])


class Auxiliary(nn.Module):
    """The classifier halfway (figure 8): [b, 768, H, W] -> logits [b, classes].

    A 17x17 map is averaged 5x5/3 to 5x5, which the 5x5 convolution takes whole; a smaller map is averaged to 5x5.
    """

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        self.conv0 = _conv(config, channels, 128)
        self.conv1 = ConvNormRelu(scaled(128, config.width), scaled(768, config.width), 5)
        self.fc = nn.Linear(scaled(768, config.width), config.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 5, 3) if min(x.shape[2:]) >= 17 else adaptive_pool(x, 5)
        return self.fc(global_pool(self.conv1(self.conv0(x))))


class Model(nn.Module):
    """Inception v3; with `classes=0` a trunk whose `forward` gives the maps of `features`.

    Attributes:
        channels: channels of each map of `features`: 192, 288, 768 and 2048 times the width.
        strides: 4, 8, 16, 32.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.Conv2d_1a_3x3 = _shrinking(config, 3, 32)
        self.Conv2d_2a_3x3 = _shrinking(config, 32, 32, 1)
        self.Conv2d_2b_3x3 = _conv(config, 32, 64, 3)
        self.Conv2d_3b_1x1 = _conv(config, 64, 80)
        self.Conv2d_4a_3x3 = _shrinking(config, 80, 192, 1)
        self.Mixed_5b = InceptionA(config, 192, 32)
        self.Mixed_5c = InceptionA(config, 256, 64)
        self.Mixed_5d = InceptionA(config, 288, 64)
        self.Mixed_6a = ReductionA(config, 288)
        self.Mixed_6b = InceptionB(config, 768, 128)
        self.Mixed_6c = InceptionB(config, 768, 160)
        self.Mixed_6d = InceptionB(config, 768, 160)
        self.Mixed_6e = InceptionB(config, 768, 192)
        self.AuxLogits = Auxiliary(config, 768) if config.classes and config.auxiliary else None
        self.Mixed_7a = ReductionB(config, 768)
        self.Mixed_7b = InceptionC(config, 1280)
        self.Mixed_7c = InceptionC(config, 2048)
        self.channels = [scaled(channels, config.width) for channels in (192, 288, 768, 2048)]
        self.strides = [4, 8, 16, 32]
        self.fc = nn.Linear(self.channels[-1], config.classes) if config.classes else None
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
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(self.normalize(images)))
        x = _pool(self.config, self.Conv2d_2b_3x3(x))
        quarter = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        eighth = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_pool(self.config, quarter))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(eighth)))
        sixteenth = self.Mixed_6e(self.Mixed_6d(x))
        last = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(sixteenth)))
        return self.maps([quarter, eighth, sixteenth, last])

    def _classify(self, top: Tensor) -> Tensor:
        if self.fc is None:
            raise ValueError("a trunk (classes=0) has no classifier")
        return self.fc(F.dropout(global_pool(top), self.config.dropout, self.training))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`.

        The auxiliary classifier takes no part, in training either: `loss` asks it.
        """
        maps = self.features(images)
        return tuple(maps) if self.fc is None else self._classify(maps[-1])

    def logits(self, images: Tensor) -> Tensor:
        """Logits [b, classes]. Raises ValueError for a trunk."""
        return self._classify(self.features(images)[-1])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The classification loss, and that of the auxiliary classifier times its weight."""
        maps = self.features(batch.images)
        task, objective = self.config.task, self.config.objective
        losses = classification_loss(self._classify(maps[-1]), batch.truth, task, objective)
        if self.AuxLogits is not None:
            extra = classification_loss(self.AuxLogits(maps[2]), batch.truth, task, objective)
            losses["auxiliary"] = self.config.auxiliary_weight * extra["classification"]
        return losses

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(self.logits(batch.images), batch.sizes, self.config.task)
