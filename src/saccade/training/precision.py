"""Choose the number format of a run, and the largest batch that fits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config import Settings
from saccade.data.types import Batch
from saccade.errors import ResourceError, UsageError, is_out_of_memory
from saccade.machine.device import autocast, has_fast_bf16, kept_random_numbers
from saccade.machine.processes import processes_here
from saccade.training.optimizer import AveragedWeights, make_optimizer

AGREEMENT = 0.05  # largest relative difference of the first batch's loss at which bf16 is chosen by itself
LARGEST_BATCH = 256


def choose_precision(wanted: str, model: nn.Module, batch: Batch, device: torch.device) -> tuple[str, str]:
    """The precision of a run and why.

    "auto" takes bf16 where the hardware multiplies it natively and the loss of the first batch agrees with fp32.

    Raises:
        UsageError: as `check_precision`.
    """
    check_precision(wanted, device)
    if wanted != "auto":
        return wanted, "as asked"
    if not has_fast_bf16(device):
        return "fp32", "this hardware has no fast bf16"
    exact, rough = (_loss_once(model, batch, device, p) for p in ("fp32", "bf16"))
    difference = abs(rough - exact) / max(abs(exact), 1e-6)
    if difference <= AGREEMENT:
        return "bf16", f"first loss {rough:.4g} in bf16, {exact:.4g} in fp32"
    return "fp32", f"bf16 disagrees: first loss {rough:.4g}, {exact:.4g} in fp32"


def check_precision(wanted: str, device: torch.device) -> None:
    """Raises UsageError for fp16 on a CPU, where it is emulated and some 200 times slower than bf16."""
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError("precision fp16 needs a GPU; on a CPU use bf16 or fp32")


def find_batch(
    model: nn.Module, batch: Batch, device: torch.device, precision: str, settings: Settings, most: int
) -> int:
    """The largest power of two of images whose training step fits into 70 % of the free memory of this process: a copy
    of the model takes whole steps, with gradients, the optimiser's state and averaged weights.

    Args:
        batch: two typical images or more; they are repeated.
        most: do not go beyond (the number of training images).

    Raises:
        ResourceError: not even one image fits.
    """
    before = _memory_in_use(device)
    free = 0.7 * _memory_free(device)
    trial = copy.deepcopy(model)
    optimizer = make_optimizer(trial, settings)
    averaged = AveragedWeights(trial, settings.ema) if settings.ema else None
    with _undisturbed(trial), torch.enable_grad():
        largest, size = 0, 1
        while size <= min(most, LARGEST_BATCH):
            try:
                with autocast(device, precision):
                    losses = trial.loss(_repeat(batch, size).to(device))  # type: ignore[operator]
                graph = _memory_in_use(device)
                torch.stack(list(losses.values())).sum().backward()
                optimizer.step()
                if averaged is not None:
                    averaged.update(trial, 0)
                used = max(graph, _most_memory_in_use(device)) - before
            except ValueError:  # batch norm of maps of one pixel needs two images
                if size > 1:
                    raise
                size = 2
                continue
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                break
            finally:
                optimizer.zero_grad(set_to_none=True)
            if used > free:
                break
            largest, size = size, size * 2
    if largest == 0:
        raise ResourceError("not even the smallest batch fits into memory; use a smaller --size or model")
    return largest


@torch.no_grad()
def _loss_once(model: nn.Module, batch: Batch, device: torch.device, precision: str) -> float:
    with _undisturbed(model), autocast(device, precision):
        losses: dict[str, Tensor] = model.loss(batch.to(device))  # type: ignore[operator]
    return float(torch.stack([loss.float() for loss in losses.values()]).sum())


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Buffers (running statistics) and random generators are put back afterwards."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with kept_random_numbers(next(model.parameters()).device):
        yield
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def _repeat(batch: Batch, size: int) -> Batch:
    rows = [i % len(batch) for i in range(size)]
    truth: list[Any] | None = None if batch.truth is None else [batch.truth[i] for i in rows]
    given = None if batch.given is None else [batch.given[i] for i in rows]
    return Batch(batch.images[rows], [batch.sizes[i] for i in rows], truth, [batch.ids[i] for i in rows], given=given)


def _memory_in_use(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    import psutil  # a dependency of accelerate

    return float(psutil.Process().memory_info().rss)


def _most_memory_in_use(device: torch.device) -> float:
    """At any time so far; on a CPU now, which is much the same, as freed memory is kept (machine/memory.py)."""
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _memory_in_use(device)


def _memory_free(device: torch.device) -> float:
    """What this process may take; processes on one CPU share its memory."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    return float(psutil.virtual_memory().available) / processes_here()
