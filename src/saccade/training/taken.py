"""Steps whose numbers are read one step late, so that a GPU has the next step to do while the processor reads."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from saccade.errors import DivergedError
from saccade.machine.device import Reading
from saccade.training.state import STATE


class Taken:
    """A step that was taken: its losses and the norm of its gradient may still be on their way from the device.

    Args:
        step: number of steps before it.
        rate: its learning rate.
        ids: its images.
        losses, norm: scalars on the device.
        scaled: in fp16 an infinite gradient only makes the scaler skip the step.
    """

    def __init__(
        self, step: int, rate: float, ids: Sequence[str], losses: Mapping[str, Tensor], norm: Tensor, scaled: bool
    ) -> None:
        self.step, self.rate, self.ids, self.names, self.scaled = step, rate, ids, list(losses), scaled
        self._values = Reading(torch.stack([*losses.values(), norm.to(torch.float32)]))

    @functools.cached_property
    def _read(self) -> list[float]:
        return self._values.floats()

    @property
    def losses(self) -> dict[str, float]:
        """The losses by name."""
        return dict(zip(self.names, self._read, strict=False))

    @property
    def lost(self) -> bool:
        """Whether a loss or the gradient is not finite: nothing that came after it may be kept."""
        *losses, norm = self._read
        return not all(map(math.isfinite, losses)) or not (self.scaled or math.isfinite(norm))

    def diverged(self, run: Path) -> DivergedError:
        """The error that says so, with the step's number, rate and images."""
        values = self.losses | {"gradient": self._read[-1]}
        bad = ", ".join(f"{name} {value}" for name, value in values.items())
        good = run / STATE
        kept = f"the last good state is {good}" if good.is_file() else "no state was saved yet"
        return DivergedError(
            f"loss or gradient is no longer finite at step {self.step} (lr {self.rate:.3g}): {bad}. Images: "
            f"{', '.join(self.ids)}. {kept}. Try a smaller lr (--set lr={self.rate / 10:.1g}) or --precision fp32"
        )
