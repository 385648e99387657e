"""What all classifiers and taggers share: the loss on logits and the reading of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.data.types import Annotation
from saccade.losses.classification import CROSS_ENTROPY, Objective, label_loss, tag_loss


def classification_loss(
    logits: Tensor, truth: Sequence[Annotation] | None, task: str, objective: Objective = CROSS_ENTROPY
) -> dict[str, Tensor]:
    """The training loss of logits [b, classes], the mean over images of what `objective` names.

    classify: softmax cross-entropy, with `label_smoothing` of the target spread evenly over all classes (Szegedy et al.
    2016, section 7), or multi-class hinge, or focal. tag: logistic cross-entropy summed over the labels of an image, so
    that one label weighs as much as in `classify` however many labels there are; or focal, softmax, ranking, WARP
    (`losses/classification.py`). The truth of a blended image (mixup, CutMix) counts by the shares of its two parts.

    Returns:
        {"classification": scalar}, float32 whatever the type of the logits.

    Raises:
        ValueError: no truth, an image whose label or tags are missing, a task other than these two, or a loss that is
            not the task's.
    """
    logits = logits.float()
    losses = []
    for part in parts_of(truth):
        if task == "classify":
            labels = label_tensor(part, logits.device)
            losses.append(label_loss(objective.loss)(logits, labels, objective))
        elif task == "tag":
            tags = tag_tensor(part).to(logits.device, logits.dtype, non_blocking=True)
            losses.append(tag_loss(objective.loss)(logits, tags, objective))
        else:
            raise ValueError(f"task {task!r} is not classify or tag")
    return {"classification": mean_of_parts(losses, truth)}


def parts_of(truth: Sequence[Annotation] | None) -> list[Sequence[Annotation]]:
    """The truth of a batch, and behind it, where some image is blended of two (mixup, CutMix), that of the others.

    Raises:
        ValueError: no truth.
    """
    if truth is None:
        raise ValueError("a loss needs a batch with truth")
    if all(t.mixed is None for t in truth):
        return [truth]
    return [truth, [t if t.mixed is None else t.mixed[0] for t in truth]]


def mean_of_parts(losses: Sequence[Tensor], truth: Sequence[Annotation] | None) -> Tensor:
    """The mean over images of losses [b], one tensor for each of `parts_of(truth)`, by the shares of each image.

    Source: Zhang et al. 2018, "mixup", section 2, and Yun et al. 2019, "CutMix", equation 1, where the two targets are
    blended; the cross-entropy is linear in them, so that blending the losses is the same, and serves any other loss.
    """
    if len(losses) == 1:
        return losses[0].mean()
    own, others = losses
    shares = torch.tensor([0.0 if t.mixed is None else t.mixed[1] for t in truth or []])
    return torch.lerp(own, others, shares.to(own.device, own.dtype, non_blocking=True)).mean()


def label_tensor(truth: Sequence[Annotation], device: torch.device) -> Tensor:
    """Labels [b] int64. Raises ValueError for an image without one."""
    labels = [t.label for t in truth]
    if any(label is None for label in labels):
        raise ValueError(f"image {labels.index(None)} of the batch has no label; classify needs one an image")
    return torch.tensor(labels, dtype=torch.int64).to(device, non_blocking=True)


def tag_tensor(truth: Sequence[Annotation]) -> Tensor:
    """Tags [b, classes] bool. Raises ValueError for an image without any."""
    tags = [t.tags for t in truth if t.tags is not None]
    if len(tags) != len(truth):
        raise ValueError(f"{len(truth) - len(tags)} of {len(truth)} images of the batch have no tags")
    return torch.stack(tags)


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
        return [Annotation(size, label=label, scores=s) for size, label, s in zip(sizes, labels, scores, strict=True)]
    scores = logits.sigmoid()
    tags = scores >= torch.as_tensor(threshold, dtype=scores.dtype, device=scores.device)
    return [Annotation(size, tags=t, scores=s) for size, t, s in zip(sizes, tags, scores, strict=True)]
