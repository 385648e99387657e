"""Two processes give the gradients of one, images without objects included."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DivergedError
from saccade.machine.processes import from_all, from_first, largest, leave_processes
from saccade.models import create
from saccade.training import prepare
from saccade.training.measure import Measured
from saccade.training.plan import make_plan
from saccade.training.prepare import Step
from saccade.training.state import Progress
from saccade.training.taken import Taken
from saccade.verbs import train as loop


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


def _spawn(work: Callable[..., None], processes: int, *arguments: object) -> None:
    """`work(rank, processes, port, ...)` in so many processes, which meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (processes, port, *arguments), nprocs=processes)


def _meet(rank: int, processes: int, port: int) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=processes)


def _model() -> torch.nn.Module:
    """A detector whose gradients do not depend on which images share a batch: norms use their running statistics."""
    torch.manual_seed(0)
    model = create("atss_small", classes=2, trunk_width=8, channels=16)
    return model.eval()


def _save_gradients(rank: int, share: int, out: str) -> None:
    step = DistributedDataParallel(Step(_model()))
    losses = step(_batch()[rank * share : (rank + 1) * share])
    torch.stack(list(losses.values())).sum().backward()
    if rank == 0:
        torch.save({k: p.grad for k, p in step.module.named_parameters()}, out)


def _compare_gradients(file: Path) -> None:
    step = Step(_model())
    torch.stack(list(step(_batch()).values())).sum().backward()
    got = torch.load(file, weights_only=True)
    for name, parameter in step.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@dataclass
class _Scores:
    """What an evaluation gives, as much of it as the end of an epoch asks for."""

    metrics: dict[str, Any]
    per_class: tuple[()] = ()
    curves: dict[str, Any] = field(default_factory=dict)


def _end_an_epoch(counters: Progress, share: float, top1: float, rank: int) -> None:
    """`_end_of_epoch` at this share of a run with patience 0.3; only the first process has a result, `top1`."""
    settings = SimpleNamespace(patience=0.3)
    parts = SimpleNamespace(
        share=lambda _: share,
        steps_an_epoch=1,
        plan=SimpleNamespace(validation=[1], task="classify", settings=settings),
        accelerator=SimpleNamespace(is_main_process=rank == 0),
        log=SimpleNamespace(add=lambda _: None),
        display=SimpleNamespace(epoch=lambda row, metric: None),
        run=Path(),
    )
    scores = _Scores({"top1": SimpleNamespace(value=top1)}) if rank == 0 else None
    loop.images_of_curves = lambda *_: 0
    loop.measure = lambda *_: Measured(scores, {}, {})  # type: ignore[arg-type]
    loop._save_checkpoint = lambda *_: None
    loop._end_of_epoch(parts, counters)  # type: ignore[arg-type]


def _agreements(rank: int, processes: int, port: int, data: str, run: str) -> None:
    _meet(rank, processes, port)
    _save_gradients(rank, 4 // processes, f"{run}/gradients.pth")
    assert from_all(rank) == [0, 1]
    assert from_first(rank) == 0
    assert largest([rank, -rank]) == [1, 0]

    # A run that gets better goes on, one that does not ends, in both processes alike.
    counters = Progress()
    for share, top1, finished in ((0.2, 0.5, False), (0.45, 0.6, False), (0.7, 0.6, False), (0.9, 0.6, True)):
        _end_an_epoch(counters, share, top1, rank)
        assert (counters.best, counters.finished) == (max(0.5, min(top1, 0.6)), finished), share

    # One loss that is no number, or one signal, is everybody's.
    assert loop._agree(1.0 + rank, 0) == (2.0, 0)
    assert loop._agree(1.0, 15 * rank) == (1.0, 15)
    loss = torch.tensor(float("nan") if rank == 1 else 1.0)
    taken = Taken(7, 0.1, [f"{rank}.png"], {"loss": loss}, torch.tensor(1.0), scaled=False)
    with pytest.raises(DivergedError, match=r"1\.png" if rank == 1 else "the loss of another process .* at step 7"):
        loop._settle(SimpleNamespace(run=Path(run)), counters, taken)  # type: ignore[arg-type]

    # Precision and batch: what is good for the one that can do least, and the batch is that of all together.
    plan = make_plan("resnet20", data, flags={"width": 4, "depths": [1, 1, 1], "batch": 0})
    model = plan.module.Model(plan.config)
    prepare.choose_precision = lambda *_: ("bf16" if rank == 0 else "fp32", f"process {rank}")
    prepare.find_batch = lambda *_: 8 >> rank
    plan, precision, why = prepare._numerics(plan, Path(run), model, torch.device("cpu"), resume=False)
    assert (precision, why, plan.settings.batch) == ("fp32", "process 1", 8)
    leave_processes()


def test_processes_agree(colours: Path, tmp_path: Path) -> None:
    """In one pair of processes for all, as they take long to start."""
    _spawn(_agreements, 2, str(colours), str(tmp_path))
    _compare_gradients(tmp_path / "gradients.pth")


def test_alone_there_is_nothing_to_agree_on() -> None:
    assert (from_all(3), from_first(3), largest([3, -1])) == ([3], 3, [3, -1])
