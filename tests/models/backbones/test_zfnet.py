from __future__ import annotations

import torch
from torch import nn

from saccade.data.types import Annotation, Batch
from saccade.models.backbones.zfnet import VARIANTS, Config, Model

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
