"""What detectors learn from: the boxes of a batch that can be learned, and the regions that say nothing.

`Targets` is the truth of a batch; `RegionTargets` is what anchors or regions drawn from it must answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.data.types import Annotation, Batch
from saccade.errors import DataError
from saccade.layers.matching import IGNORED, match_adaptive, match_by_overlap
from saccade.layers.sampling import Drawn
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
        """[b, a] the largest share of each anchor's area that one crowd region covers; None where there are none.

        What COCO's evaluation forgives is not punished in training (Lin et al., "Microsoft COCO", ECCV 2014, and its
        released evaluation code).

        Args:
            anchors: [b, a, 4], or [a, 4] that all images share.
        """
        if not any(self.crowd_counts):
            return None
        each = anchors.expand(len(self.counts), -1, -1)
        cover = anchors.new_zeros(each.shape[:2])
        for i, (crowds, n) in enumerate(zip(self.crowds, self.crowd_counts, strict=True)):
            if n:
                cover[i] = box_iof(each[i], crowds[:n]).amax(dim=1)
        return cover

    def match(
        self,
        anchors: Tensor,
        high: float,
        low: float,
        force_best: bool = False,
        floor: float = 0.0,
        usable: Tensor | None = None,
    ) -> Tensor:
        """`layers/matching.py: match_by_overlap` for these objects, with crowd regions heeded: [b, a] int64.

        Args:
            anchors: [b, a, 4], or [a, 4] that all images share.
            high, low, force_best, floor: as there.
            usable: [b, a] bool; the others are IGNORED, and no object's best. None: all are.
        """
        overlaps = self.overlaps(anchors)
        if usable is not None:
            overlaps = [overlap.masked_fill(~own, -1) for overlap, own in zip(overlaps, usable, strict=True)]
        matches = match_by_overlap(overlaps, high, low, force_best, self.crowd_cover(anchors), floor=floor)
        return matches if usable is None else matches.masked_fill(~usable, IGNORED)

    def match_adaptive(self, anchors: Tensor, per_level: Sequence[int], candidates: Sequence[int]) -> Tensor:
        """`layers/matching.py: match_adaptive` for these objects, with crowd regions heeded: [b, a] int64.

        Args:
            anchors: [a, 4] that all images share.
            per_level, candidates: as there.
        """
        cover = self.crowd_cover(anchors)
        return match_adaptive(self.overlaps(anchors), anchors, self.boxes, per_level, candidates, cover)

    def of(self, anchors: Tensor, matches: Tensor, drawn: Drawn) -> RegionTargets:
        """What the drawn anchors must answer.

        Args:
            anchors: [b, a, 4], or [a, 4] that all images share.
            matches: [b, a] int64, of `match`.
            drawn: m places an image (layers/sampling.py).
        """
        regions = _rows_of(anchors.expand(len(self.counts), -1, -1), drawn.rows)
        matches = matches.gather(1, drawn.rows).masked_fill(~drawn.valid, IGNORED)
        positive = matches >= 0
        truth = matches.clamp(min=0)
        labels = self.labels.gather(1, truth)
        classes = torch.where(positive, labels + 1, torch.where(drawn.valid, 0, IGNORED))
        return RegionTargets(drawn.rows, regions, matches, classes, _rows_of(self.boxes, truth), positive, drawn.valid)


@dataclass(slots=True)
class RegionTargets:
    """Anchors or regions that were drawn for a loss, and what each must answer: m places an image.

    Inside a detector of regions class 0 is the background; class c + 1 is label c.
    """

    rows: Tensor  # [b, m] int64: their numbers among all anchors or regions of the image
    regions: Tensor  # [b, m, 4] float32
    matches: Tensor  # [b, m] int64: number of an object, BACKGROUND, or IGNORED where nothing was drawn
    classes: Tensor  # [b, m] int64: 0 background, label + 1, or IGNORED where nothing was drawn
    boxes: Tensor  # [b, m, 4] float32: of the matched object; of some object, or zeros, where not positive
    positive: Tensor  # [b, m] bool: matched to an object
    drawn: Tensor  # [b, m] bool: counts in the loss

    def take(self, values: Tensor) -> Tensor:
        """Of values [b, a] or [b, a, n] of all anchors or regions those of the drawn: [b, m] or [b, m, n]."""
        return values.gather(1, self.rows) if values.ndim == 2 else _rows_of(values, self.rows)


def _rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """values [b, a, n] at rows [b, m] -> [b, m, n]."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


@dataclass(slots=True)
class Learnable:
    """The objects of one image that can be learned, t of them, and its c crowd regions."""

    boxes: Tensor  # [t, 4] float32
    labels: Tensor  # [t] int64
    crowds: Tensor  # [c, 4] float32: never targets


def detection_targets(batch: Batch, classes: int) -> Targets:
    """What the images of `batch` ask a detector to find: checked and sorted on the CPU, moved as one tensor.

    Args:
        batch: with truth on the CPU and images [b, 3, H, W] on the device of the targets.
        classes: labels must be in 0..classes - 1.

    Raises:
        DataError: no boxes in the batch, or see `learnable`.
    """
    if batch.truth is None or any(t.objects is None for t in batch.truth):
        raise DataError("this batch has no boxes to learn from: the loss of a detector needs Annotation.objects")
    names = batch.ids or [""] * len(batch.truth)
    found = [learnable(truth, classes, name) for truth, name in zip(batch.truth, names, strict=True)]
    counts, crowd_counts = [len(each.boxes) for each in found], [len(each.crowds) for each in found]
    most = max(*counts, 1)
    table = torch.zeros(len(found), most + max(crowd_counts), 5)  # a label is exact in float32 up to 2^24
    for row, each in zip(table, found, strict=True):
        row[: len(each.boxes), :4], row[: len(each.boxes), 4] = each.boxes, each.labels
        row[most : most + len(each.crowds), :4] = each.crowds
    table = table.to(batch.images.device, non_blocking=True)
    objects, crowd_boxes = table[:, :most], table[:, most:, :4]
    return Targets(objects[..., :4], objects[..., 4].long(), crowd_boxes, counts, crowd_counts)


def learnable(truth: Annotation, classes: int, name: str = "") -> Learnable:
    """Split the objects of one image: crowd regions are never targets; difficult objects are.

    Args:
        truth: an annotation with `objects`.
        classes: labels must be in 0..classes - 1.
        name: of the image, for the error message.

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
        return Learnable(boxes, labels, boxes[:0])
    return Learnable(boxes[~objects.crowd], labels[~objects.crowd], boxes[objects.crowd])


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"
