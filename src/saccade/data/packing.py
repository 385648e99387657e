"""Many small things in one piece of memory, so that processes can share them cheaply."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.data.types import Annotation, Objects
from saccade.machine.files import disk_errors

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


class Spool:
    """Annotations by name in a file that has none and goes with the block: memory holds where each lies, not its maps.

    Raises:
        ResourceError: no space in the folder of temporary files.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.gettempdir())
        with disk_errors(self._folder):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed where the block ends)
        self._places: dict[Hashable, tuple[int, int, dict[str, Any]]] = {}  # start and length in bytes, layout

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def __setitem__(self, name: Hashable, annotation: Annotation) -> None:
        buffer, (layout,) = pack([annotation])
        data = zlib.compress(buffer.numpy().data, 1)
        with disk_errors(self._folder):
            self._places[name] = (self._file.seek(0, 2), len(data), layout)
            self._file.write(data)

    def __getitem__(self, name: Hashable) -> Annotation:
        """A copy, equal in every number. Raises KeyError."""
        start, length, layout = self._places[name]
        with disk_errors(self._folder):
            self._file.seek(start)
            data = zlib.decompress(self._file.read(length))
        buffer = torch.empty(len(data), dtype=torch.uint8)
        buffer.numpy()[:] = np.frombuffer(data, np.uint8)
        return unpack(buffer, [layout])[0]


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
