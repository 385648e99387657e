"""The answers of detectors: from scores and boxes of many anchors to the objects of each image.

Every detector ends in `best_objects`, and so in `ops/suppression.py: suppress`: what is asked of NMS where answers are
wanted (`--nms soft`) then holds for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.data.types import Annotation, Objects
from saccade.ops.boxes import clip_boxes, valid_boxes
from saccade.ops.nms import nms_padded
from saccade.ops.suppression import enough, suppress


@dataclass(slots=True)
class FixedAnswers:
    """The best objects of each image in fixed shapes, for graphs that are exported: D places an image."""

    boxes: Tensor  # [b, D, 4] float32; zeros in empty places
    labels: Tensor  # [b, D] int64; 0 in empty places
    scores: Tensor  # [b, D] float32, falling; 0 in empty places

    def named(self) -> dict[str, Tensor]:
        """As an exported file names them."""
        return {"boxes": self.boxes, "labels": self.labels, "scores": self.scores}


@dataclass(frozen=True, slots=True)
class Limits:
    """Which of a detector's scored boxes are its answer; see `best_objects`."""

    threshold: float
    nms_iou: float
    keep: int
    candidates: int | None = None  # boxes of each class that enter NMS; None: all
    side: float = 0.0


def fixed_answers(scores: Tensor, boxes: Tensor, limits: Limits) -> FixedAnswers:
    """`detections` in fixed shapes, D = `limits.keep`.

    Args:
        scores: [b, A, C] in [0, 1].
        boxes: [b, A, 4] in pixels, clipped to the images, or [b, A, C, 4], one for each class.

    Source: Girshick et al., "Rich feature hierarchies" (R-CNN), CVPR 2014, section 2.2.
    """
    ranked, places = scores.transpose(1, 2), boxes[:, None] if boxes.ndim == 3 else boxes.transpose(1, 2)
    if limits.candidates is not None:
        ranked, rows = ranked.topk(torch.sym_min(limits.candidates, ranked.shape[2]), dim=2)
        many = places.expand(-1, ranked.shape[1], -1, -1)
        places = many.gather(2, rows[..., None].expand(-1, -1, -1, 4))
    likely = (ranked > limits.threshold) & valid_boxes(places, limits.side)
    kept = nms_padded(places, ranked.masked_fill(~likely, -torch.inf), limits.nms_iou, limits.keep)
    there, kept = kept >= 0, kept.clamp(min=0)
    each = ranked.shape[2]
    labels, rows = torch.div(kept, each, rounding_mode="floor"), kept % each
    chosen = rows if places.shape[1] == 1 else kept
    found = places.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, 4)).where(there[..., None], 0)
    return FixedAnswers(found, labels.where(there, 0), ranked.flatten(1).gather(1, kept).where(there, 0))


def best_objects(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, nms_iou: float, keep: int, side: float = 0.0
) -> Objects:
    """The objects of one image by falling score, after suppression.

    Args:
        boxes: [n, 4] in pixels, clipped to the image.
        scores: [n] in [0, 1].
        labels: [n] int64; boxes of different classes do not suppress each other.
        threshold: boxes of no higher score are left out, and those that `ops.suppression.enough` has no use for.
        nms_iou: a box of a larger IoU with a better one of its class is left out.
        keep: objects at most.
        side: boxes with a side of no more pixels are left out.

    Source: Girshick et al., "Rich feature hierarchies" (R-CNN), CVPR 2014, section 2.2.
    """
    rows = (enough(scores, threshold) & valid_boxes(boxes, side)).nonzero()[:, 0]
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
    if scores.device.type == "cpu":  # there few are worth sorting, and a count that depends on values costs no wait
        rows, labels = [], []
        for box, score in zip(boxes, scores, strict=True):
            anchors, classes = _candidates(score, threshold, candidates)
            rows.append(torch.cat((box[anchors], score[anchors, classes][:, None]), dim=1))
            labels.append(classes)
    else:
        best, priors = scores.topk(min(candidates, scores.shape[1]), dim=1)  # [b, k, C]
        image = torch.arange(len(boxes), device=boxes.device)[:, None, None]
        table = torch.cat((boxes[image, priors], best[..., None]), dim=-1).cpu()  # all that NMS needs, moved once
        rows = list(table.flatten(1, 2))
        labels = [torch.arange(scores.shape[2]).expand(table.shape[1:3]).flatten()] * len(rows)
    found = []
    for row, label, size in zip(rows, labels, sizes, strict=True):
        objects = best_objects(clip_boxes(row[:, :4], size), row[:, 4], label, threshold, nms_iou, keep)
        found.append(Annotation(size, objects=objects))
    return found


def _candidates(scores: Tensor, threshold: float, count: int) -> tuple[Tensor, Tensor]:
    """Anchors and classes, [n] each, of the scores [A, C] that are `enough`, of each class the best `count` at most."""
    anchors, classes = enough(scores, threshold).nonzero(as_tuple=True)
    crowded = torch.bincount(classes, minlength=scores.shape[1]) > count
    if not crowded.any():
        return anchors, classes
    full = crowded.nonzero()[:, 0]
    best = scores[:, full].topk(count, dim=0).indices  # [count, classes that are crowded]
    others = ~crowded[classes]
    return torch.cat((anchors[others], best.flatten())), torch.cat((classes[others], full.expand_as(best).flatten()))
