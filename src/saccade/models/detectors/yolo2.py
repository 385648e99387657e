"""YOLOv2 (Redmon & Farhadi 2017): YOLO made better, step by step, each of which can be taken back here.

Against YOLO: batch norm (`trunk_norm=none` takes it back), boxes drawn from priors by convolutions, so that any size of
image will do, shapes of priors from k-means over the training boxes (`fit_priors`), centres that stay in their cell
(`location`), a finer map passed through to the last one (`passthrough`), another trunk, and sizes that change from
batch to batch (setting `multi_scale`). The classifier that is trained at the detector's resolution first is a run of
the trunk whose weights are given to this one (`--weights`).

Follows the released code (Darknet), whose files of weights it reads: the order in which the finer map is folded, the
weight of small boxes, and priors that are learned for the first images.

Letters: b images, A boxes of an image (rows x columns x priors), T the most objects of an image, C classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.anchors import fit_anchors, sides_of_boxes
from saccade.layers.cells import CellOutputs, at_places, confident_detections, read_cells, responsible, unassigned
from saccade.layers.conv import refuse_small
from saccade.layers.layout import join
from saccade.layers.stages import BoxStage, found_targets, prior_stage, suppression_stages
from saccade.layers.targets import detection_targets
from saccade.models.backbones import create_trunk
from saccade.models.backbones.darknet import ConvNorm
from saccade.models.darknet_weights import read_for_model
from saccade.models.detectors.yolo1 import SLOPE
from saccade.models.paper import Paper
from saccade.ops.boxes import iou
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="YOLO9000: Better, Faster, Stronger",
    authors="Redmon, Farhadi",
    year=2017,
    where="CVPR 2017, arXiv 1612.08242",
)
TASKS = ("detect",)
Sizes = tuple[tuple[float, float], ...]
SQUARED_START = 0.1  # confidence before the first step: near 0 a squared error behind a sigmoid has no gradient left
CELL = 32  # pixels of a cell, in which Darknet's files give their priors


def in_pixels(*numbers: float) -> Sizes:
    """Priors given in cells, width and height by turns, as in Darknet's files -> (width, height) in pixels."""
    return tuple((CELL * w, CELL * h) for w, h in zip(numbers[::2], numbers[1::2], strict=True))


VOC = in_pixels(1.3221, 1.73145, 3.19275, 4.00944, 5.05587, 8.09892, 9.47112, 4.84053, 11.2364, 10.0071)
COCO = in_pixels(0.57273, 0.677385, 1.87446, 2.06253, 3.33843, 5.47434, 7.88282, 3.52778, 9.77052, 9.16828)
TINY_VOC = in_pixels(1.08, 1.19, 3.42, 4.41, 6.63, 11.38, 9.42, 5.11, 16.62, 10.52)


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are yolo2's."""

    classes: Count = 20
    trunk: str = "darknet19"  # any classification network that gives feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics; none: no batch norm anywhere (darknet networks alone)
    trunk_norm: Literal["batch", "frozen", "none"] | None = None
    dilated: bool = False  # the trunk's last map has the stride of the one before, where the trunk offers it
    convs: tuple[Count, ...] = (1024, 1024)  # channels of the 3x3 convolutions on the trunk's last map
    # The finer map that joins the last: reduced to 64 channels before it is folded (release), whole (paper), or none.
    passthrough: Literal["reduced", "whole", "none"] = "reduced"
    joined: Natural = 1024  # channels of the 3x3 convolution behind the passthrough
    priors: Sizes = VOC  # (width, height) in pixels of the input
    fit_priors: bool = True  # fit `priors` to the training boxes by k-means under 1 - IoU (section 2)
    # cell: centres stay in their cell (equation of section 2); anchor: they move as a region proposal network's
    location: Literal["cell", "anchor"] = "cell"
    # weights of the parts of the loss (Darknet's region layer)
    coordinates: NonNegative = 1.0
    objects: NonNegative = 5.0
    background: NonNegative = 1.0
    ignore: Share = 0.6  # boxes that overlap an object by a larger IoU are not punished for their confidence
    prior_images: Natural = 12_800  # images for which boxes without an object learn to be their priors; 0: none
    score_threshold: Share = 0.001
    nms_iou: Share = 0.45
    candidates: Count = 400  # best boxes of each class that enter NMS
    keep: Count = 200  # boxes an image after NMS


_TINY = Config(trunk="darknet_reference", dilated=True, convs=(1024,), passthrough="none", joined=0, priors=TINY_VOC)
VARIANTS: dict[str, Config] = {
    "yolo2": Config(),
    "yolo2_coco": Config(classes=80, priors=COCO),
    "yolo2_tiny": _TINY,
    "yolo2_tiny_coco": dataclasses.replace(_TINY, classes=80, convs=(512,), priors=COCO),
    # Ours: cells of 16 pixels, which learn from scratch on a CPU. Few of their many boxes have an object, so that each
    # of the others weighs less.
    "yolo2_small": Config(
        trunk="resnet18", trunk_width=32, trunk_depths=(1, 2, 3), convs=(256,), joined=256, background=0.1
    ),
}
SIZE: dict[str, int] = dict.fromkeys(VARIANTS, 416) | {"yolo2_coco": 608, "yolo2_small": 320}

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
_PAPER: dict[str, Any] = {  # section 3, "Training for detection", from the trunk's weights of ImageNet
    "size": 416,
    "batch": 64,
    "epochs": 160,
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (0.375, 0.5625),  # after 60 and 90 epochs
    "warmup": 0.006,
    "clip_norm": 0.0,
    "resize": "letterbox",
    "multi_scale": 0.46,  # 320 to 608 around 416; section 2
    "flip": 0.5,
    "jitter": 0.3,
    "color": 0.5,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {"*": _DEFAULT, "yolo2_small": _DEFAULT | {"size": 320, "batch": 8, "lr": 1.5e-3, "epochs": 60}},
    "paper": {"*": _PAPER},
}


class Model(nn.Module):
    """YOLOv2."""

    side_step = 32
    seen: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        norm = config.trunk_norm != "none"
        self.backbone = create_trunk(
            config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths, dilated=config.dilated
        )
        channels = self.backbone.channels[-1]
        widths = [channels, *config.convs]
        self.convs = nn.Sequential(*(ConvNorm(a, b, 3, 1, SLOPE, norm) for a, b in pairwise(widths)))
        channels = widths[-1]
        self.passthrough: nn.Module | None = None
        self.joined: nn.Module | None = None
        if config.passthrough != "none":
            finer = self.backbone.channels[-2]
            if config.passthrough == "reduced":
                self.passthrough = ConvNorm(finer, 64, 1, 1, SLOPE, norm)
                finer = 64
            else:
                self.passthrough = nn.Identity()
            self.joined = ConvNorm(4 * finer + channels, config.joined, 3, 1, SLOPE, norm)
            channels = config.joined
        self.head = nn.Conv2d(channels, len(config.priors) * (5 + config.classes), 1)
        start_head(self.head, len(config.priors), SQUARED_START)
        self.register_buffer("priors", torch.tensor(config.priors), persistent=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # images of training so far

    def forward(self, images: Tensor) -> Tensor:
        """Images [b, 3, H, W] in [0, 1] -> [b, k (5 + C), h, w]: t_x, t_y, t_w, t_h, t_o and logits of the classes for
        each of k priors."""
        refuse_small(images, self.backbone.strides[-1])
        maps = self.backbone.features(images)
        x = self.convs(maps[-1])
        if self.passthrough is not None and self.joined is not None:
            x = self.joined(join((fold(self.passthrough(maps[-2]), x.shape[-2:]), x)))
        return self.head(x)

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, A, C] in [0, 1], boxes [b, A, 4] in pixels; exportable."""
        return self._scored(self.cells(images))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`box`, `object`, `background`, `class` and `prior`, each a sum of half squares (of `class` the cross-entropy)
        as a mean over the images, so that its gradients are those of Darknet's region layer."""
        targets = detection_targets(batch, self.config.classes)
        cells = self.cells(batch.images)
        losses, places, counts = location_losses(targets, cells, [self.get_buffer("priors")], self.config)
        named = at_places(cells.values[..., 5:], places)
        losses["class"] = F.cross_entropy(named.transpose(1, 2), targets.labels, reduction="none") * counts
        losses["prior"] = losses["prior"] * (self.seen < self.config.prior_images)
        if self.training:
            self.seen += len(batch)
        return {name: value.sum() / len(batch) for name, value in losses.items()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """Boxes of each image by falling score, at most `keep`, clipped to it, after NMS by class; on the CPU."""
        return confident_detections(self.cells(batch.images), self._scored, batch.sizes, self.config)

    @staticmethod
    def _scored(cells: CellOutputs) -> tuple[Tensor, Tensor]:
        """Scores [b, A, C] in [0, 1] and boxes [b, A, 4] in pixels of what cells state."""
        return cells.values[..., 4:5].sigmoid() * cells.values[..., 5:].softmax(-1), cells.boxes()

    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The priors that would answer for what is found, boxes before suppression and after."""
        config, (scores, boxes), answer = self.config, self.scored_boxes(batch.images), self.predict(batch)[0]
        targets = found_targets(batch, [answer], config.classes)
        mine = prior_stage(self.cells(batch.images), [self.get_buffer("priors")], targets)
        threshold, nms = config.score_threshold, config.nms_iou
        return [mine, *suppression_stages(boxes[0], scores[0], answer.size, threshold, nms, answer, 0.0)]

    def cells(self, images: Tensor) -> CellOutputs:
        """What the cells state of images [b, 3, H, W] in [0, 1]."""
        height, width = images.shape[-2:]
        return read_cells([self(images)], [self.get_buffer("priors")], (height, width), self.config.location == "cell")


def start_head(head: nn.Conv2d, priors: int, confidence: float) -> None:
    """Begin the last convolution of a map near its priors and near a low confidence (RetinaNet, Lin et al. 2017,
    section 4.1), so that the many cells without an object do not drown the first steps; Darknet begins at 0.5."""
    assert head.bias is not None
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    with torch.no_grad():
        head.bias.view(priors, -1)[:, 4] = math.log(confidence / (1 - confidence))


def fold(x: Tensor, sides: tuple[int, int]) -> Tensor:
    """A finer map [b, c, 2 h, 2 w] -> [b, 4 c, h, w] in the order of Darknet's `reorg` layer, c divisible by 4.

    Darknet reads its input as maps of twice the side and a quarter of the channels, takes these apart into 2 x 2
    phases, and writes what it gets as if it had the channels of the input: that is no pixel unshuffle, but what the
    released weights were trained with. A map of odd sides is padded by zeros to twice `sides` (h, w).

    Source: section 2, "Fine-Grained Features"; the release (`reorg_cpu`).
    """
    h, w = sides
    x = F.pad(x, (0, 2 * w - x.shape[-1], 0, 2 * h - x.shape[-2]))
    b, c = x.shape[:2]
    phases = x.contiguous().view(b, c // 4, 2 * h, 2, 2 * w, 2).permute(0, 3, 5, 1, 2, 4)
    return phases.reshape(b, 4 * c, h, w)


def location_losses(
    targets: Any, cells: CellOutputs, priors: Sequence[Tensor], config: Any
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The parts of the loss that know no classes, unsummed, and the places [b, T] of the objects and which count
    [b, T].

    The four numbers of a box weigh 2 - w h, w and h in shares of the image, so that small boxes count (the release).
    """
    places, counts = responsible(targets, cells, priors)
    found = cells.boxes()
    idle, empty = unassigned(targets, found.detach(), places, counts, config.ignore)
    values = torch.cat((cells.values[..., :2].sigmoid(), cells.values[..., 2:]), -1) if cells.direct else cells.values
    mine, wanted = at_places(values[..., :4], places), cells.wanted(targets.boxes, places)
    overlap = iou(at_places(found.detach(), places), targets.boxes)
    weight = cells.small_box_weight(targets.boxes) * counts
    sure = cells.values[..., 4].sigmoid()
    start = torch.tensor([0.5, 0.5, 0, 0] if cells.direct else [0.0] * 4).to(mine.device, non_blocking=True)
    losses = {
        "box": config.coordinates / 2 * (mine - wanted).square().sum(-1) * weight,
        "object": config.objects / 2 * (sure.gather(1, places) - overlap).square() * counts,
        "background": config.background / 2 * sure.square() * empty,
        "prior": 0.01 / 2 * (values[..., :4] - start).square().sum(-1) * idle,
    }
    return losses, places, counts


def adapt(config: Any, examples: Sequence[Annotation]) -> Any:
    """Fit the priors to the boxes of `examples`, which are in pixels of the network's input (section 2, "Dimension
    Clusters"). Fewer boxes than ten for each prior leave them as they are."""
    sides = sides_of_boxes(examples)
    if not config.fit_priors or len(sides) < 10 * len(config.priors):
        return config
    fitted = fit_anchors(sides, len(config.priors))
    return dataclasses.replace(config, priors=tuple((float(w), float(h)) for w, h in fitted.tolist()))


def _read(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of Darknet's file; what it holds has learned its priors. Raises as `read_for_model`."""
    return {**read_for_model(path, model), "seen": torch.tensor(Config.prior_images)}


FILES: dict[str, Callable[[Path, nn.Module], dict[str, Tensor]]] = {".weights": _read}
