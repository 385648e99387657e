from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.models.backbones.mobilenet3 import RECIPES, VARIANTS, Block, Config, Gate, Model, Row
from saccade.models.make_catalogue import describe

SMALL = Config(classes=4, width=0.25, dropout=0.0)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("mobilenet_v3_small", 2_542_856, 56_510_400),
        ("mobilenet_v3_large", 5_483_032, 216_589_760),
    ],
)
def test_parameters_and_multiply_adds(name: str, parameters: int, macs: int):
    entry = describe(sys.modules[Model.__module__], name)
    assert (entry["parameters"], entry["macs"]) == (parameters, macs)


def test_features_have_the_channels_and_strides_that_the_model_states():
    for config in (SMALL, Config(design="large", width=0.25)):
        model = Model(dataclasses.replace(config, classes=0)).eval()
        maps = model(torch.rand(2, 3, 67, 94))
        wanted = [(2, c, -(-67 // s), -(-94 // s)) for c, s in zip(model.channels, model.strides, strict=True)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert model.strides[:4] == [4, 8, 16, 32]


def test_keys_and_shapes_of_the_public_checkpoints():
    with torch.device("meta"):
        state = Model(VARIANTS["mobilenet_v3_small"]).state_dict()
        large = Model(VARIANTS["mobilenet_v3_large"])
    landmarks = {
        "features.0.0.weight": (16, 3, 3, 3),
        "features.1.block.0.0.weight": (16, 1, 3, 3),
        "features.1.block.1.fc1.weight": (8, 16, 1, 1),
        "features.1.block.1.fc2.bias": (16,),
        "features.1.block.2.0.weight": (16, 16, 1, 1),
        "features.2.block.0.0.weight": (72, 16, 1, 1),
        "features.4.block.1.0.weight": (96, 1, 5, 5),
        "features.4.block.2.fc1.weight": (24, 96, 1, 1),
        "features.11.block.3.1.running_mean": (96,),
        "features.12.0.weight": (576, 96, 1, 1),
        "classifier.0.weight": (1024, 576),
        "classifier.3.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in landmarks} == landmarks
    assert large.classifier[0].weight.shape == (1280, 960)
    assert (large.channels, Model(Config(classes=0)).channels) == ([24, 40, 112, 160], [16, 24, 48, 96])


def test_gate_multiplies_each_channel_by_a_hard_sigmoid():
    gate = Gate(8)
    torch.nn.init.zeros_(gate.fc2.weight)
    with torch.no_grad():
        gate.fc2.bias.copy_(torch.tensor([-4.0, -3, -1.5, 0, 1.5, 3, 4, 0]))
    factors = gate(torch.ones(1, 8, 2, 2))[0, :, 0, 0]
    torch.testing.assert_close(factors, torch.tensor([0.0, 0, 0.25, 0.5, 0.75, 1, 1, 0.5]))


def test_block_whose_last_scale_is_zero_is_the_identity():
    block = Block(16, Row(3, 64, 16, True, True, 1), 1.0).eval()
    torch.nn.init.zeros_(block.block[-1][1].weight)
    x = torch.randn(1, 16, 5, 5)
    assert torch.equal(block(x), x)


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


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
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
