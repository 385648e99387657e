"""AlexNet (Krizhevsky, Sutskever, Hinton 2012): the network that won ILSVRC 2012, as printed and as published since.

alexnet: the one-tower form of the public torchvision checkpoint (Krizhevsky 2014, "One weird trick"): convolutions of
64-192-384-256-256, 224 px padded by 2, no normalisation across channels. alexnet_paper: 227 px, 96-256-384-384-256,
three of the convolutions in two groups (one for each GPU then), local response normalisation before the first two
pools. alexnet_ungrouped is the same without groups; caffenet pools before it normalises, as the Caffe zoo's file does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import Flat, adaptive_pool
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.layers.response_norm import LocalResponseNorm
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="ImageNet Classification with Deep Convolutional Neural Networks",
    authors="Krizhevsky, Sutskever, Hinton",
    year=2012,
    where="NIPS 2012",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are alexnet's (the public one)."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    widths: tuple[Count, ...] = (64, 192, 384, 256, 256)  # channels of the five convolutions
    groups: Count = 1  # of the second, fourth and fifth convolution (section 3.2: 2)
    # section 3.3, after the first two convolutions; norm_pool as printed, pool_norm as in the Caffe zoo
    response: Literal["none", "norm_pool", "pool_norm"] = "none"
    # k, alpha, beta of section 3.3; alpha multiplies the *sum* of 5 squares
    lrn: tuple[NonNegative, ...] = (2.0, 1e-4, 0.75)
    padding: Natural = 2  # pixels around the image: 0 makes 55 of 227, 2 makes 55 of 224
    padded: bool = False  # pad conv and pools so that maps have ceil(H / stride) cells, for detectors
    init: Literal["he", "paper"] = "he"  # paper: section 5, N(0, 0.01) and biases of 1
    hidden: Count = 4096  # units of the two hidden fully connected layers
    dropout: Share = 0.5  # before both hidden layers
    # of a trunk: it keeps the two hidden layers (fc6 and fc7) as `tail`, for regions of its last map
    tail: bool = False
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


def _printed(groups: int, response: Literal["norm_pool", "pool_norm"], k: float, alpha: float) -> Config:
    """The paper's form: subtracts the mean, leaves the scale of 0-255 (section 2)."""
    return Config(
        widths=(96, 256, 384, 384, 256),
        groups=groups,
        response=response,
        lrn=(k, alpha, 0.75),
        padding=0,
        init="paper",
        std=(1 / 255,) * 3,
    )


VARIANTS: dict[str, Config] = {
    "alexnet": Config(),
    "alexnet_paper": _printed(2, "norm_pool", 2.0, 1e-4),
    "alexnet_ungrouped": _printed(1, "norm_pool", 2.0, 1e-4),
    # Caffe divides its alpha of 1e-4 by the five channels, and its k is 1
    "caffenet": _printed(2, "pool_norm", 1.0, 1e-4 / 5),
}
SIZE = {name: 227 if config.padding == 0 else 224 for name, config in VARIANTS.items()}
AS_TRUNK = {"padded": True}  # map pixels lie over the image at equal strides

_DEFAULT: dict[str, Any] = PHOTOGRAPHS | {"lr": 0.01, "warmup": 0.1, "clip_norm": 5.0}
_PAPER: dict[str, Any] = {  # section 5
    "size": 224,
    "batch": 128,
    "epochs": 90,
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (0.25, 0.5, 0.75),  # "reduced three times prior to termination", by hand
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "crop",
    "color": 0.0,
    "lighting": 0.1,  # section 4.1
}
_PRINTED = {name: {"size": 227, "view": 256 / 227} for name, size in SIZE.items() if size == 227}  # parts of 256
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT, **{name: _DEFAULT | changes for name, changes in _PRINTED.items()}},
    "paper": {"*": _PAPER, **{name: _PAPER | changes for name, changes in _PRINTED.items()}},
}


def local_response_norm(k: float, alpha: float, beta: float) -> LocalResponseNorm:
    """Section 3.3 over 5 channels: b = a / (k + alpha * sum of the 5 squares) ** beta.

    Caffe multiplies by alpha / 5, so that the paper's alpha is five times as large there.
    """
    return LocalResponseNorm(5 * alpha, beta, k)


def conv_layers(config: Config) -> list[nn.Module]:
    """The five convolutions with ReLU, pools and normalisations in one flat list (public keys of `alexnet`)."""
    first = 5 if config.padded else config.padding
    kernels = ((11, 4, first), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
    layers: list[nn.Module] = []
    channels = 3
    for i, ((kernel, stride, padding), width) in enumerate(zip(kernels, config.widths, strict=True)):
        groups = config.groups if i in (1, 3, 4) else 1
        layers += [nn.Conv2d(channels, width, kernel, stride, padding, groups=groups), nn.ReLU(inplace=True)]
        channels = width
        if i not in (0, 1, 4):
            continue
        pool = nn.MaxPool2d(3, 2, padding=1 if config.padded else 0)
        if config.response == "none" or i == 4:
            layers.append(pool)
        else:
            norm = local_response_norm(*config.lrn)
            layers += [norm, pool] if config.response == "norm_pool" else [pool, norm]
    return layers


class Stages(nn.Module):
    """The convolutions: images [b, 3, H, W] in [0, 1] -> three maps, of conv1, conv2 and conv5 after their ReLU.

    Children are named by their number in the flat list, which gives the public keys `features.0.weight`, ...
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.normalize = Normalize(config.mean, config.std)
        layers = conv_layers(config)
        self.length = len(layers)
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.normalize(images)
        maps = []
        for i in range(self.length - 1):  # the last pool belongs to the classifier
            layer = self.get_submodule(str(i))
            x = layer(x)
            following = self.get_submodule(str(i + 1))
            if isinstance(layer, nn.ReLU) and not isinstance(following, nn.Conv2d):
                maps.append(x)
        return maps


class Model(nn.Module):
    """An AlexNet; with `classes=0` a trunk whose `forward` gives the maps of conv1, conv2 and conv5.

    The public layout calls the convolutions `features`, and so does the trunk contract: here it is a module, called
    like the method that other trunks have. Its pools lose the last column of even sides, as in the paper: a map has
    a cell or two fewer than H / stride; `padded=True` makes it ceil(H / stride).

    Attributes:
        channels: channels of the three maps.
        strides: 4, 8, 16.
        tail_channels, tail_side: of a trunk with `tail`: units of fc7, and the 6 pixels that pool5 has.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.channels = [config.widths[0], config.widths[1], config.widths[4]]
        self.strides = [4, 8, 16]
        self.features = Stages(config)
        self.tail_channels, self.tail_side = config.hidden, 6
        self.classifier: Flat | None = None
        if config.classes or config.tail:
            self.classifier = Flat(
                nn.Dropout(config.dropout),
                nn.Linear(self.channels[-1] * 6 * 6, config.hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.hidden),
                nn.ReLU(inplace=True),
            )
        if self.classifier is not None and config.classes:
            self.classifier.append(nn.Linear(config.hidden, config.classes))
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation, or that of section 5, made for images on the scale of 0-255 and many steps."""
        convs = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        linears = [m for m in self.modules() if isinstance(m, nn.Linear)]
        printed = self.config.init == "paper"
        layers: list[nn.Conv2d | nn.Linear] = [*convs, *linears]
        for module in layers:
            inputs = module.weight[0].numel()
            nn.init.normal_(module.weight, 0, 0.01 if printed else math.sqrt(2 / inputs))
            hidden = linears[:-1] if self.config.classes else linears
            positive = printed and (module in [convs[1], convs[3], convs[4], *hidden])
            nn.init.constant_(module.bias, 1.0 if positive else 0.0)  # type: ignore[arg-type]
        if self.config.classes and not printed:
            nn.init.normal_(linears[-1].weight, 0, 0.01)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1], H and W at least 67; of a trunk the maps of `features`.

        The last map is pooled and averaged to 6x6 (the identity at 224 or 227), so that other sizes are classified too.
        """
        maps = self.features(images)
        if self.classifier is None or not self.config.classes:
            return tuple(maps)
        pooled = adaptive_pool(F.max_pool2d(maps[-1], 3, 2, padding=1 if self.config.padded else 0), 6)
        return self.classifier(pooled.flatten(1))

    @property
    def tail(self) -> nn.Module:
        """Of a trunk with `tail`: fc6 and fc7, regions [n, channels, 6, 6] of the last map -> [n, hidden]."""
        assert self.classifier is not None
        return self.classifier

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)
