"""Mask R-CNN (He et al. 2017): Faster R-CNN that draws a mask of every object beside its class and its box.

The detector on a feature pyramid (`fpn.py`), whose regions a third branch takes too: from a map of 14x14, pooled by
RoIAlign, which rounds nothing (section 3), four convolutions and one that doubles the sides draw a mask for each class,
of which the true one alone learns. The loss of the masks is added to the four of the detector; in answers the masks are
drawn last, for the boxes that are left. State dicts have the keys of the public torchvision checkpoint
`maskrcnn_resnet50_fpn`.

Letters: b images, L levels, A anchors an image, K proposals an image, C classes, n regions, D answers an image, M the
side of a mask.
Inside this file class 0 is the background, as in the released heads; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.masks import MaskHead, MaskPredictor, mask_loss, mask_targets, paste_masks
from saccade.layers.normalize import fill_padding
from saccade.layers.regions import (
    BoxPredictor,
    PyramidPooling,
    RegionOutputs,
    TwoLayerHead,
    best_answers,
    draw_regions,
    region_losses,
    region_predictions,
)
from saccade.layers.stages import BoxStage, SecondStage, found_targets, pyramid_bins
from saccade.layers.targets import detection_targets
from saccade.models.detectors import fpn
from saccade.models.paper import Paper
from saccade.ops.roi_align import to_rois
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Mask R-CNN",
    authors="He, Gkioxari, Dollár, Girshick",
    year=2017,
    where="ICCV 2017, arXiv 1703.06870",
)
TASKS = ("instances",)
TOGETHER = 20  # regions whose masks `predict` draws at once


@dataclass(frozen=True)
class Config:
    """The network; defaults are mask_rcnn_r50_fpn's. What comes before the masks is as in `fpn.Config`."""

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
    # proposals
    # (width, height) in pixels, a tuple a level; where there are more than maps, coarser levels are added, such as P6
    anchors: tuple[fpn.Shapes, ...] = fpn.square_anchors(32, 64, 128, 256, 512)
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
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    beta: NonNegative = 1 / 9  # of smooth L1, both stages
    # masks
    # align: RoIAlign (section 3, "RoIAlign"); pool: RoIPool, which it replaced, for the comparison; boxes and masks
    pooling: Literal["align", "pool"] = "align"
    # of regions and masks, the centres of pixels are heeded, as in later releases; the public weights learned without
    aligned: bool = False
    mask_width: Count = 256  # channels of the convolutions
    mask_depth: Natural = 4  # 3x3 convolutions
    mask_side: Count = 14  # of what is pooled for a mask; the mask has twice as many cells a side
    mask_canonical_size: Positive = 224.0  # as canonical_size, of the regions that masks are drawn from
    mask_threshold: Share = 0.5  # a pixel above it belongs to the mask
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.5
    detections: Count = 100


VARIANTS: dict[str, Config] = {
    "mask_rcnn_r50_fpn": Config(),
    # Ours: the small form of fpn.py. Masks are read a level finer than boxes: at the coarse one a person of 200 pixels
    # would be a dozen cells high.
    "mask_rcnn_small": Config(
        classes=20,
        trunk="resnet18",
        trunk_width=32,
        lowest=3,
        channels=96,
        pyramid_norm=True,
        canonical_size=112.0,
        anchors=fpn.square_anchors(24, 48, 96, 192),
        rpn_before=(400, 200),
        rpn_after=(300, 200),
        head_width=256,
        head_sample=128,
        aligned=True,
        mask_width=64,
        mask_depth=2,
        score_threshold=0.01,
    ),
}
SIZE: dict[str, int] = {"mask_rcnn_r50_fpn": 800, "mask_rcnn_small": 320}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "mask_rcnn_r50_fpn": {
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
        "mask_rcnn_small": {
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
    "paper": {  # section 3.1: 8 devices x 2 images, 160k steps, 10 times slower from 120k on
        "*": {
            "size": (800, 1344),
            "batch": 16,
            "epochs": 22,
            "optimizer": "sgd",
            "lr": 0.02,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "step",
            "milestones": (0.75,),
            "warmup": 0.003,
            "clip_norm": 0.0,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.0,
            "color": 0.0,
        },
    },
}


class RoIHeads(nn.Module):
    """The second stage (public key `roi_heads`): a class and a box from 7x7 of each region, and masks from 14x14."""

    def __init__(self, config: Config, strides: Sequence[int]) -> None:
        super().__init__()
        self.for_boxes = PyramidPooling(tuple(strides), config.canonical_size, config.pooling, config.aligned)
        self.for_masks = PyramidPooling(tuple(strides), config.mask_canonical_size, config.pooling, config.aligned)
        self.side = config.mask_side
        self.box_head = TwoLayerHead(config.channels * 7 * 7, config.head_width)
        self.box_predictor = BoxPredictor(config.head_width, config.classes)
        self.mask_head = MaskHead(config.channels, config.mask_width, config.mask_depth)
        self.mask_predictor = MaskPredictor(config.mask_width, config.mask_width, config.classes + 1)

    def forward(self, levels: Sequence[Tensor], regions: Tensor) -> RegionOutputs:
        """Levels, of which those added are not read, and regions [b, r, 4] -> logits and offsets for each class."""
        logits, deltas = self.box_predictor(self.box_head(self.for_boxes(levels, to_rois(regions), 7)))
        shape = regions.shape[:2]
        return RegionOutputs(logits.unflatten(0, shape), deltas.unflatten(0, shape))

    def masks(self, levels: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Levels and rois [n, 5] with the image's index first -> mask logits [n, C + 1, M, M]."""
        logits: Tensor = self.mask_predictor(self.mask_head(self.for_masks(levels, rois, self.side)))
        return logits

    def likely_masks(self, levels: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """As `masks`, in [0, 1] and of the classes with labels [n] alone: [n, M, M]."""
        rows = torch.arange(len(labels), device=labels.device)
        return self.masks(levels, rois)[rows, labels + 1].sigmoid()

    def likely_masks_in_parts(self, levels: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """As `likely_masks`, always of TOGETHER regions at once, the last of which may be empty: memory does not grow
        with the number of regions, and convolutions packed for one shape stay so (`ops.fused_conv`)."""
        masks = rois.new_empty(len(rois), 2 * self.side, 2 * self.side)
        for start in range(0, len(rois), TOGETHER):
            some, named = rois[start : start + TOGETHER], labels[start : start + TOGETHER]
            empty = TOGETHER - len(some)
            whole = self.likely_masks(levels, F.pad(some, (0, 0, 0, empty)), F.pad(named, (0, empty)))
            masks[start : start + TOGETHER] = whole[: len(some)]
        return masks


class Model(nn.Module):
    """Mask R-CNN on a feature pyramid."""

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        detector = fpn.Model(_box_config(config))  # whose second stage is made anew, with masks
        self.backbone, self.rpn, self.rules = detector.backbone, detector.rpn, detector.rules
        self.register_buffer("colour", detector.get_buffer("colour"), persistent=False)
        self.roi_heads = RoIHeads(config, self.backbone.strides)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs and answers of images [b, 3, H, W] in [0, 1]; shapes depend on the shape of the images alone.

        Returns:
            (objectness logits [b, A], anchor offsets [b, A, 4], proposals [b, K, 4], class logits [b, K, C + 1],
            offsets for each class [b, K, (C + 1) * 4]; boxes [b, D, 4], labels [b, D], scores [b, D] and masks
            [b, D, M, M] in [0, 1] within the boxes); empty places hold boxes of zeros with score 0.
        """
        levels = self.backbone(images)
        anchors = self.rpn(levels, images.shape[-2:])
        sizes = images.new_tensor(images.shape[-2:]).expand(len(images), 2)
        proposals = self.rpn.propose(anchors, sizes, training=False)
        regions = self.roi_heads(levels, proposals)
        best = best_answers(regions, proposals, sizes, self.rules)
        masks = self.roi_heads.likely_masks(levels, to_rois(best.boxes), best.labels.flatten())
        found = (best.boxes, best.labels, best.scores, masks.unflatten(0, best.labels.shape))
        return (
            torch.cat(anchors.logits, 1),
            torch.cat(anchors.deltas, 1),
            proposals,
            regions.logits,
            regions.deltas,
            *found,
        )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The five losses; those of the detector over the number of sampled anchors or regions, that of the masks over
        the number of positive regions and their pixels."""
        targets = detection_targets(batch, self.config.classes)
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        levels = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        anchors = self.rpn(levels, batch.images.shape[-2:])
        losses = self.rpn.loss(anchors, targets, sizes)
        proposals = self.rpn.propose(anchors, sizes, training=True)
        wanted = draw_regions(proposals, targets, self.rules)
        losses |= region_losses(self.roi_heads(levels, wanted.regions), wanted, self.rules)
        masks = mask_targets(wanted, batch.truth or [], 2 * self.config.mask_side, self.config.aligned)
        return losses | {"mask": mask_loss(self.roi_heads.masks(levels, masks.rois), masks)}

    def answers(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """`predict` in fixed shapes (`contract.NetworkOffers`); masks [b, D, M, M] in [0, 1] lie within their boxes."""
        levels = self.backbone(images)
        proposals = self.rpn.propose(self.rpn(levels, images.shape[-2:]), sizes, training=False)
        best = best_answers(self.roi_heads(levels, proposals), proposals, sizes, self.rules)
        masks = self.roi_heads.likely_masks(levels, to_rois(best.boxes), best.labels.flatten())
        return best.named() | {"masks": masks.unflatten(0, best.labels.shape)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image with their masks, by falling score; on the CPU."""
        device = batch.images.device
        sizes = torch.tensor(batch.sizes).to(device, non_blocking=True)
        levels = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        proposals = self.rpn.propose(self.rpn(levels, batch.images.shape[-2:]), sizes, training=False)
        answers = region_predictions(self.roi_heads(levels, proposals), proposals, batch.sizes, self.rules)
        found = [answer.objects for answer in answers if answer.objects is not None]
        rois = to_rois([objects.boxes for objects in found]).to(device, non_blocking=True)
        labels = torch.cat([objects.labels for objects in found]).to(device, non_blocking=True)
        masks = self.roi_heads.likely_masks_in_parts(levels, rois, labels).cpu()
        masks = masks.split([len(objects) for objects in found])
        return [
            replace(answer, objects=self._with_masks(objects, drawn, answer.size))
            for answer, objects, drawn in zip(answers, found, masks, strict=True)
        ]

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """Anchors, proposals, the bins of the surest one for its class and box, boxes before suppression and after."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        levels = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        anchors = self.rpn(levels, batch.images.shape[-2:])
        proposals = self.rpn.propose(anchors, sizes, training=False)
        second = SecondStage.of(self.roi_heads(levels, proposals), proposals, batch.sizes[0], self.rules)
        answer = self.predict(batch)[0]
        first = self.rpn.stages(anchors, proposals, found_targets(batch, [answer], self.config.classes), sizes)
        bins = pyramid_bins(self.roi_heads.for_boxes, levels, second.region, 7)
        return [*first, bins, *second.to_answer(answer)]

    def _with_masks(self, objects: Objects, drawn: Tensor, size: tuple[int, int]) -> Objects:
        """Objects of an image of this size with their masks [n, M, M] laid over it."""
        config = self.config
        return replace(objects, masks=paste_masks(drawn, objects.boxes, size, config.mask_threshold, config.aligned))


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Anchors for the boxes at hand (see `fpn.adapt`), and room for as many objects as an image has.

    The fullest image of the examples, with n objects, may be answered by 1.5 n objects out of 4 n proposals: 100 of
    200, which are plenty for photographs, cannot hold the 150 nuclei of a microscope's. Nothing is made smaller.
    """
    most = max((len(_objects(each)) for each in examples), default=0)
    (train_before, before), (train_after, after) = config.rpn_before, config.rpn_after
    return replace(
        config,
        anchors=fpn.adapt(_box_config(config), examples).anchors,
        rpn_before=(train_before, max(before, 4 * most)),
        rpn_after=(train_after, max(after, 4 * most)),
        detections=max(config.detections, (3 * most + 1) // 2),
    )


def _objects(example: Annotation) -> Objects:
    """Those that are no crowd regions."""
    objects = Objects.empty() if example.objects is None else example.objects
    return objects if objects.crowd is None else objects[~objects.crowd]


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict.

    Takes torchvision's present layout (unchanged) and that of its released V1 files; see `fpn.from_public`. Their mask
    head counted from 1 and had no blocks: `mask_fcn1` is `0.0`. V1 weights want `trunk_norm="frozen",
    trunk_norm_eps=0.0`.
    """
    old = "roi_heads.mask_head.mask_fcn"
    repaired = {}
    for key, value in fpn.from_public(state_dict).items():
        if key.startswith(old):
            number, name = key.removeprefix(old).split(".")
            key = f"roi_heads.mask_head.{int(number) - 1}.0.{name}"
        repaired[key] = value
    return repaired


def _box_config(config: Config) -> fpn.Config:
    """What the detector before the masks is made from; what came after the paper is off."""
    names = {field.name for field in dataclasses.fields(fpn.Config)} & {f.name for f in dataclasses.fields(config)}
    return fpn.Config(**{name: getattr(config, name) for name in names})
