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
from saccade.models.backbones.inception_v3 import RECIPES, VARIANTS, Auxiliary, Config, Model

LAYOUT = Path(__file__).parents[2] / "data" / "layouts" / "inception_v3.json"
NARROW = Config(classes=4, width=0.125)


@pytest.mark.parametrize(("auxiliary", "parameters"), [(True, 27_161_264), (False, 23_834_568)])
def test_parameters(auxiliary: bool, parameters: int):
    with torch.device("meta"):
        model = Model(Config(auxiliary=auxiliary))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_multiply_adds():
    assert catalogue()["inception_v3"]["macs"] == 5_713_216_096


def test_public_state_dict_loads_strictly():
    layout = json.loads(LAYOUT.read_text())
    with torch.device("meta"):
        model = Model(VARIANTS["inception_v3"])
        model.load_state_dict({key: torch.empty(shape) for key, shape in layout.items()})
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == layout
    assert all(m.eps == 1e-3 for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_maps_of_the_paper():
    """Table 1: 35x35x288, 17x17x768, 8x8x2048; figure 8: the auxiliary classifier takes the second."""
    with torch.device("meta"):
        model = Model(Config(classes=0))
        maps = model(torch.empty(1, 3, 299, 299))
        wanted = [(1, c, n, n) for c, n in zip(model.channels, (71, 35, 17, 8), strict=True)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert Auxiliary(Config(classes=9), 768).eval()(maps[2]).shape == (1, 9)
    assert model.channels == [192, 288, 768, 2048]
    assert model.AuxLogits is None


@pytest.mark.parametrize(("height", "width"), [(224, 96), (67, 94), (1, 3)])
def test_padded_features_have_the_strides_that_the_model_states(height: int, width: int):
    with torch.device("meta"):
        model = Model(Config(classes=0, padding="same"))
        maps = model(torch.empty(2, 3, height, width))
    wanted = [(2, c, -(-height // s), -(-width // s)) for c, s in zip(model.channels, model.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == wanted


def test_smallest_image():
    with torch.device("meta"):
        model = Model(NARROW).eval()
        assert model(torch.empty(1, 3, 75, 75)).shape == (1, 4)
        with pytest.raises(UsageError, match="75x75"):
            model(torch.empty(1, 3, 75, 74))


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_loss_reaches_all_parameters_and_forward_gives_logits_in_training_too(task: str):
    torch.manual_seed(0)
    model = Model(dataclasses.replace(NARROW, task=task)).train()
    truth = [Annotation((75, 75), label=i, tags=torch.arange(4) == i) for i in range(4)]
    batch = Batch(torch.rand(4, 3, 75, 75), [(75, 75)] * 4, truth)
    losses = model.loss(batch)
    assert set(losses) == {"classification", "auxiliary"}
    sum(losses.values()).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    assert model(batch.images).shape == model.eval()(batch.images).shape == (4, 4)
    assert set(model.loss(batch)) == set(losses)


def test_auxiliary_loss_has_its_weight():
    model = Model(NARROW).eval()
    assert model.AuxLogits is not None
    for parameter in model.AuxLogits.fc.parameters():
        torch.nn.init.zeros_(parameter)
    losses = model.loss(Batch(torch.rand(1, 3, 75, 75), [(75, 75)], [Annotation((75, 75), label=1)]))
    assert losses["auxiliary"].item() == pytest.approx(0.4 * torch.tensor(4.0).log().item())


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
        model = Model(Config(classes=0, width=0.125)).eval()
        with pytest.raises(ValueError, match="no classifier"):
            model.predict(Batch(torch.empty(1, 3, 75, 75), [(75, 75)]))


def test_recipes_are_settings():
    for recipe in RECIPES.values():
        for settings in recipe.values():
            resolve([("recipe", settings)])
