"""The peer's side of train_step.py: torchvision's network, eager, in float32; runs in the peers' environment.

    python train_step_peer.py '{"model": "resnet18", "size": 224, "batch": 16, "kind": "classify"}'

The output is that of train_step_saccade.py.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import torch._dynamo  # before the measure, as torchvision: torch's optimisers load it at their first step
import torchvision  # noqa: F401
from discs import disc_masks, mask_boxes
from torch.nn.functional import cross_entropy
from torchvision_predict import build, memory

AUXILIARY = {
    "googlenet": 0.3,
    "inception_v3": 0.4,
    "fcn_resnet50": 0.5,
}  # weight of each auxiliary classifier in torchvision's references

SEGMENTED = {"fcn_resnet50": 21, "segnet": 11}  # classes


def loss_of(outputs: Any, labels: torch.Tensor, weight: float) -> torch.Tensor:
    """Cross-entropy, with that of the auxiliary logits of named tuples (GoogLeNetOutputs, InceptionOutputs) and
    FCN's dictionary."""
    if isinstance(outputs, torch.Tensor):
        return cross_entropy(outputs, labels)
    if isinstance(outputs, dict):
        outputs = (outputs["out"], outputs["aux"])
    main, *auxiliary = (cross_entropy(logits, labels) for logits in outputs)
    return main + weight * sum(auxiliary)


def disc_targets(images: int, size: int) -> list[dict[str, torch.Tensor]]:
    """Boxes, labels and masks of every image, as torchvision's detectors take them."""
    return [
        {
            "boxes": torch.from_numpy(mask_boxes(masks)),
            "labels": torch.ones(len(masks), dtype=torch.int64),
            "masks": torch.from_numpy(masks.astype("uint8")),
        }
        for masks in disc_masks(images, size)
    ]


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.manual_seed(0)
    imports = memory("VmRSS")
    model = build({"peer": task["peer"], "network": task["model"], "size": task["size"]}).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    pixels = torch.randn(task["batch"], 3, task["size"], task["size"])
    labels = torch.randint(1000, (task["batch"],))
    if task["kind"] == "segment":
        labels = torch.randint(SEGMENTED[task["model"]], (task["batch"], task["size"], task["size"]))
    targets = disc_targets(task["batch"], task["size"]) if task["kind"] == "instances" else []
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "precision": "fp32", "imports_mb": imports}
    print(json.dumps(facts), flush=True)
    images = 0
    while True:
        if targets:
            loss = sum(model(list(pixels), targets).values())
        else:
            loss = loss_of(model(pixels), labels, AUXILIARY.get(task["model"], 0.0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        images += len(pixels)
        print(time.monotonic(), images, flush=True)


if __name__ == "__main__":
    main()
