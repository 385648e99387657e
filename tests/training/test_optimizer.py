"""Optimisers against their formulas by hand."""

from __future__ import annotations

import dataclasses
import importlib
import math

import pytest
import torch
from torch import nn

from saccade.config import Settings
from saccade.training.optimizer import make_optimizer


def test_rmsprop_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    settings = dataclasses.replace(
        Settings(), optimizer="rmsprop", lr=0.1, momentum=0.5, rms_decay=0.8, rms_eps=1.0, weight_decay=0.01
    )
    optimizer = make_optimizer(layer, settings)
    weight, square, step = 2.0, 0.0, 0.0
    for gradient in (3.0, -1.0, 0.5):
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        decayed = gradient + 0.01 * weight
        square = 0.8 * square + 0.2 * decayed**2
        step = 0.5 * step + decayed / (math.sqrt(square) + 1.0)
        weight -= 0.1 * step
        assert layer.weight.item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_only_weights_decay(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = make_optimizer(model, dataclasses.replace(Settings(), optimizer=name, weight_decay=0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [len(group["params"]) for group in groups] == [1, 3]


def test_recipes_of_papers_that_used_rmsprop_use_it() -> None:
    for name in ("inception_v3", "inception_v4", "inception_resnet", "mobilenet", "mobilenet2", "mobilenet3"):
        recipe = importlib.import_module(f"saccade.models.backbones.{name}").RECIPES["paper"]["*"]
        assert (recipe["optimizer"], recipe["rms_decay"], recipe["rms_eps"]) == ("rmsprop", 0.9, 1.0)
