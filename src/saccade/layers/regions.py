"""The second stage of the R-CNN family: regions are drawn and matched, named and corrected, and thinned out by class.

Where regions come from (a region proposal network, a file), how their features are pooled (RoIPool, RoIAlign, from one
map or many) and what computes the outputs is the model's own. Class 0 is the background here; class c + 1 is label c.

Letters: b images, r regions an image, m of them drawn, C classes, g = C + 1 boxes a region, or 1 for all classes.

Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation, Objects
from saccade.layers.box_coding import Weights, decode_boxes, encode_boxes
from saccade.layers.detections import FixedAnswers, Limits, best_objects, fixed_answers
from saccade.layers.fpn import assign_levels
from saccade.layers.matching import IGNORED
from saccade.layers.sampling import sample_anchors
from saccade.layers.targets import RegionTargets, Targets
from saccade.losses.across import mean_over_processes
from saccade.losses.detection import OVERLAPS, quality_focal, smooth_l1
from saccade.ops.boxes import clip_boxes, valid_boxes
from saccade.ops.nms import nms_padded
from saccade.ops.roi_align import roi_align_levels
from saccade.ops.roi_pool import roi_pool

SMALLEST = 1e-2  # pixels; answers with a narrower side are left out


@dataclass(frozen=True)
class RegionRules:
    """How regions are learned and answers chosen (Girshick 2015, sections 2.3 and 3); defaults are those of the
    release of Faster R-CNN."""

    positive_iou: float = 0.5  # IoU of a positive region
    background_iou: float = 0.0  # least IoU of a background region; 0.1 in Fast R-CNN (section 2.3)
    sample: int = 128  # regions an image in the loss
    positive: float = 0.25  # largest share of them that is positive
    weights: Weights = (10.0, 10.0, 5.0, 5.0)  # of the offsets (`encode_boxes`)
    # smooth_l1: of the offsets (equation 2); the others: 1 - overlap of the corrected box with the true one
    box_loss: Literal["smooth_l1", "iou", "giou", "diou", "ciou"] = "smooth_l1"
    box_weight: float = 1.0  # of the box in the sum of the losses (lambda of equation 1)
    beta: float = 1.0  # of smooth L1
    # softmax: how likely a class is; iou: times the IoU that is foretold of its box; quality: that IoU itself
    score: Literal["softmax", "iou", "quality"] = "softmax"
    score_threshold: float = 0.05
    nms: float = 0.3  # IoU above which an answer suppresses another of its class
    detections: int = 100  # answers an image


@dataclass(slots=True)
class RegionOutputs:
    """What the second stage says of regions."""

    logits: Tensor  # [b, r, C + 1] float32, background first; where the score is a quality [b, r, C]
    deltas: Tensor  # [b, r, g * 4] float32: see `decode_boxes`; for each class, background first, or one for all
    ious: Tensor | None = None  # [b, r, g] float32: logits of the IoU of each corrected box with its object


@dataclass(frozen=True)
class PyramidPooling:
    """Regions cut out of the level that fits their size: a map of fixed size for each.

    Source: Lin et al., "Feature Pyramid Networks", CVPR 2017, section 4.2.
    """

    strides: tuple[int, ...]  # of the levels that regions are read from, each twice the one before
    canonical_size: float = 224.0  # side in pixels of a region that is read at stride 16 (FPN equation 1)
    # align: RoIAlign with 2 x 2 points a bin; pool: RoIPool, which rounds to whole pixels of the map
    how: Literal["align", "pool"] = "align"
    aligned: bool = False  # of RoIAlign (ops/roi_align.py)

    def __call__(self, levels: Sequence[Tensor], rois: Tensor, side: int) -> Tensor:
        """Levels [b, c, H_l, W_l], finest first (more than there are strides are not read) -> [n, c, side, side].

        Args:
            rois: [n, 5] image index, x1, y1, x2, y2 in pixels of the image.
        """
        levels, scales = levels[: len(self.strides)], [1 / stride for stride in self.strides]
        which = self.level_of(rois[:, 1:])
        if self.how == "align":
            return roi_align_levels(levels, rois, which, scales, side, side, 2, self.aligned)
        # Every level pools all regions, so that shapes do not depend on the data; those of others are of one pixel.
        pooled = rois.new_zeros(rois.shape[0], levels[0].shape[1], side, side, dtype=levels[0].dtype)
        for i, (level, scale) in enumerate(zip(levels, scales, strict=True)):
            own = (which == i)[:, None]
            place = torch.cat((rois[:, :1], rois[:, 1:].where(own, 0)), 1)
            pooled = torch.where(own[..., None, None], roi_pool(level, place, side, scale), pooled)
        return pooled

    def level_of(self, boxes: Tensor) -> Tensor:
        """Which of the levels each of boxes [n, 4] is read from: [n] int64."""
        lowest = self.strides[0].bit_length() - 1
        highest = lowest + len(self.strides) - 1
        return assign_levels(boxes, lowest, highest, canonical_size=self.canonical_size)


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
        background: there is a logit of the background; else C logits.
    """

    def __init__(self, width: int, classes: int, agnostic: bool = False, background: bool = True) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, classes + 1 if background else classes)
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

    Source: Girshick 2015, section 2.3, "Mini-batch sampling"; the release adds the true boxes.
    """
    regions = torch.cat((proposals, targets.boxes), 1)
    high, floor = rules.positive_iou, rules.background_iou
    matches = targets.match(regions, high, high, floor=floor, usable=valid_boxes(regions))
    return targets.of(regions, matches, sample_anchors(matches, rules.sample, rules.positive))


def region_losses(outputs: RegionOutputs, wanted: RegionTargets, rules: RegionRules) -> dict[str, Tensor]:
    """Class loss of drawn regions, box loss at the true class of the positive ones (Girshick 2015, equation 1), and
    where the IoU is foretold its loss, binary cross-entropy (Wu et al. 2020, section 3.2).

    Args:
        outputs: for `wanted.regions` [b, m, 4], so that r = m.

    Returns:
        `class` and `box`, scalars: each a sum over regions divided by how many were drawn, a quality's `class` by how
        many are positive; with `outputs.ious` also `iou`, by how many are positive.
    """
    class_loss, box = _losses_of_each(outputs, wanted, rules)
    whole = mean_over_processes(wanted.drawn.sum()).clamp(min=1)
    if rules.score == "softmax":
        return {"class": class_loss.sum() / whole, "box": box.sum() / whole}
    positives = mean_over_processes(wanted.positive.sum()).clamp(min=1)
    if rules.score == "quality":
        return {"class": class_loss.sum() / positives, "box": box.sum() / whole}
    assert outputs.ious is not None
    logits = _of_true_class(outputs.ious[..., None], wanted)[..., 0]
    iou = F.binary_cross_entropy_with_logits(logits, _qualities(outputs, wanted, rules), reduction="none")
    iou = iou.where(wanted.positive, 0)
    return {"class": class_loss.sum() / whole, "box": box.sum() / whole, "iou": iou.sum() / positives}


def _losses_of_each(outputs: RegionOutputs, wanted: RegionTargets, rules: RegionRules) -> tuple[Tensor, Tensor]:
    """Class and box loss of every region [b, m], 0 where it does not count."""
    positive, delta = wanted.positive[..., None], _of_true_class(outputs.deltas.unflatten(2, (-1, 4)), wanted)
    if rules.box_loss == "smooth_l1":
        target = encode_boxes(wanted.boxes, wanted.regions, rules.weights).where(positive, 0)
        box = smooth_l1(delta, target, rules.beta).where(positive, 0).sum(2)
    else:
        found = decode_boxes(delta, wanted.regions, rules.weights)
        box = (1 - OVERLAPS[rules.box_loss](found, wanted.boxes)).where(wanted.positive, 0)
    return _class_loss_of_each(outputs, wanted, rules), rules.box_weight * box


def _class_loss_of_each(outputs: RegionOutputs, wanted: RegionTargets, rules: RegionRules) -> Tensor:
    """[b, m]: softmax loss (equation 1), or the focal loss of a quality (Li et al. 2020, equation 5)."""
    classes = wanted.classes
    if rules.score != "quality":
        logits = outputs.logits.flatten(0, 1)
        loss = F.cross_entropy(logits, classes.flatten(), reduction="none", ignore_index=IGNORED)
        return loss.view(classes.shape)
    quality = torch.zeros_like(outputs.logits)
    quality.scatter_(2, (classes - 1).clamp(min=0)[..., None], _qualities(outputs, wanted, rules)[..., None])
    return quality_focal(outputs.logits, quality).sum(2).where(wanted.drawn, 0)


@torch.no_grad()
def _qualities(outputs: RegionOutputs, wanted: RegionTargets, rules: RegionRules) -> Tensor:
    """IoU [b, m] of the corrected box of each positive region with its object; 0 elsewhere."""
    delta = _of_true_class(outputs.deltas.unflatten(2, (-1, 4)), wanted)
    found = decode_boxes(delta, wanted.regions, rules.weights)
    return OVERLAPS["iou"](found, wanted.boxes).where(wanted.positive, 0)


def _of_true_class(values: Tensor, wanted: RegionTargets) -> Tensor:
    """Values [b, m, g, k], one row for each class with the background first or one for all -> [b, m, k]."""
    classes = wanted.classes.clamp(min=0) if values.shape[2] > 1 else torch.zeros_like(wanted.classes)
    return values.gather(2, classes[..., None, None].expand(-1, -1, 1, values.shape[3]))[:, :, 0]


@torch.no_grad()
def hardest_regions(
    outputs: RegionOutputs, wanted: RegionTargets, rules: RegionRules, count: int, nms: float
) -> RegionTargets:
    """`wanted` with all but the regions of highest loss left out (online hard example mining).

    Regions that lie on each other have nearly one loss, which would count as often as there are proposals of the place.

    Args:
        outputs: for `wanted.regions` [b, m, 4].
        wanted: all the regions of each image; what is not drawn is never hard.
        count: regions an image that stay, at most.
        nms: a region with an IoU above this with one of higher loss is left out.

    Source: Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining", CVPR 2016,
    section 4; Dai et al., "R-FCN", NIPS 2016, section 2, "Training".
    """
    losses = torch.stack(_losses_of_each(outputs, wanted, rules)).sum(0).masked_fill(~wanted.drawn, -torch.inf)
    kept = nms_padded(wanted.regions[:, None], losses[:, None], nms, count)
    places = torch.where(kept >= 0, kept, losses.shape[1])  # one place more takes what was not kept
    hard = torch.zeros_like(losses, dtype=torch.bool)
    hard = F.pad(hard, (0, 1)).scatter_(1, places, True)[:, :-1]
    return dataclasses.replace(
        wanted,
        classes=wanted.classes.masked_fill(~hard, IGNORED),
        positive=wanted.positive & hard,
        drawn=wanted.drawn & hard,
    )


def region_predictions(
    outputs: RegionOutputs, regions: Tensor, sizes: Sequence[tuple[int, int]], rules: RegionRules
) -> list[Annotation]:
    """Objects of each image by falling score, at most `rules.detections`, after NMS by class; on the CPU.

    Args:
        regions: [b, r, 4]; those that are no boxes (zeros in empty places) answer nothing.
        sizes: (height, width) of each image inside the padding, to which boxes are clipped.

    Source: Girshick 2015, section 3.
    """
    scores, offsets = foreground(outputs, rules)
    return scored_predictions(scores, offsets, regions, sizes, rules)


def scored_predictions(
    scores: Tensor, offsets: Tensor, regions: Tensor, sizes: Sequence[tuple[int, int]], rules: RegionRules
) -> list[Annotation]:
    """`region_predictions` (Girshick 2015, section 3) of scores [b, r, C] in [0, 1] and offsets [b, r, C, 4], or
    [b, r, 1, 4] for all classes."""
    limits = torch.tensor(sizes).to(regions.device, non_blocking=True)
    boxes, scores = decode_answers(scores, offsets, regions, limits, rules)
    rows = torch.cat((boxes, scores[..., None]), -1).cpu()  # moved once
    return [
        Annotation(size, objects=_chosen(row[..., :4], row[..., 4], rules))
        for row, size in zip(rows, sizes, strict=True)
    ]


def best_answers(outputs: RegionOutputs, regions: Tensor, sizes: Tensor, rules: RegionRules) -> FixedAnswers:
    """`region_predictions` (Girshick 2015, section 3) in fixed shapes: D = `rules.detections`.

    Args:
        sizes: [b, 2] height and width of each image inside the padding.
    """
    return fixed_answers(*scored_answers(outputs, regions, sizes, rules), limits_of(rules))


def scored_answers(outputs: RegionOutputs, regions: Tensor, sizes: Tensor, rules: RegionRules) -> tuple[Tensor, Tensor]:
    """Scores [b, r, C] and boxes [b, r, C, 4] before suppression (Girshick 2015, section 3); as `best_answers`."""
    boxes, scores = decode_answers(*foreground(outputs, rules), regions, sizes, rules)
    return scores, boxes


def limits_of(rules: RegionRules) -> Limits:
    """Which of the scored boxes of regions are the answer (Girshick 2015, section 3)."""
    return Limits(rules.score_threshold, rules.nms, rules.detections, side=SMALLEST)


def foreground(outputs: RegionOutputs, rules: RegionRules) -> tuple[Tensor, Tensor]:
    """Scores [b, r, C] and offsets [b, r, C, 4], or [b, r, 1, 4] for all classes, without those of the background."""
    offsets = outputs.deltas.unflatten(2, (-1, 4))
    first = 1 if offsets.shape[2] > 1 else 0
    scores = outputs.logits.sigmoid() if rules.score == "quality" else outputs.logits.softmax(2)[:, :, 1:]
    if outputs.ious is not None:  # the product, as masks are scored (Huang et al., "Mask Scoring R-CNN", CVPR 2019)
        scores = scores * outputs.ious.sigmoid()[:, :, first:]
    return scores, offsets[:, :, first:]


def decode_answers(
    scores: Tensor, offsets: Tensor, regions: Tensor, sizes: Tensor, rules: RegionRules
) -> tuple[Tensor, Tensor]:
    """Boxes [b, r, C, 4], clipped to the images of sizes [b, 2], and scores [b, r, C], 0 where a region is no box."""
    boxes = clip_boxes(decode_boxes(offsets, regions[:, :, None], rules.weights), sizes[:, None, None])
    scores = scores.where(valid_boxes(regions)[..., None], 0)
    return boxes.expand(-1, -1, scores.shape[2], -1), scores


def _chosen(boxes: Tensor, scores: Tensor, rules: RegionRules) -> Objects:
    """One image: boxes [r, C, 4] and scores [r, C] on the CPU -> objects after NMS by class."""
    labels = torch.arange(scores.shape[1]).expand_as(scores).flatten()
    boxes, scores = boxes.flatten(0, 1), scores.flatten()
    return best_objects(boxes, scores, labels, rules.score_threshold, rules.nms, rules.detections, side=SMALLEST)
