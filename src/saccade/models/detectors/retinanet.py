"""RetinaNet: a one-stage detector that learns from every anchor by the focal loss (Lin et al. 2017).

A one-stage detector scores some hundred thousand anchors, of which a handful are objects. Together the many that are
easily told as background outweigh these in the cross-entropy, so that SSD learns from the hardest alone. The focal loss
keeps them all, and multiplies the loss of each by (1 - p_t)^gamma, which quiets what is already known (section 3). The
network is a feature pyramid, P3 to P7, with two subnets of 3x3 convolutions that all levels share: one scores the
classes of each anchor, one moves it to its box (section 4). `focal_gamma=0` is cross-entropy, `focal_alpha=none` leaves
objects and background unbalanced, `scores=softmax` is the form of one class an anchor; `benchmarks/focal.py` compares
them. State dicts have the keys of the public torchvision checkpoint `retinanet_resnet50_fpn`.

Letters: b images, L levels, k anchors a cell, A anchors an image (A_l of level l), C classes, O outputs an anchor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.anchors import cell_anchors, cell_step, grid_anchors, shapes_of, sides_of_boxes
from saccade.layers.box_coding import decode_boxes, encode_boxes
from saccade.layers.detections import best_objects
from saccade.layers.fpn import FeaturePyramid
from saccade.layers.matching import IGNORED
from saccade.layers.normalize import fill_padding, mean_colour
from saccade.layers.stages import BoxStage, found_targets, matched_stage, suppression_stages
from saccade.layers.targets import Targets, detection_targets
from saccade.losses.across import mean_over_processes
from saccade.losses.classification import Objective, softmax_focal
from saccade.losses.detection import OVERLAPS, sigmoid_focal, smooth_l1
from saccade.models.backbones import create_trunk, refuse_strides
from saccade.models.paper import Paper
from saccade.ops.boxes import clip_boxes
from saccade.ranges import Count, Natural, NonNegative, Positive, Range, Share

PAPER = Paper(
    title="Focal Loss for Dense Object Detection",
    authors="Lin, Goyal, Girshick, He, Dollár",
    year=2017,
    where="ICCV 2017, arXiv 1708.02002",
)
TASKS = ("detect",)
RATIOS = (0.5, 1.0, 2.0)  # height / width of anchors (section 4, "Anchors")

Shapes = tuple[tuple[float, float], ...]


def octave_anchors(*bases: float, public: bool = False) -> tuple[Shapes, ...]:
    """(width, height) in pixels of the nine anchors of each level: sizes base, 2^(1/3) base, 2^(2/3) base at ratios
    1:2, 1:1, 2:1 (section 4). `public`: sizes cut to whole pixels, then corners rounded, as the public weights were
    trained: 32, 40, 50 of base 32."""
    levels = []
    for base in bases:
        sizes = [base * 2 ** (third / 3) for third in range(3)]
        cell = cell_anchors([int(s) for s in sizes] if public else sizes, RATIOS, rounded=public)
        levels.append(tuple((float(w), float(h)) for w, h in (cell[:, 2:] - cell[:, :2]).tolist()))
    return tuple(levels)


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are retinanet_r50's."""

    classes: Count = 80
    trunk: str = "resnet50"  # any classification network that gives feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    trunk_norm_eps: NonNegative | None = None  # of the trunk's batch norms; 0 for the released weights, with frozen
    # pyramid
    lowest: Count = 3  # finest level, of stride 2^lowest
    channels: Count = 256  # of all levels and of the subnets
    top: Literal["c5", "p5"] = "c5"  # what P6 is made of: the trunk's last map, or its level (the public weights)
    # subnets
    depth: Natural = 4  # 3x3 convolutions before the last one
    norm: bool = False  # batch norms in pyramid and subnets, in these a set a level; for training from scratch
    scores: Literal["sigmoid", "softmax"] = "sigmoid"  # a yes or no for each class, or one class or none an anchor
    # an output for "background" before those of the classes; the public weights have one, though sigmoids need none
    background: bool = False
    prior: Annotated[float, Range(1e-6, 0.5)] = 0.01  # score of every anchor at the start
    # anchors
    # (width, height) in pixels, a tuple a level; coarser levels than the trunk's maps are made by convolutions
    anchors: tuple[Shapes, ...] = octave_anchors(32, 64, 128, 256, 512)
    fit_anchors: bool = False  # fit `anchors` to the training boxes
    whole_steps: bool = False  # distance of cells in whole pixels by division, as the public weights were trained
    high: Share = 0.5  # IoU from which an anchor has an object
    low: Share = 0.4  # IoU below which it is background
    # losses
    focal_gamma: Annotated[float, Range(0, 10)] = 2.0  # 0: cross-entropy
    focal_alpha: Share | None = 0.25  # weight of objects, 1 - alpha of background; none: 1 each
    # on offsets, or on boxes (Zheng et al. 2020)
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    beta: NonNegative = 0.11  # of smooth L1; 0: plain L1
    box_weight: NonNegative = 1.0
    # answers
    score_threshold: Share = 0.05
    candidates: Count = 1000  # best pairs of box and class of each level that enter NMS
    nms: Share = 0.5
    detections: Count = 100


VARIANTS: dict[str, Config] = {
    "retinanet_r50": Config(),
    "retinanet_r101": Config(trunk="resnet101"),
    # The public torchvision checkpoint: 90 category ids and an output for background, P6 of P5, rounded anchors, L1.
    "retinanet_r50_coco": Config(
        classes=90,
        top="p5",
        background=True,
        anchors=octave_anchors(32, 64, 128, 256, 512, public=True),
        whole_steps=True,
        beta=0.0,
        detections=300,
    ),
    # Ours, for little data: a narrow trunk, P3 to P6, batch norms, anchors fitted to the boxes, GIoU.
    "retinanet_small": Config(
        classes=20,
        trunk="resnet18",
        trunk_width=32,
        trunk_depths=(1, 2, 2, 2),
        channels=64,
        top="p5",
        depth=2,
        norm=True,
        anchors=octave_anchors(24, 48, 96, 192),
        fit_anchors=True,
        box_loss="giou",
        box_weight=2.0,
        score_threshold=0.01,
        detections=200,
    ),
}
SIZE: dict[str, int] = {
    "retinanet_r50": 800,
    "retinanet_r101": 800,
    "retinanet_r50_coco": 800,
    "retinanet_small": 320,
}

_LARGE: dict[str, Any] = {
    "size": 640,
    "batch": 8,
    "epochs": 40,
    "optimizer": "sgd",
    "lr": 0.005,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "resize": "letterbox",
    "flip": 0.5,
    "jitter": 0.3,
    "color": 0.3,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": _LARGE,
        "retinanet_small": {
            "size": 320,
            "batch": 8,
            "epochs": 60,
            "optimizer": "adamw",
            "lr": 1.5e-3,
            "weight_decay": 0.02,
            "schedule": "cosine",
            "warmup": 0.05,
            "clip_norm": 10.0,
            "ema": 0.995,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.25,
            "color": 0.3,
        },
    },
    "paper": {  # section 4.1: 8 devices x 2 images, 90k steps over 118k images; the warm-up is the release's
        "*": {
            "size": (800, 1344),
            "batch": 16,
            "epochs": 12,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "step",
            "milestones": (0.667, 0.889),
            "warmup": 0.0055,
            "clip_norm": 0.0,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.0,
            "color": 0.0,
        },
    },
}


class Backbone(nn.Module):
    """Trunk and pyramid: images [b, 3, H, W] -> L levels [b, channels, H_l, W_l] from the finest on.

    The trunk's maps from stride 2^lowest on give a level each; coarser ones are added until there are L.

    Attributes:
        strides: of all levels.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.body = create_trunk(
            config.trunk, config.trunk_width, config.trunk_norm, config.trunk_norm_eps, config.trunk_depths
        )
        self.first = sum(stride < 2**config.lowest for stride in self.body.strides)
        taken = self.body.strides[self.first :]
        self.strides = [2 ** (config.lowest + i) for i in range(len(config.anchors))]
        if not taken or taken != [2 ** (config.lowest + i) for i in range(len(taken))]:
            wanted = f"one at stride {2**config.lowest} and those at twice the stride of the one before"
            raise refuse_strides(config.trunk, self.body.strides, wanted, 2**config.lowest)
        extra = len(config.anchors) - len(taken)
        if extra < 0:
            raise UsageError(f"anchors are for {len(config.anchors)} levels, need {len(taken)} at least")
        below = self.body.channels[self.first :]
        self.fpn = FeaturePyramid(below, config.channels, config.norm, extra, config.top)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body.features(images)[self.first :])
        return levels


class Subnet(nn.Module):
    """Some 3x3 convolutions with ReLU and a last one, the same for all levels (section 4, figure 3):
    [b, channels, h, w] of each -> [b, A_l, values] of each, A_l over rows, columns, anchors.

    With norms each level has a set of its own, as their statistics differ (Tan et al., "EfficientDet", CVPR 2020, does
    so in its subnets); the convolutions then have no biases.

    Args:
        config: of the network.
        values: outputs an anchor.
        last: the public name of the last convolution, `cls_logits` or `bbox_reg`.
    """

    def __init__(self, config: Config, values: int, last: str) -> None:
        super().__init__()
        self.values, self.last = values, last
        width, bias = config.channels, not config.norm
        self.conv = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=bias), nn.ReLU(inplace=True))
                for _ in range(config.depth)
            )
        )
        sets = len(config.anchors) if config.norm else 0
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width) for _ in range(config.depth)) for _ in range(sets)
        )
        self.add_module(last, nn.Conv2d(width, values * len(config.anchors[0]), 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)  # section 4.1, "Initialization"
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        predictor, rows = self.get_submodule(self.last), []
        for i, x in enumerate(levels):
            for j, block in enumerate(self.conv):
                convolution, relu = block.children()
                x = convolution(x)
                x = relu(self.get_submodule(f"norms.{i}.{j}")(x) if self.norms else x)
            rows.append(predictor(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values))
        return rows


class Model(nn.Module):
    """RetinaNet.

    Raises:
        UsageError: levels with different numbers of anchors, strides that the trunk has not, `low` above `high`, an
            alpha outside [0, 1].
    """

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        counts = [len(level) for level in config.anchors]
        if len(set(counts)) != 1 or not counts[0]:
            raise UsageError(f"all levels need equally many anchors, one subnet serves them; got {counts}")
        if config.low > config.high:
            raise UsageError(f"low={config.low} is above high={config.high}; between them anchors count for nothing")
        if config.focal_alpha is not None and not 0 <= config.focal_alpha <= 1:
            raise UsageError(f"focal_alpha={config.focal_alpha} is not between 0 and 1")
        self.config = config
        self.extra = int(config.background or config.scores == "softmax")
        self.backbone = Backbone(config)
        self.register_buffer("colour", mean_colour(self.backbone.body), persistent=False)
        self.head = nn.ModuleDict(
            {
                "classification_head": Subnet(config, config.classes + self.extra, "cls_logits"),
                "regression_head": Subnet(config, 4, "bbox_reg"),
            }
        )
        self._start()
        for i, level in enumerate(config.anchors):
            self.register_buffer(f"cell{i}", shapes_of(level), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, H, W] in [0, 1] -> (class logits [b, A, O], a background first where there is one, box offsets
        [b, A, 4])."""
        logits, offsets, _ = self._outputs(images)
        return torch.cat(logits, 1), torch.cat(offsets, 1)

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, A, C] in [0, 1], boxes [b, A, 4] in pixels; exportable."""
        logits, offsets, anchors = self._outputs(images)
        return self._scores(torch.cat(logits, 1)), decode_boxes(torch.cat(offsets, 1), torch.cat(anchors))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`class` over all anchors but the ignored, `box` over those with an object; each divided by how many have one
        in the batch over all processes (section 4.1)."""
        config, targets = self.config, detection_targets(batch, self.config.classes)
        each_logits, each_offsets, levels = self._outputs(
            fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        )
        logits, offsets, anchors = torch.cat(each_logits, 1).float(), torch.cat(each_offsets, 1), torch.cat(levels)
        matches = self._match(targets, anchors)
        count = mean_over_processes((matches >= 0).sum()).clamp(min=1)
        image, anchor = (matches >= 0).nonzero(as_tuple=True)  # a GPU waits here, and then no more
        truth = matches[image, anchor]
        wanted, labels = targets.boxes[image, truth], targets.labels[image, truth]
        moves, starts = offsets[image, anchor].float(), anchors[anchor]
        if config.box_loss == "smooth_l1":
            box = smooth_l1(moves, encode_boxes(wanted, starts), config.beta)
        else:
            box = 1 - OVERLAPS[config.box_loss](decode_boxes(moves, starts), wanted)
        answers = torch.zeros_like(matches).index_put((image, anchor), labels + 1)
        classes = self._class_losses(logits, answers).where(matches != IGNORED, 0)
        return {"class": classes.sum() / count, "box": config.box_weight * box.sum() / count}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects of each image by falling score, clipped to it, after NMS by class; on the CPU.

        The best of each level enter (section 4.1, "Inference").
        """
        config, found = self.config, []
        each = self._outputs(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        for logits, offsets, anchors in zip(*each, strict=True):
            scores = self._scores(logits).flatten(1)
            best, rows = scores.topk(min(config.candidates, scores.shape[1]), dim=1)
            anchor, labels = rows // config.classes, rows % config.classes
            boxes = decode_boxes(offsets.gather(1, anchor[..., None].expand(-1, -1, 4)), anchors[anchor])
            found.append(torch.cat((boxes, best[..., None], labels[..., None].float()), -1))
        answers = []
        for row, size in zip(torch.cat(found, 1).cpu(), batch.sizes, strict=True):  # moved once
            boxes, scores, labels = clip_boxes(row[:, :4], size), row[:, 4], row[:, 5].long()
            objects = best_objects(boxes, scores, labels, config.score_threshold, config.nms, config.detections)
            answers.append(Annotation(size, objects=objects))
        return answers

    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The anchors that match what is found, boxes before suppression and after."""
        config = self.config
        each = self._outputs(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        logits, offsets, anchors = torch.cat(each[0], 1), torch.cat(each[1], 1), torch.cat(each[2])
        answer = self.predict(batch)[0]
        targets = found_targets(batch, [answer], config.classes)
        rule = f"an IoU of at least {config.high:g} with it, or the highest that it has with any anchor"
        matched = matched_stage(anchors, self._match(targets, anchors)[0], targets, rule)
        boxes, scores = decode_boxes(offsets[0], anchors), self._scores(logits[0])
        threshold, nms = config.score_threshold, config.nms
        return [matched, *suppression_stages(boxes, scores, answer.size, threshold, nms, answer)]

    @torch.no_grad()
    def _match(self, targets: Targets, anchors: Tensor) -> Tensor:
        """[b, A]: the object that each anchor answers for, or BACKGROUND, or IGNORED (section 4, "Anchors"); the best
        anchor of each object has it in any case, as in the release."""
        return targets.match(anchors, self.config.high, self.config.low, force_best=True)

    def _outputs(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Of each level logits [b, A_l, O], offsets [b, A_l, 4], and anchors [A_l, 4] in pixels of `images`."""
        levels, sides = self.backbone(images), images.shape[-2:]
        anchors = []
        for i, (level, stride) in enumerate(zip(levels, self.backbone.strides, strict=True)):
            cells = level.shape[-2:]
            if self.config.whole_steps:
                step = (float(sides[0] // cells[0]), float(sides[1] // cells[1]))
            else:
                step = (cell_step(sides[0], cells[0], stride), cell_step(sides[1], cells[1], stride))
            anchors.append(grid_anchors(self.get_buffer(f"cell{i}"), (cells[0], cells[1]), step))
        return self.head["classification_head"](levels), self.head["regression_head"](levels), anchors

    def _scores(self, logits: Tensor) -> Tensor:
        """[b, a, O] -> [b, a, C] float32 in [0, 1]."""
        logits = logits.float()
        scores = logits.sigmoid() if self.config.scores == "sigmoid" else logits.softmax(-1)
        return scores[..., self.extra :]

    def _class_losses(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Logits [b, A, O] and what is true of each anchor, 0 for background, else label + 1 -> losses [b, A]."""
        gamma, alpha = self.config.focal_gamma, self.config.focal_alpha
        if self.config.scores == "sigmoid":
            wanted = F.one_hot(answers, self.config.classes + 1)[..., 1 - self.extra :].to(logits.dtype)
            if self.extra:  # what says "background" is never wanted
                wanted = wanted * (torch.arange(wanted.shape[-1], device=wanted.device) > 0)
            return sigmoid_focal(logits, wanted, gamma, alpha).sum(-1)
        losses = softmax_focal(logits.flatten(0, 1), answers.flatten(), Objective(focal_gamma=gamma)).view_as(answers)
        return losses if alpha is None else losses * torch.where(answers > 0, alpha, 1 - alpha)

    def _start(self) -> None:
        """Biases with which every anchor is an object of some class with probability `prior` (section 4.1)."""
        prior, bias = self.config.prior, self.head["classification_head"].get_parameter("cls_logits.bias")
        with torch.no_grad():
            if self.config.scores == "sigmoid":
                bias.fill_(-math.log((1 - prior) / prior))
            else:
                bias.view(-1, self.config.classes + 1)[:, 0] = math.log(self.config.classes * (1 - prior) / prior)


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Anchors for the boxes at hand: sizes from the smallest to the largest over the levels, ratios at their thirds.

    With s scales a level, size j of level l is a f^(l + j / s): a is the 5th percentile of sqrt(w h), at most 8 strides
    of the finest level, so that common sizes lie on fine maps, and f in [1.5, 2.5] such that the largest is the 95th.
    Ratios h / w are the medians of the lower, middle and upper third. Fewer than 10 boxes change nothing, nor does a
    number of anchors a cell that three does not divide.

    Args:
        config: any; without `fit_anchors` it comes back as it is.
        examples: training images in pixels of the network's input.
    """
    sides, shapes = sides_of_boxes(examples), len(config.anchors[0])
    if not config.fit_anchors or len(sides) < 10 or shapes % 3:
        return config
    levels, scales = len(config.anchors), shapes // 3
    width, height = sides.unbind(1)
    small, large = (width * height).sqrt().quantile(torch.tensor([0.05, 0.95])).tolist()
    start = min(max(small, 8.0), 8.0 * 2**config.lowest)
    growth = min(max((large / start) ** (1 / max(levels - 1 / scales, 1)), 1.5), 2.5)
    ratios = (height / width).quantile(torch.tensor([1 / 6, 1 / 2, 5 / 6])).sqrt().tolist()
    fitted = []
    for level in range(levels):
        sizes = [start * growth ** (level + j / scales) for j in range(scales)]
        fitted.append(tuple((round(size / r, 1), round(size * r, 1)) for r in ratios for size in sizes))
    return dataclasses.replace(config, anchors=tuple(fitted))


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict.

    Takes torchvision's present layout (unchanged) and that of its released V1 files, in which the convolutions of
    pyramid and subnets were not yet in blocks of their own: `conv.0`, `conv.2`, ... are `conv.0.0`, `conv.1.0`, ... V1
    weights want `trunk_norm="frozen", trunk_norm_eps=0.0`.
    """
    repaired = {}
    for key, value in state_dict.items():
        parts = key.split(".")
        if parts[:2] == ["backbone", "fpn"] and parts[2] in ("inner_blocks", "layer_blocks") and len(parts) == 5:
            parts.insert(4, "0")
        elif parts[0] == "head" and parts[2:3] == ["conv"] and len(parts) == 5:
            parts[3:4] = [str(int(parts[3]) // 2), "0"]
        repaired[".".join(parts)] = value
    return repaired
