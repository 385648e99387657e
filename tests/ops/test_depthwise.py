from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from saccade.ops.depthwise import mend


def convolutions() -> list[nn.Conv2d]:
    return [
        nn.Conv2d(12, 12, 3, 2, 1, groups=12),
        nn.Conv2d(12, 24, 5, 1, 2, groups=12, bias=False),
        nn.Conv2d(12, 12, (3, 5), (1, 2), (1, 2), groups=12, bias=False),
        nn.Conv2d(12, 12, 3, 2, 2, dilation=2, groups=12),
    ]


@pytest.mark.parametrize("number", range(4))
def test_gradients_are_those_of_the_convolution(number: int) -> None:
    """Under autocast, against float32: what bfloat16 rounds away and no more."""
    torch.manual_seed(number)
    exact = convolutions()[number]
    ours = copy.deepcopy(exact)
    mend(ours)
    copied = copy.deepcopy(ours)  # as averaged weights do
    x = torch.randn(3, 12, 17, 14).to(torch.bfloat16).float()
    inputs = [x.clone().requires_grad_() for _ in range(3)]
    expected = exact(inputs[0])
    upstream = torch.randn_like(expected).to(torch.bfloat16)
    expected.backward(upstream.float())
    for conv, own in ((ours, inputs[1]), (copied, inputs[2])):
        with torch.autocast("cpu", torch.bfloat16):
            found = conv(own)
        assert found.dtype == torch.bfloat16
        found.backward(upstream)
        torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
        torch.testing.assert_close(own.grad, inputs[0].grad, rtol=0.02, atol=0.02)
        for one, other in zip(conv.parameters(), exact.parameters(), strict=True):
            assert one.grad is not None
            assert one.grad.dtype == torch.float32
            torch.testing.assert_close(one.grad, other.grad, rtol=0.03, atol=0.1)  # sums over 3 x 17 x 14 places


def test_gradients_in_double_precision() -> None:
    for conv in convolutions():
        mend(conv.double())
        x = torch.randn(1, 12, 5, 6, dtype=torch.float64, requires_grad=True)
        # the gradients pass through float32 here, which would be too rough for the usual step
        assert torch.autograd.gradcheck(conv, (x,), eps=1e-3, atol=1e-4)


def test_only_these_are_changed() -> None:
    others = nn.ModuleList(
        [
            nn.Conv2d(12, 12, 3, 1, 1, groups=12),
            nn.Conv2d(12, 12, 3, 2, 1, groups=3),
            nn.Conv2d(12, 12, 5, 2, 1),
            nn.Conv2d(1, 4, 5),
            nn.Conv2d(12, 12, 5, padding=2, groups=12, padding_mode="reflect"),
            nn.Conv2d(12, 12, 5, padding="same", groups=12),
        ]
    )
    ours = nn.ModuleList(convolutions())
    mend(nn.ModuleList([others, ours]))
    assert not any("_conv_forward" in vars(conv) for conv in others)
    assert all("_conv_forward" in vars(conv) for conv in ours)


def test_frozen_weights_and_frozen_inputs() -> None:
    conv = convolutions()[0]
    mend(conv)
    conv.requires_grad_(False)
    x = torch.randn(1, 12, 8, 8, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
    conv.requires_grad_(True)
    conv(x.detach()).sum().backward()
    assert conv.weight.grad is not None
    with torch.no_grad():
        assert not conv(x).requires_grad
