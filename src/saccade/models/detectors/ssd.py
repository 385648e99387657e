"""SSD (Liu et al. 2016): one pass, prior boxes of all sizes on maps of several strides, no proposals.

`ssd300` and `ssd512` are the paper's networks on VGG-16; state dicts have the keys of the public torchvision weights.
`ssd_small` is the same idea for little data and little compute, trained from scratch: a narrow residual trunk with
batch norm, a top-down path, priors fitted to the training boxes, and three later remedies, each a field of `Config`:
adaptive matching, scores that foretell the IoU, and a loss on the IoU itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.anchors import fit_anchors, grid_anchors, prior_sizes, shapes_of
from saccade.layers.box_coding import decode_boxes, encode_boxes
from saccade.layers.matching import IGNORED
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.layers.sampling import hard_negatives
from saccade.layers.targets import Targets, detection_targets, learnable
from saccade.losses.across import mean_over_processes
from saccade.losses.detection import quality_focal, smooth_l1
from saccade.models.backbones import resnet
from saccade.models.paper import Paper
from saccade.ops.boxes import clip_boxes, complete_iou, distance_iou, generalized_iou, iou, valid_boxes
from saccade.ops.nms import batched_nms

PAPER = Paper(
    title="SSD: Single Shot MultiBox Detector",
    authors="Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg",
    year=2016,
    where="ECCV 2016, arXiv 1512.02325",
)
TASKS = ("detect",)
OVERLAPS = {"iou": iou, "giou": generalized_iou, "diou": distance_iou, "ciou": complete_iou}
VARIANCES = (10.0, 10.0, 5.0, 5.0)  # released code: offsets divided by 0.1, 0.1, 0.2, 0.2
Sizes = tuple[tuple[tuple[float, float], ...], ...]


def _paper_priors(side: int, sizes: Sequence[float], ratios: Sequence[Sequence[float]], limit: float = 9.0) -> Sizes:
    """Sizes in pixels at `side` -> (width, height) of every prior of every map, as shares of the side."""
    maps = [prior_sizes(small, large, r) for (small, large), r in zip(pairwise(sizes), ratios, strict=True)]
    return tuple(tuple((min(w / side, limit), min(h / side, limit)) for w, h in shapes) for shapes in maps)


_RATIOS_300 = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
_RATIOS_512 = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
_VOC_300 = _paper_priors(300, (30, 60, 111, 162, 213, 264, 315), _RATIOS_300)
_SQUARES = tuple(tuple((f * s / 320, f * s / 320) for f in (4.0, 4 * 2**0.5)) for s in (8, 16, 32, 64))


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are ssd300's on Pascal VOC."""

    classes: int = 20
    trunk: Literal["vgg300", "vgg512", "residual"] = "vgg300"
    # Priors of every map: (width, height) as shares of the longer input side.
    priors: Sizes = _VOC_300
    steps: tuple[float, ...] = (8, 16, 32, 64, 100, 300)  # pixels between neighbours of each map (released code)
    side: int = 300  # input side at which `steps` hold, at others input / map (section 2.2); 0: steps always hold
    fit_priors: bool = False  # fit `priors` to the training boxes (YOLO9000, Redmon & Farhadi 2017, section 2)
    width: int = 32  # residual trunk: channels of the stem, doubled with each stage
    depths: tuple[int, ...] = (1, 2, 2, 2)  # residual trunk: blocks at strides 4, 8, 16, 32
    channels: int = 64  # residual trunk: channels of the top-down path (FPN, Lin et al. 2017) and of the heads
    # overlap: IoU > 0.5 and the best prior of each truth (section 2.2); adaptive: ATSS (Zhang et al. 2020)
    matching: Literal["overlap", "adaptive"] = "overlap"
    # softmax: cross-entropy with background, hard negatives (section 2.2); quality: sigmoids that foretell the IoU of
    # the box (Generalized Focal Loss, Li et al. 2020)
    class_loss: Literal["softmax", "quality"] = "softmax"
    # smooth_l1: on offsets (section 2.2); iou, giou (Rezatofighi et al. 2019), diou, ciou (Zheng et al. 2020): on boxes
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    box_weight: float = 1.0  # alpha of equation 1; 2 with giou (as in the release of ATSS)
    negatives: float = 3.0  # softmax: hard negatives for each matched prior
    min_negatives: int = 0  # softmax: hard negatives of an image without objects; 0 as in the paper
    score_threshold: float = 0.01
    candidates: int = 400  # best boxes of each class that enter NMS
    nms_iou: float = 0.45
    keep: int = 200  # boxes an image after NMS
    mean: tuple[float, ...] = (0.48235, 0.45882, 0.40784)  # RGB; the Caffe VGG's (123, 117, 104)
    std: tuple[float, ...] = (1 / 255, 1 / 255, 1 / 255)


VARIANTS: dict[str, Config] = {
    "ssd300": Config(),
    # The public torchvision checkpoint: COCO's smaller sizes, sides limited to the image, 90 category ids.
    "ssd300_coco": Config(classes=90, priors=_paper_priors(300, (21, 45, 99, 153, 207, 261, 315), _RATIOS_300, 1.0)),
    "ssd512": Config(
        trunk="vgg512",
        priors=_paper_priors(512, (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6), _RATIOS_512),
        steps=(8, 16, 32, 64, 128, 256, 512),
        side=512,
    ),
    "ssd_small": Config(
        trunk="residual",
        priors=_SQUARES,
        steps=(8, 16, 32, 64),
        side=0,
        fit_priors=True,
        matching="adaptive",
        class_loss="quality",
        box_loss="giou",
        box_weight=2.0,
        nms_iou=0.6,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    ),
}
SIZE: dict[str, int] = {"ssd300": 300, "ssd300_coco": 300, "ssd512": 512, "ssd_small": 320}

_VGG_DEFAULT: dict[str, Any] = {
    "size": 300,
    "batch": 16,
    "epochs": 60,
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "clip_norm": 10.0,
    "resize": "stretch",
    "min_overlap_crop": 0.5,
    "color": 0.5,
}
_PAPER_RECIPE: dict[str, Any] = {  # section 3 and the released training script
    "size": 300,
    "batch": 32,
    "epochs": 232,  # 120k steps of 32 over the 16,551 images of VOC 07+12 trainval
    "optimizer": "sgd",
    "lr": 1e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "step",
    "milestones": (80 / 120, 100 / 120),
    "gamma": 0.1,
    "warmup": 0.0,
    "clip_norm": 0.0,
    "precision": "fp32",
    "resize": "stretch",
    "flip": 0.5,
    "min_overlap_crop": 1.0,
    "color": 1.0,
}
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "*": _VGG_DEFAULT,
        "ssd512": _VGG_DEFAULT | {"size": 512, "batch": 8},
        "ssd_small": {
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
    "paper": {
        "*": _PAPER_RECIPE,
        "ssd300_coco": _PAPER_RECIPE | {"epochs": 108, "milestones": (0.7, 0.9)},  # 400k steps over 118,287 images
        "ssd512": _PAPER_RECIPE | {"size": 512},
    },
}


def _convs(channels: Sequence[int]) -> list[nn.Module]:
    """3x3 convolutions and ReLUs, channels[0] -> channels[1] -> ..."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
    return layers


def _extra(before: int, inner: int, after: int, stride: int, padding: int, kernel: int = 3) -> nn.Sequential:
    """1x1 to `inner`, then the convolution that makes the next map (figure 2)."""
    last = nn.Conv2d(inner, after, kernel, stride, padding)
    return nn.Sequential(nn.Conv2d(before, inner, 1), nn.ReLU(), last, nn.ReLU())


class VggTrunk(nn.Module):
    """VGG-16 with fc6 and fc7 as convolutions, and the extra maps (section 3, "Base network"; figure 2).

    Images (normalised) [b, 3, H, W] -> maps of 512, 1024, 512, 256, 256, 256 (vgg512: one more 256) channels; of a
    300 px input the sides are 38, 19, 10, 5, 3, 1, of 512 px 64, 32, 16, 8, 4, 2, 1.
    """

    def __init__(self, side: Literal["vgg300", "vgg512"]) -> None:
        super().__init__()
        self.scale_weight = nn.Parameter(torch.full((512,), 20.0))  # L2 normalisation of conv4_3 (section 3.1)
        pool = nn.MaxPool2d(2, 2)
        self.features = nn.Sequential(
            *_convs((3, 64, 64)),
            pool,
            *_convs((64, 128, 128)),
            pool,
            *_convs((128, 256, 256, 256)),
            nn.MaxPool2d(2, 2, ceil_mode=True),  # 75 -> 38
            *_convs((256, 512, 512, 512)),
        )
        fully = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),  # fc6 by the a-trous algorithm
            nn.ReLU(),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(),
        )
        extras = [_extra(1024, 256, 512, 2, 1), _extra(512, 128, 256, 2, 1)]
        if side == "vgg300":
            extras += [_extra(256, 128, 256, 1, 0), _extra(256, 128, 256, 1, 0)]
        else:
            extras += [_extra(256, 128, 256, 2, 1), _extra(256, 128, 256, 2, 1), _extra(256, 128, 256, 1, 1, kernel=4)]
        self.extra = nn.ModuleList([nn.Sequential(pool, *_convs((512, 512, 512, 512)), fully), *extras])
        self.channels = [512, 1024, 512] + [256] * (len(extras) - 1)
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in self.extra.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.features(images)
        maps = [self.scale_weight.view(1, -1, 1, 1) * functional.normalize(x)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps


def _normed(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())


class ResidualTrunk(nn.Module):
    """A narrow residual network with a top-down path (Feature Pyramid Networks, Lin et al. 2017, section 3).

    Images (normalised) [b, 3, H, W] -> four maps of `channels` at strides 8, 16, 32, 64, sides ceil(H / stride).
    """

    def __init__(self, width: int, depths: tuple[int, ...], channels: int) -> None:
        super().__init__()
        plain = resnet.Config(classes=0, width=width, depths=depths, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self.body = resnet.Model(plain)  # the detector normalises, once
        below = self.body.channels[1:]
        self.lateral = nn.ModuleList([_normed(c, channels, kernel=1) for c in below])
        self.coarse = _normed(channels, channels, stride=2)
        self.smooth = nn.ModuleList([_normed(channels, channels) for _ in below])
        self.channels = [channels] * (len(below) + 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [lateral(x) for lateral, x in zip(self.lateral, self.body.features(images)[1:], strict=True)]
        coarse = self.coarse(maps[-1])
        for i in range(len(maps) - 2, -1, -1):
            maps[i] = maps[i] + functional.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        return [smooth(x) for smooth, x in zip(self.smooth, maps, strict=True)] + [coarse]


class Head(nn.Module):
    """A 3x3 predictor on each map: [b, c, h, w] a map -> [b, A, values], A over maps, rows, columns, priors.

    With `hidden`, a normalised 3x3 convolution comes before each predictor. Biases begin at `start`.
    """

    def __init__(
        self, channels: Sequence[int], priors: Sequence[int], values: int, hidden: bool, start: float = 0.0
    ) -> None:
        super().__init__()
        self.values = values
        self.hidden = nn.ModuleList([_normed(c, c) for c in channels]) if hidden else None
        self.module_list = nn.ModuleList(
            [nn.Conv2d(c, k * values, 3, padding=1) for c, k in zip(channels, priors, strict=True)]
        )
        for module in self.module_list:
            assert isinstance(module, nn.Conv2d)
            assert module.bias is not None
            if hidden:
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.xavier_uniform_(module.weight)
            nn.init.constant_(module.bias, start)

    def forward(self, maps: list[Tensor]) -> Tensor:
        rows = []
        for i, x in enumerate(maps):
            if self.hidden is not None:
                x = self.hidden[i](x)
            rows.append(self.module_list[i](x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values))
        return torch.cat(rows, dim=1)


class Model(nn.Module):
    """Inside, with softmax scores, class 0 is background and ours follow; outside there is no background.

    Letters: b images, A priors (8,732 for ssd300, 24,564 for ssd512), C classes.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        small = config.trunk == "residual"
        self.backbone: ResidualTrunk | VggTrunk
        if config.trunk == "residual":
            self.backbone = ResidualTrunk(config.width, tuple(config.depths), config.channels)
        else:
            self.backbone = VggTrunk(config.trunk)
        self.shapes = [len(level) for level in config.priors]
        outputs = config.classes + (config.class_loss == "softmax")
        # Quality scores start at 0.01 everywhere, so that background does not drown the start (RetinaNet, section 4.1).
        start = -4.595 if config.class_loss == "quality" else 0.0
        self.head = nn.ModuleDict(
            {
                "classification_head": Head(self.backbone.channels, self.shapes, outputs, hidden=small, start=start),
                "regression_head": Head(self.backbone.channels, self.shapes, 4, hidden=small),
            }
        )
        for i, level in enumerate(config.priors):
            self.register_buffer(f"shapes{i}", shapes_of(level), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, H, W] in [0, 1] -> (class logits, box offsets [b, A, 4]).

        Logits are [b, A, C + 1] with background first (class_loss softmax), or [b, A, C] (quality).
        """
        logits, offsets, _ = self._outputs(images)
        return logits, offsets

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, A, C] in [0, 1], boxes [b, A, 4] in pixels; exportable."""
        logits, offsets, priors = self._outputs(images)
        logits = logits.float()
        scores = logits.softmax(-1)[..., 1:] if self.config.class_loss == "softmax" else logits.sigmoid()
        return scores, decode_boxes(offsets, torch.cat(priors), VARIANCES)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`class` and `box` (equation 1), each divided by the matched priors of the batch over all processes."""
        targets = detection_targets(batch, self.config.classes)
        logits, offsets, levels = self._outputs(batch.images)
        logits, priors = logits.float(), torch.cat(levels)
        matches = self._match(targets, levels)
        count = mean_over_processes((matches >= 0).sum()).clamp(min=1)
        image, prior = (matches >= 0).nonzero(as_tuple=True)  # a GPU waits here, and then no more
        truth = matches[image, prior]
        wanted, labels = targets.boxes[image, truth], targets.labels[image, truth]
        moves, matched_priors = offsets[image, prior], priors[prior]
        found = decode_boxes(moves, matched_priors, VARIANCES)
        if self.config.box_loss == "smooth_l1":
            box = smooth_l1(moves.float(), encode_boxes(wanted, matched_priors, VARIANCES))
        else:
            box = 1 - OVERLAPS[self.config.box_loss](found, wanted)
        if self.config.class_loss == "softmax":
            answer = torch.zeros_like(matches)
            answer[image, prior] = labels + 1
            each = functional.cross_entropy(logits.transpose(1, 2), answer, reduction="none")
            hard = hard_negatives(each, matches, self.config.negatives, self.config.min_negatives)
            classification = each.where((matches >= 0) | hard, 0)
        else:
            quality = torch.zeros_like(logits)
            quality[image, prior, labels] = iou(found.detach(), wanted)
            classification = quality_focal(logits, quality).where((matches != IGNORED)[..., None], 0)
        return {"class": classification.sum() / count, "box": self.config.box_weight * box.sum() / count}

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """Boxes of each image by falling score, at most `keep`, clipped to it, after NMS by class; on the CPU."""
        scores, boxes = self.scored_boxes(batch.images)
        best, priors = scores.topk(min(self.config.candidates, scores.shape[1]), dim=1)  # [b, k, C]
        image = torch.arange(len(boxes), device=boxes.device)[:, None, None]
        rows = torch.cat((boxes[image, priors], best[..., None]), dim=-1).cpu()  # all that NMS needs, moved once
        return [
            Annotation(size, objects=self._select(row[..., 4], row[..., :4], size))
            for row, size in zip(rows, batch.sizes, strict=True)
        ]

    def _outputs(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Logits, offsets, and the priors [a, 4] of each map in pixels of `images`."""
        maps = self.backbone(self.normalize(images))
        height, width = images.shape[-2:]
        stated = self.config.side in (0, height) and self.config.side in (0, width)
        priors = []
        for i, (step, x) in enumerate(zip(self.config.steps, maps, strict=True)):
            h, w = x.shape[-2:]
            stride = (float(step), float(step)) if stated else (height / h, width / w)
            priors.append(grid_anchors(self.get_buffer(f"shapes{i}") * max(height, width), (h, w), stride, offset=0.5))
        return self.head["classification_head"](maps), self.head["regression_head"](maps), priors

    @torch.no_grad()
    def _match(self, targets: Targets, levels: list[Tensor]) -> Tensor:
        """[b, A]: the object that each prior answers for, or BACKGROUND, or IGNORED."""
        priors = torch.cat(levels)
        if self.config.matching == "overlap":
            return targets.match(priors, 0.5, 0.5, force_best=True)
        near = [9 * shapes for shapes in self.shapes]  # ATSS: 9 cells a level
        return targets.match_adaptive(priors, [len(level) for level in levels], near)

    def _select(self, scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> Objects:
        """The final boxes of one image from the best scores [k, C] of each class and their boxes [k, C, 4] (section
        2.2; released code)."""
        labels = torch.arange(scores.shape[1]).expand_as(scores)
        boxes = clip_boxes(boxes, size)
        usable = (scores > self.config.score_threshold) & valid_boxes(boxes)
        scores, labels, boxes = scores[usable], labels[usable], boxes[usable]
        kept = batched_nms(boxes, scores, labels, self.config.nms_iou)[: self.config.keep]
        return Objects(boxes[kept], labels[kept], scores[kept])


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
    limits = [0.0, *(8 * step for step in config.steps[:-1]), float("inf")]
    fitted = []
    for level, (low, high) in zip(config.priors, pairwise(limits), strict=True):
        mine = share[(scale > low) & (scale <= high)]
        if len(mine) < 10 * len(level):
            fitted.append(level)
            continue
        fitted.append(tuple((float(w), float(h)) for w, h in fit_anchors(mine, len(level)).tolist()))
    return dataclasses.replace(config, priors=tuple(fitted))
