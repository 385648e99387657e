"""The parts of networks, what freezing keeps, and the rates by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import saccade
from models.forms import all_forms
from models.region_scenes import dataset
from saccade import checkpoint
from saccade.config import Settings
from saccade.errors import UsageError
from saccade.models import create, model_config, model_module
from saccade.models.dry_run import class_tensors, model_of_shapes
from saccade.training.depth import find_parts, freeze, rate_scales
from saccade.training.optimizer import make_optimizer
from saccade.training.plan import make_plan

SMALL: dict[str, Any] = {"batch": 8, "workers": 0, "width": 4, "depths": [1, 1, 1], "precision": "fp32"}


def _parts(name: str) -> list[str]:
    module = model_module(name)
    config = module.VARIANTS[name]
    return [part.name for part in find_parts(model_of_shapes(module, config), class_tensors(module, config))]


def test_parts_are_those_of_the_papers() -> None:
    assert _parts("resnet18") == ["conv1", *(f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)), "fc"]
    assert _parts("vgg11")[-4:] == ["features.18", "classifier.0", "classifier.3", "classifier.6"]
    assert _parts("densenet121")[:3] == ["features.conv0", "features.denseblock1", "features.transition1"]
    assert _parts("lenet5_modern") == ["net.c1", "net.c3", "net.c5", "net.f6", "net.out"]
    assert _parts("inception_v3")[-3:] == ["Mixed_7c", "AuxLogits", "fc"]  # the public layout has AuxLogits earlier


@pytest.mark.parametrize("name", ["googlenet", "mobilenet_v3_small", "preact_resnet18", "ssd300", "atss_small"])
def test_parts_hold_every_parameter_once(name: str) -> None:
    module = model_module(name)
    model = model_of_shapes(module, module.VARIANTS[name])
    found = [key for part in find_parts(model) for key in part.parameters()]
    assert sorted(found) == sorted(key for key, _ in model.named_parameters())


def test_every_network_has_an_output_layer() -> None:
    for form in all_forms().values():
        module = model_module(form.name)
        if set(module.TASKS) <= {"embed", "boxes3d"}:
            continue  # a vector, a size and an angle are those of any class
        assert class_tensors(module, model_config(form.name, **form.changes)), form.name


def test_rates_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1))
    parts = find_parts(model)
    assert [part.name for part in parts] == ["0", "2", "3"]
    scales = rate_scales(parts, 0.5)
    assert scales == {
        "0.weight": 0.25,
        "0.bias": 0.25,
        "1.weight": 0.25,
        "1.bias": 0.25,
        "2.weight": 0.5,
        "2.bias": 0.5,
        "3.weight": 1.0,
        "3.bias": 1.0,
    }
    groups = make_optimizer(model, dataclasses.replace(Settings(), weight_decay=0.3), scales).param_groups
    assert [(g["lr_scale"], g["weight_decay"], len(g["params"])) for g in groups] == [
        (1.0, 0.3, 1),
        (1.0, 0.0, 1),
        (0.5, 0.3, 1),
        (0.5, 0.0, 1),
        (0.25, 0.3, 1),
        (0.25, 0.0, 3),
    ]


def test_what_is_frozen_gets_no_gradient() -> None:
    model = create("resnet20", width=4, depths=(1, 1, 1), classes=2)
    modules = freeze(find_parts(model), 2, "resnet20")
    assert [type(module).__name__ for module in modules] == ["Conv2d", "BatchNorm2d", "Sequential"]
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "fc"}


@pytest.mark.parametrize("count", [5, 99])
def test_too_many_frozen_parts_are_named(count: int) -> None:
    model = create("resnet20", width=4, depths=(1, 1, 1), classes=2)
    with pytest.raises(UsageError, match=r"allowed are 0 to 4. The parts: 1 conv1, 2 layer1, .*5 fc"):
        freeze(find_parts(model), count, "resnet20")


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("fast_rcnn_vgg16", "paper"), ("faster_rcnn_vgg16", "paper"), ("faster_rcnn_vgg16", "alternating")],
)
def test_the_papers_of_fast_rcnn_keep_the_first_two_blocks_of_given_weights(
    name: str, recipe: str, tmp_path: Path
) -> None:
    """The last that is frozen is conv2_2, of 128 channels, the first that learns conv3_1; from scratch all learn, and
    so they do on another trunk, with another recipe, or where a person says so."""
    data = dataset(tmp_path / "data", 2, 1)

    def frozen(recipe: str, weights: str | None, **flags: Any) -> int:
        plan = make_plan(name, data, recipe=recipe, weights=weights, flags=flags)
        assert (plan.origins["freeze"] == f"recipe {recipe}, with weights") == (plan.settings.freeze > 0)
        return plan.settings.freeze

    module = model_module(name)
    config = module.VARIANTS[name]
    parts = find_parts(model_of_shapes(module, config), class_tensors(module, config))
    count = frozen(recipe, "of_a_run.safetensors")
    kept = [tuple(dict(part.modules)[part.name].get_parameter("weight").shape[:2]) for part in parts[: count + 1]]
    assert kept == [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128)]
    assert all(part.name.startswith("trunk.features.") for part in parts[: count + 1])
    assert frozen(recipe, None) == 0
    assert frozen("default", "of_a_run.safetensors") == 0
    assert frozen(recipe, "of_a_run.safetensors", trunk="resnet18") == 0
    assert frozen(recipe, "of_a_run.safetensors", freeze=0) == 0


def test_training_leaves_frozen_weights_and_statistics_bit_for_bit(colours: Path, run: Path, tmp_path: Path) -> None:
    settings = SMALL | {"epochs": 2, "ema": 0.9, "weight_decay": 0.1, "lr": 0.1}
    saccade.train("resnet20", colours, out=tmp_path / "new", weights=run, progress=False, freeze=3, **settings)
    before = checkpoint.load(checkpoint.find(run)).weights
    after = checkpoint.load(tmp_path / "new" / "last.safetensors").weights
    frozen = [name for name in before if name.startswith(("conv1.", "bn1.", "layer1.", "layer2."))]
    assert any("running_var" in name for name in frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not any(torch.equal(before[n], after[n]) for n in before if n.startswith("layer3.") and n.endswith("weight"))


def test_layer_decay_moves_early_layers_less(colours: Path, run: Path, tmp_path: Path) -> None:
    settings = SMALL | {"epochs": 1, "lr": 0.05, "weight_decay": 0.0, "warmup": 0.0, "nesterov": False}
    before = checkpoint.load(checkpoint.find(run)).weights
    moved = {}
    for decay in (1.0, 0.1):
        out = tmp_path / str(decay)
        saccade.train("resnet20", colours, out=out, weights=run, progress=False, layer_decay=decay, **settings)
        moved[decay] = checkpoint.load(out / "last.safetensors").weights["conv1.weight"] - before["conv1.weight"]
    assert 0 < moved[0.1].norm() < 1e-2 * moved[1.0].norm()


def test_the_command_says_what_is_frozen(
    colours: Path, run: Path, tmp_path: Path, shell: Callable[..., tuple[int, str, str]]
) -> None:
    small = ["--set", "width=4", "--set", "depths=[1,1,1]", "--workers", "0", "--batch", "8", "--epochs", "1"]
    arguments = ["train", "resnet20", colours, "--out", tmp_path / "r", "--weights", run, *small]
    code, _, err = shell(*arguments, "--freeze", "2")
    assert code == 0
    assert "in the first 2 of 5 parts: conv1, layer1" in err
    code, _, err = shell(*arguments[:-2], "--freeze", "5", "--overwrite")
    assert code == 2
    assert "The parts: 1 conv1" in err


def test_class_tensors_are_the_output_layer() -> None:
    config = model_config("squeezenet1_1", classes=3)
    assert class_tensors(model_module("squeezenet1_1"), config) == {"classifier.1.weight", "classifier.1.bias"}
