"""SSD (Liu et al. 2016): one pass, prior boxes of all sizes on maps of several strides, no proposals.

`ssd300` and `ssd512` are the paper's networks on VGG-16; state dicts have the keys of the public torchvision weights.
The detector for little data that was called `ssd_small` stands in `atss.py`.
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

from saccade.data.types import Annotation, Batch
from saccade.layers.anchors import grid_anchors, prior_sizes, shapes_of
from saccade.layers.box_coding import decode_boxes, encode_boxes
from saccade.layers.detections import detections
from saccade.layers.normalize import Normalize
from saccade.layers.sampling import hard_negatives
from saccade.layers.stages import BoxStage, found_targets, matched_stage, suppression_stages
from saccade.layers.targets import Targets, detection_targets
from saccade.losses.across import mean_over_processes
from saccade.losses.detection import OVERLAPS, smooth_l1
from saccade.models.backbones import vgg
from saccade.models.paper import Paper
from saccade.ranges import Count, Natural, NonNegative, Positive, Share

PAPER = Paper(
    title="SSD: Single Shot MultiBox Detector",
    authors="Liu, Anguelov, Erhan, Szegedy, Reed, Fu, Berg",
    year=2016,
    where="ECCV 2016, arXiv 1512.02325",
)
TASKS = ("detect",)
PRIORS_AS_SHARES = True
VARIANCES = (10.0, 10.0, 5.0, 5.0)  # released code: offsets divided by 0.1, 0.1, 0.2, 0.2
Sizes = tuple[tuple[tuple[float, float], ...], ...]


def _paper_priors(side: int, sizes: Sequence[float], ratios: Sequence[Sequence[float]], limit: float = 9.0) -> Sizes:
    """Sizes in pixels at `side` -> (width, height) of every prior of every map, as shares of the side."""
    maps = [prior_sizes(small, large, r) for (small, large), r in zip(pairwise(sizes), ratios, strict=True)]
    return tuple(tuple((min(w / side, limit), min(h / side, limit)) for w, h in shapes) for shapes in maps)


_RATIOS_300 = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
_RATIOS_512 = ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
_VOC_300 = _paper_priors(300, (30, 60, 111, 162, 213, 264, 315), _RATIOS_300)


@dataclass(frozen=True)
class Config:
    """The network and its loss; defaults are ssd300's on Pascal VOC."""

    classes: Count = 20
    # Extra layers after VGG-16: those of figure 2, or those of the release for 512 pixels, which make one map more.
    form: Literal["300", "512"] = "300"
    width: Count = 64  # channels of VGG-16's first stage; those of all other layers are in proportion
    # Priors of every map: (width, height) as shares of the longer input side.
    priors: Sizes = _VOC_300
    steps: tuple[Positive, ...] = (8, 16, 32, 64, 100, 300)  # pixels between neighbours of each map (released code)
    side: Natural = 300  # input side at which `steps` hold, at others input / map (section 2.2); 0: steps always hold
    # smooth_l1: on offsets (section 2.2); iou, giou (Rezatofighi et al. 2019), diou, ciou (Zheng et al. 2020): on boxes
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    box_weight: NonNegative = 1.0  # alpha of equation 1
    negatives: NonNegative = 3.0  # hard negatives for each matched prior (section 2.2)
    min_negatives: Natural = 0  # hard negatives of an image without objects; 0 as in the paper
    score_threshold: Share = 0.01
    candidates: Count = 400  # best boxes of each class that enter NMS
    nms_iou: Share = 0.45
    keep: Count = 200  # boxes an image after NMS
    mean: tuple[Share, ...] = (0.48235, 0.45882, 0.40784)  # RGB; the Caffe VGG's (123, 117, 104)
    std: tuple[Positive, ...] = (1 / 255, 1 / 255, 1 / 255)


VARIANTS: dict[str, Config] = {
    "ssd300": Config(),
    # The public torchvision checkpoint: COCO's smaller sizes, sides limited to the image, 90 category ids.
    "ssd300_coco": Config(classes=90, priors=_paper_priors(300, (21, 45, 99, 153, 207, 261, 315), _RATIOS_300, 1.0)),
    "ssd512": Config(
        form="512",
        priors=_paper_priors(512, (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6), _RATIOS_512),
        steps=(8, 16, 32, 64, 128, 256, 512),
        side=512,
    ),
}
SIZE: dict[str, int] = {"ssd300": 300, "ssd300_coco": 300, "ssd512": 512}

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
    },
    "paper": {
        "*": _PAPER_RECIPE,
        "ssd300_coco": _PAPER_RECIPE | {"epochs": 108, "milestones": (0.7, 0.9)},  # 400k steps over 118,287 images
        "ssd512": _PAPER_RECIPE | {"size": 512},
    },
}


def _extra(before: int, inner: int, after: int, stride: int, padding: int, kernel: int = 3) -> nn.Sequential:
    """1x1 to `inner`, then the convolution that makes the next map (figure 2)."""
    last = nn.Conv2d(inner, after, kernel, stride, padding)
    return nn.Sequential(nn.Conv2d(before, inner, 1), nn.ReLU(), last, nn.ReLU())


class VggTrunk(nn.Module):
    """VGG-16 with fc6 and fc7 as convolutions, and the extra maps (section 3, "Base network"; figure 2).

    Images (normalised) [b, 3, H, W] -> maps of 512, 1024, 512, 256, 256, 256 (512: one more of 256) channels; of a
    300 px input the sides are 38, 19, 10, 5, 3, 1, of 512 px 64, 32, 16, 8, 4, 2, 1.
    """

    def __init__(self, form: Literal["300", "512"], width: int = 64) -> None:
        super().__init__()
        w2, w4, w8, w16 = (width * factor for factor in (2, 4, 8, 16))  # 128, 256, 512, 1024
        self.scale_weight = nn.Parameter(torch.full((w8,), 20.0))  # L2 normalisation of conv4_3 (section 3.1)
        layers = vgg.conv_layers(dataclasses.replace(vgg.VARIANTS["vgg16"], width=width))
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        layers[pools[2]] = nn.MaxPool2d(2, 2, ceil_mode=True)  # 75 -> 38
        self.features = nn.Sequential(*layers[: pools[3]])  # up to conv4_3
        fully = nn.Sequential(
            nn.MaxPool2d(3, 1, padding=1),
            nn.Conv2d(w8, w16, 3, padding=6, dilation=6),  # fc6 by the a-trous algorithm
            nn.ReLU(),
            nn.Conv2d(w16, w16, 1),
            nn.ReLU(),
        )
        extras = [_extra(w16, w4, w8, 2, 1), _extra(w8, w2, w4, 2, 1)]
        if form == "300":
            extras += [_extra(w4, w2, w4, 1, 0), _extra(w4, w2, w4, 1, 0)]
        else:
            extras += [_extra(w4, w2, w4, 2, 1), _extra(w4, w2, w4, 2, 1), _extra(w4, w2, w4, 1, 1, kernel=4)]
        self.extra = nn.ModuleList([nn.Sequential(*layers[pools[3] : pools[4]], fully), *extras])
        self.channels = [w8, w16, w8] + [w4] * (len(extras) - 1)
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


class Head(nn.Module):
    """A 3x3 predictor on each map: [b, c, h, w] a map -> [b, A, values], A over maps, rows, columns, priors."""

    def __init__(self, channels: Sequence[int], priors: Sequence[int], values: int) -> None:
        super().__init__()
        self.values = values
        self.module_list = nn.ModuleList(
            [nn.Conv2d(c, k * values, 3, padding=1) for c, k in zip(channels, priors, strict=True)]
        )
        for module in self.module_list:
            nn.init.xavier_uniform_(module.weight)  # type: ignore[arg-type]
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> Tensor:
        rows = [
            predictor(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)
            for predictor, x in zip(self.module_list, maps, strict=True)
        ]
        return torch.cat(rows, dim=1)


class Model(nn.Module):
    """Inside class 0 is background and ours follow; outside there is no background.

    Letters: b images, A priors (8,732 for ssd300, 24,564 for ssd512), C classes.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.backbone = VggTrunk(config.form, config.width)
        shapes = [len(level) for level in config.priors]
        self.head = nn.ModuleDict(
            {
                "classification_head": Head(self.backbone.channels, shapes, config.classes + 1),
                "regression_head": Head(self.backbone.channels, shapes, 4),
            }
        )
        for i, level in enumerate(config.priors):
            self.register_buffer(f"shapes{i}", shapes_of(level), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, H, W] in [0, 1] -> (class logits [b, A, C + 1], background first, box offsets [b, A, 4])."""
        logits, offsets, _ = self._outputs(images)
        return logits, offsets

    def scored_boxes(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What `predict` selects from: scores [b, A, C] in [0, 1], boxes [b, A, 4] in pixels; exportable."""
        logits, offsets, priors = self._outputs(images)
        scores = logits.float().softmax(-1)[..., 1:]
        return scores, decode_boxes(offsets, priors, VARIANCES)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`class` and `box` (equation 1), each divided by the matched priors of the batch over all processes."""
        targets = detection_targets(batch, self.config.classes)
        logits, offsets, priors = self._outputs(batch.images)
        matches = self._match(targets, priors)
        count = mean_over_processes((matches >= 0).sum()).clamp(min=1)
        image, prior = (matches >= 0).nonzero(as_tuple=True)  # a GPU waits here, and then no more
        truth = matches[image, prior]
        wanted, labels = targets.boxes[image, truth], targets.labels[image, truth]
        moves, matched_priors = offsets[image, prior], priors[prior]
        if self.config.box_loss == "smooth_l1":
            box = smooth_l1(moves.float(), encode_boxes(wanted, matched_priors, VARIANCES))
        else:
            box = 1 - OVERLAPS[self.config.box_loss](decode_boxes(moves, matched_priors, VARIANCES), wanted)
        answer = torch.zeros_like(matches)
        answer[image, prior] = labels + 1
        each = functional.cross_entropy(logits.float().transpose(1, 2), answer, reduction="none")
        hard = hard_negatives(each, matches, self.config.negatives, self.config.min_negatives)
        classification = each.where((matches >= 0) | hard, 0)
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
        config, (logits, offsets, priors) = self.config, self._outputs(batch.images)
        scores = logits[0].float().softmax(-1)[:, 1:]
        boxes = decode_boxes(offsets[0], priors, VARIANCES)
        answer = self.predict(batch)[0]
        targets = found_targets(batch, [answer], config.classes)
        rule = "an IoU of more than 0.5 with it, or the highest that it has with any prior"
        matched = matched_stage(priors, self._match(targets, priors)[0], targets, rule)
        threshold, nms = config.score_threshold, config.nms_iou
        return [matched, *suppression_stages(boxes, scores, answer.size, threshold, nms, answer)]

    def _outputs(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, offsets, and the priors [A, 4] in pixels of `images`."""
        maps = self.backbone(self.normalize(images))
        height, width = images.shape[-2:]
        stated = self.config.side in (0, height) and self.config.side in (0, width)
        priors = []
        for i, (step, x) in enumerate(zip(self.config.steps, maps, strict=True)):
            h, w = x.shape[-2:]
            stride = (float(step), float(step)) if stated else (height / h, width / w)
            priors.append(grid_anchors(self.get_buffer(f"shapes{i}") * max(height, width), (h, w), stride, offset=0.5))
        return self.head["classification_head"](maps), self.head["regression_head"](maps), torch.cat(priors)

    @torch.no_grad()
    def _match(self, targets: Targets, priors: Tensor) -> Tensor:
        """[b, A]: the object that each prior answers for, or BACKGROUND, or IGNORED: IoU > 0.5 and the best prior of
        each truth (section 2.2)."""
        return targets.match(priors, 0.5, 0.5, force_best=True)
