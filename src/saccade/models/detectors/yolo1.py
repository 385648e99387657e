"""YOLO (Redmon et al. 2016): one network looks once at the image and names every cell of a grid.

The image is divided into S x S cells. The cell in which the centre of an object falls is responsible for it: it states
one distribution over the classes, and B boxes with a confidence each. In training one of the B, the one with the
highest IoU at that moment, is responsible for the object, so that they share out the shapes among themselves. The loss
is a sum of squares, all the way (equation 3).

The file follows the released code (Darknet) where it goes beyond the paper: sides are predicted as square roots, the
outputs of the last layer stand as it orders them, the first object of a cell is the one that counts, and where none of
the B boxes meets the object the nearest is responsible. Batch norm came with the release too; `trunk_norm=none` is the
network as the paper printed it.

Letters: b images, S x S cells (or h x w), B boxes a cell, C classes, T the most objects of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.cells import at_places, first_of_each, unassigned
from saccade.layers.conv import refuse_small
from saccade.layers.detections import detections
from saccade.layers.locally_connected import LocallyConnected2d
from saccade.layers.stages import BoxStage, found_targets, suppression_stages
from saccade.layers.targets import Targets, detection_targets
from saccade.models.backbones import create_trunk
from saccade.models.backbones.darknet import ConvNorm
from saccade.models.darknet_weights import read_for_model
from saccade.models.paper import Paper
from saccade.ops.boxes import iou
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="You Only Look Once: Unified, Real-Time Object Detection",
    authors="Redmon, Divvala, Girshick, Farhadi",
    year=2016,
    where="CVPR 2016, arXiv 1506.02640",
)
TASKS = ("detect",)
# of the classes [b, S S, C], of the confidences [b, S S, B], boxes [b, S S, B, 4], and the number of rows and columns
Outputs = tuple[Tensor, Tensor, Tensor, tuple[int, int]]
SLOPE = 0.1  # of the leaky ReLU below 0 (equation 2)


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are yolo1's."""

    classes: Count = 20
    trunk: str = "extraction"  # any classification network that gives feature maps; the first 20 layers of figure 3
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics; none: without, as printed (darknet networks alone)
    trunk_norm: Literal["batch", "frozen", "none"] | None = None
    # (channels, stride) of each 3x3 convolution on the trunk's last map
    convs: tuple[tuple[Count, Count], ...] = ((1024, 1), (1024, 2), (1024, 1), (1024, 1))
    # How cells become answers: "full" by fully connected layers; "local" by a locally connected layer of 256 maps and
    # one fully connected layer, as in the release; "conv" by a 1x1 convolution, cell by cell, at any size of image.
    head: Literal["full", "local", "conv"] = "full"
    hidden: Natural = 4096  # full: units of the layer before the last; 0 for none
    dropout: Share = 0.5  # before the last fully connected layer
    grid: Count = 7  # S of "full" and "local"; maps of images of another size are pooled to it
    boxes: Count = 2  # B
    coordinates: NonNegative = 5.0  # lambda_coord (equation 3)
    background: NonNegative = 0.5  # lambda_noobj (equation 3)
    score_threshold: Share = 0.01
    nms_iou: Share = 0.5
    candidates: Count = 400  # best boxes of each class that enter NMS
    keep: Count = 100  # boxes an image after NMS


VARIANTS: dict[str, Config] = {
    "yolo1": Config(),
    "yolo1_released": Config(head="local", boxes=3),  # yolov1.cfg
    "yolo1_tiny": Config(trunk="darknet_reference", convs=((256, 1),), hidden=0),  # yolov1-tiny.cfg
    # Ours: cells of 16 pixels, answered for by convolutions, which learns from scratch on a CPU. Where a centre lies in
    # so small a cell says little, and there are eight times as many boxes without an object: both weigh less.
    "yolo1_small": Config(
        trunk="resnet18",
        trunk_width=32,
        trunk_depths=(1, 2, 3),  # three stages: the last map has stride 16
        convs=((256, 1), (256, 1)),
        head="conv",
        coordinates=1.0,
        background=0.06,
    ),
}
SIZE: dict[str, int] = {"yolo1": 448, "yolo1_released": 448, "yolo1_tiny": 448, "yolo1_small": 320}

_DEFAULT: dict[str, Any] = {
    "size": 448,
    "batch": 16,
    "epochs": 100,
    "optimizer": "adamw",
    "lr": 5e-4,
    "weight_decay": 0.02,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 10.0,
    "ema": 0.995,
    "resize": "letterbox",
    "flip": 0.5,
    "jitter": 0.2,
    "color": 0.5,
}
_PAPER: dict[str, Any] = {  # section 2.2 and yolov1.cfg; from the trunk's weights of ImageNet
    "size": 448,
    "batch": 64,
    "epochs": 135,
    "optimizer": "sgd",
    "lr": 1e-2,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (0.556, 0.778),
    "warmup": 0.02,
    "clip_norm": 0.0,
    "resize": "stretch",
    "flip": 0.5,
    "jitter": 0.2,
    "color": 0.5,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT, "yolo1_small": _DEFAULT | {"size": 320, "batch": 8, "lr": 1.5e-3, "epochs": 60}},
    "paper": {"*": _PAPER},
}


class FullHead(nn.Module):
    """Map [b, c, S, S] -> numbers [b, S S (C + 5 B)] by layers that see all of it."""

    def __init__(self, config: Config, channels: int) -> None:
        super().__init__()
        side, values = config.grid, config.grid**2 * (config.classes + 5 * config.boxes)
        self.side = side
        self.local = None
        self.hidden = None
        if config.head == "local":
            self.local = LocallyConnected2d(channels, 256, (side, side), 3, padding=1)
            channels = 256
        elif config.hidden:
            self.hidden = nn.Linear(channels * side * side, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.last = nn.Linear(config.hidden if self.hidden is not None else channels * side * side, values)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (self.side, self.side):
            x = F.adaptive_avg_pool2d(x, self.side)
        if self.local is not None:
            x = F.leaky_relu(self.local(x), SLOPE)
        x = x.flatten(1)
        if self.hidden is not None:
            x = F.leaky_relu(self.hidden(x), SLOPE)
        return self.last(self.dropout(x))


class Model(nn.Module):
    """YOLO."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
        channels, layers = self.backbone.channels[-1], []
        for width, stride in config.convs:
            layers.append(ConvNorm(channels, width, 3, stride, SLOPE, norm=config.trunk_norm != "none"))
            channels = width
        self.convs = nn.Sequential(*layers)
        self.head: nn.Module
        if config.head == "conv":
            self.head = nn.Conv2d(channels, config.classes + 5 * config.boxes, 1)
            nn.init.normal_(self.head.weight, std=0.01)
        else:
            self.head = FullHead(config, channels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [b, 3, H, W] in [0, 1] -> what the S S cells state, by rows: of the classes [b, S S, C], of the
        confidences [b, S S, B], and boxes [b, S S, B, 4]: centre in its cell, 0 to 1, and square roots of the sides as
        shares of the image's."""
        classes, confidences, boxes, _ = self._outputs(images)
        return classes, confidences, boxes

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, S S B, C] in [0, 1], boxes [b, S S B, 4] in pixels; exportable.

        A score is the class's probability times the box's confidence (equation 1).
        """
        return scored(self._outputs(images), images)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The five sums of squares of equation 3, weighted, each the mean over the images: `centre`, `size`, `object`,
        `background` and `class`."""
        targets = detection_targets(batch, self.config.classes)
        each = square_losses(targets, self._outputs(batch.images), batch.images, self.config)
        return {name: value.sum() / len(batch) for name, value in each.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """Boxes of each image by falling score, at most `keep`, clipped to it, after NMS by class; on the CPU."""
        config, (scores, boxes) = self.config, self.scored_boxes(batch.images)
        return detections(
            scores, boxes, batch.sizes, config.score_threshold, config.candidates, config.nms_iou, config.keep
        )

    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The cells that would answer for what is found, boxes before suppression and after."""
        config, (scores, boxes), answer = self.config, self.scored_boxes(batch.images), self.predict(batch)[0]
        targets = found_targets(batch, [answer], config.classes)
        mine = cell_stage(self._outputs(batch.images)[3], batch.images, targets)
        threshold, nms = config.score_threshold, config.nms_iou
        return [mine, *suppression_stages(boxes[0], scores[0], answer.size, threshold, nms, answer, 0.0)]

    def _outputs(self, images: Tensor) -> Outputs:
        """What `forward` gives, in float32, and the number of rows and columns of cells."""
        config = self.config
        refuse_small(images, self.backbone.strides[-1])
        x = self.head(self.convs(self.backbone.features(images)[-1])).float()
        if config.head == "conv":
            rows, columns = x.shape[-2:]
            x = x.permute(0, 2, 3, 1).flatten(1, 2)
            classes, confidences, boxes = x.split([config.classes, config.boxes, 4 * config.boxes], dim=-1)
            return classes, confidences, boxes.unflatten(-1, (config.boxes, 4)), (int(rows), int(columns))
        return read_grid(x, (config.grid, config.grid), config.classes, config.boxes)


def read_grid(x: Tensor, cells: tuple[int, int], classes: int, boxes: int) -> Outputs:
    """What numbers [b, S S (C + 5 B)] state: those of the classes [b, S S, C] of all cells, then of the confidences
    [b, S S, B], then of the boxes [b, S S, B, 4]; and the number of rows and columns (Darknet's `[detection]`)."""
    count = cells[0] * cells[1]
    parts = x.split([count * n for n in (classes, boxes, 4 * boxes)], dim=1)
    named, confidences, corners = (part.unflatten(1, (count, -1)) for part in parts)
    return named, confidences, corners.unflatten(-1, (boxes, 4)), cells


def scored(outputs: Outputs, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [b, S S B, C] in [0, 1] and boxes [b, S S B, 4] in pixels of images [b, 3, H, W]: a score is the class's
    probability times the box's confidence (equation 1)."""
    classes, confidences, boxes, cells = outputs
    scores = (classes[:, :, None] * confidences[..., None]).clamp(0, 1)
    return scores.flatten(1, 2), cell_boxes(boxes, cells, images).flatten(1, 2)


def square_losses(targets: Targets, outputs: Outputs, images: Tensor, config: Any) -> dict[str, Tensor]:
    """The five sums of squares of equation 3, weighted, unsummed over objects and boxes.

    Args:
        targets: of the batch.
        outputs: of the classes [b, S S, C], of the confidences [b, S S, B], boxes [b, S S, B, 4] as `Model.forward`
            gives them, and the number of rows and columns of cells.
        images: [b, 3, H, W].
        config: with `coordinates` and `background` of Config.
    """
    classes, confidences, boxes, cells = outputs
    place, wanted, counts = assign(targets, cells, images)
    stated = at_places(boxes.flatten(2), place).unflatten(2, boxes.shape[2:])  # [b, T, B, 4]
    found = cell_boxes(boxes.detach(), cells, images)
    overlap, chosen = _responsible(stated, wanted, found, place, targets)
    mine = stated.gather(2, chosen[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
    answering = place * confidences.shape[2] + chosen
    sure = confidences.flatten(1).gather(1, answering)
    named = at_places(classes, place)
    squares = (mine - wanted).square()
    label = F.one_hot(targets.labels, classes.shape[2])
    _, idle = unassigned(targets, found.flatten(1, 2), answering, counts, None)
    return {
        "centre": config.coordinates * squares[..., :2].sum(-1) * counts,
        "size": config.coordinates * squares[..., 2:].sum(-1) * counts,
        "object": (sure - overlap).square() * counts,
        "background": config.background * confidences.flatten(1).square() * idle,
        "class": (named - label).square().sum(-1) * counts,
    }


@torch.no_grad()
def _responsible(
    stated: Tensor, wanted: Tensor, found: Tensor, place: Tensor, targets: Targets
) -> tuple[Tensor, Tensor]:
    """IoU [b, T] of each object with the box responsible for it, and the number [b, T] of that box in its cell.

    Args:
        stated: [b, T, B, 4] of the object's cell, as the network states boxes.
        wanted: [b, T, 4] likewise.
        found: [b, S S, B, 4] in pixels.
        place: [b, T] cell of each object.
    """
    at = place[..., None, None].expand(-1, -1, *found.shape[2:])
    overlaps = iou(found.gather(1, at), targets.boxes[:, :, None])  # [b, T, B]
    distance = (stated - wanted[:, :, None]).square().sum(-1)
    nearest = torch.where(overlaps.amax(-1, keepdim=True) > 0, overlaps, -distance)
    chosen = nearest.argmax(-1)
    return overlaps.gather(2, chosen[..., None])[..., 0], chosen


def cell_stage(cells: tuple[int, int], images: Tensor, targets: Targets) -> BoxStage:
    """The cells of one image that would answer for the found objects, as boxes of the objects' classes.

    Args:
        cells: number of rows and columns.
        images: [1, 3, H, W].
        targets: `found_targets`.
    """
    place, _, counts = (each[0] for each in assign(targets, cells, images))
    rows, columns = cells
    place, labels = place[counts].cpu(), targets.labels[0][counts].cpu()
    step = torch.tensor([images.shape[3] / columns, images.shape[2] / rows])
    corner = torch.stack((place % columns, place.div(columns, rounding_mode="floor")), -1) * step
    words = (
        "The cells in which the found objects have their centres; were these objects the truth, these cells would "
        "learn them, in the colour of the class. A cell answers for one object, the first."
    )
    return BoxStage("responsible cells", words, torch.cat((corner, corner + step), -1), labels=labels)


@torch.no_grad()
def assign(targets: Targets, cells: tuple[int, int], images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which cell answers for which object (section 2).

    Args:
        targets: of the batch, T places an image.
        cells: number of rows and columns.
        images: [b, 3, H, W].

    Returns:
        The cell [b, T] of each object, counted by rows, 0 where there is no object; what its box should be, [b, T, 4],
        as the network states boxes; and [b, T] bool, which objects count: of several in one cell the first.
    """
    rows, columns = cells
    sides = images.new_tensor([images.shape[3], images.shape[2]], dtype=torch.float32)
    grid = images.new_tensor([columns, rows], dtype=torch.float32)
    centre = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2 / sides * grid
    corner = torch.minimum(centre.floor().clamp(min=0), grid - 1)
    size = ((targets.boxes[..., 2:] - targets.boxes[..., :2]).clamp(min=0) / sides).sqrt()
    place = (corner[..., 1] * columns + corner[..., 0]).long()
    return place, torch.cat((centre - corner, size), dim=-1), first_of_each(place, targets)


def cell_boxes(boxes: Tensor, cells: tuple[int, int], images: Tensor) -> Tensor:
    """Boxes [b, S S, B, 4] as the network states them -> x1 y1 x2 y2 in pixels of images [b, 3, H, W]."""
    rows, columns = cells
    height, width = images.shape[-2:]
    number = torch.arange(rows * columns, device=boxes.device)
    x = (boxes[..., 0] + (number % columns)[:, None]) * (width / columns)
    y = (boxes[..., 1] + number.div(columns, rounding_mode="floor")[:, None]) * (height / rows)
    w, h = boxes[..., 2].square() * (width / 2), boxes[..., 3].square() * (height / 2)
    return torch.stack((x - w, y - h, x + w, y + h), dim=-1)


FILES: dict[str, Callable[[Path, nn.Module], dict[str, Tensor]]] = {".weights": read_for_model}
