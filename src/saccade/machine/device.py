"""Where and how precisely to compute."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from saccade.errors import UsageError

MOST_WORKERS = 64  # as the setting `workers` allows


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, or the best one here, with its number where it has one, as its tensors have it. Raises
    UsageError where it does not exist. "cpu" asks nothing of CUDA."""
    if isinstance(name, torch.device) or name == "cpu":
        return _numbered(torch.device(name))
    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    if name is None:
        return _numbered(torch.device("cuda" if "cuda" in available else "mps" if "mps" in available else "cpu"))
    if name not in available:
        raise UsageError(f"--device {name!r} is not on this machine; available: {', '.join(available)}")
    return _numbered(torch.device(name))


def _numbered(device: torch.device) -> torch.device:
    if device.type == "cpu" or device.index is not None:
        return device
    chosen = device.type == "cuda" and torch.cuda.is_initialized()
    return torch.device(device.type, torch.cuda.current_device() if chosen else 0)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices natively (CPUs: AVX512-BF16 or AMX; GPUs: Ampere or later)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which a network of this precision is called."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


class Reading:
    """Scalars of a device, asked for now and read later: only `floats` waits, and for no more than their copy.

    Args:
        values: [n].
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self._copied = values, None
        if values.is_cuda:
            self._values = values.to("cpu", non_blocking=True)  # into pinned memory
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def floats(self) -> list[float]:
        """The values; what the device was asked after them may still be under way."""
        if self._copied is not None:
            self._copied.synchronize()
        values: list[float] = self._values.tolist()
        return values


@contextmanager
def timed_convolutions(wanted: bool) -> Iterator[None]:
    """Inside, if `wanted`, cuDNN times its algorithms for every new shape and keeps the fastest: worth it where shapes
    repeat. Which one wins may differ from run to run, and with it the last bits."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def kept_random_numbers(device: torch.device) -> Iterator[None]:
    """Inside, torch's generators of the CPU and of `device` may be drawn from and seeded; afterwards they are as they
    were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        other = torch.mps.get_rng_state() if device.type == "mps" else None
        try:
            yield
        finally:
            if other is not None:
                torch.mps.set_rng_state(other)


@contextmanager
def only_deterministic(wanted: bool) -> Iterator[None]:
    """Inside, if `wanted`, torch takes only algorithms that give the same bits on every call; afterwards what it took
    before.

    Raises:
        UsageError: an operation on this device has no such algorithm; it is named.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which torch asks for before a product on CUDA
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        reason = str(error).split(", but you set")[0].split("\n")[0]
        raise UsageError(f"deterministic: {reason}; train on another --device, or without it") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def loader_workers(wanted: int | None, device: torch.device, processes: int = 1) -> int:
    """Processes that prepare batches: as asked, or one for each core that this process may use, at most 8.

    Where the network computes on the same cores, one for every second core: more of them only take its time
    (benchmarks/notes.md, "Training speed"). `processes` that train side by side share the cores. Raises UsageError for
    a number that cannot be.
    """
    if wanted is not None:
        if not 0 <= wanted <= MOST_WORKERS:
            raise UsageError(f"workers is {wanted}, allowed: 0 to {MOST_WORKERS}")
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own = max(1, cores // processes)
    return min(8, max(1, own // 2) if device.type == "cpu" else own)


def describe_hardware(device: torch.device) -> str:
    """One line for reports: processor or GPU, cores, torch version."""
    import platform

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return ""
