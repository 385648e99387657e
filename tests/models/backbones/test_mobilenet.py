from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.models.backbones.mobilenet import RECIPES, VARIANTS, Config, Model, Separable
from saccade.models.make_catalogue import describe, multiply_adds

LAYOUTS = Path(__file__).parents[2] / "data" / "layouts"

SMALL = Config(classes=4, width=0.25)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("mobilenet", 4_231_976, 568_740_352),
        ("mobilenet_w75", 2_585_560, 325_400_448),
        ("mobilenet_w50", 1_331_592, 149_497_088),
        ("mobilenet_w25", 470_072, 41_030_272),
    ],
)
def test_parameters_and_multiply_adds(name: str, parameters: int, macs: int):
    entry = describe(sys.modules[Model.__module__], name)
    assert (entry["parameters"], entry["macs"]) == (parameters, macs)


def test_public_state_dict_loads_strictly():
    layout = json.loads((LAYOUTS / "mobilenetv1_100.json").read_text())
    with torch.device("meta"):
        model = Model(VARIANTS["mobilenet"])
        model.load_state_dict({key: torch.empty(shape) for key, shape in layout.items()})
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == layout


def test_features_have_the_channels_and_strides_that_the_model_states():
    for config in (SMALL,):
        model = Model(dataclasses.replace(config, classes=0)).eval()
        maps = model(torch.rand(2, 3, 67, 94))
        wanted = [(2, c, -(-67 // s), -(-94 // s)) for c, s in zip(model.channels, model.strides, strict=True)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert model.strides[:4] == [4, 8, 16, 32]


def test_cost_of_a_separable_convolution():
    """Section 3.1: against a full 3x3 convolution of the same shapes 1 / c_out + 1 / 9 of the weights and the work."""
    block, full = Separable(32, 64, 1), torch.nn.Conv2d(32, 64, 3, bias=False)
    separable = block.conv_dw.weight.numel() + block.conv_pw.weight.numel()
    assert separable == 32 * 9 + 32 * 64
    assert separable / full.weight.numel() == pytest.approx(1 / 64 + 1 / 9, rel=1e-12)


def test_a_pair_filters_each_channel_by_itself_and_then_mixes():
    block = Separable(2, 3, 1).eval()
    x = torch.zeros(1, 2, 5, 5)
    x[0, 0, 2, 2] = 1
    torch.nn.init.ones_(block.conv_dw.weight)
    with torch.no_grad():
        block.conv_pw.weight[:, :, 0, 0] = torch.tensor([[1.0, 0], [0, 1], [1, 1]])
        y = block(x)
    wanted = torch.zeros(5, 5)
    wanted[1:4, 1:4] = 1
    torch.testing.assert_close(y[0], torch.stack([wanted, torch.zeros(5, 5), wanted]), atol=1e-4, rtol=0)


def test_the_resolution_multiplier_is_the_size_and_scales_the_work_by_its_square():
    with torch.device("meta"):
        model = Model(VARIANTS["mobilenet"]).eval()
        at = {size: multiply_adds(model, torch.empty(1, 3, size, size)) for size in (224, 128)}
    head = 1024 * 1000
    assert (at[128] - head) / (at[224] - head) == pytest.approx((128 / 224) ** 2)


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


@pytest.mark.parametrize("name", ["mobilenet_w25"])
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
