"""What all classifiers and taggers share: the loss on logits and the reading of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data.types import Annotation


def classification_loss(
    logits: Tensor, truth: Sequence[Annotation] | None, task: str, label_smoothing: float = 0.0
) -> dict[str, Tensor]:
    """The training loss of logits [b, classes].

    classify: softmax cross-entropy, mean over images, with `label_smoothing` of the target spread evenly over all
    classes (Szegedy et al. 2016, section 7). tag: logistic cross-entropy, summed over the labels of an image and
    averaged over images, so that one label weighs as much as in `classify` however many labels there are.

    Returns:
        {"classification": scalar}, float32 whatever the type of the logits.

    Raises:
        ValueError: no truth, an image whose label or tags are missing, or a task other than these two.
    """
    if truth is None:
        raise ValueError("a loss needs a batch with truth")
    logits = logits.float()
    if task == "classify":
        labels = [t.label for t in truth]
        if any(label is None for label in labels):
            raise ValueError(f"image {labels.index(None)} of the batch has no label; classify needs one an image")
        target = torch.tensor(labels, dtype=torch.int64, device=logits.device)
        return {"classification": F.cross_entropy(logits, target, label_smoothing=label_smoothing)}
    if task == "tag":
        tags = [t.tags for t in truth if t.tags is not None]
        if len(tags) != len(truth):
            raise ValueError(f"{len(truth) - len(tags)} of {len(truth)} images of the batch have no tags")
        wanted = torch.stack(tags).to(logits)
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).mean()
        return {"classification": loss}
    raise ValueError(f"task {task!r} is not classify or tag")


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
        return [Annotation(size, label=label, scores=s) for size, label, s in zip(sizes, labels, scores, strict=True)]
    scores = logits.sigmoid()
    tags = scores >= torch.as_tensor(threshold, dtype=scores.dtype, device=scores.device)
    return [Annotation(size, tags=t, scores=s) for size, t, s in zip(sizes, tags, scores, strict=True)]
