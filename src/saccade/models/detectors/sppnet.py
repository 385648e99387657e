"""SPP-net (He et al. 2014): the convolutions see an image once, and every region is pooled from their map.

R-CNN computes what overlapping regions share again for each of them. Here the last map of the whole image is computed
once, at one scale or several (section 4.1); a region's window of it is pooled over a pyramid of grids, 6x6, 3x3, 2x2
and 1x1, to the same 50 numbers a channel whatever its shape (section 2.2), and fully connected layers follow. These are
fine-tuned while the convolutions stand still, as the paper did; SVMs and box regressions are those of R-CNN.

Letters: b images, r regions an image, n regions in all, C classes, d features before the last layer, p pooled ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.frozen_norm import freeze_norms
from saccade.layers.normalize import mean_colour
from saccade.layers.regions import RegionRules, TwoLayerHead, decode_answers
from saccade.layers.solved_head import SolvedHead
from saccade.layers.stages import BoxStage, given_stage, pooled_bins
from saccade.models import model_config
from saccade.models.backbones import create_trunk
from saccade.models.detectors import rcnn
from saccade.models.detectors.rcnn import answers, fine_tuning_loss, predict_regions, surest, view
from saccade.models.paper import Paper
from saccade.models.stage import Fit, Solve
from saccade.ops.roi_align import to_rois
from saccade.ops.spatial_pyramid import map_windows, pyramid_pool
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
    authors="He, Zhang, Ren, Sun",
    year=2014,
    where="ECCV 2014, arXiv 1406.4729",
)
TASKS = ("detect",)
TAKES_PROPOSALS = True


@dataclass(frozen=True)
class Config:
    """The network; defaults are sppnet_zf5's."""

    classes: Count = 20
    trunk: str = "zfnet"  # any classification network that gives feature maps; its last one is pooled
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    frozen: bool = True  # the trunk stands still in fine-tuning (section 4.2); it needs weights, then
    # regions
    # of the input, for the trunk (4.1)
    scales: tuple[Positive, ...] = (480 / 688, 576 / 688, 1.0, 864 / 688, 1200 / 688)
    window: Positive = 224.0  # side of the square whose area a region should have: which scale it is pooled from (4.1)
    grids: tuple[Count, ...] = (6, 3, 2, 1)  # sides of the pyramid's grids (4.1)
    hidden: Count = 4096  # units of the two fully connected layers
    dropout: Share = 0.5
    tail: bool = False  # these layers are the trunk's own, of a network that ends in the same pyramid (PReLU-net)
    most_proposals: Count = 2000  # an image, at most: the first of those that are given
    regions: Count = 256  # of them in one forward pass; an exported network takes so many boxes a call
    # fine-tuning
    sample: Count = 128  # regions a step, drawn from its images (section 4.2)
    positive: Share = 0.25  # largest share of them that is positive
    positive_iou: Share = 0.5
    background_iou: Share = 0.1  # least overlap of background with an object (section 4.2)
    # SVMs and box regressions
    svm_iou: Share = 0.3  # overlap with all objects of a class below which a region is its negative (as in R-CNN)
    svm_strength: Positive = 1e-3  # C
    svm_positive_weight: NonNegative = 2.0  # of positives in the loss
    box_iou: Share = 0.6  # overlap above which a region learns to become the object
    box_strength: Positive = 1000.0  # lambda of the ridge
    # answers
    score_threshold: Share = 0.05
    nms: Share = 0.3
    detections: Count = 100


VARIANTS: dict[str, Config] = {
    "sppnet_zf5": Config(),
    # Ours: half a ResNet-18, up to stride 8, whose weights learn with the rest: from scratch there are none to keep.
    "sppnet_small": Config(
        trunk="resnet18",
        trunk_width=48,
        trunk_depths=(2, 2),
        frozen=False,
        scales=(1.0,),
        hidden=256,
        dropout=0.0,
        background_iou=0.0,
    ),
}
SIZE: dict[str, int] = {"sppnet_zf5": 688, "sppnet_small": 320}

_LARGE: dict[str, Any] = {
    "size": 688,  # of the longer side; the paper's scales are of the shorter
    "batch": 2,
    "epochs": 20,
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "resize": "letterbox",
    "flip": 0.5,
    "color": 0.3,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": _LARGE,
        "sppnet_small": _LARGE | {"size": 320, "batch": 4, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.02},
    },
    "paper": {  # section 4.2: 250k regions at 1e-4, then 50k at 1e-5, from ImageNet
        "*": _LARGE
        | {
            "epochs": 1,
            "lr": 1e-4,
            "schedule": "step",
            "milestones": (0.833,),
            "warmup": 0.0,
            "clip_norm": 0.0,
            "color": 0.0,
        },
    },
}


class Model(nn.Module):
    """SPP-net."""

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        own = config.hidden if config.tail and _ends_alike(config) else False
        self.trunk = create_trunk(config.trunk, config.trunk_width, depths=config.trunk_depths, tail=own)
        if config.frozen:
            freeze_norms(self.trunk)
            self.trunk.requires_grad_(False)
        self.stride = self.trunk.strides[-1]
        pooled = self.trunk.channels[-1] * sum(k * k for k in config.grids)
        self.tail: nn.Module | None = None
        if config.tail:
            self.trunk.tail.requires_grad_(True)
        else:
            self.tail = TwoLayerHead(pooled, config.hidden, config.dropout)
        self.head = SolvedHead(config.hidden, pooled, config.classes)
        self.register_buffer("colour", mean_colour(self.trunk), persistent=False)
        self.rules = RegionRules(
            positive_iou=config.positive_iou,
            background_iou=config.background_iou,
            sample=config.sample,
            positive=config.positive,
            weights=(1.0, 1.0, 1.0, 1.0),
            score_threshold=config.score_threshold,
            nms=config.nms,
            detections=config.detections,
        )

    def look(self, images: Tensor) -> list[Tensor]:
        """The map [b, c, ~H s / stride, ~W s / stride] of images [b, 3, H, W] at each scale s."""
        return [self._map(images, scale) for scale in self.config.scales]

    def _map(self, images: Tensor, scale: float) -> Tensor:
        if scale != 1:
            sides = [max(1, round(scale * side)) for side in images.shape[2:]]
            images = F.interpolate(images, sides, mode="bilinear", align_corners=False, antialias=scale < 1)
        maps: list[Tensor] = self.trunk.features(images)
        return maps[-1]

    def describe(self, seen: Sequence[Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Features [n, p] and [n, d] of regions [b, r, 4] of the maps of `look`; n = b r.

        A region is pooled from the scale at which its area is nearest to that of `window` (section 4.1).
        """
        rois = to_rois(regions)
        nearest = self._scale_of(rois[:, 1:])
        pooled = None
        for i, (scale, features) in enumerate(zip(self.config.scales, seen, strict=True)):
            mine = (nearest == i)[:, None]
            # Of a region that is pooled from another scale one pixel is looked at: no shape depends on how many are.
            windows = map_windows(rois[:, 1:] * scale, self.stride, *features.shape[2:]).where(mine, 0)
            found = pyramid_pool(features, torch.cat((rois[:, :1].double(), windows), 1), self.config.grids)
            pooled = found if pooled is None else torch.where(mine, found, pooled)
        assert pooled is not None
        return pooled, (self.trunk.tail if self.tail is None else self.tail)(pooled)

    def _scale_of(self, boxes: Tensor) -> Tensor:
        """[n] the number of the scale from which each of boxes [n, 4] is pooled."""
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        scales = torch.tensor(self.config.scales).to(sides.device, non_blocking=True)
        return ((sides[:, None] * scales) ** 2 - self.config.window**2).abs().argmin(1)

    def forward(self, images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, H, W] in [0, 1] and boxes [b, r, 4] in their pixels -> scores [b, r, C] in [0, 1] and offsets
        [b, r, C, 4] from the boxes (`decode_boxes`)."""
        return answers(self, self.look(images), boxes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The softmax loss of fine-tuning over regions drawn from the images, `sample` in all."""
        return {"class": fine_tuning_loss(self, batch)}

    def scored_regions(self, images: Tensor, sizes: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from (`contract.NetworkOffers`)."""
        scores, offsets = self(images, boxes)
        places, scores = decode_answers(scores, offsets, boxes, sizes, self.rules)
        return scores, places

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image, by falling score; on the CPU."""
        return predict_regions(self, batch)

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The given regions, the bins of the surest on its map, boxes before suppression and after."""
        second, regions = surest(self, batch)
        scale = self.config.scales[int(self._scale_of(second.region[None]))]
        side, grids = max(self.config.grids), ", ".join(map(str, self.config.grids))
        level = view(self, batch)[self.config.scales.index(scale)]
        windows = map_windows(second.region * scale, self.stride, *level.shape[2:])
        bins = pooled_bins(windows.float(), side, 1.0, level)
        bins = replace(
            bins,
            boxes=(bins.boxes - 0.5) * self.stride / scale,
            words=f"The window of the surest region on the map, in {side} x {side} bins of whole cells, of each of "
            f"which the maximum is taken; the pyramid has grids of {grids} bins a side.",
        )
        return [given_stage(regions), bins, *second.to_answer(self.predict(batch)[0])]


def _ends_alike(config: Config) -> bool:
    """Whether the trunk ends in the pyramid of the Config. Raises UsageError where it does not."""
    grids = getattr(model_config(config.trunk), "grids", None)
    if grids is None:
        raise UsageError(
            f"tail=true takes fc6 and fc7 from a trunk that ends in a pyramid, such as prelunet_a; {config.trunk} does "
            "not: tail=false puts two fresh layers there"
        )
    if grids != config.grids:
        wanted = ",".join(map(str, grids))
        raise UsageError(f"the trunk {config.trunk} ends in a pyramid of other grids: tail=true wants grids=[{wanted}]")
    return True


def stages(name: str, recipe: str) -> list[Fit | Solve]:
    """Fine-tuning, SVMs and box regressions, as in R-CNN (section 4.2)."""
    return rcnn.stages(name, recipe)


def from_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The fully connected layers fc6 and fc7 of a classification network: fc7 fits, and fc6 where that network ends in
    the same pyramid."""
    return {
        f"tail.{name}.{kind}": state_dict[f"classifier.{number}.{kind}"]
        for name, number in (("fc6", 0), ("fc7", 3))
        for kind in ("weight", "bias")
        if f"classifier.{number}.{kind}" in state_dict
    }


def example_inputs(config: Config, height: int, width: int, images: int) -> tuple[Tensor, ...]:
    """Images, and `regions` boxes of many sizes in each."""
    return rcnn.example_images(height, width, images), rcnn.example_boxes(height, width, images, config.regions)
