"""Images with boxes to find and proposals to choose from, and the course of a system of solves on one batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from saccade.data.types import Annotation, Batch, Objects
from saccade.models.stage import Given, Solve
from saccade.ops.boxes import box_iou

CLASSES = ["red", "green", "blue"]


def region_scenes(n: int = 4, side: int = 96) -> Batch:
    """Bright rectangles of three colours, two an image; proposals near them (IoU about 0.7) and anywhere."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, side, side, generator=generator) * 0.1 + 0.4
    truth, given = [], []
    for i in range(n):
        boxes = torch.tensor([[8.0 + 5 * i, 10, 40 + 5 * i, 46], [52, 50.0 - 4 * i, 88, 84 - 4 * i]])
        labels = torch.tensor([i % 3, (i + 1) % 3])
        for (x0, y0, x1, y1), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
            images[i, :, y0:y1, x0:x1] = 0.1
            images[i, label, y0:y1, x0:x1] = 0.95
        near = boxes.repeat(6, 1) + 4 * torch.randn(12, 4, generator=generator)
        corner = torch.rand(30, 2, generator=generator) * 60
        anywhere = torch.cat((corner, corner + 10 + 26 * torch.rand(30, 2, generator=generator)), 1)
        proposals = torch.cat((near, anywhere)).clamp(0, side)
        given.append(Objects(proposals, torch.zeros(len(proposals), dtype=torch.int64)))
        truth.append(Annotation((side, side), objects=Objects(boxes, labels)))
    return Batch(images, [(side, side)] * n, truth, given=given)


def fine_tune(model: Any, batch: Batch, steps: int, rate: float) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        optimizer.step()
    model.eval()


def solve(model: Any, stage: Any, batch: Batch, folder: Path, classes: list[str] = CLASSES) -> list[str]:
    """Put what a stage solves into the model; gives what it shows."""
    assert isinstance(stage, Solve)
    messages: list[str] = []
    cpu = torch.device("cpu")
    given = Given(model, frozenset(), classes, lambda: iter([batch[:2], batch[2:]]), cpu, 0, folder, messages.append)
    model.load_state_dict(model.state_dict() | dict(stage.solve(given)))
    return messages


def overlaps_found(model: Any, batch: Batch) -> tuple[torch.Tensor, int]:
    """The IoU of each object with the best answer of its class of a score of at least one half, and how many answers
    there are for each object."""
    best, answers, objects = [], 0, 0
    for truth, found in zip(batch.truth or (), model.predict(batch), strict=True):
        assert truth.objects is not None
        assert found.objects is not None
        assert found.objects.scores is not None
        sure = found.objects[found.objects.scores >= 0.5]
        overlap = box_iou(truth.objects.boxes, sure.boxes) * (truth.objects.labels[:, None] == sure.labels)
        best.append(torch.cat((overlap, torch.zeros(len(overlap), 1)), 1).amax(1))
        answers, objects = answers + len(sure), objects + len(overlap)
    return torch.cat(best), round(answers / objects)


def dataset(root: Path, training: int = 6, validation: int = 2) -> Path:
    """COCO: a bright square of two classes on each image."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    for split, number in (("train", training), ("val", validation)):
        (root / split).mkdir()
        images, things = [], []
        for i in range(number):
            pixels = rng.integers(0, 60, (64, 64, 3), np.uint8)
            x, y = rng.integers(2, 30, 2).tolist()
            pixels[y : y + 28, x : x + 28, i % 2] = 240
            Image.fromarray(pixels).save(root / split / f"{i}.png")
            images.append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 64})
            box = {"bbox": [x, y, 28, 28], "area": 784, "iscrowd": 0}
            things.append({"id": i + 1, "image_id": i + 1, "category_id": i % 2 + 1, **box})
        classes = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
        content = {"images": images, "annotations": things, "categories": classes}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root
