"""A detector's way to its answer, drawn: how regions grow, what is proposed, pooled and suppressed.

What the boxes of each stage are the network says itself (`models/contract.py: answer_stages`, layers/stages.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from saccade.data.proposals import SOURCES, SelectiveSearch
from saccade.data.types import Batch
from saccade.layers.stages import BoxStage
from saccade.models.contract import answer_stages
from saccade.ops.boxes import box_iou
from saccade.ops.selective_search import region_growth
from saccade.plots.palette import class_colour

DRAWN = 60  # boxes of a picture, the first of the stage
STEPS = 3  # of the suppression, each in a picture
SHOWN = 480  # pixels of the longer side to which pictures, and parts of them, are enlarged
UNNAMED = (245, 245, 245)  # colour of boxes without a class
GONE = (250, 110, 90)  # of what a better box suppresses
GROWTH = (100, 25, 5)  # regions left, of selective search, behind the first cut

Colour = tuple[int, int, int]


@dataclass(slots=True)
class StagePicture:
    """One stage of an answer as it is shown."""

    name: str
    words: str  # what is to be seen
    pixels: np.ndarray  # [H, W, 3] uint8 RGB
    boxes: int  # of the stage
    drawn: int  # of them


def stage_pictures(
    model: Any, batch: Batch, picture: np.ndarray, to_picture: np.ndarray, proposals: str | None
) -> list[StagePicture]:
    """The stages of the answer for one image, first to last.

    Args:
        model: a detector in evaluation mode.
        batch: one image as the network sees it.
        picture: [H, W, 3] uint8 RGB, the upright image.
        to_picture: [3, 3], pixels of the network's input to pixels of `picture`.
        proposals: where the boxes come from that the model is given (`Preprocessing.proposals`).
    """
    found = list(growth_pictures(picture)) if isinstance(SOURCES.get(proposals or ""), SelectiveSearch) else []
    with torch.no_grad():
        stages = answer_stages(model, batch)
    for stage in stages:
        boxes = _moved(stage.boxes, to_picture)
        found.append(_bins(picture, stage, boxes) if stage.bins else _boxes(picture, stage, boxes))
        if stage.nms is not None:
            found += _suppression(picture, stage, boxes)
    return found


def growth_pictures(picture: np.ndarray) -> Iterator[StagePicture]:
    """How regions grow together in the first strategy of selective search, each in its mean colour."""
    for labels in region_growth(picture, GROWTH):
        count = int(labels.max()) + 1
        small = cv2.resize(picture, labels.shape[::-1], interpolation=cv2.INTER_AREA)
        sums = np.stack([np.bincount(labels.ravel(), small[..., c].ravel(), count) for c in range(3)], axis=1)
        means = (sums / np.bincount(labels.ravel(), minlength=count)[:, None]).astype(np.uint8)
        pixels = means[labels]
        edge = np.zeros(labels.shape, bool)
        edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
        edge[1:] |= labels[1:] != labels[:-1]
        pixels[edge] = 255
        words = (
            f"Selective search, the first of its strategies: {count} regions, each in its mean colour. The two most "
            "similar neighbours are joined again and again, and the box around every region on the way is a proposal."
        )
        yield StagePicture(f"{count} regions", words, pixels, count, count)


def _moved(boxes: Tensor, matrix: np.ndarray) -> np.ndarray:
    """[n, 4] float64 boxes in pixels of the picture."""
    x, y = matrix[0, 0], matrix[1, 1]
    return boxes.numpy().astype(np.float64) * [x, y, x, y] + np.tile(matrix[:2, 2], 2)


def _boxes(picture: np.ndarray, stage: BoxStage, boxes: np.ndarray) -> StagePicture:
    """The first boxes of a stage, the best on top."""
    drawn = min(DRAWN, len(boxes))
    colours = [_colour(stage, i) for i in range(drawn)]
    pixels = _draw(picture, [(boxes[i], colours[i], 2) for i in reversed(range(drawn))])
    return StagePicture(stage.name, stage.words, pixels, len(boxes), drawn)


def _bins(picture: np.ndarray, stage: BoxStage, boxes: np.ndarray) -> StagePicture:
    """The bins of a region, in the part of the picture around it."""
    if not len(boxes) or (boxes[:, 2:] <= boxes[:, :2]).all():
        return StagePicture(stage.name, stage.words, picture, 0, 0)
    height, width = picture.shape[:2]
    hull = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
    margin = 0.4 * (hull[2:] - hull[:2]).max() + 2
    x1, y1 = (max(0, int(value - margin)) for value in hull[:2])
    x2, y2 = (min(side, int(value + margin) + 1) for value, side in zip(hull[2:], (width, height), strict=True))
    if x2 - x1 < 2 or y2 - y1 < 2:
        return StagePicture(stage.name, stage.words, picture, len(boxes), 0)
    scale = SHOWN / max(x2 - x1, y2 - y1)
    part = cv2.resize(picture[y1:y2, x1:x2], None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    placed = (boxes - [x1, y1, x1, y1]) * scale
    pixels = _draw(part, [(box, UNNAMED, 2) for box in placed], dimmed=0.85)
    return StagePicture(stage.name, stage.words, pixels, len(boxes), len(boxes))


def _suppression(picture: np.ndarray, stage: BoxStage, boxes: np.ndarray) -> Iterator[StagePicture]:
    """The first steps of the suppression that drop something: the box that stays, and those that it drops."""
    shown = 0
    for kept, dropped in suppression_steps(stage):
        if not len(dropped):
            continue
        rows = [(boxes[i], GONE, 1) for i in dropped[:DRAWN].tolist()]
        pixels = _draw(picture, [*rows, (boxes[kept], _colour(stage, kept), 3)])
        score = "" if stage.scores is None else f" of score {float(stage.scores[kept]):.2f}"
        words = (
            f"The box{score} stays, and the {len(dropped)} of its class that overlap it by an IoU above {stage.nms:g} "
            "go (red)."
        )
        shown += 1
        yield StagePicture(f"suppression, step {shown}", words, pixels, 1 + len(dropped), 1 + min(DRAWN, len(dropped)))
        if shown == STEPS:
            return


def suppression_steps(stage: BoxStage) -> Iterator[tuple[int, Tensor]]:
    """Which box [4] stays, and the numbers of those that it drops, by falling score (ops/nms.py, one box a step)."""
    labels = torch.zeros(len(stage.boxes)) if stage.labels is None else stage.labels
    left = torch.ones(len(stage.boxes), dtype=torch.bool)
    for i in range(len(stage.boxes)):
        if not left[i]:
            continue
        over = box_iou(stage.boxes[i : i + 1], stage.boxes)[0] > (stage.nms or 0.0)
        drops = over & left & (labels == labels[i])
        drops[i] = False
        left &= ~drops
        yield i, drops.nonzero()[:, 0]


def _colour(stage: BoxStage, row: int) -> Colour:
    return UNNAMED if stage.labels is None else class_colour(int(stage.labels[row]))


def _draw(picture: np.ndarray, boxes: Sequence[tuple[np.ndarray, Colour, int]], dimmed: float = 0.6) -> np.ndarray:
    """The picture, darker, under boxes with their colours and line widths; small ones are enlarged."""
    scale = max(1.0, SHOWN / max(picture.shape[:2]))
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    image = Image.fromarray((picture * dimmed).astype(np.uint8)).resize(size)
    pen = ImageDraw.Draw(image)
    line = max(1, round(max(size) / 600))
    for box, colour, width in boxes:
        x1, y1, x2, y2 = (np.nan_to_num(box) * scale).tolist()
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=width * line)
    return np.asarray(image)
