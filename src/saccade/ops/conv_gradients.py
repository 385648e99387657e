"""Convolutions whose gradients oneDNN, torch's kernels for CPUs, gives wrong or late, with gradients that are neither.

- 1x1 with a stride, channels last: with fewer input channels than its block (8 with AVX2, 16 with AVX-512) the gradient
  of the weights is written past its workspace (oneDNN issue 6035): wrong weights, a crash, or threads that wait for
  ever. Here the pixels that count are picked first, and the gradient is that of a convolution without a stride.
- Dilated in bfloat16, channels last: with input channels that are no multiple of 16, or with groups, the gradient of
  the weights is NaN where the map is wider than about 30 pixels. It is taken in float32.
- Depthwise in bfloat16: the gradient of the input with a stride above 1 is left to a plain reference loop (6 to 100
  times slower), that of the weights with a kernel above 3 x 3 to a slow one (2 to 4 times). Both are taken in float32.
- Wide, in float32 with AVX2, channels last: the gradient of the weights takes up to 2.7 times as long as from maps in
  plain layout, which come to the same bits (2048 to 512 channels, 3 x 3). It is taken from those.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEW = 32  # input channels of a group: twice the largest block
WIDE = 1 << 20  # weights


class _Geometry(NamedTuple):
    """As `F.conv2d` takes it."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class _Convolution(torch.autograd.Function):
    """F.conv2d, with gradients as the head of this module says."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_input, of_weight, of_bias, _ = ctx.needs_input_grad
        stride, depthwise = max(ctx.geometry.stride), weight.shape[1] == 1
        dx = dw = db = None
        if of_input:
            dtype = _at_least_float32(gradient) if depthwise and stride > 1 else gradient.dtype
            like_x = torch.empty_like(x, dtype=dtype)  # only shape and layout matter here
            dx = _backward(gradient.to(dtype), like_x, weight.to(dtype), ctx.geometry, 0).to(x.dtype)
        if of_weight:
            rough = (depthwise and max(weight.shape[2:]) > 3) or _is_unevenly_dilated(weight, ctx.geometry)
            dtype = _at_least_float32(gradient) if rough else gradient.dtype
            seen, geometry = _without_stride(x, ctx.geometry) if _is_pointwise(weight) else (x, ctx.geometry)
            given = gradient.to(dtype), seen.to(dtype), weight.to(dtype)
            if dtype == torch.float32 and _is_wide(weight, ctx.geometry):
                given = given[0].contiguous(), given[1].contiguous(), given[2].contiguous()
            dw = _backward(*given, geometry, 1).to(weight.dtype)
        if of_bias:
            db = gradient.sum((0, 2, 3), dtype=weight.dtype)
        return dx, dw, db, None


def mend(model: nn.Module) -> None:
    """Let these convolutions of a model take this way where they are trained on a CPU; outputs and tensors stay."""
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and _is_concerned(conv):
            padding = (0, 0) if conv.padding == "valid" else conv.padding
            geometry = _Geometry(conv.stride, padding, conv.dilation, conv.groups)  # type: ignore[arg-type]
            conv._conv_forward = partial(_forward, geometry=geometry)  # type: ignore[method-assign]


def _is_concerned(conv: nn.Conv2d) -> bool:
    if conv.padding_mode != "zeros" or conv.padding == "same":  # paddings that may be operations of their own
        return False
    depthwise = conv.weight.shape[1] == 1 and conv.in_channels > 1
    if max(conv.stride) > 1 and (depthwise or (_is_pointwise(conv.weight) and conv.weight.shape[1] < FEW)):
        return True
    unevenly_dilated, wide = _is_unevenly_dilated(conv.weight, conv), _is_wide(conv.weight, conv)
    return (depthwise and max(conv.kernel_size) > 3) or unevenly_dilated or wide


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, geometry: _Geometry) -> Tensor:
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.conv2d(x, weight, bias, *geometry)
    result: Tensor = _Convolution.apply(x, weight, bias, geometry)
    return result


def _backward(gradient: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry, which: int) -> Tensor:
    """The gradient of the input (`which` 0) or of the weights (1), as torch computes it."""
    stride, padding, dilation, groups = geometry
    wanted = [which == 0, which == 1, False]
    arguments = (list(stride), list(padding), list(dilation), False, [0, 0], groups, wanted)
    found: Tensor = torch.ops.aten.convolution_backward(gradient, x, weight, None, *arguments)[which]
    return found


def _is_pointwise(weight: Tensor) -> bool:
    return weight.shape[2:] == (1, 1)


def _is_wide(weight: Tensor, geometry: _Geometry | nn.Conv2d) -> bool:
    slow = torch.backends.cpu.get_cpu_capability() == "AVX2" and geometry.groups == 1 and not _is_pointwise(weight)
    return slow and weight.numel() >= WIDE


def _is_unevenly_dilated(weight: Tensor, geometry: _Geometry | nn.Conv2d) -> bool:
    return max(geometry.dilation) > 1 and (geometry.groups > 1 or weight.shape[1] % 16 > 0)


def _without_stride(x: Tensor, geometry: _Geometry) -> tuple[Tensor, _Geometry]:
    """What a 1x1 convolution sees of x, and the convolution that sees all of that."""
    (down, across), (top, left), _, groups = geometry
    padded = F.pad(x, (left, left, top, top)) if top or left else x
    return padded[:, :, ::down, ::across], _Geometry((1, 1), (0, 0), (1, 1), groups)


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
