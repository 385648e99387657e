"""Start from weights that exist: a Saccade run, or a public checkpoint that the user has."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from saccade import checkpoint
from saccade.errors import ModelFileError


def start_from(model: nn.Module, module: ModuleType, source: str | Path) -> list[str]:
    """Load what fits of a checkpoint; layers whose shape depends on the classes keep their random start.

    Args:
        module: the model's room; its `from_public(state_dict)`, where it has one, repairs public key layouts, and its
            `FILES`, where it has them, are readers `(path, model) -> state dict` of the paper's own formats by suffix.

    Returns:
        The names of the tensors that were left as they are.

    Raises:
        ModelFileError: the file cannot be read, or less than half of the model's tensors are in it.
    """
    path = Path(source)
    if path.is_dir():
        path = checkpoint.find(path)
    read: Any = getattr(module, "FILES", {}).get(path.suffix)
    weights = checkpoint.read_public(path) if read is None else read(path, model)
    repair: Any = getattr(module, "from_public", None)
    if repair is not None:
        weights = repair(weights)
    expected = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in expected and v.shape == expected[k].shape}
    if 2 * len(fitting) < len(expected):
        raise ModelFileError(
            f"{path}: weights of another network: {len(fitting)} of {len(expected)} tensors fit. "
            f"It holds {_some(weights)}; the model has {_some(expected)}"
        )
    model.load_state_dict(expected | fitting)
    return sorted(set(expected) - set(fitting))


def _some(tensors: dict[str, Tensor]) -> str:
    first = [f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:3]]
    return ", ".join(first) + (", ..." if len(tensors) > 3 else "")
