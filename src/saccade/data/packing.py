"""Many small things in one piece of memory, so that processes can share them cheaply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.data.types import Annotation, Objects

_ALIGN = 8  # bytes; the largest element is an int64


class Packed:
    """A sequence of byte strings in one array: two reference counts instead of one for each."""

    def __init__(self, items: Sequence[bytes]) -> None:
        self._bytes = np.frombuffer(b"".join(items), dtype=np.uint8)
        self._ends = np.cumsum([len(item) for item in items], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        """Raises IndexError outside 0 .. len - 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"{index} of {len(self)}")
        start = int(self._ends[index - 1]) if index else 0
        return self._bytes[start : int(self._ends[index])].tobytes()


def pack(annotations: Sequence[Annotation]) -> tuple[Tensor, list[dict[str, Any]]]:
    """All tensors of some annotations in one uint8 tensor [bytes], and the layout that `unpack` needs."""
    chunks: list[Tensor] = []
    layout = [_pack_fields(annotation, chunks) for annotation in annotations]
    return (torch.cat(chunks) if chunks else torch.zeros(0, dtype=torch.uint8)), layout


def unpack(buffer: Tensor, layout: Sequence[dict[str, Any]]) -> list[Annotation]:
    """The annotations again; their tensors are views of `buffer`."""
    position = 0

    def tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        nonlocal position
        size = dtype.itemsize * int(np.prod(shape))
        start, position = position, position + -(-size // _ALIGN) * _ALIGN
        return buffer[start : start + size].view(dtype).view(shape)

    def value(entry: Any) -> Any:
        if isinstance(entry, dict):
            return Objects(**{name: value(field) for name, field in entry.items()})
        return tensor(*entry[1:]) if isinstance(entry, tuple) and entry[:1] == ("tensor",) else entry

    return [Annotation(**{name: value(field) for name, field in entry.items()}) for entry in layout]


def _pack_fields(holder: Annotation | Objects, chunks: list[Tensor]) -> dict[str, Any]:
    """Field by field in order: a dict for Objects, ("tensor", dtype, shape) for a tensor, other values as they are."""
    layout: dict[str, Any] = {}
    for field in fields(holder):
        value = getattr(holder, field.name)
        if isinstance(value, Objects):
            layout[field.name] = _pack_fields(value, chunks)
        elif isinstance(value, Tensor):
            layout[field.name] = ("tensor", value.dtype, tuple(value.shape))
            flat = value.contiguous().as_strided((value.numel(),), (1,)).view(torch.uint8)  # one number has any stride
            chunks.append(flat)
            chunks.append(flat.new_zeros(-len(flat) % _ALIGN))
        else:
            layout[field.name] = value
    return layout
