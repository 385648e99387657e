"""Faster R-CNN (Ren et al. 2015): a network that proposes regions, on the map that a Fast R-CNN reads them from.

A small network slides over the last map of the trunk and says for nine anchors a cell whether there is an object and
where (section 3.1, figure 3). Its best boxes after non-maximum suppression are the regions of Fast R-CNN (section 2 of
that paper). The four losses are summed ("approximate joint training"), or both networks are trained in turn, so that in
the end they share the trunk: the paper's 4-step alternation (section 3.2), `--recipe alternating`. `faster_rcnn_r50_c4`
cuts regions out of the map before the last stage of a ResNet, which then takes them on (He et al. 2016, appendix A).

Letters: b images, k anchors a cell, A anchors an image, K proposals an image, C classes.
Inside this file class 0 is the background; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.layers.anchors import fit_anchors, reference_anchors, shapes_of, sides_of_boxes
from saccade.layers.normalize import fill_padding, mean_colour
from saccade.layers.proposing import AnchorOutputs, ProposalRules, RegionProposalNetwork, RPNHead
from saccade.layers.regions import RegionRules, draw_regions, region_losses, region_predictions, scored_answers
from saccade.layers.stages import BoxStage, SecondStage, found_targets
from saccade.layers.targets import detection_targets
from saccade.models.contract import has_tail
from saccade.models.detectors.fast_rcnn import Pooling, RoIHeads, trunk_of
from saccade.models.paper import Paper
from saccade.models.stage import Fit
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
    authors="Ren, He, Girshick, Sun",
    year=2015,
    where="NIPS 2015, arXiv 1506.01497",
)
TASKS = ("detect",)

Shapes = tuple[tuple[float, float], ...]


# The nine anchors of the release: areas of 128^2, 256^2, 512^2 pixels, ratios 1:2, 1:1, 2:1.
_REFERENCE = reference_anchors()
REFERENCE: Shapes = tuple((float(w), float(h)) for w, h in (_REFERENCE[:, 2:] - _REFERENCE[:, :2]).tolist())


@dataclass(frozen=True)
class Config:
    """The network; defaults are faster_rcnn_vgg16's."""

    classes: Count = 20
    trunk: str = "vgg16"  # any classification network that gives feature maps; its last one is that of both networks
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    trunk_hidden: Count | None = None  # units of the trunk's fc6 and fc7, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    trunk_norm_eps: NonNegative | None = None  # of the trunk's batch norms
    # regions go on through what the trunk has behind that map (fc6 and fc7 of VGG, the last stage of ResNet); without,
    # or where it has nothing, through two fresh layers of head_width units
    tail: bool = True
    head_width: Count = 1024
    pooling: Pooling = "pool"  # pool: RoIPool of the paper; align: RoIAlign, without rounding (He et al. 2017)
    pooled: Count | None = None  # side of a pooled region; none: what the trunk's tail takes, else 7
    # proposals
    anchors: Shapes = REFERENCE  # (width, height) in pixels of the k anchors of a cell
    rpn_channels: Count = 512  # behind the 3x3 convolution
    rpn_two_way: bool = True  # two scores an anchor, as in the paper, or one
    rpn_before: tuple[Count, Count] = (12000, 6000)  # best anchors that enter NMS, in training and after
    rpn_after: tuple[Count, Count] = (2000, 300)  # proposals an image, in training and after (K)
    rpn_nms: Share = 0.7
    rpn_min_side: NonNegative = 16.0  # pixels; smaller proposals are left out
    rpn_inside: bool = True  # in training, leave out anchors that cross the border of their image (section 3.3)
    rpn_high: Share = 0.7  # IoU of a positive anchor (section 3.1.2)
    rpn_low: Share = 0.3
    rpn_sample: Count = 256  # anchors an image in the loss, half of them positive at most
    # regions
    head_iou: Share = 0.5  # IoU of a positive region
    head_sample: Count = 128  # regions an image in the loss
    head_positive: Share = 0.25
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.3
    detections: Count = 100
    # 0: both networks learn together; 1 to 4: the step of the alternation (section 3.2), which the recipe sets
    step: Natural = 0


VARIANTS: dict[str, Config] = {
    "faster_rcnn_vgg16": Config(),
    "faster_rcnn_zf": Config(trunk="zfnet", rpn_channels=256),
    "faster_rcnn_r50_c4": Config(trunk="resnet50"),
    # Ours: three stages of half as wide a ResNet-18 (stride 16), batch norm, two layers of 256 units.
    "faster_rcnn_c4_small": Config(
        trunk="resnet18",
        trunk_width=32,
        trunk_depths=(2, 2, 2),
        tail=False,
        head_width=256,
        pooling="align",
        anchors=tuple((s * r**-0.5, s * r**0.5) for r in (0.5, 1.0, 2.0) for s in (32.0, 64.0, 128.0)),
        rpn_channels=128,
        rpn_two_way=False,
        rpn_before=(1000, 600),
        rpn_after=(300, 200),
        rpn_min_side=1e-3,
        rpn_inside=False,
        score_threshold=0.01,
        nms=0.5,
    ),
}
SIZE: dict[str, int] = {name: 320 if name == "faster_rcnn_c4_small" else 600 for name in VARIANTS}

_SMALL: dict[str, Any] = {
    "size": 320,
    "batch": 8,
    "epochs": 60,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.02,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 10.0,
    "ema": 0.995,
    "resize": "letterbox",
    "flip": 0.5,
    "jitter": 0.3,
    "color": 0.3,
}
_PAPER: dict[str, Any] = {  # section 3.3: shorter side 600; one image a step there, 2 here
    "size": (600, 1000),
    "batch": 2,
    "epochs": 28,
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (0.714,),
    "warmup": 0.0,
    "clip_norm": 0.0,
    "resize": "letterbox",
    "flip": 0.5,
    "jitter": 0.0,
    "color": 0.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": {
            "size": 600,
            "batch": 4,
            "epochs": 40,
            "optimizer": "sgd",
            "lr": 0.002,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "warmup": 0.1,
            "clip_norm": 10.0,
            "resize": "letterbox",
            "flip": 0.5,
            "jitter": 0.3,
            "color": 0.3,
        },
        "faster_rcnn_c4_small": _SMALL,
    },
    # The release: 50k + 20k steps of 2 images over the 5,011 of VOC 2007, both networks together.
    "paper": {"*": _PAPER},
    # Section 3.2 and 3.3: 60k + 20k images for each of the four steps.
    "alternating": {
        "*": _PAPER | {"epochs": 16, "milestones": (0.75,)},
        "faster_rcnn_c4_small": _SMALL | {"epochs": 30},
    },
}
# Section 3.1.3: with given weights all layers of the ZF net are learned, of VGG-16 "conv3_1 and up". These are the four
# convolutions before it.
FREEZES: dict[str, dict[str, int]] = {recipe: {"faster_rcnn_vgg16": 4} for recipe in ("paper", "alternating")}


class Model(nn.Module):
    """Faster R-CNN on a single map.

    In a step of the alternation only a part of it learns, and the rest has no gradients: 1 trunk and proposals; 2 trunk
    and regions, with proposals from the trunk of step 1, `rpn_trunk`; 3 proposals; 4 regions.
    """

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk_of(config)
        self.register_buffer("colour", mean_colour(self.trunk), persistent=False)
        proposal_rules = ProposalRules(
            before=config.rpn_before,
            after=config.rpn_after,
            nms=config.rpn_nms,
            min_side=config.rpn_min_side,
            high=config.rpn_high,
            low=config.rpn_low,
            inside=config.rpn_inside,
            sample=config.rpn_sample,
        )
        head = RPNHead(self.trunk.channels[-1], len(config.anchors), config.rpn_channels, config.rpn_two_way)
        cells, stride = shapes_of(config.anchors), self.trunk.strides[-1]
        self.rpn = RegionProposalNetwork(head, [cells], proposal_rules, stride, offset=0.5)
        self.rules = RegionRules(
            positive_iou=config.head_iou,
            sample=config.head_sample,
            positive=config.head_positive,
            weights=config.box_weights,
            score_threshold=config.score_threshold,
            nms=config.nms,
            detections=config.detections,
        )
        self.roi_heads = RoIHeads(self.trunk, config)
        self.rpn_trunk = _without_tail(trunk_of(config)) if config.step == 2 else None
        for module in self._fixed():
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    def _fixed(self) -> set[nn.Module]:
        """All modules that do not learn in this step of the alternation."""
        proposing = {*self.rpn.modules(), *(() if self.rpn_trunk is None else self.rpn_trunk.modules())}
        tail = {*(self.trunk.tail.modules() if has_tail(self.trunk) else ())}
        naming, shared = {*self.roi_heads.modules(), *tail}, {*self.trunk.modules()} - tail
        steps: list[set[nn.Module]] = [set(), naming, proposing, naming | shared, proposing | shared]
        return steps[self.config.step]

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for what does not learn, whose batch norms keep their statistics."""
        super().train(mode)
        for module in self._fixed():
            module.training = False
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs of images [b, 3, H, W] in [0, 1]; shapes depend on the shape of the images alone.

        Returns:
            (objectness logits [b, A], anchor offsets [b, A, 4], proposals [b, K, 4], class logits [b, K, C + 1],
            offsets for each class [b, K, (C + 1) * 4]); places without proposal hold a box of zeros.
        """
        level = self.trunk.features(images)[-1]
        anchors = self._anchors(images, level)
        sizes = images.new_tensor(images.shape[-2:]).expand(len(images), 2)
        proposals = self.rpn.propose(anchors, sizes, training=False)
        regions = self.roi_heads(level, proposals, self.trunk)
        return anchors.logits[0], anchors.deltas[0], proposals, regions.logits, regions.deltas

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`rpn_objectness`, `rpn_box`, `class`, `box`, of which a step of the alternation has two; each is a sum over
        drawn anchors or regions divided by how many were drawn."""
        step = self.config.step
        losses: dict[str, Tensor] = {}
        targets = detection_targets(batch, self.config.classes)
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        level = self.trunk.features(images)[-1]
        anchors = self._anchors(images, level)
        if step in (0, 1, 3):
            losses |= self.rpn.loss(anchors, targets, sizes)
        if step in (0, 2, 4):
            proposals = self.rpn.propose(anchors, sizes, training=True)
            wanted = draw_regions(proposals, targets, self.rules)
            losses |= region_losses(self.roi_heads(level, wanted.regions, self.trunk), wanted, self.rules)
        return losses

    def scored_regions(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from (`contract.NetworkOffers`)."""
        level = self.trunk.features(images)[-1]
        proposals = self.rpn.propose(self._anchors(images, level), sizes, training=False)
        return scored_answers(self.roi_heads(level, proposals, self.trunk), proposals, sizes, self.rules)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image, by falling score; on the CPU."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        level = self.trunk.features(images)[-1]
        proposals = self.rpn.propose(self._anchors(images, level), sizes, training=False)
        return region_predictions(self.roi_heads(level, proposals, self.trunk), proposals, batch.sizes, self.rules)

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """Anchors, proposals, the bins of the surest one, boxes before suppression and after."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        images = fill_padding(batch.images, batch.sizes, self.get_buffer("colour"))
        level = self.trunk.features(images)[-1]
        anchors = self._anchors(images, level)
        proposals = self.rpn.propose(anchors, sizes, training=False)
        outputs = self.roi_heads(level, proposals, self.trunk)
        second = SecondStage.of(outputs, proposals, batch.sizes[0], self.rules)
        answer = self.predict(batch)[0]
        first = self.rpn.stages(anchors, proposals, found_targets(batch, [answer], self.config.classes), sizes)
        return [*first, self.roi_heads.bins(level, second.region), *second.to_answer(answer)]

    def _anchors(self, images: Tensor, level: Tensor) -> AnchorOutputs:
        """What the proposal network says, on the shared map or on that of its own trunk."""
        own = level if self.rpn_trunk is None else self.rpn_trunk.features(images)[-1]
        outputs: AnchorOutputs = self.rpn([own], images.shape[-2:])
        return outputs


def _without_tail(trunk: Any) -> Any:
    """A trunk whose `features` alone are needed."""
    if has_tail(trunk):
        name = next(name for name, module in trunk.named_children() if module is trunk.tail)
        setattr(trunk, name, nn.Identity())
    return trunk


def stages(name: str, recipe: str) -> list[Fit]:
    """The course of a run: for recipe "alternating" the four steps of section 3.2.

    1. The proposal network is trained with a trunk of its own. 2. A Fast R-CNN is trained with another one, from its
    proposals. 3. The proposal network is trained anew on the trunk of the second step, which is fixed from here on.
    4. What is Fast R-CNN's own is trained on, from the new proposals. Each is a fit of all epochs.
    """
    if recipe != "alternating":
        return [Fit(name, name)]
    return [
        Fit("rpn", name, changes={"step": 1}, adopt=_to_a_trunk_of_its_own, beside=True, measured=False),
        Fit("fast_rcnn", name, changes={"step": 2}, adopt=_to_the_shared_trunk),
        Fit("rpn_shared", name, changes={"step": 3}),
        Fit("fast_rcnn_shared", name, changes={"step": 4}),
    ]


def _to_a_trunk_of_its_own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Step 1 -> 2: the proposal network and its trunk; Fast R-CNN begins with a trunk as that of step 1 began."""
    handed = {name: value for name, value in tensors.items() if name.startswith("rpn.")}
    return handed | {f"rpn_{name}": value for name, value in tensors.items() if name.startswith("trunk.")}


def _to_the_shared_trunk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Step 2 -> 3: all but the proposal network, whose layers begin anew on the trunk of Fast R-CNN."""
    return {name: value for name, value in tensors.items() if not name.startswith(("rpn.", "rpn_trunk."))}


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """As many anchors as there are, for the boxes at hand: k-means of their sides (`fit_anchors`).

    Fewer than 10 boxes change nothing.

    Args:
        config: any; the number of its anchors is kept.
        examples: training images in pixels of the network's input.
    """
    sides = sides_of_boxes(examples)
    if len(sides) < 10:
        return config
    fitted = fit_anchors(sides, len(config.anchors))
    shapes = tuple((round(w, 1), round(h, 1)) for w, h in fitted.tolist())
    return dataclasses.replace(config, anchors=shapes)
