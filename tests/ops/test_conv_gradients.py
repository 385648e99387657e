"""Convolutions whose gradients are taken another way, against the plain ones and in processes that look at memory."""

from __future__ import annotations

import copy
import ctypes
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from saccade.models import create
from saccade.ops.conv_gradients import mend


def convolutions() -> list[nn.Conv2d]:
    return [
        nn.Conv2d(12, 12, 3, 2, 1, groups=12),
        nn.Conv2d(12, 24, 5, 1, 2, groups=12, bias=False),
        nn.Conv2d(12, 12, (3, 5), (1, 2), (1, 2), groups=12, bias=False),
        nn.Conv2d(12, 12, 3, 2, 2, dilation=2, groups=12),
        nn.Conv2d(12, 5, 1, 2),
        nn.Conv2d(12, 8, 1, (1, 3), (2, 1), groups=4, bias=False),
        nn.Conv2d(12, 12, 1, (2, 1), "valid", dilation=2, groups=12),
    ]


@pytest.mark.parametrize("number", range(7))
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


@pytest.mark.parametrize(("channels", "groups"), [(20, 1), (16, 2)])
def test_dilated_in_bfloat16_over_a_wide_map(channels: int, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 12, 3, 1, 2, dilation=2, groups=groups).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, 32, 32).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    conv(x.float()).sum().backward()
    assert conv.weight.grad is not None
    expected = conv.weight.grad.clone()
    conv.zero_grad()
    mend(conv)
    with torch.autocast("cpu", torch.bfloat16):
        conv(x).float().sum().backward()
    torch.testing.assert_close(conv.weight.grad, expected, rtol=0.02, atol=0.5)  # sums over 2 x 32 x 32 places


@pytest.mark.parametrize(("capability", "mended"), [("AVX2", True), ("AVX512", False)])
def test_wide_layers_are_taken_in_plain_layout_where_that_is_faster(
    capability: str, mended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    torch.manual_seed(0)
    exact = nn.Conv2d(1024, 128, 3, padding=2, dilation=2).to(memory_format=torch.channels_last)
    ours = copy.deepcopy(exact)
    mend(ours)
    assert ("_conv_forward" in vars(ours)) == mended
    x = torch.randn(2, 1024, 5, 6).contiguous(memory_format=torch.channels_last)
    for conv in (exact, ours):
        conv(x).square().sum().backward()
    for one, other in zip(ours.parameters(), exact.parameters(), strict=True):
        assert one.grad is not None
        assert one.grad.stride() == one.stride()
        torch.testing.assert_close(one.grad, other.grad)


def test_gradients_in_double_precision() -> None:
    for conv in convolutions():
        mend(conv.double())
        x = torch.randn(1, 12, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, *_, conv=conv: conv(x), (x, *conv.parameters()))


def test_only_these_are_changed() -> None:
    others = nn.ModuleList(
        [
            nn.Conv2d(12, 12, 3, 1, 1, groups=12),
            nn.Conv2d(12, 12, 3, 2, 1, groups=3),
            nn.Conv2d(12, 12, 5, 2, 1),
            nn.Conv2d(1, 4, 5),
            nn.Conv2d(12, 12, 5, padding=2, groups=12, padding_mode="reflect"),
            nn.Conv2d(12, 12, 5, padding="same", groups=12),
            nn.Conv2d(12, 12, 1),
            nn.Conv2d(64, 12, 1, 2),
            nn.Conv2d(16, 12, 3, dilation=2),
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


def test_models_that_a_user_makes_have_it_and_export_as_before() -> None:
    model = create("resnet18", width=4, classes=3)
    strided = [part for part in model.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1)]
    assert len(strided) == 3
    assert all("_conv_forward" in vars(conv) for conv in strided)
    graph = torch.export.export(strided[0], (torch.rand(1, 4, 8, 8),)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.aten.conv2d.default]


STRIDED = """
import torch
from torch import nn
from saccade.ops.conv_gradients import mend

cases = ((1, 2, 1, 8), (1, 2, 2, 9), (1, (1, 2), 1, 16), (1, (3, 1), 1, 8), (2, 2, 1, 16))
for threads, stride, groups, side in cases:
    torch.set_num_threads(threads)
    for channels in range(3, 17):
        torch.manual_seed(channels)
        plain = nn.Conv2d(groups * channels, 8 * groups, 1, stride, groups=groups)
        last = nn.Conv2d(groups * channels, 8 * groups, 1, stride, groups=groups)
        last.load_state_dict(plain.state_dict())
        mend(last)
        x = torch.randn(2, groups * channels, side, side)
        gradients = []
        for conv, layout in ((plain, torch.contiguous_format), (last, torch.channels_last)):
            own = x.clone(memory_format=layout).requires_grad_()
            y = conv.to(memory_format=layout)(own)
            (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
            gradients.append((own.grad, conv.weight.grad, conv.bias.grad))
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
print("equal")
"""


@pytest.mark.parametrize("processor", ["own", "avx2"])
def test_pointwise_with_a_stride_channels_last_writes_where_it_may_and_agrees_with_the_plain_layout(
    processor: str,
) -> None:
    """In a process of its own, which a write past the workspace would end; with glibc's checks where they are."""
    environment = os.environ | {"MALLOC_CHECK_": "3"}
    if processor == "avx2":
        environment |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    try:
        ctypes.CDLL("libc_malloc_debug.so.0")
        environment["LD_PRELOAD"] = "libc_malloc_debug.so.0"
    except OSError:
        pass  # then only what crashes or errs by itself is seen
    done = subprocess.run([sys.executable, "-c", STRIDED], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr
