"""Keypoint R-CNN (He et al. 2017, section 5): Mask R-CNN that points at the joints of every object.

The detector on a feature pyramid (`fpn.py`), whose regions a third branch takes too: a joint is a mask of which one
cell alone is true. From a map of 14x14, pooled by RoIAlign, eight convolutions and two doublings of the sides give a
heat map of 56x56 a joint, over which a softmax chooses the place. Its loss is added to the four of the detector; in
answers the joints are read last, for the boxes that are left. State dicts have the keys of the public torchvision
checkpoint `keypointrcnn_resnet50_fpn`.

Letters: b images, L levels, A anchors an image, P proposals an image, C classes, n regions, D answers an image, K
joints, M the side of a heat map.
Inside this file class 0 is the background, as in the released heads; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.layers.keypoints import (
    KeypointHead,
    KeypointPredictor,
    keypoint_loss,
    keypoint_targets,
    peaks,
    read_keypoints,
)
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
TASKS = ("pose",)


@dataclass(frozen=True)
class Config:
    """The network; defaults are keypoint_rcnn_r50_fpn's. What comes before the joints is as in `fpn.Config`."""

    classes: Count = 1
    joints: Count = 17  # K, of every object
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
    # joints
    joint_width: Count = 512  # channels of the convolutions (section 5)
    joint_depth: Natural = 8  # 3x3 convolutions
    # of what is pooled for the joints of a region; a heat map has four times as many cells a side
    joint_side: Count = 14
    joint_canonical_size: Positive = 224.0  # as canonical_size, of the regions that joints are read from
    # of regions and joints, the centres of pixels are heeded, as in later releases; the public weights learned without
    aligned: bool = False
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.5
    detections: Count = 100


VARIANTS: dict[str, Config] = {
    "keypoint_rcnn_r50_fpn": Config(),
    # Ours: the small form of fpn.py. Joints are read a level finer than boxes, as the masks of mask_rcnn_small.
    "keypoint_rcnn_small": Config(
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
        head_sample=64,
        joint_width=64,
        joint_depth=4,
        aligned=True,
        score_threshold=0.01,
    ),
}
SIZE: dict[str, int] = {"keypoint_rcnn_r50_fpn": 800, "keypoint_rcnn_small": 320}

RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "keypoint_rcnn_r50_fpn": {
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
        "keypoint_rcnn_small": {
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
    "paper": {  # section 5: 90k steps of 16 images, 10 times slower from 60k and again from 80k on
        "*": {
            "size": (800, 1344),
            "batch": 16,
            "epochs": 22,
            "optimizer": "sgd",
            "lr": 0.02,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "schedule": "step",
            "milestones": (0.667, 0.889),
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
    """The second stage (public key `roi_heads`): a class and a box from 7x7 of each region, and joints from 14x14."""

    def __init__(self, config: Config, strides: Sequence[int]) -> None:
        super().__init__()
        self.for_boxes = PyramidPooling(tuple(strides), config.canonical_size, aligned=config.aligned)
        self.for_joints = PyramidPooling(tuple(strides), config.joint_canonical_size, aligned=config.aligned)
        self.side = config.joint_side
        self.box_head = TwoLayerHead(config.channels * 7 * 7, config.head_width)
        self.box_predictor = BoxPredictor(config.head_width, config.classes)
        self.keypoint_head = KeypointHead(config.channels, config.joint_width, config.joint_depth)
        self.keypoint_predictor = KeypointPredictor(config.joint_width, config.joints)

    def forward(self, levels: Sequence[Tensor], regions: Tensor) -> RegionOutputs:
        """Levels, of which those added are not read, and regions [b, r, 4] -> logits and offsets for each class."""
        logits, deltas = self.box_predictor(self.box_head(self.for_boxes(levels, to_rois(regions), 7)))
        shape = regions.shape[:2]
        return RegionOutputs(logits.unflatten(0, shape), deltas.unflatten(0, shape))

    def joints(self, levels: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Levels and rois [n, 5] with the image's index first -> logits of each joint's place [n, K, M, M]."""
        logits: Tensor = self.keypoint_predictor(self.keypoint_head(self.for_joints(levels, rois, self.side)))
        return logits


class Model(nn.Module):
    """Keypoint R-CNN on a feature pyramid."""

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        detector = fpn.Model(_box_config(config))  # whose second stage is made anew, with joints
        self.backbone, self.rpn, self.rules = detector.backbone, detector.rpn, detector.rules
        self.register_buffer("colour", detector.get_buffer("colour"), persistent=False)
        self.roi_heads = RoIHeads(config, self.backbone.strides)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs and answers of images [b, 3, H, W] in [0, 1]; shapes depend on the shape of the images alone.

        Returns:
            (objectness logits [b, A], anchor offsets [b, A, 4], proposals [b, P, 4], class logits [b, P, C + 1],
            offsets for each class [b, P, (C + 1) * 4]; boxes [b, D, 4], labels [b, D], scores [b, D] and joints
            [b, D, K, 3] of x, y and confidence); empty places hold boxes of zeros with score 0. Joints are placed to a
            cell of the heat map; `predict` reads them to a pixel.
        """
        levels = self.backbone(images)
        anchors = self.rpn(levels, images.shape[-2:])
        sizes = images.new_tensor(images.shape[-2:]).expand(len(images), 2)
        proposals = self.rpn.propose(anchors, sizes, training=False)
        regions = self.roi_heads(levels, proposals)
        best = best_answers(regions, proposals, sizes, self.rules)
        logits = self.roi_heads.joints(levels, to_rois(best.boxes))
        joints = peaks(logits, best.boxes.flatten(0, 1)).unflatten(0, best.labels.shape)
        raw = (torch.cat(anchors.logits, 1), torch.cat(anchors.deltas, 1), proposals, regions.logits, regions.deltas)
        return (*raw, best.boxes, best.labels, best.scores, joints)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The five losses; those of the detector over the number of sampled anchors or regions, that of the joints over
        the number of labelled joints in positive regions."""
        targets = detection_targets(batch, self.config.classes)
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        levels = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        anchors = self.rpn(levels, batch.images.shape[-2:])
        losses = self.rpn.loss(anchors, targets, sizes)
        proposals = self.rpn.propose(anchors, sizes, training=True)
        wanted = draw_regions(proposals, targets, self.rules)
        losses |= region_losses(self.roi_heads(levels, wanted.regions), wanted, self.rules)
        joints = keypoint_targets(wanted, batch.truth or [], self.config.joints, 4 * self.config.joint_side)
        return losses | {"joints": keypoint_loss(self.roi_heads.joints(levels, joints.rois), joints)}

    def answers(self, images: Tensor, sizes: Tensor) -> dict[str, Tensor]:
        """`predict` in fixed shapes (`contract.NetworkOffers`), but for joints [b, D, K, 3], which are placed to a cell
        of their heat map, where `predict` reads them to a pixel."""
        levels = self.backbone(images)
        proposals = self.rpn.propose(self.rpn(levels, images.shape[-2:]), sizes, training=False)
        best = best_answers(self.roi_heads(levels, proposals), proposals, sizes, self.rules)
        joints = peaks(self.roi_heads.joints(levels, to_rois(best.boxes)), best.boxes.flatten(0, 1))
        return best.named() | {"keypoints": joints.unflatten(0, best.labels.shape)}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image with their joints, by falling score; on the CPU."""
        device = batch.images.device
        sizes = torch.tensor(batch.sizes).to(device, non_blocking=True)
        levels = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        proposals = self.rpn.propose(self.rpn(levels, batch.images.shape[-2:]), sizes, training=False)
        answers = region_predictions(self.roi_heads(levels, proposals), proposals, batch.sizes, self.rules)
        found = [answer.objects for answer in answers if answer.objects is not None]
        rois = to_rois([objects.boxes for objects in found])
        logits = self.roi_heads.joints(levels, rois.to(device, non_blocking=True)).cpu()
        joints = read_keypoints(logits, rois[:, 1:]).split([len(objects) for objects in found])
        return [
            replace(answer, objects=replace(objects, keypoints=points))
            for answer, objects, points in zip(answers, found, joints, strict=True)
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


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Anchors for the boxes at hand; see `fpn.adapt`."""
    return replace(config, anchors=fpn.adapt(_box_config(config), examples).anchors)


def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keys of this file for a public state dict: torchvision's present layout (unchanged) or that of its released
    files; see `fpn.from_public`. These want `trunk_norm="frozen", trunk_norm_eps=0.0`."""
    return fpn.from_public(state_dict)


def _box_config(config: Config) -> fpn.Config:
    """What the detector before the joints is made from; what came after the paper is off."""
    names = {field.name for field in dataclasses.fields(fpn.Config)} & {f.name for f in dataclasses.fields(config)}
    return fpn.Config(**{name: getattr(config, name) for name in names})
