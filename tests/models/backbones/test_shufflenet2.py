from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.models.backbones.shufflenet2 import RECIPES, VARIANTS, Config, Model, Unit
from saccade.models.make_catalogue import describe

LAYOUTS = Path(__file__).parents[2] / "data" / "layouts"

SMALL = Config(classes=4, width=16, last=64)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("shufflenet_v2_x0_5", 1_366_792, 40_476_448),
        ("shufflenet_v2_x1_0", 2_278_604, 144_907_992),
        ("shufflenet_v2_x1_5", 3_503_624, 295_759_392),
        ("shufflenet_v2_x2_0", 7_393_996, 583_253_464),
    ],
)
def test_parameters_and_multiply_adds(name: str, parameters: int, macs: int):
    entry = describe(sys.modules[Model.__module__], name)
    assert (entry["parameters"], entry["macs"]) == (parameters, macs)


def test_public_state_dict_loads_strictly():
    layout = json.loads((LAYOUTS / "shufflenet_v2_x1_0.json").read_text())
    with torch.device("meta"):
        model = Model(VARIANTS["shufflenet_v2_x1_0"])
        model.load_state_dict({key: torch.empty(shape) for key, shape in layout.items()})
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == layout


def test_features_have_the_channels_and_strides_that_the_model_states():
    for config in (SMALL,):
        model = Model(dataclasses.replace(config, classes=0)).eval()
        maps = model(torch.rand(2, 3, 67, 94))
        wanted = [(2, c, -(-67 // s), -(-94 // s)) for c, s in zip(model.channels, model.strides, strict=True)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert model.strides[:4] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("name", "buffers"),
    [
        ("shufflenet_v2_x0_5", 8_008),
        ("shufflenet_v2_x1_0", 16_236),
        ("shufflenet_v2_x1_5", 23_496),
        ("shufflenet_v2_x2_0", 33_772),
    ],
)
def test_buffers(name: str, buffers: int):
    with torch.device("meta"):
        model = Model(VARIANTS[name])
    state = model.state_dict()
    trained = {key for key, _ in model.named_parameters()}
    assert len(state) == 338
    assert sum(value.numel() for key, value in state.items() if key not in trained) == buffers


def test_first_half_passes_untouched_to_the_even_channels():
    unit = Unit(8, 8, 1).eval()
    x = torch.rand(1, 8, 5, 5)
    y = unit(x)
    assert torch.equal(y[:, 0::2], x[:, :4])
    torch.testing.assert_close(y[:, 1::2], unit.branch2(x[:, 4:]))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="odd"):
        Model(Config(width=17))


def batch_of(images: int, side: int, classes: int) -> Batch:
    """Noise around one colour an image; image i is of class i % classes."""
    generator = torch.Generator().manual_seed(0)
    noise, colour = (torch.rand(images, 3, n, n, generator=generator) for n in (side, 1))
    truth = [
        Annotation((side, side), label=i % classes, tags=torch.arange(classes) == i % classes) for i in range(images)
    ]
    return Batch(0.3 * noise + 0.7 * colour, [(side, side)] * images, truth)


@pytest.mark.parametrize("task", ["classify", "tag"])
def test_gradient_reaches_all_parameters(task: str):
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, task=task))
    sum(model.loss(batch_of(4, 64, 4)).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.slow
def test_learns_sixteen_images_by_heart():
    torch.manual_seed(0)
    batch = batch_of(16, 32, 4)
    model = Model(SMALL)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 60)
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(40):  # the running statistics of so short a training lag behind the weights
            model(batch.images)
        said = model.eval().predict(batch)
    assert [s.label for s in said] == [i % 4 for i in range(16)]


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5"])
def test_exports(name: str):
    model = Model(dataclasses.replace(VARIANTS[name], classes=4)).eval()
    images = torch.rand(1, 3, 64, 64)
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))


def test_a_trunk_has_no_loss():
    with pytest.raises(ValueError, match="no classifier"):
        Model(dataclasses.replace(SMALL, classes=0)).eval().predict(batch_of(1, 32, 4))


def test_recipes_are_valid_settings():
    for recipe in RECIPES.values():
        assert set(recipe) <= {"*", *VARIANTS}
        for settings in recipe.values():
            resolve([("recipe", settings)])
