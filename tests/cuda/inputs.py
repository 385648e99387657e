"""Small batches and data sets of every task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from saccade.data.joints import Joints
from saccade.data.loader import collate
from saccade.data.types import Annotation, Batch, Objects, Sample

UNEQUAL = ("detect", "instances", "segment", "pose", "boxes3d")
JOINTS = 4  # of every object, as the small forms of models of poses have


def make_batch(task: str, side: int, classes: int = 4) -> Batch:
    """Two images of `side` pixels, for detectors and segmenters of unequal width: with a crowd, two boxes that want one
    anchor, and ignored pixels. Four of two identities where vectors are learned."""
    rng = np.random.default_rng(0)
    samples, given = [], []
    for i in range(4 if task == "embed" else 2):
        size = (side, side - side // 4 if i and task in UNEQUAL else side)
        truth = Annotation(size)
        if task in ("classify", "localize"):
            truth.label = int(rng.integers(classes))
        if task == "embed":
            truth.label = i // 2
        if task == "tag":
            truth.tags = torch.from_numpy(rng.random(classes) < 0.5)
        if task == "segment":
            truth.semantic = torch.from_numpy(rng.integers(0, classes, size, dtype=np.uint8))
            truth.semantic[:5] = 255
        if task in ("detect", "localize", "instances", "pose", "boxes3d"):
            truth.objects = _objects(rng, size, 1 if task == "localize" else 6, classes)
            given.append(_objects(np.random.default_rng(1), size, 20, 1))  # for models that take proposals
        if task == "localize" and truth.objects is not None:
            truth.objects.labels[:] = truth.label
        if task == "instances" and truth.objects is not None:
            truth.objects.masks = torch.from_numpy(rng.random((len(truth.objects), *size)) < 0.5)
        if task == "pose" and truth.objects is not None:
            truth.joints = Joints(tuple(f"joint {k}" for k in range(JOINTS)))
            truth.objects.keypoints = _joints(rng, truth.objects.boxes)
        if task == "boxes3d" and truth.objects is not None:
            truth.camera = np.array([[side, 0, side / 2, 1.0], [0, side, side / 2, 0], [0, 0, 1, 0]])
            low = torch.tensor([1.0, 1, 2, -3, 1, 8, -3])
            high = torch.tensor([2.0, 2, 5, 3, 2, 30, 3])
            share = torch.from_numpy(rng.random((len(truth.objects), 7)).astype(np.float32))
            truth.objects.cuboids = low + share * (high - low)
        samples.append(Sample(rng.integers(0, 256, (*size, 3), dtype=np.uint8), truth, f"{i}.png", size))
    batch = collate(samples)
    batch.given = given or None
    return batch


def _objects(rng: np.random.Generator, size: tuple[int, int], count: int, classes: int) -> Objects:
    corner = rng.uniform(0, 0.5, (count, 2)) * [size[1], size[0]]
    sides = rng.uniform(0.2, 0.45, (count, 2)) * [size[1], size[0]]
    boxes = torch.from_numpy(np.concatenate([corner, corner + sides], 1).astype(np.float32))
    crowd = torch.zeros(count, dtype=torch.bool)
    if count > 1:
        boxes[1] = boxes[0] + 1.0
        crowd[-1] = True
    labels = torch.from_numpy(rng.integers(0, classes, count))
    return Objects(boxes, labels, crowd=crowd, area=(boxes[:, 2:] - boxes[:, :2]).prod(1))


def _joints(rng: np.random.Generator, boxes: torch.Tensor) -> torch.Tensor:
    """[n, JOINTS, 3]: points inside the boxes, some hidden, some absent."""
    shares = torch.from_numpy(rng.uniform(0, 1, (len(boxes), JOINTS, 2)).astype(np.float32))
    seen = torch.from_numpy(rng.integers(0, 3, (len(boxes), JOINTS, 1))).float()
    points = boxes[:, None, :2] + shares * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.cat((points * (seen > 0), seen), dim=-1)


def class_folders(root: Path) -> Path:
    """Three classes by colour: 12 images to train on, 6 to validate."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for channel, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 160, (32, 32, 3), np.uint8)
                pixels[..., channel] += 80
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def tags(root: Path) -> Path:
    """Three tags by colour, on 15 images, of which a fifth will validate."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True, exist_ok=True)
    lines = ["image,tags"]
    for i in range(15):
        pixels = rng.integers(0, 160, (32, 32, 3), np.uint8)
        chosen = [channel for channel in range(3) if rng.random() < 0.5]
        pixels[..., chosen] += 80
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        lines.append(f"images/{i}.png,{' '.join('rgb'[channel] for channel in chosen)}")
    (root / "tags.csv").write_text("\n".join(lines) + "\n")
    return root


def boxes(root: Path, most: int) -> Path:
    """COCO: up to `most` bright boxes of two classes on each of 12 images to train on and 4 to validate; their outlines
    are stated too."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 12), ("val", 4)):
        (root / split).mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        things: list[dict[str, Any]] = []
        for i in range(count):
            pixels = rng.integers(0, 100, (64, 80, 3), np.uint8)
            images.append({"id": i + 1, "file_name": f"{i}.png", "width": 80, "height": 64})
            for _ in range(int(rng.integers(1, most + 1))):
                kind = int(rng.integers(2))
                x, y, w, h = (int(v) for v in (*rng.integers(0, 30, 2), *rng.integers(16, 32, 2)))
                pixels[y : y + h, x : x + w, kind] = 250
                thing = {"id": len(things) + 1, "image_id": i + 1, "category_id": kind + 1, "iscrowd": 0}
                outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
                things.append(thing | {"bbox": [x, y, w, h], "area": w * h, "segmentation": outline})
            Image.fromarray(pixels).save(root / split / f"{i}.png")
        classes = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
        content = {"images": images, "annotations": things, "categories": classes}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def masks(root: Path) -> Path:
    """Two squares on a dark ground, 12 images to train on and 3 to validate."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 100, (64, 64, 3), np.uint8)
            mask = np.zeros((64, 64), np.uint8)
            for kind in (1, 2):
                y, x = rng.integers(0, 40, 2)
                mask[y : y + 18, x : x + 18] = kind
                pixels[y : y + 18, x : x + 18, kind] = 250
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{i}.png")
    return root
