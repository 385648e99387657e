"""`python models.py [--long] NAME...`: the same step and predictions on the CPU and on a played CUDA device.

Without names: one small variant of every model file. Prints what differs, and ends with 1 if anything does. `--long`
adds both half precisions, and training with deterministic algorithms alone.
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

from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch
from saccade.inference.predictor import Predictor
from saccade.machine.device import autocast, only_deterministic
from saccade.models import catalogue, model_config, model_module

TOLERANCE = 1e-3  # relative, of losses and gradients: the CPU's own kernels differ by memory layout
SIDE = 32  # of the images, in pixels, but where the poolings need more
SIDES = {
    "alexnet": 64,
    "zfnet": 64,
    "inception_v3": 96,
    "inception_v4": 96,
    "inception_resnet_v1": 96,
    "atss_small": 96,
    "ssd300": 300,
    "yolo1_small": 64,
    "faster_rcnn_small": 96,
    "rcnn_small": 96,
    "sppnet_small": 96,
    "mask_rcnn_small": 96,
    "rfcn_small": 64,
    "sliding_window_small": 64,
    "faster_rcnn_c4_small": 96,
    "fast_rcnn_small": 96,
}
NARROW: dict[str, dict[str, Any]] = {  # of each file's first variant in this table, else of its smallest
    "alexnet": {"hidden": 64},
    "zfnet": {"hidden": 64},
    "vgg11_bn": {"hidden": 64, "width": 8},
    "resnet18": {"width": 8},
    "preact_resnet18": {"width": 8},
    "resnext29_8x64d": {"width": 8, "groups": 2, "group_width": 4, "depths": (1, 1, 1)},
    "densenet40_k12": {"depths": (2, 2, 2)},
    "bn_inception": {"width": 0.125},
    "googlenet": {"width": 0.125},
    "inception_v3": {"width": 0.125},
    "inception_v4": {"width": 0.125, "depths": (1, 1, 1)},
    "inception_resnet_v1": {"width": 0.125, "depths": (1, 1, 1)},
    "mobilenet_w25": {},
    "mobilenet_v2": {"width": 0.25},
    "mobilenet_v3_small": {"width": 0.25},
    "xception": {"entry": (16, 24, 32), "middle": 1, "exit": (32, 48, 64)},
    "darknet53": {"width": 4},
    "shufflenet_v2_x0_5": {"width": 24},
    "unet": {"width": 4, "border": 10.0, "class_weights": (1.0, 2.0, 1.0, 0.5)},
    "localizer_small": {"per_class": True},
    "faster_rcnn_small": {
        "trunk_width": 8,
        "channels": 16,
        "rpn_sample": 32,
        "head_sample": 32,
        "head_width": 32,
        "cascade": (0.6,),
        "box_loss": "giou",
        "score": "iou",
    },
    "rcnn_small": {"trunk_width": 8, "trunk_depths": (1, 1, 1), "side": 16, "context": 1, "sample": 32},
    "sppnet_small": {"trunk_width": 8, "trunk_depths": (1, 1), "hidden": 32, "sample": 32},
    "mask_rcnn_small": {
        "trunk_width": 8,
        "channels": 16,
        "rpn_sample": 32,
        "head_sample": 32,
        "head_width": 32,
        "mask_width": 8,
        "mask_side": 7,
    },
    "faster_rcnn_c4_small": {"trunk_width": 8, "rpn_channels": 16, "pooling": "pool", "head_width": 32},
    "fast_rcnn_small": {"trunk_width": 8, "pooling": "pool", "head_width": 32},
    "atss_small": {"trunk_width": 8, "channels": 16},
    "rfcn_small": {
        "trunk_width": 8,
        "trunk_depths": (1, 1, 1),
        "channels": 16,
        "rpn_channels": 16,
        "rpn_sample": 32,
        "head_sample": 32,
    },
    "sliding_window_small": {"trunk_width": 4, "hidden": (16,), "sample": 16, "shapes": ((24, 24), (32, 48))},
    "ssd300": {"width": 4},
    "yolo1_small": {"trunk_width": 8, "trunk_depths": (1, 1, 1), "convs": ((16, 1),)},
}


def one_of_each_file() -> list[str]:
    """Names of the catalogue, one a model file."""
    files: dict[str, list[str]] = {}
    for name, entry in catalogue().items():
        files.setdefault(entry["module"], []).append(name)
    known = catalogue()
    return [
        next((name for name in NARROW if name in names), min(names, key=lambda name: known[name]["parameters"]))
        for names in files.values()
    ]


def check(name: str, long: bool) -> Iterator[str]:
    """What of a model differs between the devices."""
    task, module = catalogue()[name]["tasks"][0], model_module(name)
    config = model_config(name, classes=4, **NARROW.get(name, {}))
    side = SIDES.get(name, SIDE)
    torch.manual_seed(0)
    on_cpu = module.Model(config).to(memory_format=torch.channels_last)
    untouched = copy.deepcopy(on_cpu)
    batch = make_batch(task, side)
    expected = _step(on_cpu, batch.to("cpu"))
    with PlayedCuda():
        device = torch.device("cuda:0")
        model = copy.deepcopy(untouched).to(device, memory_format=torch.channels_last)
        yield from (f"{what} stays on the CPU" for what in _left_behind(model))
        losses = _step(model, batch.to(device))
        yield from _differences(on_cpu, model, expected, losses)
        if long:
            _half_and_exact_steps(model, batch.to(device), device)
        on_cpu.load_state_dict(untouched.state_dict())
        model.load_state_dict(untouched.state_dict())
        on_cpu.eval(), model.eval()
        preprocessing = Preprocessing(None if task == "segment" else (side, side), "stretch")
        answers = [
            [
                answer
                for _, answer in Predictor(m, task, list("abcd"), preprocessing, d, "fp32").predict_batches([batch])
            ]
            for m, d in ((on_cpu, "cpu"), (model, device))
        ]
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
        pairs = [(name, getattr(here, name), getattr(there, name)) for name in ("scores", "tags", "semantic")]
        if here.objects is not None and there.objects is not None:
            if len(here.objects) != len(there.objects):
                yield f"{len(there.objects)} objects, on the CPU {len(here.objects)}"
                continue
            names = [field.name for field in dataclasses.fields(here.objects)]
            pairs += [(name, getattr(here.objects, name), getattr(there.objects, name)) for name in names]
        for name, a, b in pairs:
            if isinstance(a, Tensor) and b.device.type != "cpu":
                yield f"{name} of an answer on {b.device}"
            elif isinstance(a, Tensor) and not torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-3):
                yield f"{name} of an answer differ"


def main() -> int:
    """Check what the command line names."""
    torch.set_num_threads(1)
    long = "--long" in sys.argv
    names = [argument for argument in sys.argv[1:] if argument != "--long"] or one_of_each_file()
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
