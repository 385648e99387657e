"""Darknet's two files: the network as `.cfg` text and its numbers as binary `.weights`.

A `.weights` file has no names and no shapes. It starts with three int32 (major, minor, revision of the format) and the
number of images seen in training, as int64 from version 0.2 on and as int32 before; then, layer by layer in order of
the network, float32: without batch norm the biases and the weights; with it the shifts (beta), scales (gamma), running
means, running variances, and the weights. All little-endian. So it can only be read against a list of layers, and the
one check that it belongs to them is that they use it up exactly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from saccade.errors import ModelFileError, UsageError
from saccade.files import write_whole


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that has numbers in the file, by its place in a state dict."""

    name: str  # key of the convolution or linear layer: "stem.conv1.conv"
    shape: tuple[int, ...]  # of its weight: (c_out, c_in / groups, k, k), or (outputs, inputs)
    norm: str | None = None  # key of its batch norm; without one the layer has a bias

    @property
    def numbers(self) -> int:
        return math.prod(self.shape) + self.shape[0] * (1 if self.norm is None else 4)

    @property
    def blocks(self) -> list[tuple[str, tuple[int, ...]]]:
        """State dict keys and shapes in the order of the file."""
        width = self.shape[:1]
        if self.norm is None:
            vectors = [(f"{self.name}.bias", width)]
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
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1] = Layer(layers[-1].name, layers[-1].shape, name)
    return layers


def read_weights(path: Path, layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The state dict of `layers`, in the order of the network, in a Darknet `.weights` file.

    Raises:
        ModelFileError: unreadable, not of this format, shorter than the layers need, or not finite.
        UsageError: longer than the layers need: of another network.
    """
    return _cut(path, _read_numbers(path), layers)


def read_for_model(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """The state dict of a model whose modules stand in the order of the file; without the batch counters.

    Where only the last layer, without batch norm, makes the difference, the file's own number of classes is taken: its
    classifier then has another shape than the model's, or, in a file made to start a detector from
    (`darknet53.conv.74`), is absent.

    Raises:
        ModelFileError, UsageError: as `read_weights`.
    """
    numbers, layers = _read_numbers(path), file_layers(model)
    last = layers[-1]
    left, each = len(numbers) - sum(layer.numbers for layer in layers[:-1]), 1 + math.prod(last.shape[1:])
    if last.norm is None and left == 0:
        layers = layers[:-1]
    elif last.norm is None and left > 0 and left % each == 0:
        layers[-1] = Layer(last.name, (left // each, *last.shape[1:]))
    return _cut(path, numbers, layers)


def write_weights(path: Path, layers: Sequence[Layer], state: Mapping[str, Tensor], seen: int = 0) -> None:
    """Write a state dict as a Darknet `.weights` file of version 0.2, whole or not at all.

    Args:
        layers: in the order of the network; each needs its tensors in `state`.
        seen: images seen in training.

    Raises:
        ValueError: a tensor is missing or of another shape.
        ResourceError: no permission, no space.
    """
    parts = [struct.pack("<iiiq", 0, 2, 0, seen)]
    for layer in layers:
        for name, shape in layer.blocks:
            tensor = state.get(name)
            if tensor is None or tuple(tensor.shape) != shape:
                found = "nothing" if tensor is None else str(list(tensor.shape))
                raise ValueError(f"{name}: expected a tensor of shape {list(shape)}, found {found}")
            parts.append(tensor.detach().cpu().contiguous().numpy().astype("<f4").tobytes())
    write_whole(path, b"".join(parts))


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


def _cut(path: Path, numbers: NDArray[np.float32], layers: Sequence[Layer]) -> dict[str, Tensor]:
    """The numbers as the tensors of the layers, which must use them up."""
    wanted = sum(layer.numbers for layer in layers)
    if len(numbers) != wanted:
        kind = UsageError if len(numbers) > wanted else ModelFileError  # too short may be cut short
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


@dataclass(frozen=True, slots=True)
class Section:
    """A `[kind]` of a `.cfg` file with its `key=value` lines."""

    kind: str
    options: dict[str, str]
    line: int  # of the file, from 1
    path: Path

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number. Raises ModelFileError where it is none, or absent without default."""
        text = self.options.get(key)
        if text is None and default is not None:
            return default
        try:
            return int(text or "")
        except ValueError as error:
            raise self.fault(f"{key} is {text!r}, expected a whole number") from error

    def numbers(self, key: str) -> list[int]:
        """Whole numbers separated by commas. Raises ModelFileError."""
        try:
            return [int(part) for part in self.options.get(key, "").split(",")]
        except ValueError as error:
            raise self.fault(f"{key} is {self.options.get(key)!r}, expected whole numbers and commas") from error

    def fault(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.path} line {self.line}, [{self.kind}]: {what}")


def read_cfg(path: Path) -> list[Section]:
    """The sections of a Darknet `.cfg` file, `[net]` first. Lines that start with # or ; are comments.

    Raises:
        ModelFileError: unreadable, without `[net]` at its start, or a line that is neither section nor setting.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: cannot be read as a Darknet .cfg file ({error})") from error
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            sections.append(Section(line[1:-1].strip(), {}, number, path))
            continue
        key, equals, value = line.partition("=")
        if not equals or not sections:
            raise ModelFileError(f"{path} line {number}: {line[:60]!r} is neither a [section] nor a key=value")
        sections[-1].options[key.strip()] = value.strip()
    if not sections or sections[0].kind not in ("net", "network"):
        raise ModelFileError(f"{path}: a Darknet .cfg file starts with [net]")
    return sections


Shape = tuple[int, int, int]  # channels, height, width


def cfg_shapes(sections: Sequence[Section]) -> list[Shape]:
    """Shape of the output of every section after `[net]`, at the side that `[net]` states.

    Raises:
        ModelFileError: a section that is not known, or does not fit those that it joins.
    """
    net = sections[0]
    shapes: list[Shape] = []
    shape = (net.number("channels", 3), net.number("height"), net.number("width"))
    for section in sections[1:]:
        if section.kind not in _SHAPES:
            raise section.fault(f"not a known section; known are {', '.join(sorted(_SHAPES))}")
        shape = _SHAPES[section.kind](section, shape, shapes)
        shapes.append(shape)
    return shapes


def cfg_layers(sections: Sequence[Section]) -> list[Layer]:
    """The layers that have numbers in the `.weights` file, named by the number of their section from 0 ("12.conv").

    Raises:
        ModelFileError: as `cfg_shapes`, or a convolution whose channels its groups do not divide.
    """
    shapes = cfg_shapes(sections)
    net = sections[0]
    before = [(net.number("channels", 3), net.number("height"), net.number("width")), *shapes]
    layers = []
    for i, section in enumerate(sections[1:]):
        channels, height, width = before[i]
        norm = f"{i}.bn" if section.number("batch_normalize", 0) else None
        if section.kind == "convolutional":
            groups, side = section.number("groups", 1), section.number("size", 1)
            if groups < 1 or channels % groups or shapes[i][0] % groups:
                raise section.fault(f"{groups} groups do not divide {channels} and {shapes[i][0]} channels")
            layers.append(Layer(f"{i}.conv", (shapes[i][0], channels // groups, side, side), norm))
        elif section.kind == "connected":
            if norm is not None:
                raise section.fault("batch_normalize is not supported in a connected layer")
            layers.append(Layer(f"{i}.conv", (shapes[i][0], channels * height * width)))
    return layers


def _convolutional(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    side, stride = section.number("size", 1), _positive(section, "stride")
    padding = side // 2 if section.number("pad", 0) else section.number("padding", 0)
    _, height, width = shape
    return (
        section.number("filters", 1),
        (height + 2 * padding - side) // stride + 1,
        (width + 2 * padding - side) // stride + 1,
    )


def _maxpool(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    """Padded by size - 1 in all unless told, more of it right and below: the side is divided and rounded up."""
    stride = _positive(section, "stride")
    side = section.number("size", stride)
    padding = section.number("padding", side - 1)
    channels, height, width = shape
    return channels, (height + padding - side) // stride + 1, (width + padding - side) // stride + 1


def _upsample(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    stride = section.number("stride", 2)
    return shape[0], shape[1] * stride, shape[2] * stride


def _reorg(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    stride = _positive(section, "stride")
    return shape[0] * stride**2, shape[1] // stride, shape[2] // stride


def _route(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    joined = [_earlier(section, i, done) for i in section.numbers("layers")]
    if len({s[1:] for s in joined}) != 1:
        raise section.fault(f"maps of different sides cannot be joined: {[s[1:] for s in joined]}")
    return sum(s[0] for s in joined), joined[0][1], joined[0][2]


def _shortcut(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    added = _earlier(section, section.number("from"), done)
    if added != shape:
        raise section.fault(f"maps of shapes {added} and {shape} cannot be added")
    return shape


def _avgpool(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    return shape[0], 1, 1


def _connected(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    return section.number("output"), 1, 1


def _same(section: Section, shape: Shape, done: Sequence[Shape]) -> Shape:
    return shape


def _positive(section: Section, key: str) -> int:
    value = section.number(key, 1)
    if value < 1:
        raise section.fault(f"{key} is {value}, allowed: at least 1")
    return value


def _earlier(section: Section, number: int, done: Sequence[Shape]) -> Shape:
    """Section `number`, counted from the first after `[net]`, or backwards from here where negative."""
    place = number if number >= 0 else len(done) + number
    if not 0 <= place < len(done):
        raise section.fault(f"refers to layer {number}, but only {len(done)} stand before it")
    return done[place]


_SHAPES: dict[str, Callable[[Section, Shape, Sequence[Shape]], Shape]] = {
    "convolutional": _convolutional,
    "connected": _connected,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "upsample": _upsample,
    "reorg": _reorg,
    "route": _route,
    "shortcut": _shortcut,
    **dict.fromkeys(("dropout", "softmax", "cost", "region", "yolo", "detection"), _same),
}
