from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.models.backbones.mobilenet2 import RECIPES, VARIANTS, Config, InvertedResidual, Model, round_channels
from saccade.models.make_catalogue import describe

SMALL = Config(classes=4, width=0.25, dropout=0.0)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("mobilenet_v2", 3_504_872, 300_774_272),
    ],
)
def test_parameters_and_multiply_adds(name: str, parameters: int, macs: int):
    entry = describe(sys.modules[Model.__module__], name)
    assert (entry["parameters"], entry["macs"]) == (parameters, macs)


def test_features_have_the_channels_and_strides_that_the_model_states():
    for config in (SMALL,):
        model = Model(dataclasses.replace(config, classes=0)).eval()
        maps = model(torch.rand(2, 3, 67, 94))
        wanted = [(2, c, -(-67 // s), -(-94 // s)) for c, s in zip(model.channels, model.strides, strict=True)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert model.strides[:4] == [4, 8, 16, 32]


def test_keys_and_shapes_of_the_public_checkpoint():
    with torch.device("meta"):
        model = Model(VARIANTS["mobilenet_v2"])
    state = model.state_dict()
    trained = {key for key, _ in model.named_parameters()}
    assert len(state) == 314
    assert sum(value.numel() for key, value in state.items() if key not in trained) == 34_164
    landmarks = {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.running_var": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.bias": (16,),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.2.weight": (24, 96, 1, 1),
        "features.2.conv.3.num_batches_tracked": (),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.weight": (1280,),
        "classifier.1.weight": (1000, 1280),
    }
    assert {key: tuple(state[key].shape) for key in landmarks} == landmarks


def test_the_narrow_end_is_linear_and_the_shortcut_joins_equal_shapes_only():
    block = InvertedResidual(8, 8, 1, 6).eval()
    torch.nn.init.zeros_(block.conv[3].weight)
    x = torch.randn(2, 8, 5, 6)
    assert torch.equal(block(x), x)  # negative values pass
    assert not InvertedResidual(8, 8, 2, 6).residual
    assert not InvertedResidual(8, 16, 1, 6).residual


@pytest.mark.parametrize(
    ("channels", "rounded"), [(1, 8), (11.9, 16), (12, 16), (24, 24), (28, 32), (112.5, 112), (18, 24)]
)
def test_channels_are_multiples_of_eight_that_lose_no_more_than_a_tenth(channels: float, rounded: int):
    assert round_channels(channels) == rounded


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
    batch = batch_of(16, 64, 4)
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


@pytest.mark.parametrize("name", ["mobilenet_v2"])
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
