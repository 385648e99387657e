"""Network in Network (Lin, Chen, Yan 2014): every convolution is a small perceptron, maps are averaged into classes.

An mlpconv is a k x k convolution and two 1x1 ones, each with ReLU (section 3.1). The last one has a map a class, whose
mean over the image is the class's logit (global average pooling, section 3.2): no fully connected layer anywhere.
nin_cifar10 and nin_cifar100 are the networks of section 4; nin is the ImageNet form that its authors gave to the
Caffe zoo.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import global_pool
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="Network In Network",
    authors="Lin, Chen, Yan",
    year=2014,
    where="ICLR 2014, arXiv 1312.4400",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are nin_cifar10's."""

    classes: Natural = 10  # outputs; 0 for a trunk without the maps of the classes
    task: str = "classify"  # or "tag": independent logistic outputs
    # of each mlpconv: kernel, stride and padding of its first convolution
    kernels: tuple[tuple[Natural, Natural, Natural], ...] = ((5, 1, 2), (5, 1, 2), (3, 1, 1))
    # of each mlpconv: channels of its three convolutions; the third of the last one has the classes
    widths: tuple[tuple[Count, ...], ...] = ((192, 160, 96), (192, 192, 192), (192, 192))
    # before the second, third, ... mlpconv
    dropouts: tuple[Share, ...] = (0.5, 0.5)
    # ReLU on the maps of the classes too, as printed. A class whose map is negative everywhere then never learns,
    # and tags need logits of both signs
    last_relu: bool = False
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


_IMAGENET = Config(
    classes=1000,
    kernels=((11, 4, 0), (5, 1, 2), (3, 1, 1), (3, 1, 1)),
    widths=((96, 96, 96), (256, 256, 256), (384, 384, 384), (1024, 1024)),
    dropouts=(0.0, 0.0, 0.5),
)
VARIANTS: dict[str, Config] = {"nin": _IMAGENET, "nin_cifar10": Config(), "nin_cifar100": Config(classes=100)}
SIZE = {"nin": 224, "nin_cifar10": 32, "nin_cifar100": 32}

_CIFAR: dict[str, Any] = {
    "size": 32,
    "batch": 128,
    "epochs": 100,
    "optimizer": "sgd",
    "lr": 0.02,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup": 0.1,
    "clip_norm": 2.0,
    "resize": "crop",
    "pad": 4,
    "color": 0.0,
}
_CIFAR_PAPER: dict[str, Any] = {
    "size": 32,
    "batch": 128,  # section 4.1; the rest from the authors' solver file
    "epochs": 307,  # 120,000 steps of 128 over 50,000 images; steps at 100,000 and 110,000
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (0.833, 0.917),
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "crop",
    "pad": 4,  # section 4.3, the augmented result
    "color": 0.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": _CIFAR,
        "nin": {
            "size": 224,
            "batch": 32,
            "epochs": 60,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "warmup": 0.1,
            "clip_norm": 2.0,
            "label_smoothing": 0.1,
            "resize": "crop",
            # what "*" says of padding and colours is for CIFAR
            "pad": 0,
            "color": 0.3,
        },
    },
    "paper": {
        "*": _CIFAR_PAPER,
        "nin": {  # the Caffe zoo's solver file
            "size": 224,
            "batch": 64,
            "epochs": 22,  # 450,000 steps of 64 over 1.28 million images; steps of 200,000
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (0.444, 0.889),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
            "pad": 0,
        },
    },
}


def mlpconv(channels: int, kernel: tuple[int, int, int], widths: tuple[int, ...]) -> nn.Sequential:
    """A k x k convolution and 1x1 ones behind it, each with ReLU."""
    size, stride, padding = kernel
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], size, stride, padding), nn.ReLU(inplace=True)]
    for before, width in pairwise(widths):
        layers += [nn.Conv2d(before, width, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Model(nn.Module):
    """A network in network; with `classes=0` a trunk whose `forward` gives the maps of `features`.

    Attributes:
        channels: channels of the map of each mlpconv (of the last one: without its maps of the classes).
        strides: 1, 2, 4 (CIFAR) or 4, 8, 16, 32 (ImageNet).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.blocks = nn.ModuleList()
        self.channels: list[int] = []
        self.strides: list[int] = []
        channels, stride = 3, 1
        for i, (kernel, widths) in enumerate(zip(config.kernels, config.widths, strict=True)):
            self.blocks.append(mlpconv(channels, kernel, widths))
            channels = widths[-1]
            stride *= kernel[1] * (2 if i else 1)
            self.channels.append(channels)
            self.strides.append(stride)
        # the last 1x1 convolution of the last mlpconv
        self.head = nn.Conv2d(channels, config.classes, 1) if config.classes else None
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation; the maps of the classes start near zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.head is not None:
            nn.init.normal_(self.head.weight, 0, 0.01)

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps of the mlpconvs, of images [b, 3, H, W] in [0, 1]; in the CIFAR form H // strides[i] high.

        The ImageNet form does not pad its first 11x11 convolution: 224 gives 54, 27, 13, 6.
        """
        x = self.normalize(images)
        maps = []
        for i, block in enumerate(self.blocks):
            if i:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)  # 32 -> 16 -> 8
                x = F.dropout(x, self.config.dropouts[i - 1], self.training)
            x = block(x)
            maps.append(x)
        return self.maps(maps)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]; of a trunk the maps of `features`.

        Any size will do from 4 (CIFAR) or 39 (ImageNet) on: the mean over the map does not care.
        """
        maps = self.features(images)
        if self.head is None:
            return tuple(maps)
        classes = self.head(maps[-1])
        if self.config.last_relu and self.config.task == "classify":
            classes = F.relu(classes)
        return global_pool(classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)
