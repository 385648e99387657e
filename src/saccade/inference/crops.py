"""Evaluation by several crops: the mean of the probabilities over parts of an image, as the papers report them.

- 2: the usual view and its mirror image;
- 10: the four corners and the centre of a view that is larger than the input, and their mirror images (AlexNet, section
  4.1): shorter side 8/7 of the input (256 for 224), where training padded and cropped back (CIFAR) the padded image;
- 144: shorter sides 256, 288, 320 and 352 for an input of 224, of each the left, centre and right square (top, centre
  and bottom of an upright image), of each the four corners, the centre and the whole square at the size of the input,
  and their mirror images (GoogLeNet, section 7).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data.dataset import DataSet, Record
from saccade.data.geometry import Size
from saccade.data.loader import Loader, Work
from saccade.data.orders import InOrder
from saccade.data.pipelines import Preprocessing
from saccade.data.resampling import crop, resize
from saccade.data.transforms import CenterCrop, PadTo, Resize
from saccade.data.types import Annotation, Batch, Sample
from saccade.data.views import View, inference_view
from saccade.errors import UsageError
from saccade.inference.predictor import Predictor
from saccade.machine.device import loader_workers
from saccade.machine.terminal import bar
from saccade.tasks.table import find_task

CROPS = (1, 2, 10, 144)
SCALES = (256 / 224, 288 / 224, 320 / 224, 352 / 224)  # of 144 crops: shorter side in sides of the input
PLACES = (0.0, 0.5, 1.0)  # of the square along the longer side


@dataclass(frozen=True)
class Square:
    """The square at `place` (0 left or top, 1 right or bottom) of the longer side, resized to `side` pixels."""

    side: int
    place: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.truth.size
        short = min(height, width)
        x, y = round(self.place * (width - short)), round(self.place * (height - short))
        return resize(crop(sample, (x, y, x + short, y + short)), (self.side, self.side))


def check_crops(crops: int, task: str, preprocessing: Preprocessing) -> None:
    """Raises UsageError where this number of crops is not defined, or not for this task or preprocessing."""
    if crops not in CROPS:
        raise UsageError(f"crops is {crops}, allowed: {', '.join(map(str, CROPS))}")
    if crops > 1 and (not find_task(task).whole_image or find_task(task).embedding):
        raise UsageError(f"crops are parts of an image with one answer: for classify and tag, not {task}; use crops=1")
    if crops > 2 and preprocessing.resize == "letterbox":
        raise UsageError(f"{crops} crops of a model that was trained on letterboxed images: allowed are 1 and 2")
    size = _input(preprocessing)
    if crops == 144 and (preprocessing.resize != "crop" or preprocessing.pad or size[0] != size[1]):
        raise UsageError("144 crops are for square inputs, trained on random crops (resize=crop, pad=0); use 10")


def views(task: str, preprocessing: Preprocessing, crops: int) -> list[View]:
    """How the loader brings images to what `parts` cuts up, once for each of these."""
    size, usual = _input(preprocessing), inference_view(task, preprocessing)
    if crops == 144:
        squares = [Square(round(scale * min(size)), place) for scale in SCALES for place in PLACES]
        return [View((square,), usual.min_side) for square in squares]
    cover = (round(size[0] * preprocessing.view), round(size[1] * preprocessing.view))
    if crops == 2:
        return [usual]
    if preprocessing.pad:
        padded = (size[0] + 2 * preprocessing.pad, size[1] + 2 * preprocessing.pad)
        return [View((Resize(size), PadTo(padded, centred=True)), usual.min_side)]
    return [View((Resize(cover) if preprocessing.resize == "stretch" else CenterCrop(cover, cover),), usual.min_side)]


def parts(view: Tensor, size: Size, crops: int) -> Iterator[Tensor]:
    """The inputs [b, 3, *size] that are cut from views [b, 3, H, W], without their mirror images."""
    if crops == 2:
        yield view
        return
    down, right = view.shape[2] - size[0], view.shape[3] - size[1]
    for y, x in ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)):
        yield view[:, :, y : y + size[0], x : x + size[1]]
    if crops == 144:
        yield F.interpolate(view, size, mode="bilinear", align_corners=False, antialias=True)


def predictions_by_crops(
    predictor: Predictor,
    dataset: DataSet,
    records: list[Record],
    crops: int,
    batch: int = 8,
    workers: int | None = None,
    progress: bool = False,
) -> Iterator[tuple[Record, Annotation]]:
    """Every record with what the model says of it in the mean over its crops, in order. All are computed before the
    first is given.

    Args:
        progress: show a bar on stderr; it counts views of images (`views`).

    Raises:
        UsageError: see `check_crops`.
    """
    check_crops(crops, predictor.task, predictor.preprocessing)
    total = torch.zeros(len(records), len(predictor.classes), dtype=torch.float64)
    size = _input(predictor.preprocessing)
    chosen = views(predictor.task, predictor.preprocessing, crops)
    work = Work(min(loader_workers(workers, predictor.device), len(records) // batch))
    with bar(progress) as shown:
        task = shown.add_task("evaluating", total=len(chosen) * len(records))
        for view in chosen:
            first = 0
            for seen in Loader(dataset, records, predictor.task, view, InOrder(), batch, work).epoch(0):
                total[first : first + len(seen)] += _summed(predictor, seen, size, crops)
                first += len(seen)
                shown.advance(task, len(seen))
    for record, summed in zip(records, total, strict=True):
        scores = (summed / crops).float()
        answer = Annotation(record.size, probabilities=scores)
        if find_task(predictor.task).tags:
            answer.tags = scores >= 0.5
            predictor.decide(answer)
        else:
            answer.label = int(scores.argmax())
        yield record, answer


def _summed(predictor: Predictor, seen: Batch, size: Size, crops: int) -> Tensor:
    """[b, classes] float64: probabilities of a batch of views, summed over its inputs and their mirror images."""
    seen = seen.to(predictor.device)
    total = torch.zeros(len(seen), len(predictor.classes), dtype=torch.float64)
    for part in parts(seen.images, size, crops):
        for images in (part, part.flip(3)):
            inputs = dataclasses.replace(seen, images=images, sizes=[size] * len(seen))
            for row, (_, answer) in enumerate(predictor.predict_batches([inputs])):
                if answer.probabilities is not None:
                    total[row] += answer.probabilities
    return total


def _input(preprocessing: Preprocessing) -> Size:
    if preprocessing.size is None:
        raise UsageError("crops need a model with one input size")
    return preprocessing.size
