"""R-FCN (Dai et al. 2016): a region is a vote of k^2 parts, each of which looks at maps that know this part alone.

All layers with weights are convolutions over the whole image. A residual network whose last stage is dilated (stride
16, section 2.2) is narrowed to 1024 channels; from there a 1x1 convolution gives k^2 (C + 1) score maps, another 4 k^2
box maps that serve all classes. Of a region, bin (i, j) is read from the maps of this bin, and the mean of the bins is
its answer (equation 1): what is computed for a region costs next to nothing, so that in training all proposals of an
image are judged and the hardest of them learned from (section 2.3, OHEM). Proposals come from the stage before.

Letters: b images, A anchors an image, K proposals an image, C classes, k bins a side, n regions.
Inside this file class 0 is the background; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.layers.anchors import fit_anchors, reference_anchors, shapes_of, sides_of_boxes
from saccade.layers.normalize import fill_padding, mean_colour
from saccade.layers.proposing import ProposalRules, RegionProposalNetwork, RPNHead
from saccade.layers.regions import (
    RegionOutputs,
    RegionRules,
    draw_regions,
    hardest_regions,
    region_losses,
    region_predictions,
    scored_answers,
)
from saccade.layers.stages import BoxStage, SecondStage, aligned_bins, found_targets
from saccade.layers.targets import detection_targets
from saccade.models.backbones import create_trunk
from saccade.models.paper import Paper
from saccade.ops.ps_roi_pool import ps_roi_pool
from saccade.ops.roi_align import to_rois
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="R-FCN: Object Detection via Region-based Fully Convolutional Networks",
    authors="Dai, Li, He, Sun",
    year=2016,
    where="NIPS 2016, arXiv 1605.06409; hard examples: Shrivastava et al., CVPR 2016, arXiv 1604.03540",
)
TASKS = ("detect",)


def _reference_shapes() -> tuple[tuple[float, float], ...]:
    """(width, height) of the nine anchors of the released Faster R-CNN, which R-FCN kept."""
    cell = reference_anchors()
    return tuple((float(w), float(h)) for w, h in (cell[:, 2:] - cell[:, :2]).tolist())


@dataclass(frozen=True)
class Config:
    """The network; defaults are rfcn_r101's."""

    classes: Count = 20
    trunk: str = "resnet101"  # any classification network that gives feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    dilated: bool = True  # last stage of the trunk at the stride of the one before; networks without such a form: no
    channels: Count = 1024  # after the 1x1 convolution behind the trunk
    bins: Count = 7  # k
    # proposals
    # map of the trunk's last stride: the paper's is that before the dilated stage; regions are read from the last
    proposals_from: Literal["first", "last"] = "first"
    anchors: tuple[tuple[float, float], ...] = _reference_shapes()  # (width, height) in pixels
    rpn_channels: Count = 512
    rpn_before: tuple[Count, Count] = (12000, 6000)  # best anchors that enter NMS, in training and after
    rpn_after: tuple[Count, Count] = (300, 300)  # proposals an image, in training and after (K)
    rpn_nms: Share = 0.7
    rpn_min_side: NonNegative = 16.0  # pixels; smaller proposals are left out
    rpn_high: Share = 0.7  # IoU of a positive anchor
    rpn_low: Share = 0.3
    rpn_sample: Count = 256  # anchors an image in the loss, half of them positive at most
    # regions
    head_iou: Share = 0.5  # IoU of a positive region
    head_sample: Count = 128  # regions an image in the loss
    head_positive: Share = 0.25  # largest share of them that is positive, where they are drawn by chance
    ohem: bool = True  # learn from the regions of highest loss, else from some drawn by chance
    ohem_nms: Share = 0.7  # a region of such an IoU with one of higher loss is left out
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    beta: NonNegative = 1.0  # of smooth L1 of regions
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.3
    detections: Count = 100


VARIANTS: dict[str, Config] = {
    "rfcn_r50": Config(trunk="resnet50"),
    "rfcn_r101": Config(),
    # Ours: half as wide a ResNet-18 that ends in its third stage, dilated, so that all maps are read at stride 8.
    "rfcn_small": Config(
        trunk="resnet18",
        trunk_width=32,
        trunk_depths=(2, 2, 4),
        channels=128,
        bins=3,
        proposals_from="last",
        anchors=tuple((s * r, s / r) for s in (24.0, 48.0, 96.0, 160.0) for r in (0.75, 1.0, 4 / 3)),
        rpn_channels=128,
        # of 19,200 at 320 pixels: the best 500 may all lie on a few large objects, which leaves small ones no place
        rpn_before=(4000, 2000),
        rpn_after=(300, 200),
        rpn_min_side=4.0,
        score_threshold=0.01,
        nms=0.5,
    ),
}
SIZE: dict[str, int] = {"rfcn_r50": 600, "rfcn_r101": 600, "rfcn_small": 320}

_LARGE: dict[str, Any] = {
    "size": 600,
    "batch": 8,
    "epochs": 40,
    "optimizer": "sgd",
    "lr": 0.005,
    "momentum": 0.9,
    "weight_decay": 5e-4,
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
        "rfcn_small": {
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
    "paper": {  # section 3.1: 8 devices, an image each; 20k + 10k steps over the 16,551 images of VOC 07+12
        "*": {
            "size": (600, 1000),
            "batch": 8,
            "epochs": 15,
            "optimizer": "sgd",
            "lr": 0.001,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "step",
            "milestones": (0.667,),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.0,
            "color": 0.0,
            "trunk_norm": "frozen",
        },
    },
}


class Backbone(nn.Module):
    """The trunk: images [b, 3, H, W] -> the map that proposals come from and that of the regions, both of one stride.

    Attributes:
        channels: of both maps.
        stride: input pixels between neighbours of each.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.body = create_trunk(
            config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths, dilated=config.dilated
        )
        self.stride: int = self.body.strides[-1]
        self.proposing = self.body.strides.index(self.stride) if config.proposals_from == "first" else -1
        self.channels: tuple[int, int] = (self.body.channels[self.proposing], self.body.channels[-1])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.body.features(images)
        return maps[self.proposing], maps[-1]


class PositionSensitiveHead(nn.Module):
    """A map [b, c, h, w] and regions [b, r, 4] -> logits [b, r, C + 1] and offsets [b, r, 4] (section 2.2).

    Channel (c k + i) k + j of the score maps is bin (i, j) of class c, likewise of the box maps.
    """

    def __init__(self, config: Config, channels: int, stride: int) -> None:
        super().__init__()
        self.bins, self.scale = config.bins, 1 / stride
        self.reduce = nn.Conv2d(channels, config.channels, 1)
        self.scores = nn.Conv2d(config.channels, config.bins**2 * (config.classes + 1), 1)
        self.boxes = nn.Conv2d(config.channels, config.bins**2 * 4, 1)
        nn.init.kaiming_normal_(self.reduce.weight, nonlinearity="relu")
        for layer in (self.scores, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
        for layer in (self.reduce, self.scores, self.boxes):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def maps(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The score maps [b, k^2 (C + 1), h, w] and the box maps [b, 4 k^2, h, w], float32."""
        hidden = F.relu(self.reduce(features))
        return self.scores(hidden).float(), self.boxes(hidden).float()

    def forward(self, features: Tensor, regions: Tensor) -> RegionOutputs:
        rois = to_rois(regions)
        votes = [ps_roi_pool(maps, rois, self.bins, self.scale).mean((2, 3)) for maps in self.maps(features)]
        logits, deltas = (vote.unflatten(0, regions.shape[:2]) for vote in votes)
        return RegionOutputs(logits, deltas)


class Model(nn.Module):
    """A region-based fully convolutional network."""

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.register_buffer("colour", mean_colour(self.backbone.body), persistent=False)
        proposing, regions = self.backbone.channels
        head = RPNHead(proposing, len(config.anchors), config.rpn_channels, two_way=True)
        proposal_rules = ProposalRules(
            before=config.rpn_before,
            after=config.rpn_after,
            nms=config.rpn_nms,
            min_side=config.rpn_min_side,
            high=config.rpn_high,
            low=config.rpn_low,
            sample=config.rpn_sample,
        )
        cells = [shapes_of(config.anchors)]
        self.rpn = RegionProposalNetwork(head, cells, proposal_rules, stride=self.backbone.stride, offset=0.5)
        self.head = PositionSensitiveHead(config, regions, self.backbone.stride)
        most = config.rpn_after[0] if config.ohem else config.head_sample
        self.rules = RegionRules(
            positive_iou=config.head_iou,
            sample=most,
            positive=1.0 if config.ohem else config.head_positive,
            weights=config.box_weights,
            beta=config.beta,
            score_threshold=config.score_threshold,
            nms=config.nms,
            detections=config.detections,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs of images [b, 3, H, W] in [0, 1]; shapes depend on the shape of the images alone.

        Returns:
            (objectness logits [b, A], anchor offsets [b, A, 4], proposals [b, K, 4], class logits [b, K, C + 1],
            offsets [b, K, 4]); places without proposal hold a box of zeros.
        """
        proposing, features = self.backbone(images)
        anchors = self.rpn([proposing], images.shape[-2:])
        sizes = images.new_tensor(images.shape[-2:]).expand(len(images), 2)
        proposals = self.rpn.propose(anchors, sizes, training=False)
        regions = self.head(features, proposals)
        return anchors.logits[0], anchors.deltas[0], proposals, regions.logits, regions.deltas

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The four losses; each is a sum over anchors or regions divided by how many were drawn, or were hard."""
        config = self.config
        targets = detection_targets(batch, config.classes)
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        proposing, features = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        anchors = self.rpn([proposing], batch.images.shape[-2:])
        losses = self.rpn.loss(anchors, targets, sizes)
        proposals = self.rpn.propose(anchors, sizes, training=True)
        wanted = draw_regions(proposals, targets, self.rules)
        outputs = self.head(features, wanted.regions)
        if config.ohem:
            wanted = hardest_regions(outputs, wanted, self.rules, config.head_sample, config.ohem_nms)
        return losses | region_losses(outputs, wanted, self.rules)

    def scored_regions(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from (`contract.NetworkOffers`)."""
        proposing, features = self.backbone(images)
        proposals = self.rpn.propose(self.rpn([proposing], images.shape[-2:]), sizes, training=False)
        return scored_answers(self.head(features, proposals), proposals, sizes, self.rules)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image, by falling score; on the CPU."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        proposing, features = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        proposals = self.rpn.propose(self.rpn([proposing], batch.images.shape[-2:]), sizes, training=False)
        return region_predictions(self.head(features, proposals), proposals, batch.sizes, self.rules)

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """Anchors, proposals, the bins of the surest one, boxes before suppression and after."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        proposing, features = self.backbone(fill_padding(batch.images, batch.sizes, self.get_buffer("colour")))
        anchors = self.rpn([proposing], batch.images.shape[-2:])
        proposals = self.rpn.propose(anchors, sizes, training=False)
        second = SecondStage.of(self.head(features, proposals), proposals, batch.sizes[0], self.rules)
        answer = self.predict(batch)[0]
        first = self.rpn.stages(anchors, proposals, found_targets(batch, [answer], self.config.classes), sizes)
        words = "Each of the equal bins of the surest region votes by a map of its own; the mean is the answer."
        return [*first, aligned_bins(second.region, self.head.bins, words), *second.to_answer(answer)]


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """As many anchors as before, for the boxes at hand (`fit_anchors`). Fewer than 10 boxes change nothing.

    Args:
        examples: training images in pixels of the network's input.
    """
    sides = sides_of_boxes(examples)
    if len(sides) < 10:
        return config
    fitted = fit_anchors(sides, len(config.anchors)).tolist()
    return dataclasses.replace(config, anchors=tuple((round(w, 1), round(h, 1)) for w, h in fitted))
