from __future__ import annotations

import pytest
import torch

from saccade.models.backbones.mobilenet import VARIANTS, Model, Separable
from saccade.models.make_catalogue import multiply_adds


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
