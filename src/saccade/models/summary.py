"""The layers of a network: `saccade models MODEL`. Shapes alone are computed, nothing is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config import Size, parse_sides
from saccade.errors import UsageError
from saccade.models import catalogue, file_of, known_model, model_config, model_module
from saccade.models.contract import Room, example_inputs, size_of
from saccade.models.dry_run import model_of_shapes


def summarize(name: str, size: str | Size | None = None, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`{model, file, size: [height, width], parameters, layers}` of a model of the catalogue; see `layers_of`.

    Args:
        size: of the image in pixels, a side or HxW; by default that of the catalogue.
        changes: fields of its Config.

    Raises:
        UsageError: no such model, field or size.
    """
    name = known_model(name)
    module, config = model_module(name), model_config(name, **(changes or {}))
    height, width = parse_sides(size or size_of(module, name))
    rows = layers_of(module, config, height, width)
    parameters = sum(row["parameters"] for row in rows)
    return {
        "model": name,
        "file": file_of({"module": module.__name__}) if name in catalogue() else name,
        "size": [height, width],
        "parameters": parameters,
        "layers": rows,
    }


def layers_of(module: Room, config: Any, height: int, width: int) -> list[dict[str, Any]]:
    """The parts of a network that hold no others, in the order in which one image [3, height, width] meets them.

    Returns:
        A row a layer: `name` (as in the state dict), `kind`, `output` (shapes without the batch), `parameters`. A layer
        that is called for several maps has its shapes side by side; one that no image meets has none.

    Raises:
        UsageError: an image of this size does not go through.
    """
    model = model_of_shapes(module, config)
    shapes: dict[str, list[list[int]]] = {}
    leaves = {name: part for name, part in model.named_modules() if not any(True for _ in part.children())}

    def listen(name: str) -> Any:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            outputs = [output] if isinstance(output, Tensor) else list(output)
            shapes.setdefault(name, []).extend(list(o.shape[1:]) for o in outputs if isinstance(o, Tensor))

        return note

    handles = [part.register_forward_hook(listen(name)) for name, part in leaves.items()]
    try:
        with torch.no_grad(), torch.device("meta"):
            model(*example_inputs(module, config, height, width))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UsageError(f"an image of {height}x{width} does not go through: {error}; try another --size") from error
    finally:
        for handle in handles:
            handle.remove()
    own = {name: sum(p.numel() for p in part.parameters()) for name, part in leaves.items()}
    order = [*shapes, *(name for name in leaves if name not in shapes and own[name])]
    return [
        {
            "name": name,
            "kind": type(leaves[name]).__name__,
            "output": shapes.get(name, []),
            "parameters": own[name],
        }
        for name in order
    ]
