"""The answers of detectors: from scores and boxes of many anchors to the objects of each image.

Every detector ends in `best_objects`, and so in `ops/suppression.py: suppress`: what is asked of NMS where answers are
wanted (`--nms soft`) then holds for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.data.types import Annotation, Objects
from saccade.ops.boxes import clip_boxes, valid_boxes
from saccade.ops.suppression import suppress


def best_objects(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, nms_iou: float, keep: int, side: float = 0.0
) -> Objects:
    """The objects of one image by falling score, after suppression.

    Args:
        boxes: [n, 4] in pixels, clipped to the image.
        scores: [n] in [0, 1].
        labels: [n] int64; boxes of different classes do not suppress each other.
        threshold: boxes of no higher score are left out.
        nms_iou: a box of a larger IoU with a better one of its class is left out.
        keep: objects at most.
        side: boxes with a side of no more pixels are left out.

    Source: Girshick et al., "Rich feature hierarchies" (R-CNN), CVPR 2014, section 2.2.
    """
    rows = ((scores > threshold) & valid_boxes(boxes, side)).nonzero()[:, 0]
    kept, values = suppress(boxes[rows], scores[rows], labels[rows], nms_iou, keep, threshold)
    rows = rows[kept]
    return Objects(boxes[rows], labels[rows], values)


def detections(
    scores: Tensor,
    boxes: Tensor,
    sizes: Sequence[tuple[int, int]],
    threshold: float,
    candidates: int,
    nms_iou: float,
    keep: int,
) -> list[Annotation]:
    """The objects of each image after NMS by class, on the CPU.

    Args:
        scores: [b, A, C] in [0, 1].
        boxes: [b, A, 4] in pixels.
        sizes: (height, width) of each image, to which its boxes are clipped.
        candidates: boxes of each class that enter NMS.
        threshold, nms_iou, keep: as in `best_objects`.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2 and the released code.
    """
    best, priors = scores.topk(min(candidates, scores.shape[1]), dim=1)  # [b, k, C]
    image = torch.arange(len(boxes), device=boxes.device)[:, None, None]
    rows = torch.cat((boxes[image, priors], best[..., None]), dim=-1).cpu()  # all that NMS needs, moved once
    labels = torch.arange(scores.shape[2]).expand(rows.shape[1:3]).flatten()
    found = []
    for row, size in zip(rows.flatten(1, 2), sizes, strict=True):
        objects = best_objects(clip_boxes(row[:, :4], size), row[:, 4], labels, threshold, nms_iou, keep)
        found.append(Annotation(size, objects=objects))
    return found
