"""Several processes of one run (`torchrun`, `accelerate launch`): who writes, and what they agree on.

They agree by messages of a group of its own (gloo), beside the one that adds up gradients: a GPU is not waited for, and
who waits there for the first process, which evaluates for hours perhaps, meets no time limit.
"""

from __future__ import annotations

import atexit
import functools
import gc
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from saccade.machine.device import pick_device

T = TypeVar("T")


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
    if _is_one_of_several():
        gc.collect()  # a wrapped network holds the group, in cycles
        distributed.destroy_process_group(None if distributed.get_backend() == "gloo" else _messages())


def is_main_process() -> bool:
    """Whether this process writes files and speaks: the only one, or the first."""
    return not _is_one_of_several() or distributed.get_rank() == 0


def processes_here() -> int:
    """Processes of this run on this machine, which share its cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _is_one_of_several() else 1


def from_first(value: T) -> T:
    """The first process's value in all of them, which wait for it as long as it takes."""
    if not _is_one_of_several():
        return value
    box: list[Any] = [value]
    distributed.broadcast_object_list(box, group=_messages())
    answer: T = box[0]
    return answer


def from_all(value: T) -> list[T]:
    """The values of all processes, in order, in each of them."""
    if not _is_one_of_several():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value, group=_messages())
    return values


def place_among_processes() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if _is_one_of_several() else (0, 1)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's statistics of norms, which each gathers from its own images."""
    if _is_one_of_several():
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def largest(values: Sequence[float]) -> list[float]:
    """Of each number the largest among the processes."""
    if not _is_one_of_several():
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=_messages())
    found: list[float] = numbers.tolist()
    return found


@functools.cache
def _messages() -> distributed.ProcessGroup:
    """The group for what they say to each other; made together by the first message."""
    group: distributed.ProcessGroup = distributed.new_group(backend="gloo", timeout=timedelta(days=365))
    return group


def _is_one_of_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
