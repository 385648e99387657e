"""What is to be explained of an answer: a class, a region or a detection, and its score as a function of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError, suggest
from saccade.ops.boxes import box_iou

LABELS = ("classify", "tag", "localize")  # tasks that answer with a score for each class
TASKS = (*LABELS, "segment", "detect", "instances")
GRADIENTS = (*LABELS, "segment")  # tasks whose score is a differentiable function of the image
WEAK = 0.3  # detections below this score are not explained

Scores = Callable[[Tensor], Tensor]  # images [b, 3, H, W] in [0, 1] -> [b, targets]


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that the network said of an image."""

    label: int
    score: float  # probability; segment: share of the image's pixels
    box: tuple[float, float, float, float] | None = (
        None  # x1 y1 x2 y2 in pixels of the network's input, where it has one
    )


def find_labels(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Class indices of names, without repetitions. Raises UsageError with suggestions where one is not a class."""
    for name in names:
        if name not in classes:
            raise UsageError(f"--class {name!r} is not a class of this model: {suggest(name, classes)}")
    return [list(classes).index(name) for name in dict.fromkeys(names)]


def choose_targets(task: str, answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """The best `count` things that the network said, best first; or those of `labels`.

    classify, localize: the most probable classes. tag: the tags given, or the most probable one where none is.
    segment: the classes with most pixels. detect, instances: the detections with the highest scores, from 0.3 on. A
    class among `labels` that was given no region or no detection has no target.

    Args:
        answer: in pixels of the network's input.
        labels: class indices that the user asks for; empty: what the network says itself.

    Raises:
        UsageError: a task whose answers cannot be explained.
    """
    if task not in TASKS:
        raise UsageError(f"a model to {task} cannot be explained yet; the tasks that can: {', '.join(TASKS)}")
    if answer.objects is not None and task in ("detect", "instances"):
        return _detections(answer, labels, count)
    if task == "segment" and answer.semantic is not None:
        pixels = torch.bincount(answer.semantic.flatten().long().cpu(), minlength=256)[:255]
        total = max(1, int(pixels.sum()))
        said = [int(k) for k in pixels.argsort(descending=True, stable=True) if pixels[k] > 0]
        chosen = [k for k in labels if k in said] if labels else said[:count]
        return [Target(k, int(pixels[k]) / total) for k in chosen]
    assert answer.scores is not None
    order = [int(k) for k in answer.scores.argsort(descending=True, stable=True)]
    if task == "tag" and answer.tags is not None and bool(answer.tags.any()):
        order = [k for k in order if bool(answer.tags[k])]
    elif task == "tag":
        order = order[:1]
    return [Target(k, float(answer.scores[k]), _box_of(answer, k)) for k in (labels or order[:count])]


def _box_of(answer: Annotation, label: int) -> tuple[float, float, float, float] | None:
    """The box of a class, in an answer that has one."""
    if answer.objects is None or label not in answer.objects.labels.tolist():
        return None
    x1, y1, x2, y2 = answer.objects.boxes[answer.objects.labels == label][0].tolist()
    return x1, y1, x2, y2


def _detections(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    objects = answer.objects
    assert objects is not None
    scores = torch.ones(len(objects)) if objects.scores is None else objects.scores
    targets: list[Target] = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        label = int(objects.labels[row])
        if float(scores[row]) >= WEAK and (not labels or label in labels) and len(targets) < count:
            x1, y1, x2, y2 = objects.boxes[row].tolist()
            targets.append(Target(label, float(scores[row]), (x1, y1, x2, y2)))
    return targets


def raw_scores(model: nn.Module, task: str, targets: Sequence[Target]) -> Scores:
    """The scores before softmax or logistic, which gradients are taken of: probabilities near 1 have almost none.

    classify, tag, localize: the logit of the class. segment: its mean over the pixels where the network says the class
    (Vinogradova et al. 2020, "Towards interpretable semantic segmentation via gradient-weighted class activation
    mapping").

    Raises:
        UsageError: a task whose score has no gradient.
    """
    if task not in GRADIENTS:
        raise UsageError(f"a model to {task} has no score to take the gradient of; with one: {', '.join(GRADIENTS)}")
    labels = [target.label for target in targets]
    if task != "segment":
        return lambda images: class_logits(model, images)[:, labels]

    def mean_logits(images: Tensor) -> Tensor:
        maps = model(images).float()
        said = maps.detach().argmax(1)
        regions = torch.stack([said == k for k in labels], 1)
        return (maps[:, labels] * regions).sum((2, 3)) / regions.sum((2, 3)).clamp(min=1)

    return mean_logits


def likelihoods(model: nn.Module, task: str, targets: Sequence[Target], images: Tensor) -> Scores:
    """The scores in [0, 1] whose fall under a patch occlusion sensitivity measures; without gradients.

    classify, tag, localize: the probability of the class. segment: its mean over the pixels where the network says the
    class for `images`. detect, instances: of the boxes of the class the largest product of score and overlap (IoU) with
    the detection to be explained (Petsiuk et al. 2021, "Black-box explanation of object detectors via saliency maps").

    Args:
        images: [1, 3, H, W], the image as it is.
    """
    labels = [target.label for target in targets]
    if task in ("detect", "instances"):
        return lambda changed: _matches(model, targets, changed)
    if task == "segment":
        with torch.no_grad():
            said = model(images).argmax(1)
        regions = torch.stack([said == k for k in labels], 1)

        @torch.no_grad()
        def mean_probability(changed: Tensor) -> Tensor:
            shares = model(changed).float().softmax(1)[:, labels]
            return (shares * regions).sum((2, 3)) / regions.sum((2, 3)).clamp(min=1)

        return mean_probability

    @torch.no_grad()
    def probability(changed: Tensor) -> Tensor:
        logits = class_logits(model, changed)
        return (logits.sigmoid() if task == "tag" else logits.softmax(1))[:, labels]

    return probability


def class_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits [b, classes], float32, of a classifier, tagger or localizer (whose second output are the boxes)."""
    output = model(images)
    return (output if isinstance(output, Tensor) else output[0]).float()


@torch.no_grad()
def _matches(model: nn.Module, targets: Sequence[Target], images: Tensor) -> Tensor:
    size = (images.shape[2], images.shape[3])
    answers = model.predict(Batch(images, [size] * len(images)))  # type: ignore[operator]
    out = torch.zeros(len(images), len(targets))
    for i, answer in enumerate(answers):
        objects = answer.objects.to("cpu")
        for j, target in enumerate(targets):
            same = objects[objects.labels == target.label]
            if len(same) and same.scores is not None:
                out[i, j] = (same.scores * box_iou(same.boxes, torch.tensor([target.box]))[:, 0]).max()
    return out
