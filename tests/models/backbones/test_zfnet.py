from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.models.backbones.zfnet import RECIPES, VARIANTS, Config, Model

SMALL = Config(classes=4, widths=(6, 8, 8, 8, 8), hidden=16, dropout=0.0)
SIDE = 47  # the smallest image


def test_parameters_and_shapes():
    with torch.device("meta"):
        model = Model(VARIANTS["zfnet"]).eval()
        images = torch.empty(1, 3, 224, 224)
        maps = model.features(images)
        assert model(images).shape == (1, 1000)
        pools = [tuple(model.pool(m).shape[1:]) for m in maps]
    assert sum(p.numel() for p in model.parameters()) == 62_357_608
    assert sum(p.numel() for m in model.modules() if isinstance(m, nn.Conv2d) for p in m.parameters()) == 3_726_464
    assert [tuple(m.shape[1:]) for m in maps] == [(96, 110, 110), (256, 26, 26), (256, 13, 13)]
    assert pools == [(96, 55, 55), (256, 13, 13), (256, 6, 6)]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (67, 99)])
def test_padded_trunk_has_the_strides_that_it_states(height: int, width: int):
    model = Model(dataclasses.replace(SMALL, classes=0, padded=True)).eval()
    maps = model(torch.rand(1, 3, height, width))
    wanted = [
        (1, c, math.ceil(height / s), math.ceil(width / s)) for c, s in zip(model.channels, model.strides, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == wanted


def test_filters_are_held_within_their_limit():
    torch.manual_seed(0)
    model = Model(SMALL)
    small = model.conv3.weight[0].detach().clone()
    with torch.no_grad():
        model.conv3.weight[0] = small = small * (0.05 / small.square().mean().sqrt())
        model.conv3.weight[1] *= 10 / model.conv3.weight[1].square().mean().sqrt()
        before = model.conv3.weight[1].clone()
    model.eval().loss(Batch(torch.rand(1, 3, SIDE, SIDE), [(SIDE, SIDE)], [Annotation((SIDE, SIDE), label=0)]))
    assert torch.equal(model.conv3.weight[1], before)  # only training changes weights
    model.train().loss(Batch(torch.rand(1, 3, SIDE, SIDE), [(SIDE, SIDE)], [Annotation((SIDE, SIDE), label=0)]))
    assert torch.equal(model.conv3.weight[0], small)
    torch.testing.assert_close(model.conv3.weight[1], before / 100)


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_gradient_reaches_all_parameters(task: str):
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, task=task))
    truth = [Annotation((SIDE, SIDE), label=i, tags=torch.arange(4) == i) for i in range(4)]
    sum(model.loss(Batch(torch.rand(4, 3, SIDE, SIDE), [(SIDE, SIDE)] * 4, truth)).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_learns_eight_images_by_heart():
    torch.manual_seed(0)
    batch = Batch(
        torch.rand(8, 3, SIDE, SIDE), [(SIDE, SIDE)] * 8, [Annotation((SIDE, SIDE), label=i % 4) for i in range(8)]
    )
    batch.images[:] *= torch.rand(8, 3, 1, 1)
    model = Model(dataclasses.replace(SMALL, widths=(12, 16, 16, 16, 16), hidden=32))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        assert [a.label for a in model.eval().predict(batch)] == [i % 4 for i in range(8)]


def test_exports():
    model = Model(SMALL).eval()
    images = torch.rand(1, 3, 64, 64)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))


def test_recipes_are_settings():
    for recipe in RECIPES.values():
        for settings in recipe.values():
            resolve([("recipe", settings)])
