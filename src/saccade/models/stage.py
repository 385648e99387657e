"""One of several fits of a system that is not a single gradient run, as a model file states it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stage:
    """A network that is trained before the main one, and what it hands on.

    A model file whose systems need such fits has `stages(name, recipe) -> list[Stage]`, in the order in which they
    are made. The loop knows nothing of it; the runner (training/stages.py) does.
    """

    name: str  # of its folder in RUN/stages, behind its number
    model: str  # a name of the catalogue
    settings: Mapping[str, Any]  # fields of config.Settings in which it differs from the main run
    adopt: Callable[[dict[str, Tensor]], dict[str, Tensor]]  # its tensors -> tensors of the network that comes next
