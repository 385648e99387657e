"""Saccade's side of train_step.py: what `saccade train` does with a batch, over and over with the same one.

    python train_step_saccade.py TASK  # {"model": "resnet18", "size": 224, "batch": 16, "kind": "classify", ...}

Plan and preparation are those of a real run, on a folder of noise that is made for it. First line: {"parameters",
"precision", "imports_mb": resident memory before the run was prepared}; then "SECONDS IMAGES" lines: the machine's
monotonic clock and the images trained on so far. Ends when it is killed.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch._dynamo  # before the measure: torch's optimisers load it at their first step
from discs import disc_masks, mask_boxes
from predict import memory

from saccade.data.outlines import instance_map
from saccade.data.types import Annotation, Batch, Objects
from saccade.models import model_module
from saccade.training.display import Display
from saccade.training.plan import make_plan
from saccade.training.prepare import Parts, prepare
from saccade.verbs.train import _backward

CLASSES = {"classify": 1000, "instances": 90}  # of the public networks


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.manual_seed(0)
    model_module(task["model"])
    imports = memory("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        parts = prepared(task, Path(folder))
        parameters = sum(p.numel() for p in parts.model.parameters())
        facts = {"parameters": parameters, "precision": parts.precision, "imports_mb": imports}
        print(json.dumps(facts), flush=True)
        train_without_end(parts, random_batch(task, task["batch"], task["size"]))


def prepared(task: dict[str, object], folder: Path) -> Parts:
    """A run on about as many images of noise as a batch has, a class or two in the labels, CLASSES in the network."""
    rng = np.random.default_rng(0)
    if task["kind"] == "instances":
        write_discs(int(str(task["batch"])) + 2, folder / "data")
    if task["kind"] == "segment":
        write_maps(int(str(task["batch"])) + 2, classes_of(task), folder / "data")
    for number in range(int(str(task["batch"])) + 2 if task["kind"] == "classify" else 0):
        split = "train" if number > 1 else "val"
        path = folder / "data" / split / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (32, 32, 3), np.uint8))
    names = ("size", "batch", "precision")
    flags = {name: task[name] for name in names} | {"workers": 0, "lr": 1e-3}
    if task["kind"] in CLASSES:  # of class maps there are as many as the values in them
        flags["classes"] = CLASSES[str(task["kind"])]
    plan = make_plan(str(task["model"]), folder / "data", recipe="default", flags=flags)
    return prepare(plan, folder / "run", "cpu", Display(False), False)[0]


def classes_of(task: dict[str, object]) -> int:
    """Of the published network for class maps."""
    return int(model_module(str(task["model"])).VARIANTS[str(task["model"])].classes)


def write_maps(images: int, classes: int, folder: Path) -> None:
    """Images of noise, and maps in which every class stands somewhere."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(images):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), rng.integers(0, 256, (64, 64, 3), np.uint8))
        cv2.imwrite(
            str(folder / "masks" / f"{number}.png"), (np.arange(64 * 64) % classes).astype(np.uint8).reshape(64, 64)
        )


def write_discs(images: int, folder: Path) -> None:
    """Images of noise, and maps of the numbers of their objects."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, masks in enumerate(disc_masks(images, 64)):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), rng.integers(0, 256, (64, 64, 3), np.uint8))
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), instance_map(torch.from_numpy(masks)))


def random_batch(task: dict[str, object], images: int, size: int) -> Batch:
    """As the loader makes it: [b, 3, size, size] uint8, channels last in memory."""
    kind = str(task["kind"])
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)
    if kind == "instances":
        truth = [
            Annotation((size, size), objects=objects_of(torch.from_numpy(masks))) for masks in disc_masks(images, size)
        ]
    elif kind == "segment":
        maps = torch.randint(classes_of(task), (images, size, size), dtype=torch.uint8)
        truth = [Annotation((size, size), semantic=plane) for plane in maps]
    else:
        labels = torch.randint(CLASSES[kind], (images,)).tolist()
        truth = [Annotation((size, size), label=label) for label in labels]
    ids = [str(i) for i in range(images)]
    return Batch(pixels.contiguous(memory_format=torch.channels_last), [(size, size)] * images, truth, ids)


def objects_of(masks: torch.Tensor) -> Objects:
    """Of the first class."""
    boxes = torch.from_numpy(mask_boxes(masks.numpy()))
    return Objects(boxes, torch.zeros(len(masks), dtype=torch.int64), masks=masks)


def train_without_end(parts: Parts, batch: Batch) -> None:
    """The middle of `saccade.verbs.train._fit`."""
    parts.set_training()
    limit = parts.plan.settings.clip_norm or math.inf
    step = 0
    while True:
        losses = _backward(parts, batch.to(parts.accelerator.device))
        parts.accelerator.clip_grad_norm_(parts.step.parameters(), limit)
        parts.optimizer.step()
        parts.optimizer.zero_grad(set_to_none=True)
        if parts.averaged is not None:
            parts.averaged.update(parts.model, step)
        if not all(map(math.isfinite, losses.values())):
            raise SystemExit(f"the loss is no longer finite after {step} steps: {losses}")
        step += 1
        print(time.monotonic(), step * len(batch), flush=True)


if __name__ == "__main__":
    main()
