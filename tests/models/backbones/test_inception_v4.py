from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.models import catalogue
from saccade.models.backbones.inception_v4 import RECIPES, VARIANTS, Config, Model, PoolAndConv

LAYOUT = Path(__file__).parents[2] / "data" / "layouts" / "inception_v4.json"
NARROW = Config(classes=4, width=0.125, depths=(1, 1, 1))


def test_parameters_and_multiply_adds():
    entry = catalogue()["inception_v4"]
    assert (entry["parameters"], entry["macs"]) == (42_679_816, 12_253_974_624)


def test_public_state_dict_loads_strictly():
    layout = json.loads(LAYOUT.read_text())
    with torch.device("meta"):
        model = Model(VARIANTS["inception_v4"])
        model.load_state_dict({key: torch.empty(shape) for key, shape in layout.items()})
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == layout
    assert all(m.eps == 1e-3 for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_maps_of_the_paper():
    """Figures 3 and 9: 71x71x192, 35x35x384, 17x17x1024, 8x8x1536."""
    with torch.device("meta"):
        model = Model(Config(classes=0))
        maps = model(torch.empty(1, 3, 299, 299))
    assert [tuple(m.shape[1:]) for m in maps] == [(192, 71, 71), (384, 35, 35), (1024, 17, 17), (1536, 8, 8)]
    assert model.channels == [192, 384, 1024, 1536]


@pytest.mark.parametrize(("height", "width"), [(224, 96), (67, 94), (1, 3)])
def test_padded_features_have_the_strides_that_the_model_states(height: int, width: int):
    with torch.device("meta"):
        model = Model(dataclasses.replace(NARROW, classes=0, padding="same"))
        maps = model(torch.empty(2, 3, height, width))
    wanted = [(2, c, -(-height // s), -(-width // s)) for c, s in zip(model.channels, model.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == wanted


def test_public_order_of_pool_and_convolution():
    """The first halving joins the pool before the convolution, the second after it."""
    torch.manual_seed(0)
    model = Model(NARROW).eval()
    x = torch.rand(1, 8, 7, 7)
    first = model.features.get_submodule("3")
    assert isinstance(first, PoolAndConv)
    torch.testing.assert_close(first(x)[:, :8], torch.nn.functional.max_pool2d(x, 3, 2))
    x = torch.rand(1, 24, 7, 7)
    second = model.features.get_submodule("5")
    torch.testing.assert_close(second(x)[:, 24:], torch.nn.functional.max_pool2d(x, 3, 2))


def test_smallest_image():
    with torch.device("meta"):
        model = Model(NARROW).eval()
        assert model(torch.empty(1, 3, 75, 75)).shape == (1, 4)
        with pytest.raises(UsageError, match="75x75"):
            model(torch.empty(1, 3, 74, 75))


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_gradient_reaches_all_parameters(task: str):
    torch.manual_seed(0)
    model = Model(dataclasses.replace(NARROW, task=task)).train()
    truth = [Annotation((75, 75), label=i, tags=torch.arange(4) == i) for i in range(4)]
    sum(model.loss(Batch(torch.rand(4, 3, 75, 75), [(75, 75)] * 4, truth)).values()).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.slow
def test_learns_eight_images_by_heart():
    torch.manual_seed(0)
    batch = Batch(torch.rand(8, 3, 75, 75), [(75, 75)] * 8, [Annotation((75, 75), label=i % 4) for i in range(8)])
    model = Model(dataclasses.replace(NARROW, dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        said = model.predict(batch)  # norms of this batch: their running averages are 25 steps young
    assert [s.label for s in said] == [i % 4 for i in range(8)]


def test_exports():
    model = Model(NARROW).eval()
    images = torch.rand(1, 3, 80, 75)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))


def test_a_trunk_has_no_loss():
    with torch.device("meta"):
        model = Model(dataclasses.replace(NARROW, classes=0)).eval()
        with pytest.raises(ValueError, match="no classifier"):
            model.predict(Batch(torch.empty(1, 3, 75, 75), [(75, 75)]))


def test_recipes_are_settings():
    for recipe in RECIPES.values():
        for settings in recipe.values():
            resolve([("recipe", settings)])
