"""3x3 convolutions with a quarter of the multiplications (Lavin & Gray 2016, F(4x4, 3x3)), for prediction in float32.

Tiles of 6x6 pixels and the weights are transformed such that each of the 36 values of a tile meets the weights as one
matrix product over channels; 4x4 outputs come out. All steps are torch's matrix products and copies, which its threads
share. The rounding error is some five times that of a direct convolution, 1e-5 of the largest output.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

_OUT, _IN = 4, 6  # sides of a tile's outputs and of what they see
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
# Below these the transforms, the larger weights or the calls cost what the products save.
_LEAST_CHANNELS, _LEAST_TILES, _LEAST_PRODUCTS = 128, 25, 4_000_000
_WORKING_SET = 1 << 14  # channels times tiles at once, for which the steps between hand over through the cache


def is_faster(
    shape: torch.Size, weight: Tensor, padding: list[int], stride: list[int], dilation: list[int], groups: int
) -> bool:
    """Whether this convolution of an input [b, c, h, w] can be computed this way, and sooner than directly."""
    if weight.dtype != torch.float32 or weight.shape[2:] != (3, 3) or groups > 1 or {*stride, *dilation} != {1}:
        return False
    outputs, channels = weight.shape[:2]
    tiles = shape[0] * math.prod(_tiles(shape, padding))
    many = min(outputs, channels) >= _LEAST_CHANNELS and tiles >= _LEAST_TILES
    return many and tiles * outputs * channels >= _LEAST_PRODUCTS


def transform_weights(weight: Tensor) -> Tensor:
    """[c_out, c_in, 3, 3] -> [36, c_in, c_out], four times the memory (Lavin & Gray 2016, section 4.3)."""
    kernel = torch.tensor(_KERNEL, dtype=torch.float64)
    outputs, channels = weight.shape[:2]
    whole = weight.new_empty(_IN, _IN, channels, outputs)
    for start in range(0, outputs, 32):  # of all at once the steps in double precision would set the peak of memory
        some = slice(start, start + 32)
        whole[..., some] = torch.einsum("ij,ocjk,lk->ilco", kernel, weight[some].double(), kernel)
    return whole.view(_IN * _IN, channels, outputs)


def conv3x3(x: Tensor, weights: Tensor, bias: Tensor | None, padding: list[int]) -> Tensor:
    """x [b, c_in, h, w] -> [b, c_out, h', w'], channels last in memory, without gradients.

    Args:
        x: float32.
        weights: of `transform_weights`.
        bias: [c_out].
        padding: zeros above and below, and left and right.

    Source: Lavin & Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.3.
    """
    images, channels, height, width = x.shape
    down, across = _tiles(x.shape, padding)
    high, wide = padding
    below, right = (n * _OUT + 2 - side - pad for n, side, pad in ((down, height, high), (across, width, wide)))
    pixels = F.pad(x.permute(0, 2, 3, 1), (0, 0, wide, right, high, below)).contiguous()
    out = x.new_empty(images, down, _OUT, across, _OUT, weights.shape[2])
    most = max(64, _WORKING_SET // channels)
    several, rows = max(1, most // (down * across)), max(1, most // across)
    for i, r in product(range(0, images, several), range(0, down, rows)):
        some = pixels[i : i + several, r * _OUT : (r + rows) * _OUT + 2]
        out[i : i + several, r : r + rows] = _convolve(some, weights, bias)
    whole = out.view(images, down * _OUT, across * _OUT, -1)
    return whole[:, : height + 2 * high - 2, : width + 2 * wide - 2].contiguous().permute(0, 3, 1, 2)


def _convolve(pixels: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
    """[b, 4 down + 2, 4 across + 2, c_in] -> [b, down, 4, across, 4, c_out], not in this order in memory."""
    to_values, to_outputs = _transforms()
    images, channels = pixels.shape[0], pixels.shape[3]
    down, across = (pixels.shape[1] - 2) // _OUT, (pixels.shape[2] - 2) // _OUT
    image, row, column, _ = pixels.stride()
    size = (_IN, _IN, images, down, across, channels)
    tiles = pixels.as_strided(size, (row, column, image, row * _OUT, column * _OUT, 1), pixels.storage_offset())
    values = torch.mm(to_values, tiles.reshape(_IN * _IN, -1)).view(_IN * _IN, -1, channels)
    products = torch.bmm(values, weights).view(_IN * _IN, -1)
    if bias is None:
        outputs = torch.mm(to_outputs, products)
    else:
        outputs = torch.addmm(bias.repeat(images * down * across), to_outputs, products)
    return outputs.view(_OUT, _OUT, images, down, across, -1).permute(2, 3, 0, 4, 1, 5)


def _tiles(shape: torch.Size, padding: list[int]) -> tuple[int, int]:
    """Down and across."""
    down, across = (-(-(side + 2 * pad - 2) // _OUT) for side, pad in zip(shape[2:], padding, strict=True))
    return down, across


@cache
def _transforms() -> tuple[Tensor, Tensor]:
    """[36, 36] of pixels to values, [16, 36] of products to outputs."""
    to_values, to_outputs = (torch.tensor(rows, dtype=torch.float32) for rows in (_INPUT, _OUTPUT))
    return torch.kron(to_values, to_values), torch.kron(to_outputs, to_outputs)
