"""`python networks.py [--long] FORM...`: the same step and predictions on the CPU and on a played CUDA device.

Forms are those of `tests/models/forms.py`; without names: one of every model file, but of those that classify only
some. Prints what differs, and ends with 1 if anything does. `--long` takes all files, adds both half precisions, and
training with deterministic algorithms alone.
"""

from __future__ import annotations

from played import PlayedCuda, PlayedTensor, real  # before torch

# isort: split
import copy
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import torch
from inputs import make_batch
from torch import Tensor, nn

from models.forms import all_forms
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch
from saccade.inference.predictor import Predictor
from saccade.machine.device import autocast, only_deterministic
from saccade.models import catalogue, model_config, model_module

TOLERANCE = 1e-3  # relative, of losses and gradients: the CPU's own kernels differ by memory layout
HESITANT = 0.01  # share of the pixels in which rounding may decide the class that an untrained network names
CLASSES = 4
# An ordinary classifier, one of groups and channels moved about, one with classifiers on the way.
LIKE = ("resnet", "shufflenet_v2", "googlenet")
# Ways through a file that its form leaves out, and that go another way on a GPU.
CHANGES: dict[str, dict[str, Any]] = {
    "localizer": {"per_class": True},
    "unet_light": {"border": 10.0, "class_weights": (1.0, 2.0, 1.0, 0.5)},
    "faster_rcnn": {"pooling": "pool"},
    "fast_rcnn": {"pooling": "pool"},
    "fpn": {"cascade": (0.6,), "box_loss": "giou", "score": "iou"},
}


def one_of_each_file(long: bool) -> list[str]:
    """Names of forms, one a model file: the first, or the first with changes. Of those that classify only LIKE unless
    it may take long: their losses are the same, and on the meta device, too, `test_contract.py` sees tensors that a
    forward pass makes elsewhere."""
    files: dict[str, str] = {}
    for name, form in all_forms().items():
        file = catalogue()[form.name]["module"]
        if file not in files or (name in CHANGES and files[file] not in CHANGES):
            files[file] = name
    return [name for file, name in files.items() if long or ".backbones." not in file or name in LIKE]


def check(name: str, long: bool) -> Iterator[str]:
    """What of a form differs between the devices."""
    form = all_forms()[name]
    task, module, side = catalogue()[form.name]["tasks"][0], model_module(form.name), form.side
    config = model_config(form.name, classes=CLASSES, **form.changes | CHANGES.get(name, {}))
    torch.manual_seed(0)
    on_cpu = module.Model(config).to(memory_format=torch.channels_last)
    for norm in on_cpu.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # statistics of one step, without which an untrained network is sure of everything
    untouched = copy.deepcopy(on_cpu)
    batch = make_batch(task, side, CLASSES)
    expected = _step(on_cpu, batch.to("cpu"))
    with PlayedCuda():
        device = torch.device("cuda:0")
        model = copy.deepcopy(untouched).to(device, memory_format=torch.channels_last)
        yield from (f"{what} stays on the CPU" for what in _left_behind(model))
        losses = _step(model, batch.to(device))
        yield from _differences(on_cpu, model, expected, losses)
        if long:
            _half_and_exact_steps(model, batch.to(device), device)
        model.load_state_dict(on_cpu.state_dict())  # the weights are as before, the statistics of norms of the batch
        on_cpu.eval(), model.eval()
        preprocessing = Preprocessing(None if task == "segment" else (side, side), "stretch")
        named = [str(label) for label in range(CLASSES)]
        predictors = (
            Predictor(m, task, named, preprocessing, d, "fp32") for m, d in ((on_cpu, "cpu"), (model, device))
        )
        answers = [[answer for _, answer in each.predict_batches([batch])] for each in predictors]
        yield from _other_answers(*answers)


def _step(model: nn.Module, batch: Batch) -> dict[str, float]:
    torch.manual_seed(1)
    losses = model.train().loss(batch)  # type: ignore[operator]
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    return {name: float(loss.detach()) for name, loss in losses.items()}


def _left_behind(model: nn.Module) -> Iterator[str]:
    yield from (n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.device.type != "cuda")
    for name, module in model.named_modules():
        yield from (f"{name}.{k}" for k, v in vars(module).items() if type(v) is Tensor and not v.is_cuda)


def _differences(
    on_cpu: nn.Module, model: nn.Module, expected: dict[str, float], losses: dict[str, float]
) -> Iterator[str]:
    for name, value in expected.items():
        if abs(losses[name] - value) > TOLERANCE * abs(value):
            yield f"loss {name} {losses[name]}, on the CPU {value}"
    scale = max(float(p.grad.norm()) for p in on_cpu.parameters() if p.grad is not None)
    for (name, there), here in zip(model.named_parameters(), on_cpu.parameters(), strict=True):
        if (there.grad is None) != (here.grad is None):
            yield f"gradient of {name} on one device alone"
        elif there.grad is not None and here.grad is not None:
            if not isinstance(there.grad, PlayedTensor):
                yield f"gradient of {name} on {there.grad.device}"
            if (real(there.grad) - here.grad).norm() > TOLERANCE * (here.grad.norm() + scale):
                yield f"gradient of {name} differs"
    for (name, there), here in zip(model.named_buffers(), on_cpu.buffers(), strict=True):
        if not torch.allclose(real(there).double(), here.double(), rtol=TOLERANCE, atol=1e-5):
            yield f"buffer {name} differs"


def _half_and_exact_steps(model: nn.Module, batch: Batch, device: torch.device) -> None:
    """Raises where the device would refuse one."""
    for precision in ("bf16", "fp16"):
        with autocast(device, precision):
            losses = model.train().loss(batch)  # type: ignore[operator]
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    with only_deterministic(True):
        _step(model, batch)


def _other_answers(expected: list[Annotation], answers: list[Annotation]) -> Iterator[str]:
    for here, there in zip(expected, answers, strict=True):
        if here.label != there.label:
            yield f"label {there.label}, on the CPU {here.label}"
        pairs = [
            (name, getattr(here, name), getattr(there, name))
            for name in ("probabilities", "tags", "semantic", "embedding")
        ]
        if here.objects is not None and there.objects is not None:
            if len(here.objects) != len(there.objects):
                yield f"{len(there.objects)} objects, on the CPU {len(here.objects)}"
                continue
            names = [field.name for field in dataclasses.fields(here.objects)]
            pairs += [(name, getattr(here.objects, name), getattr(there.objects, name)) for name in names]
        for name, a, b in pairs:
            if isinstance(a, Tensor) and b.device.type != "cpu":
                yield f"{name} of an answer on {b.device}"
            elif isinstance(a, Tensor) and name == "semantic":
                other = float((a != b).double().mean())
                if other > HESITANT:
                    yield f"{name} of an answer differs in {other:.1%} of the pixels"
            elif isinstance(a, Tensor) and not torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-3):
                yield f"{name} of an answer differ"


def main() -> int:
    """Check what the command line names."""
    torch.set_num_threads(1)
    long = "--long" in sys.argv
    names = [argument for argument in sys.argv[1:] if argument != "--long"] or one_of_each_file(long)
    count = 0
    for name in names:
        try:
            faults = list(check(name, long))
        except Exception as error:
            faults = [f"{type(error).__name__}: {error}"]
        count += len(faults)
        for fault in faults:
            print(f"{name}: {fault}", flush=True)
    print(f"{len(names)} models, {count} differences")
    return min(1, count)


if __name__ == "__main__":
    sys.exit(main())
