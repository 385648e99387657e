"""What detectors learn from: the boxes of a batch that can be learned, and the regions that say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.data.types import Annotation, Batch
from saccade.errors import DataError
from saccade.ops.boxes import box_iof, box_iou


@dataclass(slots=True)
class Targets:
    """The objects and crowd regions of a batch on its device, padded with zeros; how many are real is known on the CPU.

    Letters: b images, T and C the most objects and crowd regions of an image (T at least 1), a anchors or regions.
    """

    boxes: Tensor  # [b, T, 4] float32
    labels: Tensor  # [b, T] int64
    crowds: Tensor  # [b, C, 4] float32: never targets
    counts: list[int]  # objects of each image
    crowd_counts: list[int]

    def overlaps(self, anchors: Tensor) -> list[Tensor]:
        """IoU [t_i, a] of each image's objects with its anchors [b, a, 4], or with [a, 4] that all images share."""
        each = anchors.expand(len(self.counts), -1, -1)
        return [box_iou(boxes[:n], own) for boxes, n, own in zip(self.boxes, self.counts, each, strict=True)]

    def crowd_cover(self, anchors: Tensor) -> Tensor | None:
        """[b, a] the largest share of each anchor's area that one crowd region covers; None where there are none."""
        if not any(self.crowd_counts):
            return None
        each = anchors.expand(len(self.counts), -1, -1)
        cover = anchors.new_zeros(each.shape[:2])
        for i, (crowds, n) in enumerate(zip(self.crowds, self.crowd_counts, strict=True)):
            if n:
                cover[i] = box_iof(each[i], crowds[:n]).amax(dim=1)
        return cover

    def matched(self, matches: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [b, m, 4] and labels [b, m] of `matches` [b, m]; those of some object where nothing is matched."""
        rows = matches.clamp(min=0)
        return self.boxes.gather(1, rows[..., None].expand(-1, -1, 4)), self.labels.gather(1, rows)


def detection_targets(batch: Batch, classes: int) -> Targets:
    """What the images of `batch` ask a detector to find: checked and sorted on the CPU, moved as one tensor.

    Args:
        batch: with truth on the CPU and images on the device of the targets.
        classes: labels must be in 0..classes - 1.

    Raises:
        DataError: no boxes in the batch, or see `learnable`.
    """
    if batch.truth is None or any(t.objects is None for t in batch.truth):
        raise DataError("this batch has no boxes to learn from: the loss of a detector needs Annotation.objects")
    names = batch.ids or [""] * len(batch.truth)
    found = [learnable(truth, classes, name) for truth, name in zip(batch.truth, names, strict=True)]
    counts, crowd_counts = [len(boxes) for boxes, _, _ in found], [len(crowds) for _, _, crowds in found]
    most = max(*counts, 1)
    table = torch.zeros(len(found), most + max(crowd_counts), 5)  # a label is exact in float32 up to 2^24
    for row, (boxes, labels, crowds) in zip(table, found, strict=True):
        row[: len(boxes), :4], row[: len(boxes), 4] = boxes, labels
        row[most : most + len(crowds), :4] = crowds
    table = table.to(batch.images.device, non_blocking=True)
    objects, crowd_boxes = table[:, :most], table[:, most:, :4]
    return Targets(objects[..., :4], objects[..., 4].long(), crowd_boxes, counts, crowd_counts)


def learnable(truth: Annotation, classes: int, name: str = "") -> tuple[Tensor, Tensor, Tensor]:
    """Split the objects of one image.

    Args:
        truth: an annotation with `objects`.
        classes: labels must be in 0..classes - 1.
        name: of the image, for the error message.

    Returns:
        (boxes [t, 4] float32, labels [t], crowds [c, 4]): crowd regions are never targets; difficult objects are.

    Raises:
        DataError: a box is not finite or without area, or a label is out of range.
    """
    assert truth.objects is not None
    objects = truth.objects
    where = f"image {name}: " if name else ""
    boxes, labels = objects.boxes.float(), objects.labels
    sound = boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    known = (labels >= 0) & (labels < classes)
    if not bool((sound & known).all()):
        row = int(torch.nonzero(~(sound & known))[0])
        raise DataError(
            f"{where}object {row} has box {_numbers(boxes[row].tolist())} and label {int(labels[row])}; boxes need "
            f"finite corners with x1 < x2 and y1 < y2, labels 0..{classes - 1}. `saccade check` names what to repair"
        )
    if objects.crowd is None:
        return boxes, labels, boxes[:0]
    return boxes[~objects.crowd], labels[~objects.crowd], boxes[objects.crowd]


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"
