"""Our own detector for little data and little compute: any trunk, a top-down path, one head, trained from scratch.

Which prior answers for which object is decided by ATSS (Zhang et al. 2020): of the nearest priors those count whose IoU
is above mean plus deviation of them all. The rest is of others: maps joined from the coarse to the fine (Feature
Pyramid Networks, Lin et al. 2017), priors fitted to the training boxes (YOLO9000, Redmon & Farhadi 2017), scores that
foretell the IoU of the box (Generalized Focal Loss, Li et al. 2020), a loss on the IoU itself (Rezatofighi et al.
2019), and SSD's offsets and selection. `atss_small` is a narrow ResNet with all of it; `ssd_small` its older name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.anchors import cell_step, fit_anchors, grid_anchors, shapes_of
from saccade.layers.box_coding import decode_boxes
from saccade.layers.detections import detections
from saccade.layers.matching import IGNORED
from saccade.layers.stages import BoxStage, found_targets, matched_stage, suppression_stages
from saccade.layers.targets import Targets, detection_targets, learnable
from saccade.losses.across import mean_over_processes
from saccade.losses.detection import OVERLAPS, quality_focal
from saccade.models.backbones import create_trunk, refuse_strides
from saccade.models.detectors.ssd import VARIANCES, Sizes
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection",
    authors="Zhang, Chi, Yao, Lei, Li",
    year=2020,
    where="CVPR 2020, arXiv 1912.02424",
)
TASKS = ("detect",)
PRIORS_AS_SHARES = True
NEAREST = 9  # priors of each shape on each map that an object chooses from (k of section 4.1)
START = -4.595  # logit of 0.01: background does not drown the first steps (RetinaNet, Lin et al. 2017, section 4.1)
_SQUARES = tuple(tuple((f * s / 320, f * s / 320) for f in (4.0, 4 * 2**0.5)) for s in (8, 16, 32, 64))


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are atss_small's."""

    classes: Count = 20
    trunk: str = "resnet18"  # any classification network that gives feature maps
    trunk_width: Positive | None = None  # `width` of the trunk, where it is not the usual one
    trunk_depths: tuple[Natural, ...] | None = None  # `depths` of the trunk, where they are not the usual ones
    # frozen: batch norms of the trunk with fixed statistics, for few images a step; none: as the trunk is made
    trunk_norm: Literal["batch", "frozen"] | None = None
    # Input pixels between neighbours of each map with priors. The finest is a map of the trunk; those coarser than the
    # trunk's are made by convolutions.
    strides: tuple[Count, ...] = (8, 16, 32, 64)
    channels: Count = 64  # of the top-down path and of the head
    # Priors of every map: (width, height) as shares of the longer input side.
    priors: Sizes = _SQUARES
    fit_priors: bool = True  # fit `priors` to the training boxes (YOLO9000, section 2)
    box_loss: Literal["iou", "giou", "diou", "ciou"] = "giou"  # diou and ciou: Zheng et al. 2020
    box_weight: NonNegative = 2.0  # of the box in the sum of the losses, as in the release of ATSS
    score_threshold: Share = 0.01
    candidates: Count = 400  # best boxes of each class that enter NMS
    nms_iou: Share = 0.6
    keep: Count = 200  # boxes an image after NMS


_SMALL = Config(trunk_width=32, trunk_depths=(1, 2, 2, 2))
VARIANTS: dict[str, Config] = {"atss_small": _SMALL, "ssd_small": _SMALL}
SIZE = 320

_DEFAULT: dict[str, Any] = {
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
}
_PAPER: dict[str, Any] = {  # section 4.1, "Training details"
    "size": (800, 1344),
    "batch": 16,
    "epochs": 12,  # 90k steps of 16 over 118,287 images
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "step",
    "milestones": (0.667, 0.889),
    "warmup": 0.0055,  # 500 steps of the release
    "clip_norm": 0.0,
    "resize": "letterbox",
    "flip": 0.5,
    "jitter": 0.0,
    "color": 0.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {"default": {"*": _DEFAULT}, "paper": {"*": _PAPER}}


def _normed(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps the side (but for the stride), batch norm, ReLU."""
    conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


class TopDown(nn.Module):
    """A trunk with a top-down path: images [b, 3, H, W] in [0, 1] -> a map of `channels` at each of `strides`.

    The trunk's maps are joined from the coarse to the fine; what is coarser is made of the trunk's last by 3x3
    convolutions of stride 2. Sides are those of the trunk's maps, halved and rounded up.

    Raises:
        UsageError: the trunk has no map at the finest stride, or its coarser ones are not the next of `strides`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.body = create_trunk(config.trunk, config.trunk_width, config.trunk_norm, depths=config.trunk_depths)
        self.first = len([s for s in self.body.strides if s < config.strides[0]])
        taken = self.body.strides[self.first :]
        if not taken or list(config.strides[: len(taken)]) != taken:
            listed = ", ".join(map(str, config.strides))
            wanted = f"one at {config.strides[0]}, and from there to its last all of {listed}"
            raise refuse_strides(config.trunk, self.body.strides, wanted, config.strides[0])
        self.channels = [config.channels] * len(config.strides)
        below = self.body.channels[self.first :]
        self.lateral = nn.ModuleList([_normed(c, config.channels, kernel=1) for c in below])
        # One flat list: the keys of a single coarser map are those that its own block had before.
        coarse = [_normed(config.channels, config.channels, stride=2) for _ in config.strides[len(taken) :]]
        self.coarse = nn.Sequential(*(layer for block in coarse for layer in block))
        self.smooth = nn.ModuleList([_normed(config.channels, config.channels) for _ in below])

    def forward(self, images: Tensor) -> list[Tensor]:
        taken = self.body.features(images)[self.first :]
        maps = [lateral(x) for lateral, x in zip(self.lateral, taken, strict=True)]
        coarse, x = [], maps[-1]
        for layer in self.coarse:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                coarse.append(x)
        for i in range(len(maps) - 2, -1, -1):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        return [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)] + coarse


class Head(nn.Module):
    """A normalised 3x3 convolution and a 3x3 predictor on each map: [b, c, h, w] a map -> [b, A, values].

    A runs over maps, rows, columns, priors. Biases begin at `start`.
    """

    def __init__(self, channels: Sequence[int], priors: Sequence[int], values: int, start: float) -> None:
        super().__init__()
        self.values = values
        self.hidden = nn.ModuleList([_normed(c, c) for c in channels])
        self.module_list = nn.ModuleList(
            [nn.Conv2d(c, k * values, 3, padding=1) for c, k in zip(channels, priors, strict=True)]
        )
        for module in self.module_list:
            nn.init.normal_(module.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.constant_(module.bias, start)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> Tensor:
        rows = [
            predictor(hidden(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)
            for hidden, predictor, x in zip(self.hidden, self.module_list, maps, strict=True)
        ]
        return torch.cat(rows, dim=1)


class Model(nn.Module):
    """Letters: b images, A priors, C classes. There is no background class: scores are sigmoids of their own.

    Raises:
        UsageError: not as many `priors` as `strides`, or strides that the trunk has not.
    """

    side_step = 32

    def __init__(self, config: Config) -> None:
        super().__init__()
        if len(config.priors) != len(config.strides):
            raise UsageError(f"{len(config.strides)} strides, but priors for {len(config.priors)} maps; give both")
        self.config = config
        self.backbone = TopDown(config)
        self.shapes = [len(level) for level in config.priors]
        channels = self.backbone.channels
        self.head = nn.ModuleDict(
            {
                "classification_head": Head(channels, self.shapes, config.classes, START),
                "regression_head": Head(channels, self.shapes, 4, 0.0),
            }
        )
        for i, level in enumerate(config.priors):
            self.register_buffer(f"shapes{i}", shapes_of(level), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, H, W] in [0, 1] -> (class logits [b, A, C], box offsets [b, A, 4])."""
        logits, offsets, _ = self._outputs(images)
        return logits, offsets

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, A, C] in [0, 1], boxes [b, A, 4] in pixels; exportable."""
        logits, offsets, priors = self._outputs(images)
        return logits.float().sigmoid(), decode_boxes(offsets, torch.cat(priors), VARIANCES)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`class` (quality focal loss) and `box`, each divided by the matched priors of the batch over all
        processes."""
        targets = detection_targets(batch, self.config.classes)
        logits, offsets, levels = self._outputs(batch.images)
        logits, priors = logits.float(), torch.cat(levels)
        matches = self._match(targets, levels)
        count = mean_over_processes((matches >= 0).sum()).clamp(min=1)
        image, prior = (matches >= 0).nonzero(as_tuple=True)  # a GPU waits here, and then no more
        truth = matches[image, prior]
        wanted, labels = targets.boxes[image, truth], targets.labels[image, truth]
        found = decode_boxes(offsets[image, prior], priors[prior], VARIANCES)
        box = 1 - OVERLAPS[self.config.box_loss](found, wanted)
        quality = torch.zeros_like(logits)
        quality[image, prior, labels] = OVERLAPS["iou"](found.detach(), wanted)
        classification = quality_focal(logits, quality).where((matches != IGNORED)[..., None], 0)
        return {"class": classification.sum() / count, "box": self.config.box_weight * box.sum() / count}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """Boxes of each image by falling score, at most `keep`, clipped to it, after NMS by class; on the CPU."""
        config, (scores, boxes) = self.config, self.scored_boxes(batch.images)
        return detections(
            scores, boxes, batch.sizes, config.score_threshold, config.candidates, config.nms_iou, config.keep
        )

    @torch.no_grad()
    def answer_stages(self, batch: Batch) -> list[BoxStage]:
        """The priors that match what is found, boxes before suppression and after."""
        config, (logits, offsets, levels) = self.config, self._outputs(batch.images)
        priors = torch.cat(levels)
        boxes = decode_boxes(offsets[0], priors, VARIANCES)
        answer = self.predict(batch)[0]
        targets = found_targets(batch, [answer], config.classes)
        rule = "of the priors nearest to its centre, those with an IoU that is high among them"
        matched = matched_stage(priors, self._match(targets, levels)[0], targets, rule)
        threshold, nms, scores = config.score_threshold, config.nms_iou, logits[0].float().sigmoid()
        return [matched, *suppression_stages(boxes, scores, answer.size, threshold, nms, answer)]

    def _outputs(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits, offsets, and the priors [a, 4] of each map in pixels of `images`."""
        maps = self.backbone(images)
        height, width = images.shape[-2:]
        priors = []
        for i, (stride, x) in enumerate(zip(self.config.strides, maps, strict=True)):
            h, w = x.shape[-2:]
            steps = (cell_step(height, h, stride), cell_step(width, w, stride))
            priors.append(grid_anchors(self.get_buffer(f"shapes{i}") * max(height, width), (h, w), steps, offset=0.5))
        return self.head["classification_head"](maps), self.head["regression_head"](maps), priors

    @torch.no_grad()
    def _match(self, targets: Targets, levels: list[Tensor]) -> Tensor:
        """[b, A]: the object that each prior answers for, or BACKGROUND, or IGNORED."""
        nearest = [NEAREST * shapes for shapes in self.shapes]
        return targets.match_adaptive(torch.cat(levels), [len(level) for level in levels], nearest)


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Fit the priors to the boxes of `examples`, which are in pixels of the network's input; crowds do not count.

    A map of stride s gets the k-means shapes of the boxes with sqrt(area) in (4 s, 8 s], the finest map also the
    smaller and the coarsest the larger ones (ranges of FCOS, Tian et al. 2019, section 3.2), so that small objects stay
    on fine maps however frequent the large ones are. Maps with fewer boxes than ten for each shape keep what they have.
    Configurations without `fit_priors`, and examples without boxes, come back as they are.
    """
    rows, shares = [], []
    for example in examples:
        if example.objects is None:
            continue
        boxes = learnable(example, config.classes).boxes
        rows.append(boxes[:, 2:] - boxes[:, :2])
        shares.append(rows[-1] / max(example.size))
    if not config.fit_priors or not rows:
        return config
    sizes, share = torch.cat(rows), torch.cat(shares)
    scale = sizes.prod(dim=1).sqrt()
    limits = [0.0, *(8.0 * stride for stride in config.strides[:-1]), float("inf")]
    fitted = []
    for level, (low, high) in zip(config.priors, pairwise(limits), strict=True):
        mine = share[(scale > low) & (scale <= high)]
        if len(mine) < 10 * len(level):
            fitted.append(level)
            continue
        fitted.append(tuple((float(w), float(h)) for w, h in fit_anchors(mine, len(level)).tolist()))
    return dataclasses.replace(config, priors=tuple(fitted))
