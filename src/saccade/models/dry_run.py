"""Forward passes of shapes alone, on torch's meta device: nothing is allocated and nothing is computed."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from saccade.errors import UsageError
from saccade.models.contract import Room, every_pixel, example_inputs

# What constructors and torch raise at values and sizes that do not fit; its words differ by operation.
FAULTS = (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError, AssertionError, UsageError)
SPARE = 5000  # modules and weights that a network may have besides two for each tensor of its state dict
FILLS = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_}


class _Unfilled(TorchFunctionMode):
    """Leaves tensors as they are where a constructor fills them: on the meta device there is nothing to fill, and torch
    works that out in Python, which takes longer than all else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in FILLS else func(*args, **(kwargs or {}))


def model_of_shapes(module: Room, config: Any, tensors: int | None = None) -> nn.Module:
    """A room's model in evaluation mode, of tensors without numbers.

    Args:
        tensors: how many there are in the file whose network it should be; a configuration that asks for many more
            (ten million layers) is given up at once.

    Raises:
        UsageError: it asks for more. Else what the model raises at a configuration that does not fit.
    """
    most = None if tensors is None else 2 * tensors + SPARE
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1
        if most is not None and count > most:
            raise UsageError(f"a network of more than {most} layers and weights; the file holds {tensors}")

    watches = [register_module_parameter_registration_hook(counted), register_module_buffer_registration_hook(counted)]
    watches.append(register_module_module_registration_hook(counted))
    try:
        with torch.device("meta"), _Unfilled():
            model: nn.Module = module.Model(config)
    finally:
        for watch in watches:
            watch.remove()
    return model.eval()


def fault_at(room: Room, model: nn.Module, height: int, width: int) -> Exception | None:
    """What stops one image [3, height, width] on its way through a room's model of `model_of_shapes`; None where it
    goes through. Where `forward` answers for fewer pixels than it is given, all of them are asked for, as in training.
    """
    try:
        with torch.no_grad(), torch.device("meta"):
            every_pixel(model)(*example_inputs(room, model.config, height, width))
    except FAULTS as error:
        return error
    return None


def takes(room: Room, model: nn.Module, height: int, width: int) -> bool:
    """Whether one image [3, height, width] goes through a room's model of `model_of_shapes`."""
    return fault_at(room, model, height, width) is None


def smallest_side(room: Room, model: nn.Module, known: int) -> int:
    """The smallest side of a square image that goes through, given one that does."""
    low, high = 0, known  # low does not go through, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(room, model, middle, middle) else (middle, high)
    return high


def class_tensors(module: Room, config: Any) -> set[str]:
    """Names of the tensors of a model whose shape depends on the number of classes, or of joints: its output layers.

    Args:
        module: the model's room.
        config: its Config, which has the field `classes`.
    """
    own = model_of_shapes(module, config).state_dict()
    found: set[str] = set()
    for counted in ("classes", "joints"):
        if hasattr(config, counted):
            changed = dataclasses.replace(config, **{counted: getattr(config, counted) + 1})
            wider = model_of_shapes(module, changed).state_dict()
            found |= {name for name, tensor in own.items() if name not in wider or wider[name].shape != tensor.shape}
    return found
