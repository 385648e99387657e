"""What a run needs to go on exactly where it stopped; every file of it is checked against a SHA-256 before it is used.

`state/resume.safetensors` holds tensors (weights, averaged weights, optimiser, random generators; of a finished run the
last alone, see `thin_state`) and, as JSON in its header, counters. The log is cut back to where it stood when they were
saved, so that no row is doubled or missing. `config.json` says what the run is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.checkpoint import CHECKSUM, load, read_tensors, write_tensors
from saccade.config import OF_LABELS
from saccade.errors import ModelFileError
from saccade.machine.files import disk_errors, inside, make_folder, open_regular, write_whole
from saccade.training.optimizer import AveragedWeights

STATE = Path("state") / "resume.safetensors"
STATED = {  # what `config.json` must hold, of which types
    "model": str,
    "config": dict,
    "task": str,
    "classes": list,
    "fingerprint": str,
    "settings": dict,
    "origins": dict,
    "recipe": str,
    "weights": str | None,
}


def write_config(run: Path, content: Mapping[str, Any]) -> None:
    """Write `config.json` with its checksum. Raises ResourceError."""
    state: dict[str, Any] = json.loads(json.dumps(content))  # as it will be read
    write_whole(run / "config.json", json.dumps(state | {"sha256": _digest(state)}, indent=2))


def read_config(run: Path) -> dict[str, Any]:
    """`config.json` of a run. Raises ModelFileError where it is missing, damaged or a link."""
    path = inside(run, "config.json")
    try:
        with open_regular(path) as file:
            state = json.loads(file.read())
        for name, kind in STATED.items():
            if not isinstance(state[name], kind):
                raise TypeError(f"{name} is {state[name]!r:.80}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ModelFileError(f"{path}: missing or damaged ({reason}); start a new run with another --out") from error
    expected = state.pop("sha256", None)  # a damaged name of this entry leaves the others as they are
    if expected not in (None, _digest(state)):
        raise ModelFileError(
            f"{path}: the checksum differs; the file is damaged, or was changed by hand: copy it again, or start a new "
            "run with another --out"
        )
    return _renamed(state)


def _renamed(state: dict[str, Any]) -> dict[str, Any]:
    """A `config.json` in today's names: what a loss of labels needs was a setting of every run."""
    old = {name: state["settings"][name] for name in OF_LABELS if name in state["settings"]}
    config, settings = state["config"], {k: v for k, v in state["settings"].items() if k not in old}
    if "objective" in config:
        config = config | {"objective": old | config["objective"]}
    origins = {k: v for k, v in state["origins"].items() if k not in old or ("objective" in config and v != "default")}
    return state | {"config": config, "settings": settings, "origins": origins}


def _digest(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


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
    measured: int = 0  # images of validation loss and training score (training/measure.py); 0: not settled yet
    points: list[dict[str, Any]] = field(default_factory=list)  # of the current epoch (training/points.py)
    point_sums: dict[str, float] = field(default_factory=dict)  # losses since the last point, summed over its steps
    point_steps: int = 0
    pointed: float = 0.0  # share of the run at the last point
    finished: bool = False
    log_size: int = 0  # bytes of the log when this was saved
    log_sha256: str = hashlib.sha256().hexdigest()  # of these bytes


def save_state(
    run: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: AveragedWeights | None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write the state of a run; `scaler` is that of a run in fp16.

    Raises:
        ResourceError: no space, no permission.
        ModelFileError: a link stands in its place.
    """
    path = inside(run, *STATE.parts)
    make_folder(path.parent)
    rows = Log(run / "log.jsonl").read()
    progress.log_size, progress.log_sha256 = len(rows), hashlib.sha256(rows).hexdigest()
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
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}  # no two share memory
    write_tensors(path, own, {"state": json.dumps(header, sort_keys=True)})


THINNED = "thinned"  # entry of the header: the state has no weights and no optimiser; `last.safetensors` has the former


def thin_state(run: Path) -> None:
    """Drop what a finished run does not need: all tensors but the random generators. More epochs then go on from the
    last weights, with the optimiser's moments at zero.

    Raises:
        ResourceError: no space, no permission.
        ModelFileError: the state is damaged, or a link.
    """
    path = inside(run, *STATE.parts)
    metadata, tensors = read_tensors(path)
    header = json.loads(metadata["state"])
    if not header.get(THINNED):
        header |= {THINNED: True, "optimizer": {}}
        kept = {name: tensor for name, tensor in tensors.items() if name.startswith("random.")}
        write_tensors(path, kept, {"state": json.dumps(header, sort_keys=True)})


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
    path = inside(run, *STATE.parts)
    metadata, tensors = read_tensors(path)
    if CHECKSUM not in metadata:
        raise ModelFileError(f"{path}: no state of this Saccade (it has no checksum); start a new run")
    try:
        header = json.loads(metadata["state"])
        progress = Progress(**header["progress"])
        last = load(inside(run, "last.safetensors")).weights if header.get(THINNED) else None
        model.load_state_dict(_under("model.", tensors) if last is None else last)
        if averaged is not None:
            averaged.model.load_state_dict(_under("averaged.", tensors) if last is None else last)
        slots: dict[int, dict[str, Any]] = {}
        for key, value in [*_under("optimizer.", tensors).items(), *header["optimizer"].items()]:
            index, name = key.split(".", 1)
            slots.setdefault(int(index), {})[name] = value
        if last is None:
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

    def read(self) -> bytes:
        """All that is there; nothing where there is no file. Raises ModelFileError where it cannot be read."""
        try:
            with open_regular(self.path) as file:
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise ModelFileError(f"{self.path}: cannot be read ({error.strerror})") from error

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows; one that a kill cut short is left out. Raises ModelFileError for any other that is none."""
        rows = []
        for number, line in enumerate(self.read().split(b"\n")[:-1], 1):
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError, RecursionError) as error:
                raise ModelFileError(f"{self.path} line {number}: damaged ({error})") from error
        return rows

    def cut(self, progress: Progress) -> None:
        """Forget the rows that were written after `progress` was saved. Raises ModelFileError where those before it are
        not as they were."""
        kept = self.read()[: progress.log_size]
        if hashlib.sha256(kept).hexdigest() != progress.log_sha256:
            raise ModelFileError(
                f"{self.path}: damaged: its first {progress.log_size} bytes are not those that the saved state belongs "
                "to; copy it again, or start a new run with another --out"
            )
        write_whole(self.path, kept)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, on the disk when this returns: a saved state refers to it. Raises ResourceError."""
        with disk_errors(self.path), io.BufferedWriter(open_regular(self.path, "ab")) as file:
            file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
