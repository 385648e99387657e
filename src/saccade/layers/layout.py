"""Maps joined and averaged so that their gradients lie channels last in memory, as the kernels of CPUs want them.

The gradient of torch.cat is a slice for each map, that of a mean lies in plain layout; an elementwise kernel takes 10
to 25 times as long for either as for a map that is channels last as a whole, and hands the layout on to the next one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VECTOR = 32  # numbers that a CPU computes with at once, at most: bfloat16 in a register of 512 bits


class Flat(nn.Sequential):
    """Layers of a classifier for maps laid flat: [n, c, H, W] or [n, c H W] -> what the last of them gives."""

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = super().forward(maps.flatten(1))
        return out


def join(maps: Iterable[Tensor]) -> Tensor:
    """Maps [b, c_i, H, W] one behind the other: [b, sum of c_i, H, W].

    The gradient of each is a slice of the channels of the whole. A slice of a multiple of `VECTOR` channels is as fast
    as a map of its own and stays one, any other is copied. Without gradients it is torch.cat, which can be traced.
    """
    if not torch.is_grad_enabled():
        return torch.cat(tuple(maps), 1)
    return torch.cat([x if x.shape[1] % VECTOR == 0 else whole_gradient(x) for x in maps], 1)


def global_pool(x: Tensor) -> Tensor:
    """The mean over each map: [b, c, H, W] -> [b, c]. Source: Lin et al. 2014, "Network in network", section 3.2."""
    return whole_gradient(x).mean((2, 3))


def adaptive_pool(x: Tensor, side: int) -> Tensor:
    """F.adaptive_avg_pool2d: [b, c, H, W] -> [b, c, side, side].

    CUDA adds its gradient in any order. Where torch may take only what gives the same bits every time, the means are
    two products of matrices instead.
    """
    if not (torch.are_deterministic_algorithms_enabled() and torch.is_grad_enabled()):
        return F.adaptive_avg_pool2d(x, side)
    down, across = (_means(size, side).to(x) for size in x.shape[2:])
    return down @ x @ across.T


def _means(size: int, parts: int) -> Tensor:
    """[parts, size]: in row i, 1/n for the n places that the mean i is taken of."""
    index, places = torch.arange(parts)[:, None], torch.arange(size)
    inside = (places >= index * size // parts) & (places < ((index + 1) * size + parts - 1) // parts)
    return inside / inside.sum(1, keepdim=True)


def whole_gradient(x: Tensor) -> Tensor:
    """x [b, c, H, W]; on a CPU the gradient that comes back to it is copied where it is a slice or in plain layout.

    For maps whose gradient meets a kernel that minds, such as that of F.interpolate.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or not x.requires_grad or x.device.type != "cpu":
        return x
    alias = x.view_as(x)  # a hook of x itself would see the gradients of its other uses too
    alias.register_hook(_whole)
    return alias


def _whole(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
