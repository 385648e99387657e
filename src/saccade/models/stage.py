"""The course of a system that is more than one gradient run, as a model file states it: fits and solves in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.data.types import Batch


@dataclass(frozen=True, slots=True)
class Fit:
    """A network that is trained by gradients, and what it hands on.

    A model file whose systems need more than one fit has `stages(name, recipe) -> list[Fit | Solve]`: the whole course
    in the order in which it is made, the run's own network among them. The loop knows nothing of it; the runner
    (training/stages.py) does.
    """

    name: str  # of its folder in RUN/stages, behind its number
    model: str  # a name of the catalogue
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of config.Settings that differ from the run's
    carries: tuple[str, ...] | None = None  # fields that its Config has from the run's; None: it is the run's Config
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of its Config that it has otherwise
    adopt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict  # its tensors -> tensors of the network that follows
    beside: bool = False  # what it does not hand on begins as the run did: from given weights, if any
    instead_of_weights: bool = False  # left out where the run was given weights to start from
    measured: bool = True  # on the validation images while it goes on; not where stages behind it make the answers


@dataclass(frozen=True, slots=True)
class Given:
    """What a solve works with."""

    network: nn.Module  # so far, in evaluation mode, on `device`
    fresh: frozenset[str]  # its tensors that neither given weights nor an earlier stage have filled
    classes: Sequence[str]
    batches: Callable[[], Iterator[Batch]]  # the training images with their truth as predictions see them, by id
    device: torch.device
    seed: int
    folder: Path  # its own in the run; files that it leaves there are still there when a killed run goes on
    show: Callable[[str], None]  # tell the person at the terminal


@dataclass(frozen=True, slots=True)
class Solve:
    """A part of a network that has a solution of its own (a logistic regression, an SVM, a ridge) and needs no steps.

    It is made in the first process, while others wait.
    """

    name: str  # of its folder in RUN/stages, behind its number
    solve: Callable[[Given], Mapping[str, Tensor]]  # -> tensors that take their place in the network so far


Stage = Fit | Solve
