"""What a detector learns from an annotation: boxes that can be learned, and regions that say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.data.types import Annotation, Batch
from saccade.errors import DataError


def detection_truth(batch: Batch) -> list[Annotation]:
    """The annotations of `batch`, one an image. Raises DataError where there are none."""
    if batch.truth is None or any(t.objects is None for t in batch.truth):
        raise DataError("this batch has no boxes to learn from: the loss of a detector needs Annotation.objects")
    return batch.truth


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
