"""VGG (Simonyan & Zisserman 2015): nothing but 3x3 convolutions, 2x2 max-pools and three fully connected layers.

Configurations A, B, D, E of table 1 (11, 13, 16, 19 weight layers), each also with batch norm after every convolution.
State dicts have the keys of the public torchvision checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import Flat, adaptive_pool
from saccade.layers.maps import Pooled
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.models.stage import Fit
from saccade.ranges import Count, Natural, Positive, Share

PAPER = Paper(
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    authors="Simonyan, Zisserman",
    year=2015,
    where="ICLR 2015, arXiv 1409.1556",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are vgg16's (configuration D)."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    depths: tuple[Natural, ...] = (2, 2, 3, 3, 3)  # convolutions of each stage
    width: Count = 64  # channels of the first stage; 2, 4, 8 and 8 times as many in the others
    batch_norm: bool = False
    hidden: Count = 4096  # units of the two hidden fully connected layers
    dropout: Share = 0.5  # on both hidden layers
    # of a trunk: it keeps the two hidden layers (fc6 and fc7) as `tail`, for regions of its last map
    tail: bool = False
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


_FACTORS = (1, 2, 4, 8, 8)  # channels of the stages in widths
_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
VARIANTS: dict[str, Config] = {
    **{name: Config(depths=depths) for name, depths in _DEPTHS.items()},
    **{f"{name}_bn": Config(depths=depths, batch_norm=True) for name, depths in _DEPTHS.items()},
}
SIZE = 224

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"lr": 0.01, "warmup": 0.1, "clip_norm": 5.0},
    },
    "paper": {
        "*": {  # section 3.1
            "size": 224,
            "batch": 256,
            "epochs": 74,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (0.333, 0.667),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
            "color": 0.0,
            "lighting": 0.1,  # "random RGB colour shift", as AlexNet
        },
    },
}


def conv_layers(config: Config) -> list[nn.Module]:
    """Convolutions, each with (norm and) ReLU, and a 2x2 max-pool after every stage, in one flat list (public keys)."""
    layers: list[nn.Module] = []
    channels = 3
    for depth, factor in zip(config.depths, _FACTORS, strict=True):
        for _ in range(depth):
            layers.append(nn.Conv2d(channels, config.width * factor, 3, padding=1))
            channels = config.width * factor
            if config.batch_norm:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.MaxPool2d(2))
    return layers


class Stages(nn.Module):
    """The convolutional stages: images [b, 3, H, W] in [0, 1] -> five maps [b, channels[i], H >> i, W >> i].

    Each map is the output of the stage's last ReLU, before its pool: the fourth of vgg16 is conv4_3, the fifth conv5_3.
    Children are named by their number in the flat list, which gives the public keys `features.0.weight`, ...
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.normalize = Normalize(config.mean, config.std)
        self.length = 0
        for i, layer in enumerate(conv_layers(config)):
            self.add_module(str(i), layer)
            self.length = i + 1

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.normalize(images)
        maps = []
        for i in range(self.length):
            layer = self.get_submodule(str(i))
            if isinstance(layer, nn.MaxPool2d):
                maps.append(x)
                if len(maps) == len(_FACTORS):  # the last pool belongs to the classifier
                    break
            x = layer(x)
        return maps

    def pooled(self, images: Tensor) -> Pooled:
        """Images [b, 3, H, W] in [0, 1] -> the map behind the fifth pool [b, channels[4], H // 32, W // 32], and the
        places of the maxima of all five."""
        x = self.normalize(images)
        indices, sizes = [], []
        for i in range(self.length):
            layer = self.get_submodule(str(i))
            if isinstance(layer, nn.MaxPool2d):
                sizes.append((x.shape[2], x.shape[3]))
                x, places = F.max_pool2d(x, 2, return_indices=True)
                indices.append(places)
            else:
                x = layer(x)
        return Pooled(x, indices, sizes)


class Model(nn.Module):
    """A VGG network; with `classes=0` a trunk whose `forward` gives the maps of all stages.

    The public layout calls the convolutions `features`, and so does the trunk contract: here it is a module, called
    like the method that other trunks have.

    Attributes:
        channels: channels of each map of `features`: 1, 2, 4, 8, 8 times the width.
        strides: 1, 2, 4, 8, 16.
        tail_channels, tail_side: of a trunk with `tail`: units of fc7, and the 7 pixels that pool5 has at 224.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.channels = [config.width * factor for factor in _FACTORS]
        self.strides = [1, 2, 4, 8, 16]
        self.features = Stages(config)
        self.tail_channels, self.tail_side = config.hidden, 7
        self.classifier: Flat | None = None
        if config.classes or config.tail:
            self.classifier = Flat(
                nn.Linear(self.channels[-1] * 7 * 7, config.hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(config.dropout),
                nn.Linear(config.hidden, config.hidden),
                nn.ReLU(inplace=True),
                nn.Dropout(config.dropout),
            )
        if self.classifier is not None and config.classes:
            self.classifier.append(nn.Linear(config.hidden, config.classes))
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation, without which the deep forms do not start (the paper grew them from a trained form A)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1], H and W at least 32; of a trunk the maps of `features`.

        The last map is pooled and averaged to 7x7 (the identity at 224), so that other sizes are classified too.
        """
        maps = self.features(images)
        if self.classifier is None or not self.config.classes:
            return tuple(maps)
        pooled = adaptive_pool(F.max_pool2d(maps[-1], 2), 7)
        return self.classifier(pooled.flatten(1))

    def pooled(self, images: Tensor) -> Pooled:
        """What the maps are pooled to, with the places of the maxima, for decoders that put values back to them."""
        return self.features.pooled(images)

    @property
    def tail(self) -> nn.Module:
        """Of a trunk with `tail`: fc6 and fc7, regions [n, channels, 7, 7] of the last map -> [n, hidden]."""
        assert self.classifier is not None
        return self.classifier

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)


# A place in the flat public list: (stage, convolution within it), counted from 0.
Place = tuple[int, int]
# Section 3.1: the first four convolutions of net A initialise those that stand at their places in the deeper nets.
FIRST_FOUR: tuple[Place, ...] = ((0, 0), (1, 0), (2, 0), (2, 1))
_GROWTH = ("vgg11", "vgg13", "vgg16", "vgg19")  # configurations A, B, D, E


def places(depths: tuple[int, ...]) -> dict[Place, int]:
    """The number of every convolution in the flat list of a net without batch norm: `features.NUMBER.weight`."""
    numbers, number = {}, 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            numbers[stage, i] = number
            number += 2  # the convolution and its ReLU
        number += 1  # the pool
    return numbers


def grow(
    before: tuple[int, ...], after: tuple[int, ...], kept: tuple[Place, ...] | None, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors of a net of depths `before` under the names that they have in a deeper one.

    Args:
        kept: places of the convolutions to hand on; all where None. The fully connected layers always are.
    """
    old, new = places(before), places(after)
    renamed = {name: value for name, value in tensors.items() if name.startswith("classifier.")}
    for place in old if kept is None else kept:
        for kind in ("weight", "bias"):
            renamed[f"features.{new[place]}.{kind}"] = tensors[f"features.{old[place]}.{kind}"]
    return renamed


# What a shallower net has from the run's: all but its depths.
_CARRIED = ("classes", "task", "width", "batch_norm", "hidden", "dropout", "objective", "mean", "std")


def stages(name: str, recipe: str) -> list[Fit]:
    """The course of a net: for recipe "paper" of vgg13, vgg16 and vgg19 the shallower ones first: A, then B, then D.

    Net A hands on what section 3.1 says: its first four convolutions and the fully connected layers. The nets in
    between, which the paper leaves out, hand on all that they have. With batch norm, or He initialisation alone (the
    default recipe), the nets start without such help.
    """
    steps = _GROWTH[: _GROWTH.index(name) + 1] if recipe == "paper" and name in _GROWTH else (name,)
    found = []
    for before, after in pairwise(steps):
        kept = FIRST_FOUR if before == "vgg11" else None
        adopt = partial(grow, _DEPTHS[before], _DEPTHS[after], kept)
        found.append(Fit(before, before, carries=_CARRIED, adopt=adopt, instead_of_weights=True))
    return [*found, Fit(name, name)]
