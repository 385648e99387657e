from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from saccade.models.backbones.nin import SIZE, VARIANTS, Config, Model

SMALL = Config(classes=4, widths=((8, 8, 8), (8, 8, 8), (8, 8)), dropouts=(0.0, 0.0))


@pytest.mark.parametrize(
    ("name", "parameters", "sides"),
    [
        ("nin_cifar10", 966_986, (32, 16, 8)),
        ("nin_cifar100", 984_356, (32, 16, 8)),
        ("nin", 7_595_176, (54, 27, 13, 6)),
    ],
)
def test_parameters_and_shapes(name: str, parameters: int, sides: tuple[int, ...]):
    with torch.device("meta"):
        model = Model(VARIANTS[name]).eval()
        images = torch.empty(1, 3, SIZE[name], SIZE[name])
        assert model(images).shape == (1, VARIANTS[name].classes)
        maps = model.features(images)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert [tuple(m.shape[1:]) for m in maps] == [(c, s, s) for c, s in zip(model.channels, sides, strict=True)]


def test_one_by_one_convolution_of_the_lecture():
    for filters in (1, 7):
        assert nn.Conv2d(32, filters, 1)(torch.zeros(1, 32, 6, 6)).shape == (1, filters, 6, 6)


def test_a_1x1_convolution_is_a_fully_connected_layer_at_every_pixel():
    torch.manual_seed(0)
    conv, x = Model(SMALL).blocks[0][2], torch.rand(2, 8, 5, 6)
    by_pixel = nn.functional.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias)
    torch.testing.assert_close(conv(x), by_pixel.permute(0, 3, 1, 2))


def test_logits_are_the_means_of_the_maps_of_the_classes():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 36)
    for relu, task in ((False, "classify"), (True, "classify"), (True, "tag")):
        model = Model(dataclasses.replace(SMALL, last_relu=relu, task=task)).eval()
        maps = model.head(model.features(images)[-1])
        wanted = maps.relu() if relu and task == "classify" else maps
        torch.testing.assert_close(model(images), wanted.mean((2, 3)))
