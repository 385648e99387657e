from __future__ import annotations

import dataclasses
import sys

import pytest
import torch

from saccade.config import resolve
from saccade.data.types import Annotation, Batch
from saccade.models.backbones.shufflenet import RECIPES, VARIANTS, Config, Model, Unit, channel_shuffle
from saccade.models.make_catalogue import describe

SMALL = Config(classes=4, groups=2, width=32)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("shufflenet_g1", 1_531_936, 143_078_976),
        ("shufflenet_g2", 1_733_848, 140_836_512),
        ("shufflenet_g3", 1_865_728, 137_460_672),
        ("shufflenet_g4", 1_968_344, 134_339_776),
        ("shufflenet_g8", 2_434_768, 138_365_952),
    ],
)
def test_parameters_and_multiply_adds(name: str, parameters: int, macs: int):
    entry = describe(sys.modules[Model.__module__], name)
    assert (entry["parameters"], entry["macs"]) == (parameters, macs)


def test_features_have_the_channels_and_strides_that_the_model_states():
    for config in (SMALL, Config(groups=3, width=36)):
        model = Model(dataclasses.replace(config, classes=0)).eval()
        maps = model(torch.rand(2, 3, 67, 94))
        wanted = [(2, c, -(-67 // s), -(-94 // s)) for c, s in zip(model.channels, model.strides, strict=True)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert model.strides[:4] == [4, 8, 16, 32]


def test_shuffle_by_hand():
    """Six channels in two groups: the table [[0, 1, 2], [3, 4, 5]] read by columns."""
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 4)
    assert channel_shuffle(x, 2)[1, :, 2, 3].tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(channel_shuffle(channel_shuffle(x, 2), 3), x)


def test_every_output_group_sees_all_input_groups():
    torch.manual_seed(0)
    unit = Unit(36, 36, 1, 3, 3).eval()  # 9 channels between the 1x1 convolutions: 3 groups of 3
    x = torch.rand(1, 36, 4, 4, requires_grad=True)
    (unit(x) - x)[0, :12].sum().backward()  # the first group of outputs, without the shortcut
    assert (x.grad.abs().sum((0, 2, 3)) > 0).all()


def test_stride_two_keeps_the_pooled_input_in_front():
    unit = Unit(24, 60, 2, 3, 1).eval()
    x = torch.rand(1, 24, 6, 6)
    y = unit(x)
    assert y.shape == (1, 60, 3, 3)
    torch.testing.assert_close(y[:, :24], torch.nn.functional.avg_pool2d(x, 3, 2, 1))


def test_a_width_that_the_groups_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 4 x 3"):
        Model(Config(groups=3, width=40))


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


@pytest.mark.parametrize("name", ["shufflenet_g3", "shufflenet_g8"])
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
