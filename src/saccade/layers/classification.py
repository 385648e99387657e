"""What all classifiers and taggers share behind their last layer: the reading of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.data.types import Annotation


def logits_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Logits [b, classes] as a backbone gave them. Raises ValueError for the maps that a trunk gives instead."""
    if not isinstance(output, Tensor):
        raise ValueError("a trunk (classes=0) has no classifier")
    return output


def classification_predictions(
    logits: Tensor, sizes: Sequence[tuple[int, int]], task: str, threshold: float | Sequence[float] = 0.5
) -> list[Annotation]:
    """Logits [b, classes] as annotations of images of `sizes` (height, width); probabilities in `scores`.

    classify: softmax; the label is the most probable class (the lowest index at a tie). tag: logistic; a tag is given
    where its probability reaches `threshold`, one for all or one a class.
    """
    logits = logits.detach().float()
    if task == "classify":
        scores = logits.softmax(1)
        labels = scores.argmax(1).tolist()
        return [
            Annotation(size, label=label, probabilities=s) for size, label, s in zip(sizes, labels, scores, strict=True)
        ]
    scores = logits.sigmoid()
    tags = scores >= torch.as_tensor(threshold, dtype=scores.dtype, device=scores.device)
    return [Annotation(size, tags=t, probabilities=s) for size, t, s in zip(sizes, tags, scores, strict=True)]
