"""Several processes of one run (`torchrun`, `accelerate launch`): who writes, and into which folder."""

from __future__ import annotations

import atexit
import gc
import os
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from saccade.device import pick_device
from saccade.errors import UsageError

# what a new run removes or writes over in its folder
FILES = ("log.jsonl", "best.safetensors", "last.safetensors", "metrics.json", "report.html", "data_report.json")
REPLACED = (*FILES, "state", "stages", "plots")


def join_processes(device: str | None) -> None:
    """Meet the other processes, if a launcher has started several. Raises UsageError for an unknown device."""
    target = pick_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=target.type == "cpu")  # sets up the process group, and each process's own GPU
        atexit.unregister(leave_processes)
        atexit.register(leave_processes)


def own_device(name: str | None) -> torch.device:
    """Where this process computes: on the device of that name; one of several on that which is its own."""
    if _is_one_of_several():
        from accelerate import PartialState

        return torch.device(PartialState().device)
    return pick_device(name)


def make_accelerator(device: torch.device, precision: str) -> Any:
    """Accelerate (`accelerate.Accelerator`) on this device, whatever an earlier run of the process was on."""
    from accelerate import Accelerator, PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    AcceleratorState._reset_state(reset_partial_state=not _is_one_of_several())
    PartialState(cpu=device.type == "cpu").device = device  # which by itself would be the first
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="no" if precision == "fp32" else precision,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def leave_processes() -> None:
    """End the threads of a gloo group while the interpreter still runs: one that wants it later aborts the process."""
    if _is_one_of_several() and distributed.get_backend() == "gloo":
        gc.collect()  # a wrapped network holds the group, in cycles
        distributed.destroy_process_group()


def is_main_process() -> bool:
    """Whether this process writes files and speaks: the only one, or the first."""
    return not _is_one_of_several() or distributed.get_rank() == 0


def _is_one_of_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def agreed_run_folder(out: str | Path | None, model: str, data: str | Path, resume: bool, overwrite: bool) -> Path:
    """The folder of a run, chosen by the first process for all. Raises UsageError in all of them."""
    answer: list[Path | UsageError | None] = [None]
    if is_main_process():
        try:
            answer = [run_folder(out, model, data, resume, overwrite)]
        except UsageError as error:
            answer = [error]
    if _is_one_of_several():
        distributed.broadcast_object_list(answer)
    if isinstance(answer[0], Path):
        return answer[0]
    raise answer[0] or UsageError("the first process named no run folder")


def run_folder(out: str | Path | None, model: str, data: str | Path, resume: bool, overwrite: bool) -> Path:
    """The folder of a run. Raises UsageError where it holds another run, none to go on with, or other files that a run
    would replace."""
    if out is None:
        if resume:
            raise UsageError("--resume needs --out, the folder of the run to go on with")
        name = f"{model}-{Path(str(data).split(':')[-1]).resolve().stem}"
        numbered = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in range(1, 10_000))
        return next(path for path in numbered if not path.exists())
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--out {path} is a file, not a folder")
    has_run = (path / "config.json").is_file()
    if resume and not has_run:
        raise UsageError(f"--resume: {path} holds no run (no config.json)")
    taken = [name for name in REPLACED if (path / name).exists()]
    if taken and not has_run and not overwrite:
        raise UsageError(
            f"{path} holds no run, but {', '.join(taken)}, which a run would replace; choose another --out, or add "
            "--overwrite"
        )
    if has_run and not resume and not overwrite:
        raise UsageError(f"{path} holds a run already; add --resume to go on with it, or --overwrite to replace it")
    return path
