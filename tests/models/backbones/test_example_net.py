from __future__ import annotations

import dataclasses

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.models.backbones.example_net import RECIPES, VARIANTS, Config, Model


def test_parameters_that_the_lecture_counts():
    model = Model(Config(classes=0))
    assert model.conv.weight.numel() == 250
    assert model.conv.bias.numel() == 10
    assert model.hidden.weight.numel() == 338_000
    assert model.hidden.bias.numel() == 200
    assert sum(p.numel() for p in model.parameters()) == 338_460
    assert sum(p.numel() for p in Model(VARIANTS["example_net"]).parameters()) == 340_470


def test_pooled_map_is_10_by_13_by_13():
    model = Model(Config())
    assert torch.nn.functional.max_pool2d(model.conv(torch.zeros(1, 1, 28, 28)), 2).shape == (1, 10, 13, 13)


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_gradient_reaches_all_parameters(task: str):
    torch.manual_seed(0)
    model = Model(Config(classes=4, task=task))
    truth = [Annotation((28, 28), label=i, tags=torch.arange(4) == i) for i in range(4)]
    sum(model.loss(Batch(torch.rand(4, 3, 28, 28), [(28, 28)] * 4, truth)).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_learns_32_images_by_heart():
    torch.manual_seed(0)
    batch = Batch(torch.rand(32, 3, 28, 28), [(28, 28)] * 32, [Annotation((28, 28), label=i % 4) for i in range(32)])
    model = Model(Config(classes=4, hidden=32))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        assert [a.label for a in model.predict(batch)] == [i % 4 for i in range(32)]


def test_exports():
    model = Model(dataclasses.replace(VARIANTS["example_net"], hidden=8)).eval()
    images = torch.rand(1, 3, 28, 28)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))


def test_recipes_are_settings():
    for recipe in RECIPES.values():
        for settings in recipe.values():
            resolve([("recipe", settings)])
