"""The maps that layers give for an image, found in any network by listening to its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import UsageError, suggest
from saccade.layers.maps import Maps

TRUNK = "features"  # the trunk contract: a module of this name, or a method that hands its maps out through `Maps`
Shape = tuple[int, int, int]  # channels, height, width


@contextmanager
def recorded_maps(model: nn.Module, copies: Sequence[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """While it is open, every map of a single image is kept under its layer's name, in the order of computation.

    A map is [1, c, h, w] with more than one cell, given by the first convolution or later. A layer that gives several
    has them as `name[0]`, `name[1]` ...; of several calls the last one is kept. What a trunk hands out is called
    `features`, be that a module or a method. The maps are those of the computation, with its gradients, and a later
    layer that works in place changes them; with `copies` only the maps of these names are kept, as they were when their
    layer gave them.
    """
    maps: dict[str, Tensor] = {}
    begun: list[str] = []

    def keep(name: str, output: object) -> None:
        several = isinstance(output, list | tuple)
        values: list[Any] = list(output) if isinstance(output, list | tuple) else [output]
        for i, value in enumerate(values):
            is_map = isinstance(value, Tensor) and value.ndim == 4 and len(value) == 1 and value[0, 0].numel() > 1
            if is_map and value.is_floating_point():
                key = f"{name}[{i}]" if several else name
                maps.pop(key, None)
                if copies is None:
                    maps[key] = value
                elif key in copies:
                    maps[key] = value.detach().clone()

    def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hear(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                begun.append(name)
            if begun:
                keep(name, output)

        return hear

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                shown = f"{name.removesuffix('maps')}{TRUNK}" if isinstance(module, Maps) else name
                stack.callback(module.register_forward_hook(listen(shown)).remove)
        yield maps


@torch.no_grad()
def layer_shapes(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Shape]:
    """Name and (channels, height, width) of every map that `model(*inputs)` computes, in the order of computation."""
    with recorded_maps(model) as maps:
        model(*inputs)
    return {name: (m.shape[1], m.shape[2], m.shape[3]) for name, m in maps.items()}


def of_trunk(name: str) -> bool:
    """Whether these are maps of the trunk contract."""
    return name.partition("[")[0].rpartition(".")[2] == TRUNK


def stage_layers(shapes: Mapping[str, Shape]) -> list[str]:
    """One layer for each map size, in the order of computation: that of the trunk contract, else of the outermost
    modules that give it the last."""
    best: dict[tuple[int, int], str] = {}
    depth = {name: -1 if of_trunk(name) else name.count(".") for name in shapes}
    for name, (_, height, width) in shapes.items():
        before = best.get((height, width))
        if before is None or depth[name] <= depth[before]:
            best[height, width] = name
    return [name for name in shapes if name in best.values()]


def check_layers(wanted: Sequence[str], shapes: Mapping[str, Shape]) -> None:
    """Raises UsageError that lists the layers where one of `wanted` is none of them."""
    for name in wanted:
        if name not in shapes:
            near = suggest(name, shapes)
            near = f"{near} " if near.startswith("did you") else ""
            listed = ", ".join(f"{layer} ({c}x{h}x{w})" for layer, (c, h, w) in shapes.items())
            raise UsageError(f"--layers {name!r}: no layer of this name gives maps. {near}Layers that do: {listed}")


@torch.no_grad()
def maps_of(model: nn.Module, inputs: Sequence[Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The maps [c, h, w] float32 of some layers, as those layers gave them, on the CPU.

    Raises:
        UsageError: a name that is not a layer with maps.
    """
    check_layers(names, layer_shapes(model, inputs))
    with recorded_maps(model, copies=names) as maps:
        model(*inputs)
    return {name: maps[name][0].float().cpu() for name in names}
