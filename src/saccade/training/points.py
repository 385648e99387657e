"""Points of the training loss inside epochs, so that the curve of one long epoch is a line and the log stays short."""

from __future__ import annotations

import math
from collections.abc import Mapping

from saccade.training.state import Progress

POINTS = 100  # about so many a run; of a run with fewer steps one a step


def add_to_point(counters: Progress, losses: Mapping[str, float], rate: float, share: float) -> None:
    """Count the losses of a step, and note their means since the last point where the run has come far enough.

    A point is {step, lr, losses}: the step that was the last of its mean, the rate of that step. It waits in
    `counters.points`, which the saved state holds, for the row of its epoch: a killed run has every point once.

    Args:
        losses, rate: of the step, and its learning rate.
        share: how much of the run is done behind this step, in [0, 1].
    """
    counters.point_steps += 1
    for name, value in losses.items():
        counters.point_sums[name] = counters.point_sums.get(name, 0.0) + value
    if math.floor(share * POINTS) == math.floor(counters.pointed * POINTS):
        return
    means = {name: value / counters.point_steps for name, value in counters.point_sums.items()}
    counters.points.append({"step": counters.step, "lr": rate, "losses": means})
    counters.pointed, counters.point_sums, counters.point_steps = share, {}, 0
