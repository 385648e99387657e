"""Convolution, sum and activation in one call, for prediction.

On a CPU torch's own convolution brings the weights into oneDNN's blocked layout at every call, and every sum and
activation after it walks the whole map once more. Here the weights are brought into that layout once, and oneDNN
finishes each output value while it is in a register. The operators are those that torch's own compiler calls on CPUs;
where a build has none, and on GPUs, the plain form below gives the same numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.ops import winograd

Activation = tuple[str, tuple[float, ...]]  # oneDNN's name and its numbers: ("relu", ()), ("leaky_relu", (0.1,))


Use = tuple[torch.Size, int]  # input shape and number of threads, on which oneDNN's choice of layout depends


class _Weight(NamedTuple):
    """Weights in plain layout (`use` None), or blocked for one use alone: any other would be some 50 times slower.

    Where Winograd's way is faster for that use, they stay plain and stand beside their transform.
    """

    tensor: Tensor
    use: Use | None
    transform: Tensor | None = None


class FusedConv2d(nn.Module):
    """activation(conv(x) + other), without gradients.

    The first call packs the weights for its input's shape, so that an image that is asked about twice is answered
    alike. After that, the first call with an input of another shape computes plainly, the second in a row packs for it.
    Weights are held once, plain or packed (five times where Winograd's way is faster: large 3x3 convolutions in
    float32, ops/winograd.py). Safe to call from several threads.

    Args:
        conv: a convolution with zero padding of stated width; its tensors are not changed.
        dtype: of weights and output; inputs are cast to it.
    """

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        # Copies even where nothing changes: a tensor of a file keeps the whole file in memory.
        weight = conv.weight.detach().to(dtype, copy=True, memory_format=torch.channels_last)
        self.weight = _Weight(weight, None)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype, copy=True)
        self.last: Use | None = None  # of the call before
        self.geometry = (_pair(conv.padding), _pair(conv.stride), _pair(conv.dilation), conv.groups)
        self.packs = weight.device.type == "cpu" and has_fused_operators(dtype)

    def forward(self, x: Tensor, other: Tensor | None = None, activation: Activation | None = None) -> Tensor:
        """x [b, c_in, H, W] of any floating type -> [b, c_out, H', W'] of the own type, channels last in memory.

        `other`, added before the activation, broadcasts as in an ordinary sum.
        """
        held = self.weight  # read once: another thread may exchange it
        x = x.to(held.tensor.dtype)
        use = (x.shape, torch.get_num_threads())
        if held.use != use:
            held = self._arrange(held, use)
        if held.use is None:
            return self._plain(x, held.tensor, other, activation)
        padding, stride, dilation, groups = self.geometry
        if held.transform is not None:
            z = winograd.conv3x3(x, held.transform, self.bias, padding)
            return activate(z if other is None else z + other, activation)
        name, numbers = ("none", ()) if activation is None else activation
        operator: Any = torch.ops.mkldnn._convolution_pointwise
        geometry = (held.tensor, self.bias, padding, stride, dilation, groups)
        if other is None:
            y: Tensor = operator.default(x, *geometry, name, numbers, "")
            return y
        alike = other.dtype == x.dtype and other.shape == self._output_shape(x, held.tensor)
        if alike and groups == 1 and name in ("none", "relu"):
            unary = None if activation is None else name
            total: Tensor = operator.binary(x, other, *geometry, "add", 1.0, unary, [], None)
            return total
        return activate(operator.default(x, *geometry, "none", (), "") + other, activation)

    def _arrange(self, held: _Weight, use: Use) -> _Weight:
        """Weights for this use: packed at the very first call and from the second in a row on, else plain."""
        again = self.last in (None, use)
        self.last = use
        if held.transform is not None:
            held = _Weight(held.tensor, None)
        elif held.use is not None:
            held = _Weight(held.tensor.to_dense().contiguous(memory_format=torch.channels_last), None)
        if again and self.packs and use[0].numel() > 0:
            padding, stride, dilation, groups = self.geometry
            if winograd.is_faster(use[0], held.tensor, *self.geometry):
                held = _Weight(held.tensor, use, winograd.transform_weights(held.tensor))
            else:
                pack: Any = torch.ops.aten.mkldnn_reorder_conv2d_weight
                held = _Weight(pack(held.tensor.to_mkldnn(), padding, stride, dilation, groups, list(use[0])), use)
        self.weight = held
        return held

    def _plain(self, x: Tensor, weight: Tensor, other: Tensor | None, activation: Activation | None) -> Tensor:
        """What the fused operators compute, in torch's ordinary words."""
        padding, stride, dilation, groups = self.geometry
        y = F.conv2d(x, weight, self.bias, stride, padding, dilation, groups)
        return activate(y if other is None else y + other, activation)

    def _output_shape(self, x: Tensor, weight: Tensor) -> tuple[int, ...]:
        padding, stride, dilation, _ = self.geometry
        sides = (
            (x.shape[i + 2] + 2 * padding[i] - dilation[i] * (weight.shape[i + 2] - 1) - 1) // stride[i] + 1
            for i in range(2)
        )
        return (x.shape[0], weight.shape[0], *sides)


def activate(x: Tensor, activation: Activation | None) -> Tensor:
    """The activation of that name of x [...], elementwise; x itself without one.

    Raises:
        ValueError: a name that is not known.
    """
    if activation is None:
        return x
    name, numbers = activation
    if name == "relu":
        return F.relu(x)
    if name == "hardtanh":
        low, high = numbers
        return F.hardtanh(x, low, high)
    if name == "leaky_relu":
        (slope,) = numbers
        return F.leaky_relu(x, slope)
    if name == "hardswish":
        return F.hardswish(x)
    if name == "swish":
        return F.silu(x)
    raise ValueError(f"activation {name!r}; known: relu, hardtanh, leaky_relu, hardswish, swish")


def can_fuse(conv: nn.Module) -> bool:
    """Whether `FusedConv2d` can stand for this layer."""
    return type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


@cache
def has_fused_operators(dtype: torch.dtype) -> bool:
    """Whether this build of torch on this processor packs and fuses for this type, tried on a single pixel."""
    pixel, pair = torch.ones(1, 1, 1, 1, dtype=dtype), [1, 1]
    pack: Any = torch.ops.aten.mkldnn_reorder_conv2d_weight
    try:
        weight = pack(pixel.to_mkldnn(), [0, 0], pair, pair, 1, [1, 1, 1, 1])
        operator: Any = torch.ops.mkldnn._convolution_pointwise
        total = operator.binary(pixel, pixel, weight, None, [0, 0], pair, pair, 1, "add", 1.0, "relu", [], None)
    except (AttributeError, RuntimeError):
        return False
    return bool(total == 2)


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
