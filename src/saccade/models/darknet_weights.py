"""The numbers of a network in Darknet's binary `.weights` form.

Such a file has no names and no shapes. It starts with three int32 (major, minor, revision of the format) and the
number of images seen in training, as int64 from version 0.2 on and as int32 before; then, layer by layer in order of
the network, float32: without batch norm the biases and the weights; with it the shifts (beta), scales (gamma), running
means, running variances, and the weights. All little-endian. So it can only be read against a list of layers, and the
one check that it belongs to them is that they use it up exactly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saccade.errors import ModelFileError, SaccadeError, UsageError
from saccade.layers.locally_connected import LocallyConnected2d


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that has numbers in the file, by its place in a state dict."""

    name: str  # key of the convolution or linear layer: "stem.conv1.conv"
    shape: tuple[int, ...]  # of its weight: (c_out, c_in / groups, k, k), or (outputs, inputs)
    norm: str | None = None  # key of its batch norm; without one the layer has a bias
    bias: tuple[int, ...] | None = None  # shape of the bias where it is not one number an output

    @property
    def numbers(self) -> int:
        return sum(math.prod(shape) for _, shape in self.blocks)

    @property
    def blocks(self) -> list[tuple[str, tuple[int, ...]]]:
        """State dict keys and shapes in the order of the file."""
        width = self.shape[:1]
        if self.norm is None:
            vectors = [(f"{self.name}.bias", self.bias or width)]
        else:
            vectors = [(f"{self.norm}.{part}", width) for part in ("bias", "weight", "running_mean", "running_var")]
        return [*vectors, (f"{self.name}.weight", self.shape)]


def file_layers(model: nn.Module) -> list[Layer]:
    """The layers of a model in the order of its modules, which must be that of the file.

    A batch norm belongs to the convolution before it.
    """
    layers: list[Layer] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers.append(Layer(name, tuple(module.weight.shape)))
        elif isinstance(module, LocallyConnected2d):
            layers.append(Layer(name, tuple(module.weight.shape), bias=tuple(module.bias.shape)))
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1] = Layer(layers[-1].name, layers[-1].shape, name)
    return layers


def read_for_model(path: Path, model: nn.Module, exact: bool = False) -> dict[str, Tensor]:
    """The state dict of a model whose modules stand in the order of the file; without the batch counters.

    Where only the last layer, without batch norm, makes the difference, the file's own number of classes is taken: its
    classifier then has another shape than the model's, or, in a file made to start a detector from
    (`darknet53.conv.74`), is absent.

    Args:
        exact: the file must have the model's classes, whose layers a person named as well: which of the two is at fault
            where it is shorter is then not known.

    Raises:
        ModelFileError: unreadable, not of this format, shorter than the layers need, or not finite.
        UsageError: longer than the layers need: of another network; if `exact`, shorter too.
    """
    numbers, layers = _read_numbers(path), file_layers(model)
    last = layers[-1]
    left, each = len(numbers) - sum(layer.numbers for layer in layers[:-1]), 1 + math.prod(last.shape[1:])
    if exact:
        return _cut(path, numbers, layers, short=UsageError)
    if last.norm is None and left == 0:
        layers = layers[:-1]
    elif last.norm is None and left > 0 and left % each == 0:
        layers[-1] = Layer(last.name, (left // each, *last.shape[1:]))
    return _cut(path, numbers, layers)


def _read_numbers(path: Path) -> NDArray[np.float32]:
    """All numbers after the head of a `.weights` file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) < 16:
        raise ModelFileError(f"{path}: {len(content)} bytes; a Darknet .weights file has a head of at least 16")
    major, minor, revision = struct.unpack("<iii", content[:12])
    if not (0 <= major < 1000 and 0 <= minor < 1000 and revision >= 0):
        raise ModelFileError(
            f"{path}: not a Darknet .weights file of a known form: it states version {major}.{minor}.{revision}"
        )
    head = 20 if 10 * major + minor >= 2 else 16
    if len(content) < head or (len(content) - head) % 4:
        raise ModelFileError(
            f"{path}: {len(content)} bytes are not a head of {head} and whole float32 numbers; truncated, get it again"
        )
    return np.frombuffer(content, "<f4", offset=head)


def _cut(
    path: Path, numbers: NDArray[np.float32], layers: Sequence[Layer], short: type[SaccadeError] = ModelFileError
) -> dict[str, Tensor]:
    """The numbers as the tensors of the layers, which must use them up; raises `short` where they are too few."""
    wanted = sum(layer.numbers for layer in layers)
    if len(numbers) != wanted:
        kind = UsageError if len(numbers) > wanted else short
        raise kind(
            f"{path}: {len(numbers):,} numbers, where the {len(layers)} layers of the network need {wanted:,}: "
            f"{_length_fault(len(numbers), layers)}"
        )
    state: dict[str, Tensor] = {}
    place = 0
    for layer in layers:
        for name, shape in layer.blocks:
            block = numbers[place : place + math.prod(shape)].astype(
                np.float32
            )  # a copy: the file's bytes are read-only
            if not np.isfinite(block).all():
                raise ModelFileError(f"{path}: {name} holds values that are not finite; damaged, or of other layers")
            state[name] = torch.from_numpy(block).view(shape)
            place += len(block)
    return state


def _length_fault(found: int, layers: Sequence[Layer]) -> str:
    place = 0
    for layer in layers:
        place += layer.numbers
        if place > found:
            return f"it ends in layer {layer.name}; truncated, or weights of another network"
    return "weights of another network"
