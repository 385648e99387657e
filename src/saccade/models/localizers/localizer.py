"""Localization by regression: a trunk that two heads share, one for the class and one for the box of the main object.

OverFeat (Sermanet et al. 2014, section 4) puts a regression network on the features of a classifier; Simonyan &
Zisserman (2015, appendix A) do the same with VGG, one box for all classes or one for each. Here both heads are trained
together: loss of the class + alpha * distance of the boxes. A box is (centre x, centre y, width, height) in shares of
the input's sides, each a sigmoid, so that it lies in [0, 1] from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.layout import adaptive_pool
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss, label_tensor
from saccade.losses.detection import smooth_l1
from saccade.models.backbones import create_trunk
from saccade.models.paper import Paper
from saccade.ops.boxes import clip_boxes
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

_OVERFEAT = Paper(
    title="OverFeat: Integrated Recognition, Localization and Detection using Convolutional Networks",
    authors="Sermanet, Eigen, Zhang, Mathieu, Fergus, LeCun",
    year=2014,
    where="ICLR 2014, arXiv 1312.6229",
)
_VGG = Paper(
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    authors="Simonyan, Zisserman",
    year=2015,
    where="ICLR 2015, arXiv 1409.1556, appendix A",
)
TASKS = ("localize",)
ANSWERS = 5  # of an image with a box for each class: the challenge looks at so many


@dataclass(frozen=True)
class Config:
    """The network; defaults are localizer_resnet18's."""

    classes: Count = 1000
    trunk: str = "resnet18"  # any classification network that gives feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    pool: bool = False  # 2x2 max-pool behind the trunk: VGG's last, which belongs to its classifier
    class_grid: Count = 1  # cells a side that the class head sees: 1 is global average pooling
    class_hidden: tuple[Count, ...] = ()  # units of its hidden layers
    # A box depends on where things are: its head sees a grid. `reduced`: channels to which a 1x1 convolution brings
    # the map before, 0 for all of them.
    box_grid: Natural = 7
    reduced: Natural = 128
    box_hidden: tuple[Count, ...] = (256,)  # OverFeat: 4096 and 1024
    dropout: Share = 0.0  # on hidden layers
    per_class: bool = False  # a box for each class, trained on its own images; else one for all
    box_loss: Literal["l1", "l2", "smooth_l1"] = "smooth_l1"  # sum over the four numbers of a box
    beta: NonNegative = 0.05  # smooth_l1: distance, in sides of the input, at which it turns from a square into a line
    box_weight: NonNegative = 5.0  # alpha, of the box in the sum of the losses
    objective: Objective = CROSS_ENTROPY  # what the class is trained with


VARIANTS: dict[str, Config] = {
    "localizer_resnet18": Config(),
    "localizer_resnet50": Config(trunk="resnet50"),
    "localizer_small": Config(trunk_width=32, reduced=64),  # for few images, on CPUs
    "localizer_vgg16": Config(
        trunk="vgg16",
        pool=True,
        class_grid=7,
        class_hidden=(4096, 4096),
        reduced=0,
        box_hidden=(4096, 1024),
        dropout=0.5,
    ),
}
PAPER: dict[str, Paper] = {name: _VGG if config.trunk == "vgg16" else _OVERFEAT for name, config in VARIANTS.items()}
SIZE = 224

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": {
            "size": 224,
            "batch": 16,
            "epochs": 100,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.05,
            "schedule": "cosine",
            "warmup": 0.05,
            "clip_norm": 5.0,
            "ema": 0.99,
            "resize": "stretch",
            "jitter": 0.3,
            "flip": 0.5,
            "color": 0.5,
        },
        "localizer_vgg16": {
            "size": 224,
            "batch": 16,
            "epochs": 100,
            "optimizer": "sgd",
            "lr": 5e-3,
            "weight_decay": 5e-4,
            "warmup": 0.1,
            "clip_norm": 5.0,
            "resize": "stretch",
            "jitter": 0.3,
            "color": 0.5,
        },
    },
    "paper": {
        "*": {  # OverFeat, sections 3.2 and 4.2
            "size": 224,
            "batch": 128,
            "epochs": 90,
            "optimizer": "sgd",
            "lr": 0.05,
            "momentum": 0.6,
            "weight_decay": 1e-5,
            "schedule": "step",
            "milestones": (0.333, 0.556, 0.667, 0.778, 0.889),  # epochs 30, 50, 60, 70, 80
            "gamma": 0.5,
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "stretch",
            "color": 0.0,
            "per_class": True,
            "box_loss": "l2",
            "box_weight": 1.0,  # the paper trains the two heads one after the other
        },
        "localizer_vgg16": {  # sections 3.1 and A.1; starts from the classifier (--weights)
            "size": 224,
            "batch": 256,
            "epochs": 74,
            "optimizer": "sgd",
            "lr": 1e-3,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (0.333, 0.667),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "stretch",
            "color": 0.0,
            "lighting": 0.1,
            "per_class": True,
            "box_loss": "l2",
            "box_weight": 1.0,
        },
    },
}


class Head(nn.Module):
    """Maps [b, channels, H, W] -> [b, outputs]: averages over a grid of cells, then fully connected layers.

    Before them a 1x1 convolution to `reduced` channels, unless that is 0. ReLU and dropout follow each hidden layer;
    `layers` has the keys of VGG's classifier.
    """

    def __init__(
        self, channels: int, outputs: int, grid: int, hidden: Sequence[int], reduced: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.grid = grid
        self.reduce: nn.Sequential | None = None
        if reduced:
            self.reduce = nn.Sequential(
                nn.Conv2d(channels, reduced, 1, bias=False), nn.BatchNorm2d(reduced), nn.ReLU(inplace=True)
            )
            channels = reduced
        widths = [channels * grid * grid, *hidden]
        layers: list[nn.Module] = []
        for before, after in zip(widths, hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))
        self._initialise()

    def _initialise(self) -> None:
        """He initialisation; the last layer starts near 0: all classes alike, a box of half the image in its middle."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.layers[-1].weight, 0, 0.01)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        if self.reduce is not None:
            x = self.reduce(x)
        return self.layers(adaptive_pool(x, self.grid).flatten(1))


class Model(nn.Module):
    """A trunk with a head for the class and one for the box."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.trunk = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
        channels = self.trunk.channels[-1]
        self.classify = Head(channels, config.classes, config.class_grid, config.class_hidden, dropout=config.dropout)
        self.boxes = config.classes if config.per_class else 1
        self.locate = Head(channels, 4 * self.boxes, config.box_grid, config.box_hidden, config.reduced, config.dropout)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [b, classes] and boxes [b, k, 4] of images [b, 3, H, W] in [0, 1]; k is 1, or classes if `per_class`.

        A box is centre x, centre y, width, height in shares of W, H, W, H, each in (0, 1), float32.
        """
        maps = self.trunk.features(images)[-1]
        if self.config.pool:
            maps = F.max_pool2d(maps, 2)
        boxes = self.locate(maps).float().sigmoid()
        return self.classify(maps), boxes.unflatten(1, (self.boxes, 4))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`classification`, and `box`: alpha times the distance to the true box, mean over images.

        Raises:
            ValueError: no truth, or an image without a label or with another number of boxes than one.
        """
        logits, boxes = self(batch.images)
        losses = classification_loss(logits, batch.truth, "classify", self.config.objective)
        truth = batch.truth or []
        height, width = batch.images.shape[-2:]
        target = true_boxes(truth, (height, width)).to(boxes.device, boxes.dtype, non_blocking=True)
        if self.config.per_class:
            labels = label_tensor(truth, boxes.device)
            own = boxes[torch.arange(len(truth), device=boxes.device), labels]
        else:
            own = boxes[:, 0]
        distance = box_losses(own, target, self.config.box_loss, self.config.beta)
        return losses | {"box": self.config.box_weight * distance.mean()}

    def predict(self, batch: Batch) -> list[Annotation]:
        """Label, probabilities of all classes, and the box of the label as the one object of the image.

        With a box for each class there are those of the (at most) 5 most probable classes, best first.
        """
        found = self._best(batch.images)
        labels = found.labels[:, 0].tolist()
        return [
            Annotation(
                size,
                label=labels[i],
                probabilities=found.probabilities[i],
                objects=Objects(clip_boxes(found.boxes[i], size), found.labels[i], found.scores[i]),
            )
            for i, size in enumerate(batch.sizes)
        ]

    def answers(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """`predict` in fixed shapes (`contract.NetworkOffers`)."""
        found = self._best(images)
        boxes = clip_boxes(found.boxes, sizes[:, None])
        named = {"boxes": boxes, "labels": found.labels, "scores": found.scores}
        return {"probabilities": found.probabilities, **named}

    @torch.no_grad()
    def _best(self, images: Tensor) -> _Best:
        logits, boxes = self(images)
        scores = logits.float().softmax(1)
        count = min(ANSWERS, self.config.classes) if self.config.per_class else 1
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
        rows = order if self.config.per_class else torch.zeros_like(order)
        chosen = corners(boxes.gather(1, rows[:, :, None].expand(-1, -1, 4)), images.shape[-2:])
        return _Best(scores, chosen, order, scores.gather(1, order))


@dataclass(slots=True)
class _Best:
    """What is said of images: the probability of every class, and the k most probable with their boxes in pixels."""

    probabilities: Tensor  # [b, classes]
    boxes: Tensor  # [b, k, 4]
    labels: Tensor  # [b, k]
    scores: Tensor  # [b, k]


def true_boxes(truth: Sequence[Annotation], size: tuple[int, int]) -> Tensor:
    """[b, 4] centre x, centre y, width, height of each image's one box, in shares of `size` (height, width).

    Raises:
        ValueError: an image has not exactly one box.
    """
    for i, annotation in enumerate(truth):
        if annotation.objects is None or len(annotation.objects) != 1:
            found = 0 if annotation.objects is None else len(annotation.objects)
            raise ValueError(f"image {i} of the batch has {found} boxes; localize needs one an image")
    boxes = torch.cat([t.objects.boxes for t in truth if t.objects is not None])
    low, high = boxes[:, :2], boxes[:, 2:]
    sides = torch.tensor([size[1], size[0]], dtype=boxes.dtype).to(boxes.device, non_blocking=True)
    return torch.cat([(low + high) / 2 / sides, (high - low) / sides], 1)


def corners(boxes: Tensor, size: Sequence[int]) -> Tensor:
    """[..., 4] centre x, centre y, width, height in shares of `size` (height, width) -> x1 y1 x2 y2 in pixels."""
    x, y, w, h = (boxes[..., i] * size[1 - i % 2] for i in range(4))
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)


def box_losses(prediction: Tensor, target: Tensor, kind: str, beta: float) -> Tensor:
    """[b] distances of boxes [b, 4], summed over their four numbers: absolute, squared, or smooth L1 with `beta`."""
    if kind == "l2":
        return (prediction - target).square().sum(1)
    return smooth_l1(prediction, target, beta if kind == "smooth_l1" else 0.0).sum(1)


def from_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last layers of a classification network, which become the class head: one linear layer (`fc`, `classifier` or
    `last_linear`), or those of VGG's `classifier`."""
    found = {}
    for key, value in state_dict.items():
        layer, _, last = key.rpartition(".")
        if layer in ("fc", "classifier", "last_linear"):
            found[f"classify.layers.0.{last}"] = value
        elif key.startswith("classifier."):
            found["classify.layers." + key.removeprefix("classifier.")] = value
    return found
