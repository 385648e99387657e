from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saccade.ops.ps_roi_pool import LEAST_SIDE, ps_roi_pool, ps_roi_pool_reference

OPS = (ps_roi_pool, ps_roi_pool_reference)


def bin_by_bin(maps: Tensor, rois: Tensor, bins: int, scale: float) -> Tensor:
    """The released code, a bin after the other, in exact numbers where the scale is a power of two."""
    height, width = maps.shape[2:]
    out = maps.new_zeros(len(rois), maps.shape[1] // bins**2, bins, bins)
    for r, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (math.copysign(math.floor(abs(v) + 0.5), v) * scale for v in corners)
        high, wide = max(y2 - y1, LEAST_SIDE), max(x2 - x1, LEAST_SIDE)
        for i in range(bins):
            rows = [math.floor((y1 * bins + i * high) / bins), math.ceil((y1 * bins + (i + 1) * high) / bins)]
            top, bottom = (min(max(v, 0), height) for v in rows)
            for j in range(bins):
                columns = [math.floor((x1 * bins + j * wide) / bins), math.ceil((x1 * bins + (j + 1) * wide) / bins)]
                left, right = (min(max(v, 0), width) for v in columns)
                for c in range(out.shape[1]):
                    pixels = maps[int(image), (c * bins + i) * bins + j, top:bottom, left:right]
                    out[r, c, i, j] = pixels.mean() if pixels.numel() else 0
    return out


def some_rois(generator: torch.Generator, n: int) -> Tensor:
    corner = torch.rand(n, 2, generator=generator) * 40 - 8
    image = torch.randint(0, 2, (n, 1), generator=generator).float()
    return torch.cat((image, corner, corner + torch.rand(n, 2, generator=generator) * 60), 1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 5), st.integers(1, 3))
def test_both_forms_equal_the_definition(seed: int, n: int, bins: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 2 * bins**2, 6, 9, generator=generator)
    rois = some_rois(generator, n)
    weight = torch.randn(n, 2, bins, bins, generator=generator)
    answers = []
    for op in (*OPS, bin_by_bin):
        leaf = maps.clone().requires_grad_()
        out = op(leaf, rois, bins, 0.25)
        ((out * weight).sum() + 0 * leaf.sum()).backward()
        answers.append((out, leaf.grad))
    torch.testing.assert_close(answers[0], answers[2])
    torch.testing.assert_close(answers[1], answers[2])


def test_each_bin_reads_its_own_channel() -> None:
    """Figure 1: nine maps of one class hold their numbers; a region answers with them, its vote is their mean."""
    maps = torch.arange(9.0).view(1, 9, 1, 1).expand(1, 9, 12, 12)
    for op in OPS:
        pooled = op(maps, [torch.tensor([[16.0, 16, 112, 160]])], 3, 1 / 16)
        assert pooled[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        assert pooled.mean((2, 3)).item() == 4


def test_corners_round_half_away_from_zero_and_far_regions_are_empty() -> None:
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    for op in OPS:
        assert op(maps, torch.tensor([[0.0, 0.5, 0.5, 1.6, 2.4]]), 1).item() == 5  # pixel (1, 1) alone
        assert op(maps, torch.tensor([[0.0, 40, 40, 60, 60]]), 1).item() == 0
        assert op(maps, torch.tensor([[0.0, 2, 1, 2, 1]]), 1).item() == 6  # no size: the pixel that it lies in
        assert op(maps, torch.zeros(0, 5), 1).shape == (0, 1, 1, 1)


@pytest.mark.parametrize("op", OPS)
def test_gradient_against_finite_differences(op: object) -> None:
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(2, 8, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    rois = some_rois(generator, 4).double()
    assert torch.autograd.gradcheck(lambda x: op(x, rois, 2, 0.25), (maps,))  # type: ignore[operator]


def test_the_operation_is_whole() -> None:
    """Schema, shapes without numbers, and gradients under torch's compiler."""
    rois = some_rois(torch.Generator().manual_seed(0), 3)
    maps = torch.randn(2, 8, 5, 6, requires_grad=True)
    torch.library.opcheck(torch.ops.saccade.ps_roi_pool, (maps, rois, 2, 0.25))


def test_half_types_layouts_and_bad_input() -> None:
    maps = torch.randn(1, 4, 6, 6)
    box = [torch.tensor([[0.0, 0, 5, 6]])]
    assert ps_roi_pool(maps.bfloat16(), box, 2).dtype == torch.bfloat16
    last = maps.to(memory_format=torch.channels_last)
    assert torch.equal(ps_roi_pool(last, box, 2), ps_roi_pool(maps, box, 2))
    with pytest.raises(ValueError, match="4 channels are no multiple of the 3x3 bins"):
        ps_roi_pool(maps, box, 3)
    with pytest.raises(ValueError, match="not finite"):
        ps_roi_pool(maps, [torch.tensor([[0.0, 0, float("inf"), 7]])], 2)
    with pytest.raises(ValueError, match="image index"):
        ps_roi_pool(maps, torch.tensor([[2.0, 0, 0, 7, 7]]), 2)


def test_threads_do_not_change_the_result() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 27 * 9, 12, 14, generator=generator)
    rois = some_rois(generator, 400)
    before, answers = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf = maps.clone().requires_grad_()
        out = ps_roi_pool(leaf, rois, 3, 0.25)
        answers.append((out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]))
    torch.set_num_threads(before)
    torch.testing.assert_close(*answers, atol=0, rtol=0)
