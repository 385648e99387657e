"""Faster R-CNN on a feature pyramid (Lin et al. 2017): every level proposes, and a region is read where it fits.

A residual network and a top-down path give maps of strides 4 to 32 that are equally rich in meaning (section 3). One
region proposal network slides over all of them, with anchors of one size a level (section 4.1); the best boxes are
pooled to 7x7 from the level that fits their size (section 4.2), by RoIAlign as in the release, and classified by two
fully connected layers. Four losses are summed: objectness and box of the proposals, class and box of the regions.
State dicts have the keys of the public torchvision checkpoint `fasterrcnn_resnet50_fpn`.

What later papers did for boxes that fit is there too, and off in the paper's form: a loss on the overlap of a box
(`box_loss`; Rezatofighi et al. 2019), scores that know how well it fits (`score`; Jiang et al. 2018, Li et al. 2020)
and heads in a row (`cascade`; Cai and Vasconcelos 2018).

Letters: b images, L levels, k anchors a cell, A anchors an image, K proposals an image, C classes, n sampled regions,
g = C + 1 boxes a region, or 1 for all classes.
Inside this file class 0 is the background, as in the released heads; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.anchors import cell_anchors, shapes_of, sides_of_boxes
from saccade.layers.fpn import FeaturePyramid
from saccade.layers.normalize import fill_padding, mean_colour
from saccade.layers.proposing import ProposalRules, RegionProposalNetwork, RPNHead
from saccade.layers.refining import corrected_regions, joined_outputs, matched_regions
from saccade.layers.regions import (
    BoxPredictor,
    PyramidPooling,
    RegionOutputs,
    RegionRules,
    TwoLayerHead,
    draw_regions,
    region_losses,
    region_predictions,
    scored_answers,
)
from saccade.layers.stages import BoxStage, SecondStage, aligned_bins, found_targets
from saccade.layers.targets import detection_targets
from saccade.models.backbones import create_trunk, refuse_strides
from saccade.models.paper import Paper
from saccade.ops.roi_align import to_rois
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Feature Pyramid Networks for Object Detection",
    authors="Lin, Dollár, Girshick, He, Hariharan, Belongie",
    year=2017,
    where="CVPR 2017, arXiv 1612.03144; proposals: Faster R-CNN, Ren et al., NIPS 2015, arXiv 1506.01497",
)
TASKS = ("detect",)

Shapes = tuple[tuple[float, float], ...]


def square_anchors(*sizes: float) -> tuple[Shapes, ...]:
    """One size a level at ratios 1:2, 1:1, 2:1, corners rounded as the public weights were trained: 32 -> 46x22, ..."""
    levels = []
    for size in sizes:
        cell = cell_anchors([size], [0.5, 1.0, 2.0], rounded=True)
        levels.append(tuple((float(w), float(h)) for w, h in (cell[:, 2:] - cell[:, :2]).tolist()))
    return tuple(levels)


@dataclass(frozen=True)
class Config:
    """The network; defaults are faster_rcnn_r50_fpn's. The public weights have 90 classes (COCO's ids up to 90)."""

    classes: Count = 90
    trunk: str = "resnet50"  # any classification network that gives feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    trunk_norm_eps: NonNegative | None = None  # of the trunk's batch norms; 0 for the released V1 weights, with frozen
    # pyramid
    lowest: Count = 2  # finest level, of stride 2^lowest: P2 or P3; the coarsest that regions are read from is P5
    channels: Count = 256
    pyramid_norm: bool = False
    canonical_size: Positive = 224.0  # side in pixels of a box that belongs to P4 (FPN equation 1)
    # of regions, the centres of pixels are heeded, as in later releases; the public weights learned without
    aligned: bool = False
    # proposals
    # (width, height) in pixels, a tuple a level; where there are more than maps, coarser levels are added, such as P6
    anchors: tuple[Shapes, ...] = square_anchors(32, 64, 128, 256, 512)
    rpn_before: tuple[Count, Count] = (2000, 1000)  # best anchors of each level that enter NMS, in training and after
    rpn_after: tuple[Count, Count] = (2000, 1000)  # proposals an image, in training and after (K)
    rpn_nms: Share = 0.7
    rpn_high: Share = 0.7  # IoU of a positive anchor (section 3.1.2)
    rpn_low: Share = 0.3
    rpn_sample: Count = 256  # anchors an image in the loss, half of them positive at most
    # head
    head_width: Count = 1024
    head_iou: Share = 0.5  # IoU of a positive region
    head_sample: Count = 512  # regions an image in the loss
    head_positive: Share = 0.25
    # IoU of a positive region of each further head, which begins at the boxes of the one before; 0.6 and 0.7 in Cascade
    # R-CNN (section 5.1). Its boxes serve all classes, and its offsets count two, three ... times as much.
    cascade: tuple[Share, ...] = ()
    # of the regions. smooth_l1: of the offsets; the others: 1 - overlap of the corrected box with the true one
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    # of the regions' boxes in the sum of the losses; 10 with giou (Rezatofighi et al. 2019)
    box_weight: NonNegative = 1.0
    # softmax: how likely the class is (Fast R-CNN); iou: times the IoU that a further output foretells of the box, as
    # masks are scored (Huang et al. 2019); quality: that IoU itself, learned by the focal loss of Li et al. 2020
    score: Literal["softmax", "iou", "quality"] = "softmax"
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    beta: NonNegative = 1 / 9  # of smooth L1, both stages
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.5
    detections: Count = 100


VARIANTS: dict[str, Config] = {
    "faster_rcnn_r50_fpn": Config(),
    # Ours: half as wide a ResNet-18, no P2, batch norm throughout, and the three heads of a cascade, which draw tighter
    # boxes than one: 2.1 G multiply-adds at 320 pixels.
    "faster_rcnn_small": Config(
        classes=20,
        trunk="resnet18",
        trunk_width=32,
        lowest=3,
        channels=96,
        pyramid_norm=True,
        canonical_size=112.0,
        aligned=True,
        anchors=square_anchors(24, 48, 96, 192),
        rpn_before=(400, 200),
        rpn_after=(300, 200),
        rpn_sample=256,
        head_width=256,
        head_sample=128,
        cascade=(0.6, 0.7),
        score_threshold=0.01,
    ),
}
SIZE: dict[str, int] = {"faster_rcnn_r50_fpn": 800, "faster_rcnn_small": 320}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "faster_rcnn_r50_fpn": {
            "size": 640,
            "batch": 8,
            "epochs": 40,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "cosine",
            "warmup": 0.05,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.3,
            "color": 0.3,
        },
        "faster_rcnn_small": {
            "size": 320,
            "batch": 8,
            "epochs": 60,
            "optimizer": "adamw",
            "lr": 1e-3,
            "momentum": 0.9,
            "weight_decay": 0.02,
            "schedule": "cosine",
            "warmup": 0.05,
            "ema": 0.995,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.3,
            "color": 0.3,
        },
    },
    "paper": {  # FPN section 5.2: 8 devices x 2 images, 60k + 20k (+ 10k in the release) steps over 118k images
        "*": {
            "size": (800, 1344),
            "batch": 16,
            "epochs": 12,
            "optimizer": "sgd",
            "lr": 0.02,
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
        strides: of the levels that are a map's own, from which regions are read.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.body = create_trunk(
            config.trunk, config.trunk_width, config.trunk_norm, config.trunk_norm_eps, config.trunk_depths
        )
        self.first = sum(stride < 2**config.lowest for stride in self.body.strides)
        self.strides: list[int] = self.body.strides[self.first :]
        if self.strides != [2 ** (config.lowest + i) for i in range(max(len(self.strides), 1))]:
            wanted = f"one at stride {2**config.lowest} and those at twice the stride of the one before"
            raise refuse_strides(config.trunk, self.body.strides, wanted, 2**config.lowest)
        extra = len(config.anchors) - len(self.strides)
        if extra < 0:
            raise UsageError(f"anchors are for {len(config.anchors)} levels, need {len(self.strides)} at least")
        self.fpn = FeaturePyramid(self.body.channels[self.first :], config.channels, config.pyramid_norm, extra)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body.features(images)[self.first :])
        return levels


class RoIHeads(nn.Module):
    """The second stage (public key `roi_heads`): RoIAlign 7x7 from the level of each region, two layers, predictor.

    In a cascade each head is one of these. `iou_predictor` foretells the IoU of a box where the score asks for it.
    """

    def __init__(self, config: Config, strides: Sequence[int]) -> None:
        super().__init__()
        agnostic, classes, width = len(config.cascade) > 0, config.classes, config.head_width
        self.pooling = PyramidPooling(tuple(strides), config.canonical_size, aligned=config.aligned)
        self.box_head = TwoLayerHead(config.channels * 7 * 7, width)
        self.box_predictor = BoxPredictor(width, classes, agnostic, background=config.score != "quality")
        self.iou_predictor: nn.Linear | None = None
        if config.score == "iou":
            self.iou_predictor = nn.Linear(width, 1 if agnostic else classes + 1)
            nn.init.normal_(self.iou_predictor.weight, std=0.01)
            nn.init.zeros_(self.iou_predictor.bias)

    def forward(self, levels: Sequence[Tensor], regions: Tensor) -> RegionOutputs:
        """Levels, of which those added are not read, and regions [b, r, 4] -> logits and offsets for each class."""
        hidden = self.box_head(self.pooling(levels, to_rois(regions), 7))
        logits, deltas = self.box_predictor(hidden)
        ious = None if self.iou_predictor is None else self.iou_predictor(hidden).float()
        shape = regions.shape[:2]
        return RegionOutputs(
            logits.unflatten(0, shape), deltas.unflatten(0, shape), None if ious is None else ious.unflatten(0, shape)
        )


class Model(nn.Module):
    """Faster R-CNN on a feature pyramid."""

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.register_buffer("colour", mean_colour(self.backbone.body), persistent=False)
        proposal_rules = ProposalRules(
            before=config.rpn_before,
            after=config.rpn_after,
            nms=config.rpn_nms,
            min_side=1e-3,
            high=config.rpn_high,
            low=config.rpn_low,
            inside=False,
            sample=config.rpn_sample,
            beta=config.beta,
        )
        head = RPNHead(config.channels, len(config.anchors[0]))
        self.rpn = RegionProposalNetwork(head, [shapes_of(level) for level in config.anchors], proposal_rules)
        self.rules = RegionRules(
            positive_iou=config.head_iou,
            sample=config.head_sample,
            positive=config.head_positive,
            weights=config.box_weights,
            box_loss=config.box_loss,
            box_weight=config.box_weight,
            beta=config.beta,
            score=config.score,
            score_threshold=config.score_threshold,
            nms=config.nms,
            detections=config.detections,
        )
        self.roi_heads = RoIHeads(config, self.backbone.strides)
        self.cascade = nn.ModuleList(RoIHeads(config, self.backbone.strides) for _ in config.cascade)
        self.rules_of_heads = [self.rules, *_later_rules(self.rules, config.cascade)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs of images [b, 3, H, W] in [0, 1]; shapes depend on the shape of the images alone.

        Returns:
            (objectness logits [b, A], anchor offsets [b, A, 4], proposals [b, K, 4], class logits [b, K, C + 1],
            offsets for each class [b, K, g * 4]); places without proposal hold a box of zeros. In a cascade the
            proposals are the regions of the last head, and the logits are of the mean likelihoods. With
            `score="quality"` there are C logits, with "iou" those of the boxes' IoU [b, K, g] come last.
        """
        levels = self.backbone(images)
        anchors = self.rpn(levels, images.shape[-2:])
        sizes = images.new_tensor(images.shape[-2:]).expand(len(images), 2)
        proposals = self.rpn.propose(anchors, sizes, training=False)
        proposals, regions = self._answers(levels, proposals, sizes)
        found = (regions.logits, regions.deltas) + (() if regions.ious is None else (regions.ious,))
        return torch.cat(anchors.logits, 1), torch.cat(anchors.deltas, 1), proposals, *found

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The four losses, and those of further outputs; see `region_losses`. Losses of a further head end in its
        number and count half as much as those of the head before, as in the release of Cascade R-CNN."""
        targets = detection_targets(batch, self.config.classes)
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        levels = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        anchors = self.rpn(levels, batch.images.shape[-2:])
        losses = self.rpn.loss(anchors, targets, sizes)
        proposals = self.rpn.propose(anchors, sizes, training=True)
        wanted = draw_regions(proposals, targets, self.rules)
        outputs = self.roi_heads(levels, wanted.regions)
        losses |= region_losses(outputs, wanted, self.rules)
        for i, head in enumerate(self.cascade, 1):  # at what the head before has made of its regions
            regions = wanted.regions.where(wanted.drawn[..., None], 0)
            regions = corrected_regions(outputs, regions, sizes, self.rules_of_heads[i - 1])
            wanted = matched_regions(regions, targets, self.rules_of_heads[i])
            outputs = head(levels, wanted.regions)
            own = region_losses(outputs, wanted, self.rules_of_heads[i])
            losses |= {f"{name}_{i + 1}": loss / 2**i for name, loss in own.items()}
        return losses

    def scored_regions(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from (`contract.NetworkOffers`)."""
        levels = self.backbone(images)
        proposals = self.rpn.propose(self.rpn(levels, images.shape[-2:]), sizes, training=False)
        regions, outputs = self._answers(levels, proposals, sizes)
        return scored_answers(outputs, regions, sizes, self.rules_of_heads[-1])

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image, by falling score; on the CPU."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        levels = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        proposals = self.rpn.propose(self.rpn(levels, batch.images.shape[-2:]), sizes, training=False)
        regions, outputs = self._answers(levels, proposals, sizes)
        return region_predictions(outputs, regions, batch.sizes, self.rules_of_heads[-1])

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """Anchors, proposals, the bins of the surest one, boxes before suppression and after."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        levels = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        anchors = self.rpn(levels, batch.images.shape[-2:])
        proposals = self.rpn.propose(anchors, sizes, training=False)
        regions, outputs = self._answers(levels, proposals, sizes)
        second = SecondStage.of(outputs, regions, batch.sizes[0], self.rules_of_heads[-1])
        answer = self.predict(batch)[0]
        first = self.rpn.stages(anchors, proposals, found_targets(batch, [answer], self.config.classes), sizes)
        return [*first, aligned_bins(second.region, 7), *second.to_answer(answer)]

    def _answers(self, levels: Sequence[Tensor], regions: Tensor, sizes: Tensor) -> tuple[Tensor, RegionOutputs]:
        """The regions [b, K, 4] of the last head, and what is said of them."""
        outputs = [self.roi_heads(levels, regions)]
        for head, rules in zip(self.cascade, self.rules_of_heads, strict=False):
            regions = corrected_regions(outputs[-1], regions, sizes, rules)
            outputs.append(head(levels, regions))
        return regions, joined_outputs(outputs, self.config.score)


def _later_rules(first: RegionRules, overlaps: Sequence[float]) -> list[RegionRules]:
    """Rules of the further heads of a cascade. What is left to correct is smaller at each, so that its offsets are
    multiplied by 2, 3, ... (the variances of the release: 0.1, 0.05, 0.033)."""
    rules = []
    for i, overlap in enumerate(overlaps, 2):
        x, y, w, h = (i * weight for weight in first.weights)
        rules.append(dataclasses.replace(first, positive_iou=overlap, weights=(x, y, w, h)))
    return rules


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Anchors for the boxes at hand: sizes from the smallest to the largest over the levels, ratios at their thirds.

    The size of level l is s f^l, with s the 5th percentile of sqrt(w h), at most 8 strides of the finest level, so that
    common sizes lie on fine maps, and f in [1.5, 2.5] such that the last is the 95th. Ratios h / w are the medians of
    the lower, middle and upper third. Fewer than 10 boxes change nothing.

    Args:
        config: any; its number of levels is kept.
        examples: training images in pixels of the network's input.
    """
    sides = sides_of_boxes(examples)
    if len(sides) < 10:
        return config
    width, height = sides.unbind(1)
    small, large = (width * height).sqrt().quantile(torch.tensor([0.05, 0.95])).tolist()
    start = min(max(small, 8.0), 8.0 * 2**config.lowest)
    growth = min(max((large / start) ** (1 / (len(config.anchors) - 1)), 1.5), 2.5)
    ratios = (height / width).quantile(torch.tensor([1 / 6, 1 / 2, 5 / 6])).sqrt().tolist()
    levels = tuple(
        tuple((round(start * growth**i / r, 1), round(start * growth**i * r, 1)) for r in ratios)
        for i in range(len(config.anchors))
    )
    return dataclasses.replace(config, anchors=levels)


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict.

    Takes torchvision's present layout (unchanged) and that of its released V1 files, in which the convolutions of
    pyramid and RPN were not yet in blocks of their own. V1 weights want `trunk_norm="frozen", trunk_norm_eps=0.0`.
    """
    repaired = {}
    for key, value in state_dict.items():
        parts = key.split(".")
        if parts[:2] == ["backbone", "fpn"] and len(parts) == 5:  # inner_blocks.i.weight -> inner_blocks.i.0.weight
            parts.insert(4, "0")
        elif parts[:3] == ["rpn", "head", "conv"] and len(parts) == 4:
            parts[3:3] = ["0", "0"]
        repaired[".".join(parts)] = value
    return repaired
