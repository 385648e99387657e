"""`python programs.py FOLDER TASK...`: whole programs on a played CUDA device, and what they made a GPU wait for.

Prints a line of JSON for each task: `waits`, the places and numbers of waits of the dearest training step (that is not
the last of an epoch); `distance`, the largest difference of a weight from that of the same run on the CPU.
"""

from __future__ import annotations

from played import PlayedCuda, PlayedTensor  # before torch

# isort: split
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import inputs
import torch
from matplotlib.figure import Figure
from PIL import Image

import saccade
from saccade import checkpoint
from saccade.data.pipelines import Preprocessing
from saccade.inference.predictor import Predictor
from saccade.training.state import STATE
from saccade.verbs import train as loop

BATCH = 4
STEPS = 3  # an epoch: every data set here has 12 images to train on
USUAL: dict[str, Any] = {"workers": 0, "batch": BATCH, "epochs": 1, "precision": "fp32"}
SMALL = {"width": 4, "depths": (1, 1, 1), "size": 32}
MIXED = SMALL | {"ema": 0.9, "mixup": 0.2, "cutmix": 1.0, "mix_probability": 1.0, "optimizer": "adamw"}
Maker = Callable[[Path], Path]


def _one_box(root: Path) -> Path:
    return inputs.boxes(root, 1)


def _boxes(root: Path) -> Path:
    return inputs.boxes(root, 3)


TASKS: dict[str, tuple[str, Maker, dict[str, Any]]] = {
    "classify": ("resnet20", inputs.class_folders, MIXED),
    "rescaled": ("resnet20", inputs.class_folders, SMALL | {"multi_scale": 0.5, "size": 64, "ema": 0.9}),
    "tag": ("mobilenet_v3_small", inputs.tags, {"width": 0.25, "size": 32, "optimizer": "rmsprop", "lr": 1e-4}),
    "localize": ("localizer_small", _one_box, {"size": 64, "trunk_width": 8, "task": "localize"}),
    "segment": ("unet", inputs.masks, {"size": 64, "width": 4, "border": 10.0, "multi_scale": 0.3}),
    "ssd": ("atss_small", _boxes, {"size": 64, "trunk_width": 8, "channels": 16, "mosaic": 0.5}),
    "faster_rcnn": (
        "faster_rcnn_small",
        _boxes,
        {"size": 64, "trunk_width": 8, "channels": 16, "rpn_sample": 32, "head_sample": 32, "head_width": 32},
    ),
    "mask_rcnn": (
        "mask_rcnn_small",
        _boxes,
        {"size": 64, "trunk_width": 8, "channels": 16, "rpn_sample": 32, "head_sample": 32, "head_width": 32},
    ),
}


@contextmanager
def _steps(gpu: PlayedCuda) -> Iterator[list[Counter[str]]]:
    """The waits so far at the beginning of every step: `learning_rate` is the first that a step asks for."""
    marks: list[Counter[str]] = []
    rate = loop.learning_rate

    def marked(*args: Any) -> float:
        marks.append(gpu.waits.copy())
        return rate(*args)

    with mock.patch.object(loop, "learning_rate", marked):
        yield marks


def _dearest(marks: list[Counter[str]]) -> dict[str, int]:
    whole = [after - before for i, (before, after) in enumerate(pairwise(marks), 1) if i % STEPS]
    return dict(max(whole, key=lambda waits: waits.total()))


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "last.safetensors").weights


def _distance(one: Path, other: Path) -> float:
    a, b = _weights(one), _weights(other)
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel())


def both_devices(name: str, folder: Path) -> dict[str, Any]:
    """Train on the CPU and on the device, then evaluate; the reports of the runs are left out."""
    model, make, settings = TASKS[name]
    data = make(folder / f"data-{name}")
    settings = USUAL | settings
    with mock.patch.object(loop, "_finish", return_value={}):
        saccade.train(model, data, out=folder / name / "cpu", device="cpu", progress=False, **settings)
        with PlayedCuda() as gpu, _steps(gpu) as marks:
            saccade.train(model, data, out=folder / name / "cuda", device="cuda", progress=False, **settings)
    with PlayedCuda():
        result = saccade.evaluate(folder / name / "cuda", data, device="cuda", workers=0, bootstrap=0)
    assert result["images"] > 0
    distance = _distance(folder / name / "cpu", folder / name / "cuda")
    return {"waits": _dearest(marks), "distance": distance}


def verbs(folder: Path) -> dict[str, Any]:
    """Resume, predict, explain and transfer; a stopped run in fp16 ends with the weights of one that was not."""
    data = inputs.class_folders(folder / "data-verbs")
    settings = USUAL | SMALL | {"precision": "fp16", "ema": 0.9, "epochs": 2}
    picture = data / "val" / "red" / "0.png"
    whole, parts = folder / "whole", folder / "parts"
    with PlayedCuda():
        saccade.train("resnet20", data, out=whole, device="cuda", progress=False, **settings)
        stop = mock.patch.object(loop, "_end_of_epoch", _stop_after_the_first(loop._end_of_epoch))
        with stop, suppress(InterruptedError):
            saccade.train("resnet20", data, out=parts, device="cuda", progress=False, save_every=0.0, **settings)
        saccade.train("resnet20", data, out=parts, device="cuda", progress=False, resume=True)
        answers = saccade.predict(whole, picture, device="cuda", workers=0)
        explained = saccade.explain(whole, picture, device="cuda", out=folder / "explained")
        quick = {"epochs": 1, "batch": BATCH, "workers": 0, "precision": "fp32"}
        out = folder / "transfer"
        found = saccade.transfer(data, weights=whole, out=out, device="cuda", seeds=1, progress=False, **quick)
    assert answers[0]["label"] in ("red", "green", "blue")
    assert explained
    assert found
    scalers = [_header(run)["scaler"] for run in (whole, parts)]
    assert scalers[0]["_growth_tracker"] == 2 * STEPS
    assert scalers[0] == scalers[1], f"fp16 goes on with another scaler: {scalers}"
    return {"waits": {}, "distance": _distance(whole, parts)}


def _header(run: Path) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(checkpoint.read_tensors(run / STATE)[0]["state"])
    return header


def _stop_after_the_first(end_of_epoch: Callable[..., None]) -> Callable[..., None]:
    def stopping(parts: Any, counters: Any) -> None:
        if counters.epoch > 1:
            raise InterruptedError
        end_of_epoch(parts, counters)

    return stopping


def devices(folder: Path) -> dict[str, Any]:
    """Three runs of one process, each on the device that it was given; one on the CPU wakes no GPU."""
    data = inputs.class_folders(folder / "data-devices")
    settings = USUAL | SMALL | {"precision": "auto"}
    for name in ("cuda:1", "cpu", "cuda", "cpu"):
        with PlayedCuda() as gpu:
            saccade.train("resnet20", data, out=folder / name, device=name, progress=False, overwrite=True, **settings)
        expected = set() if name == "cpu" else {torch.device("cuda", 1 if name == "cuda:1" else 0)}
        assert gpu.devices == expected, f"{name} computed on {gpu.devices}"
        if name == "cpu":
            assert not gpu.touched, f"a run on the CPU asks CUDA for {gpu.touched}"
    with PlayedCuda(), mock.patch("saccade.inference.predictor.copy") as copies:
        model = saccade.create("resnet20", classes=3).to("cuda")
        Predictor(model, "classify", list("abc"), Preprocessing((32, 32), "stretch"), "cuda")
    assert not copies.deepcopy.called, "a model that is on the device is copied to it"
    return {"waits": {}, "distance": 0.0}


def faults(folder: Path) -> dict[str, Any]:
    """What the play is for: faults that are put in are seen."""
    model = saccade.create("resnet20", classes=3)
    batch = inputs.make_batch("classify", 32, 3)
    with PlayedCuda() as gpu:
        model = model.to("cuda")
        tries: dict[str, Callable[[], Any]] = {
            "images stay on the CPU": lambda: model.loss(batch.to("cpu")),
            "a device tensor as numpy": lambda: torch.ones(2, device="cuda").numpy(),
            "two devices meet": lambda: torch.ones(2, device="cuda:1") + torch.ones(2, device="cuda"),
            "half times float": lambda: torch.ones(2, 2, device="cuda").half() @ torch.ones(2, 2, device="cuda"),
        }
        for what, attempt in tries.items():
            try:
                attempt()
            except (RuntimeError, TypeError):
                continue
            raise AssertionError(f"not seen: {what}")
        before = gpu.waits.total()
        made = torch.ones(3, device="cuda")
        assert isinstance(made, PlayedTensor)
        float(made.sum()), made[made > 0], made.cpu()
        assert gpu.waits.total() - before == 3, gpu.waits
    return {"waits": {}, "distance": 0.0}


OTHERS: dict[str, Callable[[Path], dict[str, Any]]] = {"verbs": verbs, "devices": devices, "faults": faults}


def _save_a_dot(figure: Figure, file: io.BytesIO, **_: Any) -> None:
    Image.new("RGB", (1, 1)).save(file, "PNG")


def main() -> None:
    """Run what the command line names."""
    torch.set_num_threads(1)
    Figure.savefig = _save_a_dot  # drawing takes longer than all else here
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        done = OTHERS[name](folder) if name in OTHERS else both_devices(name, folder)
        print(json.dumps({"task": name} | done), flush=True)


if __name__ == "__main__":
    main()
