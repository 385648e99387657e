"""The second stage of the R-CNN family: regions are drawn and matched, named and corrected, and thinned out by class.

Where regions come from (a region proposal network, a file), how their features are pooled (RoIPool, RoIAlign, from one
map or many) and what computes the outputs is the model's own. Class 0 is the background here; class c + 1 is label c.

Letters: b images, r regions an image, m of them drawn, C classes, g = C + 1 boxes a region, or 1 for all classes.

Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Objects
from saccade.layers.box_coding import Weights, decode_boxes, encode_boxes
from saccade.layers.matching import IGNORED
from saccade.layers.sampling import sample_anchors
from saccade.layers.targets import RegionTargets, Targets
from saccade.losses.across import mean_over_processes
from saccade.losses.detection import smooth_l1
from saccade.ops.boxes import clip_boxes, valid_boxes
from saccade.ops.nms import batched_nms


@dataclass(frozen=True)
class RegionRules:
    """How regions are learned and answers chosen; defaults are those of the release of Faster R-CNN."""

    positive_iou: float = 0.5  # IoU of a positive region
    background_iou: float = 0.0  # least IoU of a background region; 0.1 in Fast R-CNN (section 2.3)
    sample: int = 128  # regions an image in the loss
    positive: float = 0.25  # largest share of them that is positive
    weights: Weights = (10.0, 10.0, 5.0, 5.0)  # of the offsets (`encode_boxes`)
    beta: float = 1.0  # of smooth L1
    score_threshold: float = 0.05
    nms: float = 0.3  # IoU above which an answer suppresses another of its class
    detections: int = 100  # answers an image


@dataclass(slots=True)
class RegionOutputs:
    """What the second stage says of regions."""

    logits: Tensor  # [b, r, C + 1] float32, background first
    deltas: Tensor  # [b, r, g * 4] float32: see `decode_boxes`; for each class, background first, or one for all


class TwoLayerHead(nn.Module):
    """Pooled regions [n, channels, s, s] -> [n, width] by two fully connected layers (public key `box_head`).

    fc6 and fc7 of VGG-16 in Fast R-CNN (section 2.2), of 1024 units in Feature Pyramid Networks (section 4.2).

    Args:
        inputs: channels * s * s.
        width: units of both.
        dropout: share of units left out in training, after each.
    """

    def __init__(self, inputs: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc6 = nn.Linear(inputs, width)
        self.fc7 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.fc6, self.fc7):  # by fan-in: with torch's default the signal shrinks, and learning is late
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.fc6(regions.flatten(1))))
        out: Tensor = self.dropout(F.relu(self.fc7(hidden)))
        return out


class BoxPredictor(nn.Module):
    """[n, width] -> class logits [n, C + 1] and offsets [n, g * 4] (public key `box_predictor`; section 2.1).

    Args:
        agnostic: one box serves all classes, else each has its own.
    """

    def __init__(self, width: int, classes: int, agnostic: bool = False) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, classes + 1)
        self.bbox_pred = nn.Linear(width, 4 if agnostic else (classes + 1) * 4)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):  # Fast R-CNN, section 2.3
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(hidden).float(), self.bbox_pred(hidden).float()


def given_regions(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """Regions that come with the images (`Batch.given`), as a second stage takes them.

    Args:
        boxes: [n_i, 4] of each image on the CPU, in pixels of the network's input.

    Returns:
        [b, r, 4] float32, r the largest n_i and at least 1; zeros in empty places.
    """
    table = torch.zeros(len(boxes), max([1, *map(len, boxes)]), 4)
    for row, own in zip(table, boxes, strict=True):
        row[: len(own)] = own
    return table.to(device, non_blocking=True)


def draw_regions(proposals: Tensor, targets: Targets, rules: RegionRules) -> RegionTargets:
    """Draw the regions of a loss from proposals [b, r, 4] and from the true boxes, which join them: from the first step
    on there are regions that answer for objects.

    Proposals that are no boxes (zeros in empty places) are never drawn, nor is background that crowd regions cover.

    Source: section 2.3, "Mini-batch sampling"; the release adds the true boxes.
    """
    regions = torch.cat((proposals, targets.boxes), 1)
    high, floor = rules.positive_iou, rules.background_iou
    matches = targets.match(regions, high, high, floor=floor, usable=valid_boxes(regions))
    return targets.of(regions, matches, sample_anchors(matches, rules.sample, rules.positive))


def region_losses(outputs: RegionOutputs, wanted: RegionTargets, rules: RegionRules) -> dict[str, Tensor]:
    """Softmax loss of drawn regions, smooth L1 at the true class of the positive ones (equation 1, lambda 1).

    Args:
        outputs: for `wanted.regions` [b, m, 4], so that r = m.

    Returns:
        `class` and `box`, scalars: each a sum over regions divided by how many were drawn.
    """
    classes, positive = wanted.classes, wanted.positive[..., None]
    deltas = outputs.deltas.unflatten(2, (-1, 4))
    own = classes.clamp(min=0) if deltas.shape[2] > 1 else torch.zeros_like(classes)
    delta = deltas.gather(2, own[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
    target = encode_boxes(wanted.boxes, wanted.regions, rules.weights).where(positive, 0)
    box = smooth_l1(delta, target, rules.beta).where(positive, 0)
    whole = mean_over_processes(wanted.drawn.sum()).clamp(min=1)
    logits = outputs.logits.flatten(0, 1)
    class_loss = F.cross_entropy(logits, classes.flatten(), reduction="sum", ignore_index=IGNORED)
    return {"class": class_loss / whole, "box": box.sum() / whole}


def region_predictions(
    outputs: RegionOutputs, regions: Tensor, sizes: Sequence[tuple[int, int]], rules: RegionRules
) -> list[Annotation]:
    """Objects of each image by falling score, at most `rules.detections`, after NMS by class; on the CPU.

    Args:
        regions: [b, r, 4]; those that are no boxes (zeros in empty places) answer nothing.
        sizes: (height, width) of each image inside the padding, to which boxes are clipped.

    Source: section 3.1, "Test-time detection".
    """
    offsets = outputs.deltas.unflatten(2, (-1, 4))
    offsets = offsets[:, :, 1:] if offsets.shape[2] > 1 else offsets
    return scored_predictions(outputs.logits.softmax(2)[:, :, 1:], offsets, regions, sizes, rules)


def scored_predictions(
    scores: Tensor, offsets: Tensor, regions: Tensor, sizes: Sequence[tuple[int, int]], rules: RegionRules
) -> list[Annotation]:
    """`region_predictions` of scores [b, r, C] in [0, 1] and offsets [b, r, C, 4], or [b, r, 1, 4] for all classes."""
    limits = torch.tensor(sizes).to(regions.device, non_blocking=True)
    boxes = clip_boxes(decode_boxes(offsets, regions[:, :, None], rules.weights), limits[:, None, None])
    scores = scores.where(valid_boxes(regions)[..., None], 0)
    rows = torch.cat((boxes.expand(-1, -1, scores.shape[2], -1), scores[..., None]), -1).cpu()  # moved once
    return [
        Annotation(size, objects=_chosen(row[..., :4], row[..., 4], rules))
        for row, size in zip(rows, sizes, strict=True)
    ]


def _chosen(boxes: Tensor, scores: Tensor, rules: RegionRules) -> Objects:
    """One image: boxes [r, C, 4] and scores [r, C] on the CPU -> objects after NMS by class."""
    likely = (scores > rules.score_threshold) & valid_boxes(boxes, 1e-2)
    row, label = likely.nonzero().unbind(1)
    kept = batched_nms(boxes[row, label], scores[row, label], label, rules.nms)[: rules.detections]
    row, label = row[kept], label[kept]
    return Objects(boxes[row, label], label, scores[row, label])
