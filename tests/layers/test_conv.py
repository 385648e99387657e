from __future__ import annotations

import pytest
import torch

from saccade.errors import UsageError
from saccade.layers.conv import ConvNormRelu, half, refuse_small, scaled


def test_keys_and_epsilon():
    layer = ConvNormRelu(3, 4, 3)
    assert [name for name, _ in layer.named_parameters()] == ["conv.weight", "bn.weight", "bn.bias"]
    assert layer.bn is not None
    assert layer.bn.eps == 1e-3
    plain = ConvNormRelu(3, 4, 3, norm=False)
    assert [name for name, _ in plain.named_parameters()] == ["conv.weight", "conv.bias"]


def test_is_the_convolution_normalised_and_rectified():
    torch.manual_seed(0)
    layer = ConvNormRelu(2, 3, (1, 3), stride=2, padding=(0, 1)).eval()
    x = torch.randn(2, 2, 5, 6)
    y = layer.conv(x)  # a fresh norm in evaluation: mean 0, variance 1
    torch.testing.assert_close(layer(x), (y / (1 + 1e-3) ** 0.5).clamp(min=0))


def test_half_keeps_the_size():
    assert half(5) == 2
    assert half((1, 7)) == (0, 3)
    assert ConvNormRelu(1, 1, (7, 1), padding=half((7, 1)))(torch.rand(2, 1, 4, 6)).shape == (2, 1, 4, 6)


def test_a_width_that_splits_channels_is_refused():
    assert scaled(48, 0.125) == 6
    with pytest.raises(UsageError, match="multiple of 1/8"):
        scaled(48, 0.3)


def test_small_images_are_refused_with_both_sizes():
    refuse_small(torch.empty(1, 3, 75, 80), 75)
    with pytest.raises(UsageError, match=r"74x80 pixels .* at least 75x75"):
        refuse_small(torch.empty(1, 3, 74, 80), 75)
