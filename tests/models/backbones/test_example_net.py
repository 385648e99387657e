from __future__ import annotations

import torch

from saccade.models.backbones.example_net import VARIANTS, Config, Model


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
