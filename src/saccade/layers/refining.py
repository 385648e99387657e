"""Heads in a row, each of which begins at the boxes of the one before and is held to a higher overlap (Cascade R-CNN).

A head that learns from regions with an IoU of 0.5 draws boxes that are good for 0.5; one that learns from better
regions draws better boxes, but of proposals too few are good. The boxes that a head has drawn are, so the next begins
there: `corrected_regions` gives them, `matched_regions` says what each must answer, `joined_outputs` is the answer.

Letters: b images, r regions an image, C classes. One box serves all classes, so that a region has one successor.

Source: Cai and Vasconcelos, "Cascade R-CNN: Delving into High Quality Object Detection", CVPR 2018, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.layers.box_coding import decode_boxes
from saccade.layers.matching import IGNORED
from saccade.layers.regions import RegionOutputs, RegionRules
from saccade.layers.sampling import Drawn
from saccade.layers.targets import RegionTargets, Targets
from saccade.ops.boxes import clip_boxes, valid_boxes


@torch.no_grad()
def corrected_regions(outputs: RegionOutputs, regions: Tensor, sizes: Tensor, rules: RegionRules) -> Tensor:
    """The boxes that a head makes of its regions [b, r, 4], clipped to images of sizes [b, 2]: [b, r, 4].

    No gradient flows through them. Regions that are no boxes (zeros in empty places) stay zeros.

    Args:
        outputs: with offsets [b, r, 4], for all classes.

    Source: section 4.1, "Cascaded Bounding Box Regression" of the cascade's paper.
    """
    boxes = clip_boxes(decode_boxes(outputs.deltas, regions, rules.weights), sizes[:, None])
    return boxes.where(valid_boxes(regions)[..., None], 0)


def matched_regions(regions: Tensor, targets: Targets, rules: RegionRules) -> RegionTargets:
    """What each of the regions [b, r, 4] must answer: they were drawn by the head before, and all of them count.

    Regions that are no boxes, and background that crowd regions cover, count for nothing.

    Source: section 4.2: a region is positive from the head's own IoU on, `rules.positive_iou`.
    """
    matches = targets.match(regions, rules.positive_iou, rules.positive_iou, usable=valid_boxes(regions))
    rows = torch.arange(matches.shape[1], device=matches.device).expand_as(matches)
    return targets.of(regions, matches, Drawn(rows, matches != IGNORED))


def joined_outputs(outputs: Sequence[RegionOutputs], score: str) -> RegionOutputs:
    """One answer for a region of the heads in a row: the mean of their likelihoods, the last one's box (and IoU).

    Args:
        outputs: of each head for its own regions, in order.
        score: as `RegionRules.score`: whether logits are of a softmax over the classes or of a sigmoid each.

    Returns:
        Logits whose softmax, or sigmoid, is the mean of theirs.

    Source: section 5.4, stage-wise comparison: the ensemble of the classifiers of all stages.
    """
    last, logits = outputs[-1], torch.stack([each.logits for each in outputs])
    if len(outputs) == 1:
        return last
    if score == "quality":
        mean = F.logsigmoid(logits).logsumexp(0) - F.logsigmoid(-logits).logsumexp(0)
    else:
        mean = logits.log_softmax(-1).logsumexp(0) - math.log(len(outputs))
    return RegionOutputs(mean, last.deltas, last.ious)
