"""Two processes give the gradients of one, images without objects included."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from saccade.data.types import Annotation, Batch, Objects
from saccade.models import create
from saccade.training.prepare import Step
from saccade.training.processes import leave_processes


def _batch() -> Batch:
    """Four images; the second half of them, which the second process takes, holds no object."""
    torch.manual_seed(1)
    boxes = torch.tensor([[8.0, 8.0, 40.0, 44.0], [30.0, 20.0, 60.0, 60.0]])
    objects = [
        Objects(boxes, torch.tensor([0, 1])),
        Objects(boxes[:1], torch.tensor([1])),
        Objects.empty(),
        Objects.empty(),
    ]
    truth = [Annotation((64, 64), objects=o) for o in objects]
    return Batch(torch.rand(4, 3, 64, 64), [(64, 64)] * 4, truth, ["a", "b", "c", "d"])


def _model() -> torch.nn.Module:
    """A detector whose gradients do not depend on which images share a batch: norms use their running statistics."""
    torch.manual_seed(0)
    model = create("ssd_small", classes=2, width=8, channels=16)
    return model.eval()


def _gradients(rank: int, processes: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)
    _save_gradients(rank, 4 // processes, out)
    leave_processes()


def _save_gradients(rank: int, share: int, out: str) -> None:
    step = DistributedDataParallel(Step(_model()))
    losses = step(_batch()[rank * share : (rank + 1) * share])
    torch.stack(list(losses.values())).sum().backward()
    if rank == 0:
        torch.save({k: p.grad for k, p in step.module.named_parameters()}, out)


@pytest.mark.parametrize("processes", [2])
def test_gradients_agree(tmp_path: Path, processes: int) -> None:
    step = Step(_model())
    torch.stack(list(step(_batch()).values())).sum().backward()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = str(tmp_path / "gradients.pth")
    multiprocessing.spawn(_gradients, (processes, port, out), nprocs=processes)
    got = torch.load(out, weights_only=True)
    for name, parameter in step.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
