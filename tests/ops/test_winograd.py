"""Winograd's 3x3 convolution against the direct one in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from saccade.ops.fused_conv import FusedConv2d, has_fused_operators
from saccade.ops.winograd import conv3x3, is_faster, transform_weights


@pytest.mark.parametrize(
    ("shape", "padding"),
    [
        ((2, 5, 12, 8), [1, 1]),
        ((1, 3, 7, 10), [1, 0]),
        ((3, 4, 3, 3), [0, 0]),
        ((2, 4, 1, 2), [2, 1]),
        ((1, 256, 20, 161), [1, 1]),  # more tiles than are taken at once: by rows
        ((5, 256, 21, 18), [1, 1]),  # and by images
    ],
)
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_it_computes_the_convolution(shape: tuple[int, ...], padding: list[int], bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    weight = torch.randn(7, shape[1], 3, 3, generator=generator)
    shift = torch.randn(7, generator=generator) if bias else None
    expected = F.conv2d(x.double(), weight.double(), None if shift is None else shift.double(), 1, padding)
    found = conv3x3(x, transform_weights(weight), shift, padding)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-5 * float(expected.abs().max()))


@torch.inference_mode()
def test_a_layer_takes_it_for_large_inputs_and_returns_from_it() -> None:
    """Weights that were transformed for one shape serve the next ones unchanged."""
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 256, 3, padding=1)
    fused = FusedConv2d(conv, torch.float32)
    transformed = []
    for side in (40, 40, 8, 8, 40, 40):
        x = torch.randn(1, 256, side, side)
        other = torch.randn(1, 256, side, side)
        expected = F.relu(conv(x) + other)
        torch.testing.assert_close(fused(x, other, ("relu", ())), expected, atol=1e-4, rtol=1e-4)
        transformed.append(fused.weight.transform is not None)
    if has_fused_operators(torch.float32):
        assert transformed == [True, True, False, False, False, True]


@pytest.mark.parametrize(
    "change", [{"kernel_size": 1}, {"stride": 2}, {"dilation": 2}, {"groups": 2}, {"dtype": torch.bfloat16}]
)
def test_other_convolutions_are_computed_directly(change: dict[str, object]) -> None:
    def asked(**settings: object) -> bool:
        conv = nn.Conv2d(256, 256, **({"kernel_size": 3, "padding": 1} | settings))  # type: ignore[arg-type]
        geometry = (list(pair) for pair in (conv.padding, conv.stride, conv.dilation))
        return is_faster(torch.Size((1, 256, 40, 40)), conv.weight, *geometry, conv.groups)

    assert asked()
    assert not asked(**change)
