"""Worked matrices, torch's own functions as second implementations, and exports."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.layers.upsampling import (
    bed_of_nails,
    bilinear,
    bilinear_kernel,
    insert_zeros,
    max_unpool,
    nearest,
    output_padding,
    transposed_conv1d,
    transposed_conv2d,
    transposed_side,
    triangle_kernel,
)


def plane(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


A = plane([1, 2], [3, 4])
B = plane([3, 2], [0, 1])


def test_nearest_by_hand() -> None:
    assert nearest(A, 2)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert nearest(B, 2)[0, 0].tolist() == [[3, 3, 2, 2], [3, 3, 2, 2], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_bed_of_nails_by_hand_and_as_the_adjoint_of_taking_every_other() -> None:
    assert bed_of_nails(A, 2)[0, 0].tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    x, y = torch.rand(2, 3, 4, 5).double(), torch.rand(2, 3, 12, 15).double()
    torch.testing.assert_close((bed_of_nails(x, 3) * y).sum(), (x * y[:, :, ::3, ::3]).sum())


def test_max_unpool_by_hand() -> None:
    shown = plane([1, 2, 6, 3], [3, 5, 2, 1], [1, 2, 2, 1], [7, 3, 4, 8])
    pooled, indices = F.max_pool2d(shown, 2, return_indices=True)
    assert pooled[0, 0].tolist() == [[5, 6], [7, 8]]
    assert indices[0, 0].tolist() == [[5, 2], [12, 15]]
    assert max_unpool(A, indices, (4, 4))[0, 0].tolist() == [[0, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]


def test_of_equal_maxima_the_first_in_reading_order_has_the_place() -> None:
    _, indices = F.max_pool2d(torch.ones(1, 1, 4, 4), 2, return_indices=True)
    assert max_unpool(A, indices, (4, 4))[0, 0].tolist() == bed_of_nails(A, 2)[0, 0].tolist()


@pytest.mark.parametrize("size", [(8, 12), (9, 13)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_max_unpool_is_that_of_torch_with_its_gradient(size: tuple[int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    shown = torch.rand(2, 3, *size, dtype=torch.float64).contiguous(memory_format=layout)
    pooled, indices = F.max_pool2d(shown, 2, return_indices=True)
    torch.testing.assert_close(max_unpool(pooled, indices, size), F.max_unpool2d(pooled, indices, 2, output_size=size))
    pooled = pooled.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: max_unpool(x, indices, size), pooled)


def test_bilinear_by_zero_insertion_by_hand() -> None:
    assert triangle_kernel(2).tolist() == [[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]]
    expected = [[3, 2.5, 2, 1], [1.5, 1.5, 1.5, 0.75], [0, 0.5, 1, 0.5], [0, 0.25, 0.5, 0.25]]
    assert bilinear(B, 2)[0, 0].tolist() == expected


def test_a_kernel_of_ones_is_not_bilinear() -> None:
    raw = insert_zeros(B, torch.ones(3, 3), 2)
    assert raw[0, 0].tolist() == [[3, 5, 2, 2], [3, 6, 3, 3], [0, 1, 1, 1], [0, 1, 1, 1]]
    assert B.norm().item() == pytest.approx(3.7416574954986572)
    assert raw.norm().item() == pytest.approx(10.535653752852738)
    assert (B.norm() / raw.norm()).item() == pytest.approx(0.3551424)
    # The mean of the window, times four for the zeros: the same map with another gain.
    assert insert_zeros(B, torch.full((3, 3), 4 / 9), 2)[0, 0, 0, 0].item() == pytest.approx(1.3333333)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_zero_insertion_is_interpolation_between_the_corners(factor: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 4, 6, dtype=torch.float64)
    sides = [(n - 1) * factor + 1 for n in x.shape[2:]]
    wanted = F.interpolate(x, size=sides, mode="bilinear", align_corners=True)
    torch.testing.assert_close(bilinear(x, factor)[:, :, : sides[0], : sides[1]], wanted)
    assert triangle_kernel(factor).sum().item() == pytest.approx(factor**2)


def test_bilinear_kernel_by_hand() -> None:
    expected = [
        [0.0625, 0.1875, 0.1875, 0.0625],
        [0.1875, 0.5625, 0.5625, 0.1875],
        [0.1875, 0.5625, 0.5625, 0.1875],
        [0.0625, 0.1875, 0.1875, 0.0625],
    ]
    weight = bilinear_kernel(2, 4)
    assert weight.shape == (2, 2, 4, 4)
    assert weight[0, 0].tolist() == weight[1, 1].tolist() == expected
    assert not weight[0, 1].any()
    assert not weight[1, 0].any()
    assert bilinear_kernel(2, 4, grouped=True)[:, 0].tolist() == [expected, expected]


def test_half_pixel_interpolation_by_hand() -> None:
    expected = [[3, 2.75, 2.25, 2], [2.25, 2.125, 1.875, 1.75], [0.75, 0.875, 1.125, 1.25], [0, 0.25, 0.75, 1]]
    assert F.interpolate(B, scale_factor=2, mode="bilinear", align_corners=False)[0, 0].tolist() == expected
    inner = F.conv_transpose2d(B, bilinear_kernel(1, 4), stride=2, padding=1)[0, 0, 1:3, 1:3]
    assert inner.tolist() == [[2.125, 1.875], [0.875, 1.125]]


@pytest.mark.parametrize(("stride", "side", "padding"), [(2, 4, 1), (8, 16, 4), (32, 64, 16)])
def test_transposed_convolution_begins_as_half_pixel_interpolation(stride: int, side: int, padding: int) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 5, 4)
    wanted = F.interpolate(x, scale_factor=stride, mode="bilinear", align_corners=False)
    for groups, weight in ((1, bilinear_kernel(3, side)), (3, bilinear_kernel(3, side, grouped=True))):
        got = F.conv_transpose2d(x, weight, stride=stride, padding=padding, groups=groups)
        assert got.shape == wanted.shape
        ring = stride // 2
        inner = (slice(None), slice(None), slice(ring, -ring), slice(ring, -ring))
        torch.testing.assert_close(got[inner], wanted[inner], atol=1e-6, rtol=0)
        assert not torch.allclose(got, wanted)  # at the border neighbours are missing


def test_the_rule_of_a_transposed_convolution_on_a_line() -> None:
    a, b, x, y, z = 2.0, 5.0, 3.0, 7.0, 11.0
    line, weight = torch.tensor([[[a, b]]]), torch.tensor([[[x, y, z]]])
    full = transposed_conv1d(line, weight, stride=2)[0, 0].tolist()
    assert full == [a * x, a * y, a * z + b * x, b * y, b * z] == [6, 14, 37, 35, 55]
    assert full[:-1] == [6, 14, 37, 35]
    assert transposed_conv1d(line, weight, 2, padding=1, output_padding=1)[0, 0].tolist() == [14, 37, 35, 55]


def test_transposed_convolution_by_hand() -> None:
    square = plane([0, 1], [2, 3])
    assert transposed_conv2d(square, square)[0, 0].tolist() == [[0, 0, 1], [0, 4, 6], [4, 12, 9]]


def test_sides_of_a_transposed_convolution() -> None:
    assert transposed_side(2, kernel=3, stride=2, padding=1) == 3
    assert transposed_side(2, kernel=3, stride=2, padding=1, output_padding=1) == 4
    assert transposed_side(2, kernel=3, stride=2) == 5
    assert transposed_side(16, kernel=64, stride=32) == 544
    assert output_padding(2, 4, kernel=3, stride=2, padding=1) == 1
    assert output_padding(2, 3, kernel=3, stride=2, padding=1) == 0
    with pytest.raises(ValueError, match="makes 3 to 4 of 2, not 5"):
        output_padding(2, 5, kernel=3, stride=2, padding=1)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_sides_are_those_of_torch_and_undo_a_convolution(stride: int, dilation: int) -> None:
    for side in range(7, 12):
        small = F.conv2d(torch.zeros(1, 1, side, side), torch.zeros(1, 1, 3, 3), None, stride, 1, dilation)
        extra = output_padding(small.shape[-1], side, 3, stride, 1, dilation)
        back = F.conv_transpose2d(small, torch.zeros(1, 1, 3, 3), None, stride, 1, extra, 1, dilation)
        assert back.shape[-1] == side == transposed_side(small.shape[-1], 3, stride, 1, extra, dilation)


@pytest.mark.parametrize(("stride", "padding", "extra"), [(1, 0, 0), (2, 1, 0), (2, 1, 1), (3, 0, 2)])
def test_transposed_convolutions_are_those_of_torch_and_adjoint(stride: int, padding: int, extra: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(3, 2, 3, 4, dtype=torch.float64)
    got = transposed_conv2d(x, weight, stride, padding, extra)
    torch.testing.assert_close(got, F.conv_transpose2d(x, weight, None, stride, padding, extra))
    y = torch.rand_like(got)
    torch.testing.assert_close((F.conv2d(y, weight, None, stride, padding) * x).sum(), (y * got).sum())
    line, filters = x[:, :, 0], weight[:, :, 0]
    torch.testing.assert_close(
        transposed_conv1d(line, filters, stride, padding, extra),
        F.conv_transpose1d(line, filters, None, stride, padding, extra),
    )


class Enlarged(nn.Module):
    def __init__(self, enlarge: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enlarge = enlarge

    def forward(self, x: Tensor) -> Tensor:
        return self.enlarge(x)


def through_a_pooling(x: Tensor) -> Tensor:
    pooled, indices = F.max_pool2d(x, 2, return_indices=True)
    return max_unpool(pooled, indices, (x.shape[2], x.shape[3]))


@pytest.mark.parametrize(
    "enlarge",
    [
        lambda x: nearest(x, 2),
        lambda x: bed_of_nails(x, 2),
        lambda x: bilinear(x, 2),
        through_a_pooling,
        lambda x: transposed_conv2d(x, torch.ones(2, 3, 3, 3), 2, 1, 1),
    ],
)
def test_exports(enlarge: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(1, 2, 5, 7)
    program = torch.export.export(Enlarged(enlarge), (x,))
    torch.testing.assert_close(program.module()(x), enlarge(x))
