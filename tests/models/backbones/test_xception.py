from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from saccade.models.backbones.xception import RECIPES, VARIANTS, Block, Config, Model, SeparableConv, from_public
from saccade.models.make_catalogue import multiply_adds

SMALL = Config(classes=4, stem=(4, 6), entry=(8, 10, 12), middle=2, exit=(14, 16, 18), dropout=0.0)


def test_parameters_and_multiply_adds():
    with torch.device("meta"):
        model = Model(VARIANTS["xception"]).eval()
    assert sum(p.numel() for p in model.parameters()) == 22_855_952
    assert len(model.state_dict()) == 276
    assert multiply_adds(model, torch.empty(1, 3, 299, 299, device="meta")) == 8_357_403_496


def test_older_spelling_of_the_public_file():
    state = Model(SMALL).state_dict()
    old = {}
    for key, value in state.items():
        value = value[:, :, 0, 0] if "pointwise" in key else value
        old["module." + key.replace("fc.", "last_linear.")] = value
    repaired = from_public(old)
    assert set(repaired) == set(state)
    assert all(torch.equal(repaired[key], value) for key, value in state.items())


def test_separable_convolution_is_one_full_convolution_of_rank_one():
    """With nothing between, depthwise then pointwise is the kernel pointwise[o, c] * depthwise[c]."""
    torch.manual_seed(0)
    made = SeparableConv(5, 7)
    kernel = made.pointwise.weight * made.conv1.weight[:, 0][None]
    x = torch.rand(2, 5, 6, 8)
    torch.testing.assert_close(made(x), F.conv2d(x, kernel, padding=1))


def test_cost_ratio_of_a_separable_convolution():
    """1 / channels_out + 1 / 9 of a full 3x3 convolution, in weights and in multiply-adds."""
    images = torch.zeros(1, 24, 10, 12)
    separable, full = SeparableConv(24, 36), nn.Conv2d(24, 36, 3, padding=1, bias=False)
    ratio = sum(p.numel() for p in separable.parameters()) / full.weight.numel()
    assert ratio == pytest.approx(1 / 36 + 1 / 9)
    assert multiply_adds(separable, images) / multiply_adds(full, images) == pytest.approx(ratio)


def test_block_with_a_zero_last_scale_is_the_identity():
    block = Block((6, 6, 6, 6), 1)
    nn.init.zeros_(block.rep[8].weight)
    x = torch.randn(2, 6, 5, 4)
    before = x.clone()
    assert torch.equal(block(x), before)
    assert torch.equal(x, before)  # the ReLU in front works on a copy


def test_maps_at_the_paper_side():
    """Figure 5: 74, 37, 19 and 10 pixels; 19 x 19 x 728 feature maps enter the middle flow."""
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS["xception"], classes=0)).eval()
        maps = model(torch.empty(1, 3, 299, 299))
    assert [tuple(m.shape) for m in maps] == [(1, 128, 74, 74), (1, 256, 37, 37), (1, 728, 19, 19), (1, 2048, 10, 10)]
    assert model.strides == [4, 8, 16, 32]
    assert model.channels == [128, 256, 728, 2048]


def test_features_have_the_sides_that_the_docstring_states():
    model = Model(dataclasses.replace(SMALL, classes=0)).eval()
    for height, width in ((67, 94), (96, 64), (7, 8)):
        maps = model(torch.rand(2, 3, height, width))
        stem = ((height - 3) // 2 - 1, (width - 3) // 2 - 1)
        wanted = [(2, c, *(-(-s // 2 ** (i + 1)) for s in stem)) for i, c in enumerate(model.channels)]
        assert [tuple(m.shape) for m in maps] == wanted
        assert all(bool((m >= 0).all()) for m in maps)


def test_the_paper_lowers_the_rate_every_second_epoch():
    rates = RECIPES["paper"]["*"]["milestones"]
    assert len(rates) == 44  # but for the last one
    assert all(0 < a < b < 1 for a, b in itertools.pairwise(rates))
