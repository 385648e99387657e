"""Checkpoints: one safetensors file with everything that a model needs, and checksums.

The header's entry "saccade" is JSON: model name, config, classes, task, preprocessing, metrics, versions, SHA-256 of
the weights and of the rest of this entry. Nothing in a checkpoint is ever executed. Public files (`.pth`,
`.safetensors`, `.npz` of others) are read as plain tensors.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from saccade.errors import ModelFileError
from saccade.machine.files import inside, open_regular, write_whole
from saccade.machine.paths import not_there

CHECKPOINTS = ("best.safetensors", "last.safetensors")  # of a run folder; the first that is there answers
CHECKSUM = "saccade_sha256"  # entry of a file of tensors that is no checkpoint, see `write_tensors`
_NAMES = ("float16", "bfloat16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64")
_NUMBERS = frozenset(getattr(torch, name) for name in _NAMES)
FORMAT = 1  # raised when older readers could no longer understand the header


@dataclass(slots=True)
class Checkpoint:
    """What a checkpoint holds, as one file keeps it; see `save` and `load`."""

    model: str  # name in the catalogue
    config: dict[str, Any]  # the model's Config as a dictionary
    classes: list[str]
    task: str
    preprocessing: dict[str, Any]
    weights: dict[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    # tag: the smallest probability of each class, none: 0.5; embed: one, the smallest similarity of two pictures
    thresholds: list[float] = field(default_factory=list)
    file_sha256: str = ""  # where `model` is the path of a file of the user's own, its hash (models/own_file.py)


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint whole or not at all. The same checkpoint gives the same bytes. Raises ResourceError."""
    header = {
        k: v for k, v in asdict(_without_weights(checkpoint)).items() if k != "weights" and (v or k != "file_sha256")
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()}
    header = json.loads(json.dumps(header | {"format": FORMAT, "sha256": digest(weights)}))  # as it will be read
    header["header_sha256"] = _digest_of_header(header)
    metadata = {"saccade": json.dumps(header, sort_keys=True, allow_nan=False)}
    write_whole(path, lambda temporary: save_file(weights, temporary, metadata))


def load(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        ModelFileError: missing, empty, truncated, foreign, newer than this program, damaged (checksum), or with NaN.
    """
    header, weights = read_tensors(path)
    if "saccade" not in header:
        raise ModelFileError(f"{path}: a safetensors file, but not a Saccade checkpoint; use it as --weights {path}")
    try:
        state = json.loads(header["saccade"])
        expected_header = state.pop("header_sha256", None)  # a damaged name of this entry is an unknown one below
        if expected_header not in (None, _digest_of_header(state)):
            raise ValueError("its checksum differs; copy the file again")
        version, expected = state.pop("format"), state.pop("sha256")
        if version != FORMAT:
            raise ModelFileError(f"{path}: checkpoint format {version}, this Saccade reads {FORMAT}; update Saccade")
        checkpoint = Checkpoint(**state, weights=weights)
        _check_types(checkpoint)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path}: the header of this checkpoint is damaged ({error})") from error
    if digest(weights) != expected:
        raise ModelFileError(f"{path}: the checksum of the weights differs; the file is damaged, copy it again")
    refuse_odd(weights, path)
    return checkpoint


def refuse_odd(weights: Mapping[Any, Tensor], path: Path) -> None:
    """Raises ModelFileError where a tensor is not one of plain finite numbers under a name."""
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise ModelFileError(f"{path}: a tensor is called {name!r}; the names of a state_dict are text")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.dtype not in _NUMBERS:
            kind = "quantised" if tensor.is_quantized else "no numbers" if tensor.is_meta else tensor.layout
            kind = f"{tensor.dtype}" if kind == torch.strided else f"{kind}, {tensor.dtype}"
            raise ModelFileError(f"{path}: {name} is {kind}; save plain tensors ({', '.join(_NAMES)})")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelFileError(f"{path}: {name} {list(tensor.shape)} is more than the file holds of it")
        # The extremes are NaN where one value is; unlike `isfinite` they take no memory.
        if tensor.is_floating_point() and tensor.numel() and not all(map(torch.isfinite, torch.aminmax(tensor))):
            raise ModelFileError(
                f"{path}: the weights {name} hold NaN or infinite values; train again or copy it again"
            )


def find(run: str | Path) -> Path:
    """The checkpoint of a run folder (its best one), or the file itself. Raises ModelFileError."""
    path = Path(run)
    if path.is_dir():
        for name in CHECKPOINTS:
            if inside(path, name).is_file():
                return path / name
        raise ModelFileError(f"{path}: no {' or '.join(CHECKPOINTS)} here; is this a run folder?")
    if not path.is_file():
        raise ModelFileError(not_there(path, "run folder or checkpoint"))
    return path


def read_public(path: Path, most: int | None = None) -> dict[str, Tensor]:
    """Plain tensors of a public checkpoint: `.safetensors`, `.npz`, or a torch file read with weights_only.

    The usual wrappers ("state_dict", "model") and a leading "module." are taken off.

    Args:
        most: bytes to which an archive (`.npz`, torch's zip) may unpack; one that is as large itself is read as well.

    Raises:
        ModelFileError: not a file of tensors, or an archive that unpacks to more. It is never read in a way that could
            run code.
    """
    if path.suffix == ".safetensors":
        weights = read_tensors(path)[1]
    else:
        _refuse_obvious(path)
        if most is not None:
            _refuse_bomb(path, most)
        weights = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    refuse_odd(weights, path)
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


def _read_torch(path: Path) -> dict[str, Tensor]:
    """The state dict in a torch file, read with weights_only."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; none of them is ours to sort
        raise ModelFileError(
            f"{path}: not a file of plain tensors ({type(error).__name__}). Files that hold whole Python objects can "
            "run code and are refused; save the model's state_dict() instead"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelFileError(f"{path}: expected a dictionary of tensors (a state_dict)")
    return content


def _read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays of a numpy archive by name. Arrays of Python objects, which could run code, are refused."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except Exception as error:  # encrypted, an unknown packing, a head that promises more numbers than there are, ...
        raise ModelFileError(f"{path}: not a numpy archive of plain numbers ({error})") from error


def _refuse_bomb(path: Path, most: int) -> None:
    """A small archive may unpack to more than memory holds. Its directory says to how much; reading stops there."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):  # not implemented: how it is packed
        return  # no archive, or one whose reader says what is wrong
    if unpacked > max(most, 2 * path.stat().st_size):
        raise ModelFileError(
            f"{path}: {unpacked / 2**20:,.0f} MiB when unpacked, more than the network can need "
            f"({most / 2**20:,.0f} MiB); it was not unpacked. Is it of this network?"
        )


def write_tensors(path: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, whole or not at all, with a checksum that `read_tensors` verifies. Raises ResourceError."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    entries = dict(metadata)
    entries[CHECKSUM] = _digest_of_all(plain, entries)
    write_whole(path, lambda temporary: save_file(plain, temporary, entries))


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, the checksum verified where `write_tensors` left one.

    Raises:
        ModelFileError: missing, truncated, foreign or damaged.
    """
    _refuse_obvious(path)
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = dict(handle.metadata() or {})
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path}: truncated or not a safetensors file ({error})") from error
    entries = {name: text for name, text in metadata.items() if name != CHECKSUM}
    if CHECKSUM in metadata and metadata[CHECKSUM] != _digest_of_all(tensors, entries):
        raise ModelFileError(f"{path}: the checksum differs; the file is damaged")
    return metadata, tensors


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in order of name."""
    total = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _digest_of_all(tensors: dict[str, Tensor], entries: dict[str, str]) -> str:
    return hashlib.sha256(f"{digest(tensors)} {json.dumps(entries, sort_keys=True)}".encode()).hexdigest()


def _digest_of_header(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _check_types(checkpoint: Checkpoint) -> None:
    """Raises TypeError or ValueError where a header that is valid JSON is not one of ours."""
    for name, kind in (
        ("model", str),
        ("task", str),
        ("classes", list),
        ("config", dict),
        ("preprocessing", dict),
        ("versions", dict),
        ("metrics", dict),
        ("thresholds", list),
        ("file_sha256", str),
    ):
        value = getattr(checkpoint, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r:.80}")
    if not all(isinstance(name, str) for name in checkpoint.classes):
        raise TypeError("a class name is no text")
    if not all(type(share) in (int, float) and -1 <= share <= 1 for share in checkpoint.thresholds):
        raise ValueError("a threshold is no probability and no similarity")


def _without_weights(checkpoint: Checkpoint) -> Checkpoint:
    state = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__}
    return Checkpoint(**dict(state, weights={}))


def _refuse_obvious(path: Path) -> None:
    """Name what people really have in hand when a download went wrong."""
    try:
        with open_regular(path, links=True) as handle:
            start = handle.read(512)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise ModelFileError(f"{path}: empty file")
    if start.lstrip()[:1] == b"<":
        raise ModelFileError(f"{path}: not a model file (found: a web page); download it again")
    if start.startswith(b"version https://git-lfs"):
        raise ModelFileError(f"{path}: a Git LFS pointer, not the file itself; run `git lfs pull`")
