from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saccade.ops.roi_pool import Rule, bin_edges, roi_pool, roi_pool_reference

ROWS = (
    ".1 .3 .2 .3 .2 .6 .8 .9|.4 .5 .1 .4 .7 .1 .4 .3|.2 .1 .3 .8 .6 .2 .1 .1|.4 .6 .2 .1 .3 .6 .1 .2|"
    ".1 .8 .3 .3 .5 .3 .3 .3|.2 .9 .4 .5 .1 .1 .1 .2|.3 .1 .8 .6 .3 .3 .6 .5|.5 .5 .2 .1 .1 .2 .1 .2"
)
MAP = torch.tensor([[float(v) for v in row.split()] for row in ROWS.split("|")])[None, None]
EXAMPLES: list[tuple[list[float], Rule, list[list[float]]]] = [  # SYSTEMS 11.7
    ([0, 3, 6, 7], "disjoint", [[0.8, 0.6], [0.9, 0.6]]),  # as printed in the course
    ([0, 3, 6, 7], "overlapping", [[0.9, 0.6], [0.9, 0.6]]),
    ([0, 3, 6, 6], "overlapping", [[0.8, 0.6], [0.9, 0.6]]),
    ([0, 0, 7, 7], "overlapping", [[0.8, 0.9], [0.9, 0.6]]),
]


@pytest.mark.parametrize(("box", "rule", "expected"), EXAMPLES)
def test_worked_examples(box: list[float], rule: Rule, expected: list[list[float]]) -> None:
    for op in (roi_pool, roi_pool_reference):
        for features in (MAP, MAP.clone().requires_grad_()):  # without and with the places of the maxima
            assert torch.equal(op(features, [torch.tensor([box])], 2, rule=rule)[0, 0], torch.tensor(expected))


def bin_by_bin(features: Tensor, rois: Tensor, size: tuple[int, int], scale: float, rule: Rule) -> Tensor:
    """The definition, a bin after the other."""
    edges_y, edges_x = bin_edges(rois, features.shape, *size, scale, rule == "overlapping")
    out = []
    for image, ys, xs in zip(rois[:, 0].long().tolist(), edges_y.tolist(), edges_x.tolist(), strict=True):
        for y0, y1 in ys:
            for x0, x1 in xs:
                pixels = features[image, :, y0:y1, x0:x1].flatten(1)
                out.append(
                    pixels.gather(1, pixels.argmax(1, keepdim=True))[:, 0] if pixels.shape[1] else torch.zeros(3)
                )
    return torch.stack(out).view(len(rois), *size, -1).permute(0, 3, 1, 2) if out else features.new_zeros(0, 3, *size)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 6), st.sampled_from(["overlapping", "disjoint"]))
def test_both_forms_equal_the_definition(seed: int, n: int, rule: Rule) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-5, 2, (2, 3, 6, 9), generator=generator).float()  # ties: the first maximum is meant
    corner = torch.rand(n, 2, generator=generator) * 40 - 8
    image = torch.randint(0, 2, (n, 1), generator=generator).float()
    rois = torch.cat((image, corner, corner + torch.rand(n, 2, generator=generator) * 60), 1)
    weight = torch.randn(n, 3, 3, 2, generator=generator)
    answers = []
    for op in (roi_pool, roi_pool_reference, bin_by_bin):
        leaf = features.clone().requires_grad_()
        out = op(leaf, rois, (3, 2), 0.25, rule)
        ((out * weight).sum() + 0 * leaf.sum()).backward()
        answers.append((out, leaf.grad))
    torch.testing.assert_close(answers[0], answers[2])
    torch.testing.assert_close(answers[1], answers[2])


def test_corners_round_half_away_from_zero_and_far_regions_are_empty() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    assert roi_pool(features, torch.tensor([[0.0, 0.5, 0.5, 1.4, 1.4]]), 1).item() == 5  # pixel (1, 1) alone
    assert roi_pool(features, torch.tensor([[0.0, 50, 50, 60, 60]]), 2).tolist() == [[[[0, 0], [0, 0]]]]


def test_gradcheck_and_operator() -> None:
    features = torch.randperm(60).double().view(1, 2, 5, 6).requires_grad_()  # no ties: differentiable
    rois = torch.tensor([[0.0, 0, 0, 20, 18], [0, 6, 2, 9, 40]], dtype=torch.float64)
    for rule in ("overlapping", "disjoint"):
        assert torch.autograd.gradcheck(lambda f, rule=rule: roi_pool(f, rois, (2, 3), 0.25, rule), features)
    torch.library.opcheck(torch.ops.saccade.roi_pool.default, (features, rois, 2, 3, 0.25, True, True))


def test_shapes_alone_are_enough() -> None:
    """On the meta device, and in an exported program, which takes other regions than those that it was made with."""
    assert roi_pool(torch.empty(2, 3, 6, 8, device="meta"), torch.empty(5, 5, device="meta"), (3, 2)).shape[1:] == (
        3,
        3,
        2,
    )

    class Pool(nn.Module):
        def forward(self, features: Tensor, rois: Tensor) -> Tensor:
            return roi_pool(features, rois, 2)

    program = torch.export.export(Pool(), (MAP, torch.tensor([[0.0, 0, 0, 3, 3]])))
    rois = torch.tensor([[0.0, 0, 3, 6, 7]])
    assert torch.equal(program.module()(MAP, rois), roi_pool(MAP, rois, 2))


def test_half_types_and_bad_regions() -> None:
    box = [torch.tensor([[0.0, 0, 7, 7]])]
    assert roi_pool(MAP.bfloat16(), box, 2).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="not finite"):
        roi_pool(MAP, [torch.tensor([[0.0, 0, float("inf"), 7]])], 2)
    with pytest.raises(ValueError, match="image index"):
        roi_pool(MAP, torch.tensor([[2.0, 0, 0, 7, 7]]), 2)


def test_rows_as_the_released_code_rounds_them() -> None:
    """A region of 7 rows in 13 bins: 13 times the float32 of 7 / 13 is above 7, so that the row below it is read."""
    features = torch.zeros(1, 1, 10, 1)
    features[0, 0, 7] = 1
    rois = torch.tensor([[0.0, 0, 0, 0, 6]])
    for op in (roi_pool, roi_pool_reference):
        assert op(features, rois, (13, 1), rule="overlapping").max() == 1
        assert op(features, rois, (13, 1), rule="disjoint").max() == 0


def test_threads_do_not_change_the_result() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 64, 12, 14, generator=generator)
    corner = torch.rand(300, 2, generator=generator) * 30
    image = torch.randint(0, 2, (300, 1), generator=generator).float()
    rois = torch.cat((image, corner, corner + torch.rand(300, 2, generator=generator) * 20), 1)
    before, answers = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        leaf = features.clone().requires_grad_()
        out = roi_pool(leaf, rois, 7, 0.25)
        answers.append((out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]))
    torch.set_num_threads(before)
    torch.testing.assert_close(*answers, atol=0, rtol=0)
