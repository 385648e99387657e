"""Write models/catalogue.json and docs/models.md from the model files: `python -m saccade.models.make_catalogue`.

`saccade models` and the lookup by name read the first, so that neither has to import torch.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import textwrap
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from saccade.models import CATALOGUE, file_of
from saccade.models.contract import Room, example_inputs, paper_of, size_of, strides_of
from saccade.models.dry_run import model_of_shapes
from saccade.models.published import PUBLISHED

ROOMS = {
    "backbones": "Classification networks, and trunks of the others",
    "localizers": "Localizers",
    "detectors": "Detectors",
    "segmenters": "Segmenters",
    "pose": "Networks for poses",
    "faces": "Networks that embed: faces, and whatever else is to be told apart",
    "boxes3d": "Networks for boxes in three dimensions",
}
WIDTH = 120  # columns of the page, tables aside
PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def model_modules() -> list[Room]:
    """The modules of all rooms that define VARIANTS, by name."""
    modules = []
    for room in ROOMS:
        package = importlib.import_module(f"saccade.models.{room}")
        for found in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
            module = importlib.import_module(f"{package.__name__}.{found}")
            if hasattr(module, "VARIANTS"):
                modules.append(cast("Room", module))
    return modules


def multiply_adds(model: nn.Module, *inputs: Tensor) -> int:
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
        model(*inputs)
    for handle in handles:
        handle.remove()
    return total


def entry_of(module: Room, name: str) -> dict[str, Any]:
    """The entry of a variant: module, tasks, paper, exact parameters, multiply-adds of one image, input side; of a
    trunk the `strides` of its maps."""
    config, paper, size = module.VARIANTS[name], paper_of(module, name), size_of(module, name)
    model = model_of_shapes(module, config)
    with torch.device("meta"):
        inputs = example_inputs(module, config, size, size)
    strides = strides_of(model)
    return ({} if strides is None else {"strides": strides}) | {
        "module": module.__name__,
        "tasks": list(module.TASKS),
        "paper": paper.title,
        "authors": paper.authors,
        "where": paper.where,
        "year": paper.year,
        "parameters": sum(p.numel() for p in model.parameters()),
        "size": size,
        "macs": multiply_adds(model, *inputs),
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
            entries[name] = entry_of(module, name)
    return dict(sorted(entries.items()))


def text(entries: dict[str, dict[str, Any]]) -> str:
    """The file's content: stable, one entry a line, so that a change shows as a line in a diff."""
    lines = [f"  {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in entries.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def page(entries: dict[str, dict[str, Any]]) -> str:
    """docs/models.md: a chapter a room, a section a file with the first line of its docstring, a table of variants."""
    lines = [
        "# Models",
        "",
        "Written by `python -m saccade.models.make_catalogue` from the model files; `saccade models` prints the same.",
        "Parameters are those at the paper's class count; multiply-adds are those of convolutions and linear layers",
        "for one image of the given side; weights are the words that `--weights` takes",
        "([published files](reference/weights.md)).",
    ]
    for room, title in ROOMS.items():
        lines += ["", f"## {title}"]
        rows = [(e["module"], name, e) for name, e in entries.items() if e["module"].split(".")[-2] == room]
        for module, group in groupby(sorted(rows, key=lambda row: row[:2]), key=lambda row: row[0]):
            variants = [(name, entry) for _, name, entry in group]
            summary = (importlib.import_module(module).__doc__ or "").split("\n\n")[0].replace("\n", " ")
            papers = dict.fromkeys(f"{e['authors']}: *{e['paper']}*, {e['where']}" for _, e in variants)
            heading = f"### {module.split('.')[-1]}"
            file = f"`{file_of(variants[0][1])}`"
            lines += ["", heading, "", file, "", *_wrapped(summary), ""]
            lines += [*(line for paper in papers for line in _wrapped(f"- {paper}", indent="  ")), ""]
            lines += ["| name | tasks | year | parameters | multiply-adds | input | weights |"]
            lines += ["|---|---|--:|--:|--:|--:|---|"]
            lines += [
                f"| `{name}` | {', '.join(e['tasks'])} | {e['year']} | {e['parameters']:,} | {e['macs'] / 1e9:.2f} G "
                f"| {e['size']} | {', '.join(PUBLISHED.get(name, {}))} |"
                for name, e in variants
            ]
    return "\n".join(lines) + "\n"


def _wrapped(prose: str, indent: str = "") -> list[str]:
    """Lines that end by column 120; all but the first begin with `indent`."""
    return textwrap.wrap(prose, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    made = build()
    CATALOGUE.write_text(text(made), encoding="utf-8")
    if PAGE.parent.is_dir():  # in a checkout
        PAGE.write_text(page(made), encoding="utf-8")
