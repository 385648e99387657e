"""Depthwise convolutions of a training in bfloat16 on a CPU, with the gradients that oneDNN has no fast kernel for in
float32: of the input where the stride is above 1 (there a plain reference loop answers, 6 to 100 times slower), of the
weights where the kernel is larger than 3 x 3 (2 to 4 times slower)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Pair = tuple[int, int]


class _DepthwiseConv(torch.autograd.Function):
    """F.conv2d of one filter (or several) a channel; gradients as the head of this module says."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, dilation)
        return F.conv2d(x, weight, bias, stride, padding, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        of_input, of_weight, of_bias = ctx.needs_input_grad[:3]

        geometry = (list(stride), list(padding), list(dilation), False, [0, 0], x.shape[1])
        backward = torch.ops.aten.convolution_backward
        dx = dw = None
        if of_input:
            dtype = torch.float32 if max(stride) > 1 else gradient.dtype
            like_x = torch.empty_like(x, dtype=dtype)  # of the input only shape and layout matter here
            tensors = (gradient.to(dtype), like_x, weight.to(dtype))
            dx = backward(*tensors, [weight.shape[0]], *geometry, [True, False, False])[0].to(x.dtype)
        if of_weight:
            dtype = torch.float32 if max(weight.shape[2:]) > 3 else gradient.dtype
            tensors = (gradient.to(dtype), x.to(dtype), weight.to(dtype))
            dw = backward(*tensors, [weight.shape[0]], *geometry, [False, True, False])[1].to(weight.dtype)
        return dx, dw, gradient.float().sum((0, 2, 3)) if of_bias else None, None, None, None


def mend(model: nn.Module) -> None:
    """Let these convolutions of a model that is trained in bfloat16 on a CPU take this way; same outputs."""
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d) and _is_slow(conv):
            geometry: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
            conv._conv_forward = partial(_forward, **geometry)  # type: ignore[method-assign]


def _is_slow(conv: nn.Conv2d) -> bool:
    depthwise = conv.weight.shape[1] == 1 and conv.in_channels > 1
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return depthwise and plain and (max(conv.stride) > 1 or max(conv.kernel_size) > 3)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    result: Tensor = _DepthwiseConv.apply(x, weight, bias, stride, padding, dilation)
    return result
