from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saccade.ops.roi_align import (
    roi_align,
    roi_align_compiled,
    roi_align_levels,
    roi_align_reference,
    to_rois,
)

MAP = torch.tensor(  # the 8x8 map of the course (SYSTEMS 11.7)
    [
        [0.1, 0.3, 0.2, 0.3, 0.2, 0.6, 0.8, 0.9],
        [0.4, 0.5, 0.1, 0.4, 0.7, 0.1, 0.4, 0.3],
        [0.2, 0.1, 0.3, 0.8, 0.6, 0.2, 0.1, 0.1],
        [0.4, 0.6, 0.2, 0.1, 0.3, 0.6, 0.1, 0.2],
        [0.1, 0.8, 0.3, 0.3, 0.5, 0.3, 0.3, 0.3],
        [0.2, 0.9, 0.4, 0.5, 0.1, 0.1, 0.1, 0.2],
        [0.3, 0.1, 0.8, 0.6, 0.3, 0.3, 0.6, 0.5],
        [0.5, 0.5, 0.2, 0.1, 0.1, 0.2, 0.1, 0.2],
    ]
)[None, None]
GOLDENS = [  # SYSTEMS 11.8: aligned, sampling ratio, result to four decimals for the box (0, 3, 7, 8)
    (True, 2, [[0.3512, 0.2918], [0.4199, 0.2301]]),
    (True, 1, [[0.6313, 0.3938], [0.3125, 0.2688]]),
    (True, -1, [[0.3916, 0.2955], [0.4119, 0.2518]]),
    (False, 2, [[0.5355, 0.2316], [0.3543, 0.2645]]),
    (False, 1, [[0.45, 0.25], [0.3625, 0.225]]),
    (False, -1, [[0.4441, 0.2574], [0.3704, 0.2485]]),
]


def reference(
    features: Tensor,
    boxes: Tensor | list[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = False,
) -> Tensor:
    """The plain form with the arguments of `roi_align`."""
    rois = to_rois(boxes)
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    levels = torch.zeros(len(rois), dtype=torch.int64)
    return roi_align_reference([features], rois, levels, [spatial_scale], height, width, sampling_ratio, aligned)


def some_rois(n: int, b: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Regions of a 40 x 56 image, some partly outside, some without area."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, b, (n, 1), generator=generator).to(dtype)
    corner = torch.rand(n, 2, generator=generator, dtype=dtype) * 60 - 10
    side = torch.rand(n, 2, generator=generator, dtype=dtype) * 30 * (torch.arange(n) % 5 > 0)[:, None]
    return torch.cat((image, corner, corner + side), 1)


@pytest.mark.parametrize(("aligned", "ratio", "expected"), GOLDENS)
def test_worked_examples(aligned: bool, ratio: int, expected: list[list[float]]) -> None:
    box = [torch.tensor([[0.0, 3, 7, 8]])]
    for op in (roi_align, reference):
        result = op(MAP, box, 2, sampling_ratio=ratio, aligned=aligned)
        torch.testing.assert_close(result[0, 0], torch.tensor(expected), atol=6e-5, rtol=0)


def test_the_documents_answer_is_a_dense_maximum() -> None:
    """SYSTEMS 11.8: no mean, the largest value of the bilinear surface in each quarter (rows 2.8-7.8, columns 0-7)."""
    dense = roi_align(MAP, [torch.tensor([[0.0, 2.8, 7.0, 7.8]])], (2000, 2000), sampling_ratio=1, aligned=True)
    quarters = dense.view(2, 1000, 2, 1000).amax((1, 3))
    torch.testing.assert_close(quarters, torch.tensor([[0.88, 0.6], [0.9, 0.6]]), atol=1e-3, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 9), st.sampled_from([0, 1, 2, 3]), st.booleans())
def test_compiled_equals_reference(seed: int, n: int, ratio: int, aligned: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 5, 10, 14, generator=generator, dtype=torch.float64)
    rois = some_rois(n, 2, seed, torch.float64)
    weight = torch.randn(n, 5, 3, 2, generator=generator, dtype=torch.float64)
    answers = []
    for op in (roi_align, reference):
        leaf = features.clone().requires_grad_()
        out = op(leaf, rois, (3, 2), 0.25, ratio, aligned)
        (out * weight).sum().backward()
        answers.append((out, leaf.grad))
    torch.testing.assert_close(answers[0], answers[1], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("op", [roi_align, reference])
@pytest.mark.parametrize("ratio", [0, 2])
def test_gradcheck(op, ratio: int) -> None:  # type: ignore[no-untyped-def]
    features = torch.randn(2, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    rois = some_rois(4, 2, 1, torch.float64)
    assert torch.autograd.gradcheck(lambda f: op(f, rois, (2, 3), 0.125, ratio, False), features)


def test_memory_layouts_threads_and_half_types() -> None:
    features = torch.randn(2, 64, 10, 14)
    rois = some_rois(200, 2, 2)
    expected = reference(features, rois, 7, 0.25, 2)
    strided = torch.randn(2, 128, 10, 28)[:, ::2, :, ::2]
    strided.copy_(features)
    for each in (features, features.contiguous(memory_format=torch.channels_last), strided):
        torch.testing.assert_close(roi_align(each, rois, 7, 0.25, 2), expected, atol=1e-5, rtol=1e-5)
    before = torch.get_num_threads()
    leaf = features.clone().requires_grad_()
    gradients = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.testing.assert_close(roi_align(features, rois, 7, 0.25, 2), expected, atol=1e-5, rtol=1e-5)
        gradients.append(torch.autograd.grad(roi_align(leaf, rois, 7, 0.25, 2).square().sum(), leaf)[0])
    torch.set_num_threads(before)
    assert torch.equal(*gradients)
    half = roi_align(features.bfloat16(), rois, 7, 0.25, 2)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.03, rtol=0.02)
    small = features.bfloat16().requires_grad_()
    roi_align(small, rois, 7, 0.25, 2).float().sum().backward()
    assert small.grad is not None
    assert small.grad.dtype == torch.bfloat16


def test_no_regions() -> None:
    features = torch.randn(2, 3, 5, 5, requires_grad=True)
    out = roi_align(features, [torch.zeros(0, 4), torch.zeros(0, 4)], (4, 2))
    assert out.shape == (0, 3, 4, 2)
    out.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("levels", [[0, 1, 1, 0, 1, 0, 0], [1] * 7, []])
def test_levels_read_their_own_map(levels: list[int]) -> None:
    maps = [torch.randn(2, 3, 20 // s, 28 // s, dtype=torch.float64, requires_grad=True) for s in (1, 2)]
    rois = some_rois(len(levels), 2, 5, torch.float64)
    which = torch.tensor(levels, dtype=torch.int64)
    weight = torch.randn(len(levels), 3, 3, 2, dtype=torch.float64)
    answers, gradients = [], []
    for op in (roi_align_levels, roi_align_reference):
        answers.append(op(maps, rois, which, [0.5, 0.25], 3, 2, 2, False))
        gradients.append(torch.autograd.grad((answers[-1] * weight).sum(), maps))
    torch.testing.assert_close(*answers, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=1e-12)
    for level, scale in enumerate([0.5, 0.25]):
        rows = which == level
        torch.testing.assert_close(answers[0][rows], reference(maps[level], rois[rows], (3, 2), scale, 2))
        assert gradients[0][level].any() == rows.any()
    torch.library.opcheck(roi_align_compiled, (maps, rois, which, [0.5, 0.25], 3, 3, 2, False))


def test_bad_regions_are_refused() -> None:
    features = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"image index is outside 0..0"):
        roi_align(features, torch.tensor([[1.0, 0, 0, 2, 2]]), 2)
    with pytest.raises(ValueError, match="not finite"):
        roi_align(features, torch.tensor([[0.0, float("nan"), 0, 2, 2]]), 2)
    with pytest.raises(ValueError, match=r"rois must be \[n, 5\]"):
        roi_align(features, torch.zeros(2, 4), 2)
    with pytest.raises(ValueError, match="boxes of image 0"):
        roi_align(features, [torch.zeros(2, 3)], 2)
