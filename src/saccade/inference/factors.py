"""A trained network with its fully connected layers of low rank (`--svd`), and what that saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from saccade.errors import UsageError
from saccade.inference.trained import Trained
from saccade.models import model_module
from saccade.models.contract import compress


def factorised(trained: Trained, svd: str | tuple[int, int]) -> tuple[Trained, dict[str, Any]]:
    """The same network with both fully connected layers of Fast R-CNN factorised (`models/detectors/fast_rcnn.py`).

    Args:
        svd: the rank of each, such as (1024, 256) or "1024,256".

    Returns:
        The network, and `{ranks, layers: {name: [outputs, inputs]}, parameters: {before, after}}` in plain JSON, where
        the parameters are those of the whole network.

    Raises:
        UsageError: no two ranks, a rank above the full one, a network without such layers.
    """
    parts = svd.split(",") if isinstance(svd, str) else [str(rank) for rank in svd]
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(f"--svd {svd!r}: two ranks are needed, such as 1024,256")
    ranks = (int(parts[0]), int(parts[1]))
    small = compress(model_module(trained.model), trained.network, ranks)
    weights, left = trained.network.state_dict(), small.state_dict()
    gone = {name: list(value.shape) for name, value in weights.items() if name not in left and value.ndim == 2}
    return replace(trained, network=small), {
        "ranks": list(ranks),
        "layers": {name.removesuffix(".weight"): shape for name, shape in gone.items()},
        "parameters": {"before": _count(trained.network), "after": _count(small)},
    }


def saving_in_words(found: Mapping[str, Any]) -> str:
    """What `factorised` says of a network: its layers with their ranks, and the parameters that are saved."""
    layers = ", ".join(
        f"{name} ({inputs} to {outputs}) of rank {rank}"
        for (name, (outputs, inputs)), rank in zip(found["layers"].items(), found["ranks"], strict=True)
    )
    before, after = found["parameters"]["before"], found["parameters"]["after"]
    return (
        f"compressed by a truncated SVD: {layers}; {before - after:,} of the network's {before:,} parameters are saved "
        f"({(before - after) / before:.1%})"
    )


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
