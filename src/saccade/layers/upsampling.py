"""Ways to enlarge a map, as functions of plain tensor operations that can be read, differentiated and exported.

Nearest, bed of nails and unpooling have nothing to learn and differ in where a value goes: everywhere in its block, to
its first place, or to the place from which the pooling took it. Zero insertion followed by a convolution is bilinear
where the kernel is a triangle; a transposed convolution is the same in one step, with any kernel, which may learn.
`nn.ConvTranspose2d` is what networks are built of; the functions here say what it computes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def nearest(x: Tensor, factor: int) -> Tensor:
    """[b, c, H, W] -> [b, c, factor H, factor W]: every value fills a block of `factor` x `factor`.

    Source: Odena et al. 2016, "Deconvolution and checkerboard artifacts" (enlarge, then convolve).
    """
    return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def bed_of_nails(x: Tensor, factor: int) -> Tensor:
    """[b, c, H, W] -> [b, c, factor H, factor W]: every value at the first place of its block, zeros elsewhere.

    The adjoint of taking every `factor`-th row and column: <bed_of_nails(x), y> = <x, y[:, :, ::factor, ::factor]>.

    Source: Dosovitskiy et al. 2015, "Learning to generate chairs with convolutional neural networks", section 3.2.
    """
    b, c, height, width = x.shape
    blocks = F.pad(x[:, :, :, None, :, None], (0, factor - 1, 0, 0, 0, factor - 1))
    return blocks.reshape(b, c, height * factor, width * factor)


def max_unpool(x: Tensor, indices: Tensor, size: tuple[int, int]) -> Tensor:
    """[b, c, h, w] -> [b, c, H, W]: every value at the place of its maximum, zeros elsewhere.

    Args:
        indices: [b, c, h, w] int64, row * W + column of the places, as `F.max_pool2d(..., return_indices=True)` gives
            them. Of equal maxima the pooling names the first in reading order. Where windows overlap, several may name
            one place; it then holds the value of one of them (they are equal if `x` is the pooled map itself).
        size: (H, W) of the map that was pooled, which its pooled sides do not tell where they were odd.

    Source: Zeiler & Fergus 2014, section 2.1 (switches); Badrinarayanan et al. 2017, section 3 (indices).
    """
    height, width = size
    flat = x.new_zeros((x.shape[0], x.shape[1], height * width))
    return flat.scatter(2, indices.flatten(2), x.flatten(2)).unflatten(2, (height, width))


def triangle_kernel(factor: int) -> Tensor:
    """The kernel [2 factor - 1, 2 factor - 1] that makes zero insertion bilinear: [1 2 1] x [1 2 1] / 4 for 2.

    It sums to factor^2, since of so many places one alone holds a sample.

    Source: Crochiere & Rabiner 1983, "Multirate digital signal processing" (linear interpolation).
    """
    steps = torch.arange(1 - factor, factor)
    line = (factor - steps.abs()) / factor
    return line[:, None] * line


def insert_zeros(x: Tensor, kernel: Tensor, factor: int) -> Tensor:
    """[b, c, H, W] -> [b, c, factor H, factor W]: bed of nails, then every channel convolved with `kernel` [k, k], k
    odd, whose centre lies on the samples; zeros stand outside.

    With `triangle_kernel(factor)` this is bilinear interpolation between the samples, which lie at the corners: rows
    and columns up to the last sample are those of `align_corners=True`, the factor - 1 behind it fade out. Any other
    kernel, such as one of ones alone, is another filter; multiplying it by a number changes the gain only.

    Source: Crochiere & Rabiner 1983, "Multirate digital signal processing" (interpolation by a whole number).
    """
    side = kernel.shape[-1]
    weight = kernel.to(x).expand(x.shape[1], 1, side, side)
    return F.conv2d(bed_of_nails(x, factor), weight, padding=side // 2, groups=x.shape[1])


def bilinear(x: Tensor, factor: int) -> Tensor:
    """[b, c, H, W] -> [b, c, factor H, factor W] by zero insertion and the triangle kernel; see `insert_zeros`.

    Source: Long et al. 2015, section 3.3 (enlarging is convolution with a fractional stride).
    """
    return insert_zeros(x, triangle_kernel(factor), factor)


def bilinear_kernel(channels: int, side: int, grouped: bool = False) -> Tensor:
    """Weights with which a transposed convolution of stride s = ceil(side / 2) enlarges every channel bilinearly.

    [channels, channels, side, side], zero between different channels; grouped: [channels, 1, side, side], for
    `groups=channels`. A side of 2 s - s % 2, with padding (side - s) / 2 rounded up, is the usual one: 4 and padding 1
    for 2, 16 and 4 for 8, 64 and 16 for 32. Away from the border the result is that of half-pixel interpolation
    (`align_corners=False`); in the outer ring, where neighbours are missing, it is darker.

    Source: Long et al. 2015, section 3.3: weight (1 - |i - c| / f) (1 - |j - c| / f), f = ceil(side / 2) and
    c = (side - 1) / 2.
    """
    f = math.ceil(side / 2)
    line = 1 - (torch.arange(side) - (side - 1) / 2).abs() / f
    kernel = line[:, None] * line
    if grouped:
        return kernel.repeat(channels, 1, 1, 1)
    return torch.eye(channels)[:, :, None, None] * kernel


def transposed_side(
    side: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> int:
    """The side that a transposed convolution makes of `side`; 3x3 at stride 2 and padding 1 makes 3 of 2, not 4.

    (side - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1

    Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning", relationship 14.
    """
    return (side - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def output_padding(side: int, wanted: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """The output padding with which a transposed convolution makes `wanted` of `side`.

    A convolution of stride s gives the same side for s different ones; this says which of them is meant.

    Raises:
        ValueError: no output padding less than the stride or the dilation reaches it.

    Source: Dumoulin & Visin 2016, relationship 14 (its a).
    """
    least = transposed_side(side, kernel, stride, padding, 0, dilation)
    most = least + max(stride, dilation) - 1
    if not least <= wanted <= most:
        raise ValueError(
            f"a transposed convolution of kernel {kernel}, stride {stride}, padding {padding} and dilation {dilation} "
            f"makes {least} to {most} of {side}, not {wanted}"
        )
    return wanted - least


def transposed_conv1d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, output_padding: int = 0) -> Tensor:
    """[b, i, N] -> [b, o, N'] with weight [i, o, k], N' as `transposed_side` says.

    At stride 2 the line (a, b) and the filter (x, y, z) make (ax, ay, az + bx, by, bz).

    Every value weights a copy of the filter, the copies begin `stride` apart, and where they overlap they add up. Then
    `padding` is cut off both ends, and `output_padding` more is kept at the far one. What `F.conv_transpose1d` gives.

    Source: Dumoulin & Visin 2016, section 4.
    """
    length, side = x.shape[2], weight.shape[2]
    full = x.new_zeros((x.shape[0], weight.shape[1], (length - 1) * stride + side + output_padding))
    for i in range(side):
        full[:, :, i : i + (length - 1) * stride + 1 : stride] += torch.einsum("bin,io->bon", x, weight[:, :, i])
    return full[:, :, padding : full.shape[2] - padding]


def transposed_conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, output_padding: int = 0) -> Tensor:
    """[b, i, H, W] -> [b, o, H', W'] with weight [i, o, k, l]: `transposed_conv1d` along both sides at once.

    It is the gradient of the convolution with this weight, stride and padding by its input:
    <conv(y), x> = <y, transposed(x)>. What `F.conv_transpose2d` gives.

    Source: Dumoulin & Visin 2016, section 4.
    """
    height, width = x.shape[2:]
    rows, columns = weight.shape[2:]
    sides = (height - 1) * stride + rows + output_padding, (width - 1) * stride + columns + output_padding
    full = x.new_zeros((x.shape[0], weight.shape[1], *sides))
    for i in range(rows):
        for j in range(columns):
            below, behind = i + (height - 1) * stride + 1, j + (width - 1) * stride + 1
            full[:, :, i:below:stride, j:behind:stride] += torch.einsum("bihw,io->bohw", x, weight[:, :, i, j])
    return full[:, :, padding : sides[0] - padding, padding : sides[1] - padding]
