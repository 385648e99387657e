"""ZFNet (Zeiler & Fergus 2014): AlexNet after a look inside: a finer first layer, no groups.

Figure 3: 7x7/2 and 5x5/2 first convolutions where AlexNet has 11x11/4 and 5x5/1, contrast normalisation across channels
after the first two pools, then three 3x3 convolutions and AlexNet's classifier. Without classifier it is the "ZF" trunk
of the early detectors (SPP-net, Faster R-CNN), whose sides `padded=True` gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.classification import classification_predictions, logits_of
from saccade.layers.layout import Flat, adaptive_pool
from saccade.layers.maps import Maps
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.backbones.alexnet import local_response_norm
from saccade.models.paper import Paper
from saccade.models.recipes import PHOTOGRAPHS
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Visualizing and Understanding Convolutional Networks",
    authors="Zeiler, Fergus",
    year=2014,
    where="ECCV 2014, arXiv 1311.2901",
)
TASKS = ("classify", "tag")


@dataclass(frozen=True)
class Config:
    """The network; defaults are zfnet's."""

    classes: Natural = 1000  # outputs; 0 for a trunk without classifier
    task: str = "classify"  # or "tag": independent logistic outputs
    widths: tuple[Count, ...] = (96, 256, 384, 384, 256)  # channels of the five convolutions
    # k, alpha, beta over 5 channels; AlexNet's, as the paper gives none
    lrn: tuple[NonNegative, ...] = (2.0, 1e-4, 0.75)
    padded: bool = False  # pad convolutions and pools so that maps have ceil(H / stride) cells, for detectors
    # section 3: a filter whose root mean square exceeds this is scaled back to it; 0 for none
    filter_rms: NonNegative = 0.1
    init: Literal["he", "paper"] = "he"  # paper: section 3, weights of 0.01 and biases of 0
    hidden: Count = 4096  # units of the two hidden fully connected layers
    dropout: Share = 0.5  # after both hidden layers
    # of a trunk: it keeps the two hidden layers (fc6 and fc7) as `tail`, for regions of its last map
    tail: bool = False
    objective: Objective = CROSS_ENTROPY  # what labels are trained with
    mean: tuple[Share, ...] = IMAGENET_MEAN  # RGB in [0, 1]
    std: tuple[Positive, ...] = IMAGENET_STD


VARIANTS: dict[str, Config] = {"zfnet": Config()}
SIZE = 224
AS_TRUNK = {"padded": True}  # map pixels lie over the image at equal strides

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": PHOTOGRAPHS | {"lr": 0.01, "warmup": 0.1, "clip_norm": 5.0},
    },
    "paper": {
        "*": {  # section 3: the rate was lowered by hand "when the validation error plateaus", 70 epochs in all
            "size": 224,
            "batch": 128,
            "epochs": 70,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "schedule": "step",
            "milestones": (0.333, 0.667),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "crop",
        },
    },
}


class Model(nn.Module):
    """A ZFNet; with `classes=0` a trunk whose `forward` gives the maps of `features`.

    Attributes:
        channels: channels of the maps of conv1, conv2 and conv5.
        strides: 2, 8, 16.
        tail_channels, tail_side: of a trunk with `tail`: units of fc7, and the 6 pixels that pool5 has.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths, padded = config.widths, config.padded
        self.channels = [widths[0], widths[1], widths[4]]
        self.strides = [2, 8, 16]
        self.normalize = Normalize(config.mean, config.std)
        self.maps = Maps()
        self.conv1 = nn.Conv2d(3, widths[0], 7, 2, padding=3 if padded else 1)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5, 2, padding=2 if padded else 0)
        self.conv3 = nn.Conv2d(widths[1], widths[2], 3, padding=1)
        self.conv4 = nn.Conv2d(widths[2], widths[3], 3, padding=1)
        self.conv5 = nn.Conv2d(widths[3], widths[4], 3, padding=1)
        # 110 -> 55 and 26 -> 13 need sides that are rounded up; padding does the same for even and odd ones
        self.pool = nn.MaxPool2d(3, 2, padding=1) if padded else nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm = local_response_norm(*config.lrn)
        self.tail_channels, self.tail_side = config.hidden, 6
        self.classifier: Flat | None = None
        if config.classes or config.tail:
            self.classifier = Flat(
                nn.Linear(widths[4] * 6 * 6, config.hidden),
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
        printed = self.config.init == "paper"
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                inputs = module.weight[0].numel()
                nn.init.normal_(module.weight, 0, 0.01 if printed else math.sqrt(2 / inputs))
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        if self.classifier is not None and self.config.classes:
            nn.init.normal_(self.classifier[-1].weight, 0, 0.01)  # type: ignore[arg-type]
        self.limit_filters()

    @torch.no_grad()
    def limit_filters(self) -> None:
        """Scale every filter of a convolution whose root mean square exceeds `filter_rms` back to it (section 3)."""
        if not self.config.filter_rms:
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                rms = module.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
                module.weight.mul_((self.config.filter_rms / rms.clamp(min=1e-12)).clamp(max=1))

    def features(self, images: Tensor) -> list[Tensor]:
        """Maps of conv1, conv2 and conv5, each after its ReLU, of images [b, 3, H, W] in [0, 1].

        224 gives sides 110, 26, 13; with `padded` they are ceil(H / stride): 112, 28, 14.
        """
        first = F.relu(self.conv1(self.normalize(images)))
        second = F.relu(self.conv2(self.norm(self.pool(first))))
        x = self.norm(self.pool(second))
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        return self.maps([first, second, F.relu(self.conv5(x))])

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1], H and W at least 47; of a trunk the maps of `features`.

        The last map is pooled (13 -> 6) and averaged to 6x6 (the identity at 224), so that others are classified too.
        """
        maps = self.features(images)
        if self.classifier is None or not self.config.classes:
            return tuple(maps)
        pooled = F.max_pool2d(maps[-1], 3, 2, ceil_mode=True)
        return self.classifier(adaptive_pool(pooled, 6).flatten(1))

    @property
    def tail(self) -> nn.Module:
        """Of a trunk with `tail`: fc6 and fc7, regions [n, channels, 6, 6] of the last map -> [n, hidden]."""
        assert self.classifier is not None
        return self.classifier

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The classification loss; in training the filters are held within their limit first."""
        if self.training:
            self.limit_filters()
        return classification_loss(logits_of(self(batch.images)), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(logits_of(self(batch.images)), batch.sizes, self.config.task)
