"""Write models/catalogue.json from the model files: `python -m saccade.models.make_catalogue`.

`saccade models` and the lookup by name read that file, so that neither has to import torch.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from saccade.models import CATALOGUE
from saccade.models.dry_run import model_of_shapes
from saccade.models.paper import paper_of

ROOMS = ("backbones", "detectors", "segmenters")


def model_modules() -> list[ModuleType]:
    """The modules of all rooms that define VARIANTS, by name."""
    modules = []
    for room in ROOMS:
        package = importlib.import_module(f"saccade.models.{room}")
        for found in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            module = importlib.import_module(f"{package.__name__}.{found}")
            if hasattr(module, "VARIANTS"):
                modules.append(module)
    return modules


def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds of all convolutions and linear layers in one forward pass; biases, norms, poolings not counted."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output[:, 0].numel() * layer.weight.numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            total += inputs[0][:, 0].numel() * layer.weight.numel()
        elif isinstance(layer, nn.Linear):
            total += inputs[0].numel() * layer.out_features

    counted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, counted)]
    with torch.inference_mode():
        model(images)
    for handle in handles:
        handle.remove()
    return total


def describe(module: ModuleType, name: str) -> dict[str, Any]:
    """The entry of a variant: module, tasks, paper, exact parameters, multiply-adds of one image, input side."""
    facts = state(module, name)
    size = facts["size"]
    model = model_of_shapes(module, module.VARIANTS[name])
    return facts | {"macs": multiply_adds(model, torch.empty(1, 3, size, size, device="meta"))}


def state(module: ModuleType, name: str) -> dict[str, Any]:
    """The entry without the multiply-adds, which take a forward pass."""
    parameters = sum(p.numel() for p in model_of_shapes(module, module.VARIANTS[name]).parameters())
    paper = paper_of(module, name)
    return {
        "module": module.__name__,
        "tasks": list(module.TASKS),
        "paper": paper.title,
        "authors": paper.authors,
        "where": paper.where,
        "year": paper.year,
        "parameters": parameters,
        "size": module.SIZE if isinstance(module.SIZE, int) else module.SIZE[name],
    }


def build() -> dict[str, dict[str, Any]]:
    """All entries, sorted by name.

    Raises:
        ValueError: two modules define the same name.
    """
    entries: dict[str, dict[str, Any]] = {}
    for module in model_modules():
        for name in module.VARIANTS:
            if name in entries:
                raise ValueError(f"{name} is defined by {entries[name]['module']} and by {module.__name__}")
            entries[name] = describe(module, name)
    return dict(sorted(entries.items()))


def text(entries: dict[str, dict[str, Any]]) -> str:
    """The file's content: stable, one entry a line, so that a change shows as a line in a diff."""
    lines = [f"  {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in entries.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    CATALOGUE.write_text(text(build()), encoding="utf-8")
