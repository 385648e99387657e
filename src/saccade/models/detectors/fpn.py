"""Faster R-CNN on a feature pyramid (Lin et al. 2017): every level proposes, and a region is read where it fits.

A residual network and a top-down path give maps of strides 4 to 32 that are equally rich in meaning (section 3). One
region proposal network slides over all of them, with anchors of one size a level (section 4.1); the best boxes are
pooled to 7x7 from the level that fits their size (section 4.2), by RoIAlign as in the release, and classified by two
fully connected layers. Four losses are summed: objectness and box of the proposals, class and box of the regions.
State dicts have the keys of the public torchvision checkpoint `fasterrcnn_resnet50_fpn`.

Letters: b images, L levels, k anchors a cell, A anchors an image, K proposals an image, C classes, n sampled regions.
Inside this file class 0 is the background, as in the released heads; labels outside are one less.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.anchors import cell_anchors, grid_anchors, shapes_of
from saccade.layers.box_coding import decode_boxes, encode_boxes
from saccade.layers.fpn import FeaturePyramid, assign_levels
from saccade.layers.matching import IGNORED, match
from saccade.layers.sampling import sample_anchors
from saccade.layers.targets import Targets, detection_targets
from saccade.losses.across import mean_over_processes
from saccade.losses.detection import smooth_l1
from saccade.models.backbones import resnet
from saccade.models.paper import Paper
from saccade.ops.boxes import clip_boxes, valid_boxes
from saccade.ops.nms import batched_nms, nms_padded
from saccade.ops.roi_align import roi_align_levels

PAPER = Paper(
    title="Feature Pyramid Networks for Object Detection",
    authors="Lin, Dollár, Girshick, He, Hariharan, Belongie",
    year=2017,
    where="CVPR 2017, arXiv 1612.03144; proposals: Faster R-CNN, Ren et al., NIPS 2015, arXiv 1506.01497",
)
TASKS = ("detect",)

Shapes = tuple[tuple[float, float], ...]


def _square_anchors(*sizes: float) -> tuple[Shapes, ...]:
    """One size a level at ratios 1:2, 1:1, 2:1, corners rounded as the public weights were trained: 32 -> 46x22, ..."""
    levels = []
    for size in sizes:
        cell = cell_anchors([size], [0.5, 1.0, 2.0], rounded=True)
        levels.append(tuple((float(w), float(h)) for w, h in (cell[:, 2:] - cell[:, :2]).tolist()))
    return tuple(levels)


@dataclass(frozen=True)
class Config:
    """The network; defaults are faster_rcnn_r50_fpn's. The public weights have 90 classes (COCO's ids up to 90)."""

    classes: int = 90
    # trunk
    block: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64  # channels of the stem
    norm: Literal["batch", "frozen"] = "batch"  # frozen: fixed statistics, for fine-tuning public weights
    norm_eps: float = 1e-5  # 0 for the released V1 weights, with frozen
    # pyramid
    lowest: int = 2  # finest level P2 (stride 4) or P3 (stride 8); the coarsest is P5, and P6 for anchors alone
    channels: int = 256
    pyramid_norm: bool = False
    canonical_size: float = 224.0  # side in pixels of a box that belongs to P4 (FPN equation 1)
    # proposals
    anchors: tuple[Shapes, ...] = _square_anchors(32, 64, 128, 256, 512)  # (width, height) in pixels, a tuple a level
    rpn_before: tuple[int, int] = (2000, 1000)  # best anchors of each level that enter NMS, in training and after
    rpn_after: tuple[int, int] = (2000, 1000)  # proposals an image, in training and after (K)
    rpn_nms: float = 0.7
    rpn_high: float = 0.7  # IoU of a positive anchor (section 3.1.2)
    rpn_low: float = 0.3
    rpn_sample: int = 256  # anchors an image in the loss, half of them positive at most
    # head
    head_width: int = 1024
    head_iou: float = 0.5  # IoU of a positive region
    head_sample: int = 512  # regions an image in the loss
    head_positive: float = 0.25
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    beta: float = 1 / 9  # of smooth L1, both stages
    # answers
    score_threshold: float = 0.05
    nms: float = 0.5
    detections: int = 100


VARIANTS: dict[str, Config] = {
    "faster_rcnn_r50_fpn": Config(),
    # Ours: half as wide a ResNet-18, no P2, batch norm throughout: 1.5 G multiply-adds at 320 pixels.
    "faster_rcnn_small": Config(
        classes=20,
        block="basic",
        depths=(2, 2, 2, 2),
        width=32,
        lowest=3,
        channels=96,
        pyramid_norm=True,
        canonical_size=112.0,
        anchors=_square_anchors(24, 48, 96, 192),
        rpn_before=(400, 200),
        rpn_after=(300, 200),
        rpn_sample=256,
        head_width=256,
        head_sample=128,
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
    """ResNet and pyramid: images [b, 3, H, W] -> L maps [b, channels, H_l, W_l] from the finest, P6 last."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.body = resnet.Model(
            resnet.Config(
                classes=0,
                block=config.block,
                depths=config.depths,
                width=config.width,
                norm=config.norm,
                norm_eps=config.norm_eps,
            )
        )
        self.first = config.lowest - 2
        self.strides = self.body.strides[self.first :]
        self.fpn = FeaturePyramid(self.body.channels[self.first :], config.channels, config.pyramid_norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.fpn(self.body.features(images)[self.first :])
        return levels


class RPNHead(nn.Module):
    """3x3 convolution, then an objectness logit and four offsets an anchor; one for all levels (FPN section 4.1)."""

    def __init__(self, channels: int, shapes: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)))
        self.cls_logits = nn.Conv2d(channels, shapes, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * shapes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [b, A_l] and offsets [b, A_l, 4] of each level, in the order row, column, shape."""
        logits, deltas = [], []
        for level in levels:
            hidden = self.conv(level)
            logits.append(self.cls_logits(hidden).permute(0, 2, 3, 1).flatten(1).float())
            deltas.append(self.bbox_pred(hidden).permute(0, 2, 3, 1).reshape(len(level), -1, 4).float())
        return logits, deltas


class RegionProposalNetwork(nn.Module):
    """Holds the head under the public key `rpn.head`, and the anchor shapes [k, 4] of each level."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        shapes = {len(level) for level in config.anchors}
        if len(shapes) != 1:
            raise ValueError(f"all levels need equally many anchor shapes, one head serves them; got {sorted(shapes)}")
        self.head = RPNHead(config.channels, shapes.pop())
        for i, level in enumerate(config.anchors):
            self.register_buffer(f"cell{i}", shapes_of(level), persistent=False)

    def anchors(self, levels: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """Anchors [A_l, 4] of each level for a padded image of `size` (height, width).

        Strides are whole pixels by division, 61 instead of 64 where P6 of 800 pixels has 13 rows: so the public
        weights were trained.
        """
        grids = []
        for i, level in enumerate(levels):
            h, w = level.shape[-2:]
            grids.append(grid_anchors(self.get_buffer(f"cell{i}"), (h, w), (size[0] // h, size[1] // w)))
        return grids


class TwoLayerHead(nn.Module):
    """Pooled regions [n, channels, 7, 7] -> [n, width] (`roi_heads.box_head`)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(channels * 49, width)
        self.fc7 = nn.Linear(width, width)
        for layer in (
            self.fc6,
            self.fc7,
        ):  # by fan-in: with torch's default the signal shrinks, and learning starts late
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> Tensor:
        return F.relu(self.fc7(F.relu(self.fc6(regions.flatten(1)))))


class BoxPredictor(nn.Module):
    """[n, width] -> class logits [n, C + 1] and offsets for each class [n, (C + 1) * 4] (`roi_heads.box_predictor`)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, classes + 1)
        self.bbox_pred = nn.Linear(width, (classes + 1) * 4)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):  # Fast R-CNN, section 2.3
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(hidden).float(), self.bbox_pred(hidden).float()


class RoIHeads(nn.Module):
    """The second stage (public key `roi_heads`): RoIAlign 7x7, two layers, predictor."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.box_head = TwoLayerHead(config.channels, config.head_width)
        self.box_predictor = BoxPredictor(config.head_width, config.classes)

    def forward(self, levels: Sequence[Tensor], strides: Sequence[int], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Levels without P6, rois [n, 5] (image index, box) -> logits [n, C + 1], offsets [n, (C + 1) * 4]."""
        highest = self.config.lowest + len(levels) - 1
        which = assign_levels(rois[:, 1:], self.config.lowest, highest, canonical_size=self.config.canonical_size)
        regions = roi_align_levels(levels, rois, which, [1 / s for s in strides], 7, 7, 2, False)
        logits, deltas = self.box_predictor(self.box_head(regions))
        return logits, deltas


class Model(nn.Module):
    """Faster R-CNN."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        if len(config.anchors) != len(self.backbone.strides) + 1:
            raise ValueError(f"anchors are for {len(config.anchors)} levels, need {len(self.backbone.strides) + 1}")
        self.rpn = RegionProposalNetwork(config)
        self.roi_heads = RoIHeads(config)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs of images [b, 3, H, W] in [0, 1]; shapes depend on the shape of the images alone.

        Returns:
            (objectness logits [b, A], anchor offsets [b, A, 4], proposals [b, K, 4], class logits [b, K, C + 1],
            offsets for each class [b, K, (C + 1) * 4]); places without proposal hold a box of zeros.
        """
        size = images.new_tensor(images.shape[-2:]).expand(len(images), 2)
        return self._answers(images, size)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The four losses; each is a sum over sampled anchors or regions divided by how many were sampled."""
        targets = detection_targets(batch, self.config.classes)
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        levels = self.backbone(self._fill_padding(batch.images, batch.sizes))
        logits, deltas = self.rpn.head(levels)
        anchors = self.rpn.anchors(levels, (batch.images.shape[2], batch.images.shape[3]))
        losses = self._rpn_losses(torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors), targets)
        proposals = self._proposals(logits, deltas, anchors, sizes, training=True)
        return losses | self._head_losses(levels, proposals, targets)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Annotation]:
        """At most `detections` objects an image, by falling score; on the CPU."""
        sizes = torch.tensor(batch.sizes).to(batch.images.device, non_blocking=True)
        images = self._fill_padding(batch.images, batch.sizes)
        _, _, proposals, logits, deltas = self._answers(images, sizes)
        offsets = deltas.unflatten(2, (-1, 4))[:, :, 1:]
        boxes = decode_boxes(offsets, proposals[:, :, None], self.config.box_weights)
        boxes = clip_boxes(boxes, sizes[:, None, None])
        scores = logits.softmax(2)[:, :, 1:].where(valid_boxes(proposals)[..., None], 0)
        rows = torch.cat((boxes, scores[..., None]), -1).cpu()  # [b, K, C, 5], moved once
        return [
            Annotation(size, objects=self._detect(row[..., :4], row[..., 4]))
            for row, size in zip(rows, batch.sizes, strict=True)
        ]

    def _answers(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        levels = self.backbone(images)
        logits, deltas = self.rpn.head(levels)
        anchors = self.rpn.anchors(levels, (images.shape[2], images.shape[3]))
        proposals = self._proposals(logits, deltas, anchors, sizes, training=False)
        b, places = proposals.shape[:2]
        scores, boxes = self.roi_heads(levels[:-1], self.backbone.strides, _rois(proposals))
        return (
            torch.cat(logits, 1),
            torch.cat(deltas, 1),
            proposals,
            scores.view(b, places, -1),
            boxes.view(b, places, -1),
        )

    def _fill_padding(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """The mean colour beyond each image's (height, width): 0 after normalisation, as the public weights know it."""
        height, width = images.shape[-2:]
        if all(size == (height, width) for size in sizes):
            return images
        limit = torch.tensor(sizes).to(images.device, non_blocking=True)
        inside_y = torch.arange(height, device=images.device) < limit[:, :1]
        inside_x = torch.arange(width, device=images.device) < limit[:, 1:]
        inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
        mean = self.backbone.body.normalize.get_buffer("mean").to(images.dtype)
        return torch.where(inside, images, mean)

    @torch.no_grad()
    def _proposals(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], sizes: Tensor, training: bool
    ) -> Tensor:
        """The best boxes after NMS within each level: [b, K, 4] by falling score, zeros in empty places."""
        config = self.config
        before, after = (pair[0 if training else 1] for pair in (config.rpn_before, config.rpn_after))
        most = min(before, max(logit.shape[1] for logit in logits))
        scores, boxes = [], []
        for logit, delta, anchor in zip(logits, deltas, anchors, strict=True):
            best, rows = logit.topk(min(before, logit.shape[1]), dim=1)
            offset = delta.gather(1, rows[..., None].expand(-1, -1, 4))
            box = clip_boxes(decode_boxes(offset, anchor[rows]), sizes[:, None])
            usable = valid_boxes(box, 1e-3)
            lacking = most - rows.shape[1]
            scores.append(F.pad(best.masked_fill(~usable, -torch.inf), (0, lacking), value=-torch.inf))
            boxes.append(F.pad(torch.where(usable[..., None], box, 0), (0, 0, 0, lacking)))
        box = torch.stack(boxes, 1)  # [b, L, most, 4]
        kept = nms_padded(box, torch.stack(scores, 1), config.rpn_nms, after)
        chosen = box.flatten(1, 2).gather(1, kept.clamp(min=0)[..., None].expand(-1, -1, 4))
        return torch.where(kept[..., None] >= 0, chosen, 0)

    def _rpn_losses(self, logits: Tensor, deltas: Tensor, anchors: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Binary cross-entropy of sampled anchors, smooth L1 of the positive ones (equation 1, over their count)."""
        config = self.config
        cover = targets.crowd_cover(anchors)
        matches = match(targets.overlaps(anchors), config.rpn_high, config.rpn_low, True, cover)
        rows, drawn = sample_anchors(matches, config.rpn_sample, 0.5)  # [b, m]; what was not drawn counts for nothing
        matches = matches.gather(1, rows)
        positive = drawn & (matches >= 0)
        logit, delta = logits.gather(1, rows), deltas.gather(1, rows[..., None].expand(-1, -1, 4))
        objectness = F.softplus(torch.where(positive, -logit, logit)).where(drawn, 0)
        wanted, _ = targets.matched(matches)
        target = encode_boxes(wanted, anchors[rows]).where(positive[..., None], 0)
        box = smooth_l1(delta, target, config.beta).where(positive[..., None], 0)
        whole = mean_over_processes(drawn.sum()).clamp(min=1)
        return {"rpn_objectness": objectness.sum() / whole, "rpn_box": box.sum() / whole}

    def _head_losses(self, levels: list[Tensor], proposals: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Softmax loss of sampled regions, smooth L1 at the true class of the positive ones (Fast R-CNN equation 1)."""
        config = self.config
        # Drawn boxes join the proposals: from the first step on there are regions that answer for them.
        regions = torch.cat((proposals, targets.boxes), 1)
        cover = targets.crowd_cover(regions)
        matches = match(targets.overlaps(regions), config.head_iou, config.head_iou, False, cover)
        matches = matches.masked_fill(~valid_boxes(regions), IGNORED)
        rows, drawn = sample_anchors(matches, config.head_sample, config.head_positive)
        matches = matches.gather(1, rows).masked_fill(~drawn, IGNORED)
        region = regions.gather(1, rows[..., None].expand(-1, -1, 4))
        positive = matches >= 0
        wanted, labels = targets.matched(matches)
        classes = torch.where(positive, labels + 1, torch.where(drawn, 0, IGNORED)).flatten()
        logits, deltas = self.roi_heads(levels[:-1], self.backbone.strides, _rois(region))
        own = classes.clamp(min=0)[:, None, None].expand(-1, 1, 4)
        delta = deltas.unflatten(1, (-1, 4)).gather(1, own).view_as(region)
        target = encode_boxes(wanted, region, config.box_weights).where(positive[..., None], 0)
        box = smooth_l1(delta, target, config.beta).where(positive[..., None], 0)
        whole = mean_over_processes(drawn.sum()).clamp(min=1)
        class_loss = F.cross_entropy(logits, classes, reduction="sum", ignore_index=IGNORED)
        return {"class": class_loss / whole, "box": box.sum() / whole}

    def _detect(self, boxes: Tensor, scores: Tensor) -> Objects:
        """One image: boxes [K, C, 4] and scores [K, C] on the CPU -> objects after NMS by class."""
        config = self.config
        likely = (scores > config.score_threshold) & valid_boxes(boxes, 1e-2)
        row, label = likely.nonzero().unbind(1)
        kept = batched_nms(boxes[row, label], scores[row, label], label, config.nms)[: config.detections]
        row, label = row[kept], label[kept]
        return Objects(boxes[row, label], label, scores[row, label])


def _rois(boxes: Tensor) -> Tensor:
    """Boxes [b, m, 4] -> rois [b m, 5] with the image's index first."""
    image = torch.arange(len(boxes), dtype=boxes.dtype, device=boxes.device).repeat_interleave(boxes.shape[1])
    return torch.cat((image[:, None], boxes.flatten(0, 1)), 1)


def adapt(config: Config, examples: Sequence[Annotation]) -> Config:
    """Anchors for the boxes at hand: sizes from the smallest to the largest over the levels, ratios at their thirds.

    The size of level l is s f^l, with s the 5th percentile of sqrt(w h), at most 8 strides of the finest level, so that
    common sizes lie on fine maps, and f in [1.5, 2.5] such that the last is the 95th. Ratios h / w are the medians of
    the lower, middle and upper third. Fewer than 10 boxes change nothing.

    Args:
        config: any; its number of levels is kept.
        examples: training images in pixels of the network's input.
    """
    boxes = [e.objects.boxes for e in examples if e.objects is not None]
    every = torch.cat(boxes) if boxes else torch.zeros(0, 4)
    every = every[valid_boxes(every, 1.0)]
    if len(every) < 10:
        return config
    width, height = (every[:, 2:] - every[:, :2]).float().unbind(1)
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
    pyramid and RPN were not yet in blocks of their own. V1 weights want `norm="frozen", norm_eps=0.0`.
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
