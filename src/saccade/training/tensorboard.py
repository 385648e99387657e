"""The course of a run for TensorBoard: `saccade train --tensorboard DIR`, or `on_epoch=saccade.TensorBoard(DIR)`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.errors import UsageError, how_to_install
from saccade.machine.files import make_folder
from saccade.machine.paths import at_home

BESIDE = {"validation_loss": "validation_losses", "training_score": "training_metrics"}  # group -> entry of a row


class TensorBoard:
    """Called with each row of log.jsonl, it adds losses, scores, rate and images/s to events of TensorBoard, by step.
    The losses inside an epoch are the group `step_loss`.

    Args:
        folder: of the events; `tensorboard --logdir FOLDER` shows them, of several runs beside each other.

    Raises:
        UsageError: the package tensorboard is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UsageError(f"events for TensorBoard need a package: {how_to_install('tensorboard')}")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(make_folder(Path(at_home(folder)))))

    def __call__(self, row: Mapping[str, Any]) -> None:
        groups = {"loss": row["losses"], "score": row.get("metrics", {})}
        groups |= {name: row.get(key, {}) for name, key in BESIDE.items()}
        groups["training"] = {name: row[name] for name in ("lr", "images_per_second", "waiting", "minutes")}
        for group, values in groups.items():
            for name, value in values.items():
                if value is not None:
                    self._writer.add_scalar(f"{group}/{name}", value, row["step"])
        for point in row.get("points", ()):
            for name, value in point["losses"].items():
                self._writer.add_scalar(f"step_loss/{name}", value, point["step"])
        self._writer.flush()
