"""Saccade's side of train_speed.py: the loop of `saccade train` itself, which prints a line after every step.

    python train_speed_saccade.py '{"model": "resnet18", "data": "photos", "size": 224, "batch": 32, "settings": {}}'

First line: {"gmacs": multiply-adds of a forward pass of one image in 10^9, "parameters": ...}; then "SECONDS IMAGES"
lines: the machine's monotonic clock and the images trained on so far. Ends when it is killed.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from saccade.training.display import Display
from saccade.training.interrupt import Interrupt
from saccade.training.plan import make_plan
from saccade.training.prepare import prepare
from saccade.verbs.train import _fit


class Steps(Display):
    """Instead of a progress bar: a line a step."""

    def __init__(self, batch: int) -> None:
        super().__init__(False)
        self.images, self.batch = 0, batch

    def step(self, epoch: int, progress: float, losses: dict[str, float], rate: float) -> None:
        self.images += self.batch  # batches are whole: the loader drops the rest of an epoch
        print(time.monotonic(), self.images, flush=True)


def main() -> None:
    task = json.loads(sys.argv[1])
    size = task["size"]
    # without a state or an evaluation in between: the peers' loops run without them too
    flags = {"minutes": 1e6, "save_every": 1e6, "size": size, "batch": task["batch"], "workers": task["workers"]}
    flags |= task.get("settings", {})
    plan = make_plan(
        task["model"],
        task["data"],
        task=None,
        recipe="default",
        config=None,
        flags=flags,
        weights=None,
    )
    model = plan.module.Model(plan.config).eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(torch.rand(1, 3, size, size))
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"gmacs": flops.get_total_flops() / 2e9, "parameters": parameters}), flush=True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        parts, counters = prepare(plan, Path(folder), "cpu", Steps(task["batch"]), False)
        with Interrupt() as interrupt:
            _fit(parts, counters, interrupt)


if __name__ == "__main__":
    main()
