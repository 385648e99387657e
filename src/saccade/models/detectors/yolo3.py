"""YOLOv3 (Redmon & Farhadi 2018): YOLOv2's boxes on three maps of a residual network, joined from the coarse to the
fine, with a logistic answer for each class.

Every object is answered for by one prior, whose shape overlaps it most, on the map that this prior belongs to; other
boxes that overlap it well are left alone (`ignore`). Follows the released code (Darknet), whose files of weights it
reads: gradients of the centres are those of a logistic loss (the paper speaks of squares: `centre=squares`), and small
boxes weigh more.

Letters: b images, A boxes of an image over all maps, k priors of a map, T the most objects of an image, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.anchors import fit_anchors, sides_of_boxes
from saccade.layers.cells import CellOutputs, at_places, confident_detections, read_cells, responsible, unassigned
from saccade.layers.conv import refuse_small
from saccade.layers.layout import join
from saccade.layers.stages import BoxStage, found_targets, prior_stage, suppression_stages
from saccade.layers.targets import Targets, detection_targets
from saccade.models.backbones import create_trunk
from saccade.models.backbones.darknet import ConvNorm
from saccade.models.darknet_weights import read_for_model
from saccade.models.detectors.yolo1 import SLOPE
from saccade.models.detectors.yolo2 import start_head
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="YOLOv3: An Incremental Improvement",
    authors="Redmon, Farhadi",
    year=2018,
    where="arXiv 1804.02767",
)
TASKS = ("detect",)
Sizes = tuple[tuple[float, float], ...]
LOGISTIC_START = 0.01  # confidence before the first step
POOLS = (5, 9, 13)  # sides of the spatial pyramid of yolov3-spp.cfg


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are yolo3's. Maps are listed from the coarse to the fine."""

    classes: Count = 80
    trunk: str = "darknet53"  # any classification network that gives as many feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics; none: no batch norm anywhere (darknet networks alone)
    trunk_norm: Literal["batch", "frozen", "none"] | None = None
    dilated: bool = False  # the trunk's last map has the stride of the one before, where the trunk offers it
    # of each map: channels of its 1x1 convolutions; its 3x3 have twice them
    widths: tuple[Count, ...] = (512, 256, 128)
    depths: tuple[Natural, ...] = (5, 5, 5)  # of each map: convolutions before the branch to the next map, 1x1 and 3x3
    pyramid: bool = False  # pool the coarsest map at three sides behind its third convolution (yolov3-spp.cfg)
    priors: tuple[Sizes, ...] = (  # of each map: (width, height) in pixels of the input
        ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
        ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
        ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    )
    fit_priors: bool = True  # fit `priors` to the training boxes by k-means under 1 - IoU
    ignore: Share = 0.5  # boxes that overlap an object by a larger IoU are not punished for their confidence
    # logistic: centres learn by a logistic loss, as in the release; squares: of their distance, as in the paper
    centre: Literal["logistic", "squares"] = "logistic"
    coordinates: NonNegative = 1.0  # weight of the box
    score_threshold: Share = 0.001
    nms_iou: Share = 0.45
    candidates: Count = 400  # best boxes of each class that enter NMS
    keep: Count = 200  # boxes an image after NMS


VARIANTS: dict[str, Config] = {
    "yolo3": Config(),
    "yolo3_spp": Config(pyramid=True),
    "yolo3_tiny": Config(
        trunk="darknet_reference",
        dilated=True,
        widths=(256, 128),
        depths=(1, 0),
        priors=(((81.0, 82.0), (135.0, 169.0), (344.0, 319.0)), ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0))),
    ),
    # Ours: maps of strides 8, 16 and 32, which learn from scratch on a CPU.
    "yolo3_small": Config(
        classes=20, trunk="resnet18", trunk_width=32, trunk_depths=(1, 2, 2, 2), widths=(96, 64, 48), depths=(1, 1, 1)
    ),
}
SIZE: dict[str, int] = {"yolo3": 416, "yolo3_spp": 608, "yolo3_tiny": 416, "yolo3_small": 320}

_DEFAULT: dict[str, Any] = {
    "size": 416,
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
    "jitter": 0.25,
    "color": 0.3,
}
_PAPER: dict[str, Any] = {  # section 2.3 and yolov3.cfg, from the trunk's weights of ImageNet
    "size": 416,
    "batch": 64,
    "epochs": 270,  # 500,200 steps of 64 over 118,287 images
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (0.8, 0.9),
    "warmup": 0.002,  # 1,000 steps
    "clip_norm": 0.0,
    "resize": "letterbox",
    "multi_scale": 0.46,
    "flip": 0.5,
    "jitter": 0.3,
    "color": 0.5,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT, "yolo3_small": _DEFAULT | {"size": 320, "batch": 8, "lr": 1.5e-3, "epochs": 60}},
    "paper": {"*": _PAPER},
}


class SpatialPyramid(nn.Module):
    """Max-pools of three sides beside the map itself: [b, c, H, W] -> [b, 4 c, H, W], the largest first."""

    def forward(self, x: Tensor) -> Tensor:
        return join([*(F.max_pool2d(x, side, 1, padding=side // 2) for side in reversed(POOLS)), x])


class Branch(nn.Module):
    """What one map goes through: [b, c, h, w] -> answers [b, k (5 + C), h, w] and, where a finer map follows, what is
    handed to it, [b, following, h, w].

    Args:
        channels: c.
        width: of the 1x1 convolutions.
        depth: convolutions, 1x1 and 3x3 by turns, before the two ways part.
        values: k (5 + C).
        following: channels of what is handed on; 0 for nothing.
        pyramid: see Config.
        norm: batch norms.
    """

    def __init__(
        self, channels: int, width: int, depth: int, values: int, following: int, pyramid: bool, norm: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(depth):
            if i == 3 and pyramid:
                layers += [SpatialPyramid(), ConvNorm(4 * channels, width, 1, 1, SLOPE, norm)]
                channels = width
            kernel, after = (3, 2 * width) if i % 2 else (1, width)
            layers.append(ConvNorm(channels, after, kernel, 1, SLOPE, norm))
            channels = after
        self.features = nn.Sequential(*layers)
        self.last = ConvNorm(channels, 2 * width, 3, 1, SLOPE, norm)
        self.head = nn.Conv2d(2 * width, values, 1)
        self.lateral = ConvNorm(channels, following, 1, 1, SLOPE, norm) if following else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.features(x)
        return self.head(self.last(x)), None if self.lateral is None else self.lateral(x)


class Model(nn.Module):
    """YOLOv3.

    Raises:
        UsageError: not as many `widths`, `depths` and `priors`, or the trunk has fewer maps.
    """

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        levels = len(config.priors)
        if len(config.widths) != levels or len(config.depths) != levels:
            raise UsageError(
                f"priors for {levels} maps, {len(config.widths)} widths and {len(config.depths)} depths; give as many"
            )
        norm = config.trunk_norm != "none"
        self.backbone = create_trunk(
            config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths, dilated=config.dilated
        )
        below = self._used(self.backbone.strides)
        if len(below) < levels:
            raise UsageError(
                f"the trunk {config.trunk} has {len(below)} maps of different strides, {levels} are needed"
            )
        self.maps = below[:levels]
        self.branches = nn.ModuleList()
        for i, (place, width, depth, priors) in enumerate(
            zip(self.maps, config.widths, config.depths, config.priors, strict=True)
        ):
            channels = self.backbone.channels[place] + (width if i else 0)
            following = config.widths[i + 1] if i + 1 < levels else 0
            values = len(priors) * (5 + config.classes)
            branch = Branch(channels, width, depth, values, following, config.pyramid and i == 0, norm)
            start_head(branch.head, len(priors), LOGISTIC_START)
            self.branches.append(branch)
        for i, level in enumerate(config.priors):
            self.register_buffer(f"priors{i}", torch.tensor(level), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [b, 3, H, W] in [0, 1] -> of each map, the coarsest first, [b, k (5 + C), h, w]: t_x, t_y, t_w, t_h,
        t_o and logits of the classes for each of k priors."""
        refuse_small(images, self.backbone.strides[-1])
        maps = self.backbone.features(images)
        out, above = [], None
        for place, branch in zip(self.maps, self.branches, strict=True):
            x = maps[place]
            if above is not None:
                x = join((F.interpolate(above, size=x.shape[-2:], mode="nearest"), x))
            answers, above = branch(x)
            out.append(answers)
        return tuple(out)

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, A, C] in [0, 1], boxes [b, A, 4] in pixels; exportable."""
        return self._scored(self._cells(images))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`box`, `object`, `background` and `class`, each a sum as a mean over the images, so that its gradients are
        those of Darknet's yolo layer."""
        targets = detection_targets(batch, self.config.classes)
        losses = logistic_losses(targets, self._cells(batch.images), self._priors(), self.config)
        return {name: value.sum() / len(batch) for name, value in losses.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """Boxes of each image by falling score, at most `keep`, clipped to it, after NMS by class; on the CPU."""
        return confident_detections(self._cells(batch.images), self._scored, batch.sizes, self.config)

    @staticmethod
    def _scored(cells: CellOutputs) -> tuple[Tensor, Tensor]:
        """Scores [b, A, C] in [0, 1] and boxes [b, A, 4] in pixels of what cells state."""
        return cells.values[..., 4:5].sigmoid() * cells.values[..., 5:].sigmoid(), cells.boxes()

    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The priors that would answer for what is found, boxes before suppression and after."""
        config, (scores, boxes), answer = self.config, self.scored_boxes(batch.images), self.predict(batch)[0]
        targets = found_targets(batch, [answer], config.classes)
        mine = prior_stage(self._cells(batch.images), self._priors(), targets)
        threshold, nms = config.score_threshold, config.nms_iou
        return [mine, *suppression_stages(boxes[0], scores[0], answer.size, threshold, nms, answer, 0.0)]

    @staticmethod
    def _used(strides: Sequence[int]) -> list[int]:
        """Numbers of the trunk's maps from the last on, one of each stride."""
        return [i for i in reversed(range(len(strides))) if i + 1 == len(strides) or strides[i] != strides[i + 1]]

    def _priors(self) -> list[Tensor]:
        return [self.get_buffer(f"priors{i}") for i in range(len(self.config.priors))]

    def _cells(self, images: Tensor) -> CellOutputs:
        height, width = images.shape[-2:]
        return read_cells(self(images), self._priors(), (height, width), direct=True)


def logistic_losses(targets: Targets, cells: CellOutputs, priors: Sequence[Tensor], config: Any) -> dict[str, Tensor]:
    """The parts of the loss, unsummed: `box`, `object` and `class` [b, T], `background` [b, A].

    Args:
        targets: of the batch.
        cells: what all maps state.
        priors: [k, 2] of each map, in pixels.
        config: with `ignore`, `centre` and `coordinates` of Config.

    Source: section 2.1 and 2.2; Darknet's release (`forward_yolo_layer`).
    """
    places, counts = responsible(targets, cells, priors)
    _, empty = unassigned(targets, cells.boxes().detach(), places, counts, config.ignore)
    mine = at_places(cells.values, places)
    wanted = cells.wanted(targets.boxes, places)
    if config.centre == "logistic":
        moves = F.binary_cross_entropy_with_logits(mine[..., :2], wanted[..., :2].clamp(0, 1), reduction="none")
    else:
        moves = (mine[..., :2].sigmoid() - wanted[..., :2]).square() / 2
    box = moves.sum(-1) + (mine[..., 2:4] - wanted[..., 2:]).square().sum(-1) / 2
    sure = cells.values[..., 4]
    labels = F.one_hot(targets.labels, mine.shape[-1] - 5).float()
    named = F.binary_cross_entropy_with_logits(mine[..., 5:], labels, reduction="none").sum(-1)
    return {
        "box": config.coordinates * box * cells.small_box_weight(targets.boxes) * counts,
        "object": F.softplus(-sure.gather(1, places)) * counts,
        "background": F.softplus(sure) * empty,
        "class": named * counts,
    }


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Fit the priors to the boxes of `examples`, which are in pixels of the network's input, and deal them out by size:
    the largest to the coarsest map (section 2.3). Fewer boxes than ten for each prior leave them as they are."""
    counts = [len(level) for level in config.priors]
    sides = sides_of_boxes(examples)
    if not config.fit_priors or len(sides) < 10 * sum(counts):
        return config
    fitted = [(float(w), float(h)) for w, h in fit_anchors(sides, sum(counts)).tolist()]
    priors, end = [], len(fitted)
    for count in counts:
        priors.append(tuple(fitted[end - count : end]))
        end -= count
    return dataclasses.replace(config, priors=tuple(priors))


FILES: dict[str, Callable[[Path, nn.Module], dict[str, Tensor]]] = {".weights": read_for_model}
