"""Small pictures of every task, from which a small network learns in seconds: what `test_contract.py` shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from saccade.data.types import IGNORE, Annotation, Batch, Objects

COLOURS = torch.tensor([[0.95, 0.1, 0.1], [0.1, 0.95, 0.1], [0.1, 0.1, 0.95], [0.95, 0.95, 0.1]])  # of the classes
CLASSES = len(COLOURS)


def pictures(task: str, images: int, side: int, given: bool = False, alone: bool = False) -> Batch:
    """A batch [images, 3, side, side] of CLASSES classes with its truth, the same at each call.

    Args:
        given: with boxes for a model that takes some.
        alone: with one object an image, of class 0, whose box is all of it.
    """
    generator = torch.Generator().manual_seed(0)
    size = (side, side)
    if task == "embed":  # noise around the colour of an identity, of which images 2 i and 2 i + 1 show one
        noise = torch.rand(images, 3, side, side, generator=generator)
        labels = [(i // 2) % CLASSES for i in range(images)]
        colours = torch.stack([COLOURS[label][:, None, None] for label in labels])
        return Batch(0.5 * noise + 0.5 * colours, [size] * images, [Annotation(size, label=label) for label in labels])
    if task in ("classify", "tag"):  # noise around one colour an image; image i is of class i % CLASSES
        noise, colour = (torch.rand(images, 3, s, s, generator=generator) for s in (side, 1))
        labels = [i % CLASSES for i in range(images)]
        truth = [Annotation(size, label=label, tags=torch.arange(CLASSES) == label) for label in labels]
        return Batch(0.3 * noise + 0.7 * colour, [size] * images, truth)
    ground = 0.4 + 0.1 * torch.rand(images, 3, side, side, generator=generator)
    truth = [_drawn(task, i, picture) for i, picture in enumerate(ground)]
    if alone:
        truth = [_alone(t) for t in truth]
    boxes = [_near(t.objects, side) for t in truth if t.objects is not None]
    if task == "boxes3d":
        boxes = [Objects(t.objects.boxes, t.objects.labels) for t in truth if t.objects is not None]
    return Batch(ground, [size] * images, truth, given=boxes if given else None, cameras=[t.camera for t in truth])


def _drawn(task: str, i: int, picture: torch.Tensor) -> Annotation:
    """The truth of image i, whose rectangles are drawn into `picture` [3, H, W]."""
    side = picture.shape[-1]
    if task == "localize":
        x, y, edge = 8 * (i % 3), 6 * (i % 4), 20 + 4 * (i % 5)
        boxes = torch.tensor([[x, y, x + edge, y + edge]]) * side // 64
        labels = torch.tensor([i % CLASSES])
    else:
        boxes = torch.tensor([[10 + 5 * i, 12, 50 + 5 * i, 60], [70, 64 - 4 * i, 110, 104 - 4 * i]]) * side // 128
        labels = torch.tensor([i % 3, (i + 1) % 3])  # the last class is in no picture
    masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    for mask, label in zip(masks, labels, strict=True):
        picture[:, mask] = COLOURS[label][:, None]
    if task == "segment":
        semantic = torch.zeros(side, side, dtype=torch.uint8)  # class 0 is the ground
        for mask, label in zip(masks, labels, strict=True):
            semantic[mask] = max(1, int(label))
        return Annotation((side, side), semantic=semantic)
    objects = Objects(boxes.float(), labels, masks=masks if task == "instances" else None)
    if task == "pose":
        objects.keypoints = corners(objects.boxes)
    if task == "boxes3d":
        objects.cuboids = standing(objects)
        return Annotation((side, side), objects=objects, camera=camera(side))
    return Annotation((side, side), label=int(labels[0]) if task == "localize" else None, objects=objects)


def _alone(truth: Annotation) -> Annotation:
    """The first of the objects, with all of the image for its box."""
    assert truth.objects is not None
    first, (height, width) = truth.objects[:1], truth.size
    whole = torch.tensor([[0.0, 0.0, width, height]])
    return replace(truth, objects=replace(first, boxes=whole, labels=torch.zeros_like(first.labels)))


def corners(boxes: torch.Tensor) -> torch.Tensor:
    """Four joints [n, 4, 3] of boxes [n, 4]: their corners, a pixel inside, of which the last is not labelled."""
    x1, y1, x2, y2 = (boxes + torch.tensor([1.0, 1.0, -1.0, -1.0])).unbind(1)
    seen = torch.full_like(x1, 2)
    rows = [(x1, y1, seen), (x2, y1, seen), (x1, y2, seen), (0 * x2, 0 * y2, 0 * seen)]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def camera(side: int) -> np.ndarray:
    """A camera of images of a side."""
    return np.array([[side, 0, side / 2, 0], [0, side, side / 2, 0], [0, 0, 1.0, 0]])


def standing(objects: Objects) -> torch.Tensor:
    """Cuboids [n, 7] ten metres ahead, whose sizes and rotations follow from the class."""
    kinds = objects.labels.float()
    rows = [1.5 + 0.2 * kinds, 1.6 - 0.1 * kinds, 4 - kinds, kinds - 1, 0 * kinds + 1, 0 * kinds + 10, kinds - 1.5]
    return torch.stack(rows, 1)


def _near(objects: Objects, side: int) -> Objects:
    """Boxes for a model that is given some: each true one, moved a little and moved away."""
    boxes = objects.boxes
    moved = torch.cat([boxes, boxes + side / 32, boxes - side / 32, boxes.flip(0) / 2]).clamp(0, side)
    return Objects(moved, torch.zeros(len(moved), dtype=torch.int64))


def nothing(task: str, size: tuple[int, int]) -> Annotation:
    """The truth of an image in which there is nothing: no object, or a map that is ignored everywhere."""
    if task == "segment":
        return Annotation(size, semantic=torch.full(size, IGNORE, dtype=torch.uint8))
    masks = torch.zeros(0, *size, dtype=torch.bool) if task == "instances" else None
    points = torch.zeros(0, 4, 3) if task == "pose" else None
    none = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), masks=masks, keypoints=points)
    if task == "boxes3d":
        none.cuboids = torch.zeros(0, 7)
        return Annotation(size, objects=none, camera=camera(size[1]))
    return Annotation(size, objects=none)
