"""What a run needs to go on exactly where it stopped, in one file that is whole or absent.

`state/resume.safetensors` holds tensors (weights, averaged weights, optimiser, random generators) and, as JSON in
its header, counters. The log is cut back to the saved step, so that no row is doubled or missing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from saccade.checkpoint import read_tensors
from saccade.errors import ModelFileError
from saccade.files import disk_errors, make_folder, write_whole
from saccade.training.optimizer import AveragedWeights

STATE = Path("state") / "resume.safetensors"


@dataclass(slots=True)
class Progress:
    """Counters of a run. `elapsed` is seconds of training over all sessions, evaluation included."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    elapsed: float = 0.0
    best: float | None = None
    best_at: float = 0.0  # share of the run at which the best value was reached
    rate: float = 0.0  # learning rate of the last step
    sums: dict[str, float] = field(default_factory=dict)  # losses of the current epoch, summed over its steps
    steps: int = 0  # summed so far in this epoch
    images: int = 0  # trained on in this epoch
    seconds: float = 0.0  # spent on steps in this epoch
    waited: float = 0.0  # of these, until their images came
    evaluated: float = 0.0  # share of the run at the last evaluation
    finished: bool = False


def save_state(
    run: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: AveragedWeights | None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write the state of a run; `scaler` is that of a run in fp16. Raises ResourceError."""
    make_folder((run / STATE).parent)
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if averaged is not None:
        tensors |= {f"averaged.{k}": v for k, v in averaged.model.state_dict().items()}
    scalars: dict[str, Any] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars[f"{index}.{name}"] = value
    tensors["random.cpu"] = torch.get_rng_state()
    device = next(model.parameters()).device
    if device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    header = {"progress": asdict(progress), "optimizer": scalars, "scaler": scaler.state_dict() if scaler else {}}
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"state": json.dumps(header, sort_keys=True)}
    write_whole(run / STATE, lambda temporary: save_file(plain, temporary, metadata))


def load_state(
    run: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: AveragedWeights | None,
    scaler: torch.amp.GradScaler | None = None,
) -> Progress:
    """Put a saved state back into model, optimiser, averaged weights, random generators and the scaler of fp16.

    Raises:
        ModelFileError: no state, a damaged one, or one of another architecture.
    """
    path = run / STATE
    metadata, tensors = read_tensors(path)
    try:
        header = json.loads(metadata["state"])
        progress = Progress(**header["progress"])
        model.load_state_dict(_under("model.", tensors))
        if averaged is not None:
            averaged.model.load_state_dict(_under("averaged.", tensors))
        slots: dict[int, dict[str, Any]] = {}
        for key, value in [*_under("optimizer.", tensors).items(), *header["optimizer"].items()]:
            index, name = key.split(".", 1)
            slots.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict(dict(optimizer.state_dict(), state=slots))
        torch.set_rng_state(tensors["random.cpu"])
        if scaler is not None:
            scaler.load_state_dict(header["scaler"])
        device = next(model.parameters()).device
        if device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ModelFileError(f"{path}: cannot go on from here: {error}") from error
    return progress


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class Log:
    """`log.jsonl`: one JSON object an epoch, each with the `step` at which it was written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; a line that a kill cut short is left out."""
        rows = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def cut(self, step: int) -> None:
        """Forget the rows that were written after `step`."""
        kept = [row for row in self.rows() if row["step"] <= step]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def add(self, row: dict[str, Any]) -> None:
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
