"""The batch that is found fits a whole training step, and finding it changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from saccade.config import Settings
from saccade.data.types import Annotation, Batch
from saccade.errors import ResourceError
from saccade.models import create
from saccade.training import precision
from saccade.training.optimizer import AveragedWeights

CPU = torch.device("cpu")


def _batch() -> Batch:
    images = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    return Batch(images, [(32, 32)] * 2, [Annotation((32, 32), label=i) for i in range(2)], ["a", "b"])


@pytest.mark.parametrize(("free", "found"), [(10.0, 4), (7.0, 2), (1e9, 16)])
def test_the_peak_of_a_step_is_what_counts(monkeypatch: pytest.MonkeyPatch, free: float, found: int) -> None:
    """A machine on which an image takes one unit from the first pass to the optimiser's step, and averaged weights one
    in all; 70 % of what is free may be used."""
    used = 0.0
    step, update = torch.optim.SGD.step, AveragedWeights.update
    images: list[int] = []

    def stepped(self: torch.optim.SGD) -> None:
        nonlocal used
        used = max(used, images[-1])
        step(self)

    def averaged(self: AveragedWeights, model: torch.nn.Module, number: int) -> None:
        nonlocal used
        used = max(used, images[-1] + 1)
        update(self, model, number)

    def repeated(batch: Batch, size: int) -> Batch:
        images.append(size)
        return repeat(batch, size)

    repeat = precision._repeat
    monkeypatch.setattr(torch.optim.SGD, "step", stepped)
    monkeypatch.setattr(AveragedWeights, "update", averaged)
    monkeypatch.setattr(precision, "_repeat", repeated)
    monkeypatch.setattr(precision, "_memory_in_use", lambda _: 0.0)
    monkeypatch.setattr(precision, "_most_memory_in_use", lambda _: used)
    monkeypatch.setattr(precision, "_memory_free", lambda _: free)
    model = create("resnet20", classes=2, width=4, depths=(1, 1, 1)).train()
    batch, settings = _batch(), Settings(optimizer="sgd", ema=0.9)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert precision.find_batch(model, batch, CPU, "fp32", settings, most=20) == found
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_where_not_even_one_image_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_memory_free", lambda _: -1e12)
    model = create("resnet20", classes=2, width=4, depths=(1, 1, 1)).train()
    with pytest.raises(ResourceError, match="not even the smallest batch"):
        precision.find_batch(model, _batch(), CPU, "fp32", Settings(), most=8)
