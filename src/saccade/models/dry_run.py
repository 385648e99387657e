"""Forward passes of shapes alone, on torch's meta device: nothing is allocated and nothing is computed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from saccade.errors import UsageError


def model_of_shapes(module: ModuleType, config: Any) -> nn.Module:
    """A room's model in evaluation mode, of tensors without numbers."""
    with torch.device("meta"):
        model: nn.Module = module.Model(config)
    return model.eval()


def takes(model: nn.Module, height: int, width: int, images: int = 1) -> bool:
    """Whether `images` images [3, height, width] go through a model of `model_of_shapes`."""
    try:
        with torch.no_grad(), torch.device("meta"):
            model(torch.empty(images, 3, height, width))
    except (RuntimeError, ValueError, TypeError, IndexError, UsageError):  # torch's words for it differ by operation
        return False
    return True


def smallest_side(model: nn.Module, known: int) -> int:
    """The smallest side of a square image that goes through, given one that does."""
    low, high = 0, known  # low does not go through, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(model, middle, middle) else (middle, high)
    return high
