from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode

from saccade.ops.boxes import (
    box_area,
    box_iof,
    box_iou,
    clip_boxes,
    complete_iou,
    distance_iou,
    generalized_iou,
    iou,
    valid_boxes,
)

A = torch.tensor([[0.0, 0, 4, 4]])
TABLE = [  # box, IoU with A, GIoU: by hand
    ([0, 0, 4, 4], 1.0, 1.0),  # equal
    ([0, 0, 2, 4], 0.5, 0.5),  # the left half
    ([2, 2, 6, 6], 4 / 28, 4 / 28 - 8 / 36),  # a corner: hull 6x6, union 28
    ([4, 0, 8, 4], 0.0, 0.0),  # an edge touches: the hull is the union
    ([8, 0, 12, 4], 0.0, -16 / 48),  # apart: hull 12x4, union 32
    ([1, 1, 1, 3], 0.0, 0.0),  # no area, inside
]


@pytest.mark.parametrize(("box", "expected", "generalized"), TABLE)
def test_overlaps_by_hand(box: list[float], expected: float, generalized: float) -> None:
    b = torch.tensor([box], dtype=torch.float32)
    assert iou(A, b).item() == pytest.approx(expected, abs=1e-6)
    assert generalized_iou(A, b).item() == pytest.approx(generalized, abs=1e-6)
    assert generalized_iou(b, A).item() == pytest.approx(generalized, abs=1e-6)


def test_facts_bicycle() -> None:
    """SYSTEMS 11.11: (10, 100) and (9, 93) with sizes read as width, height."""
    assert iou(torch.tensor([10.0, 100, 120, 210]), torch.tensor([9.0, 93, 109, 204])).item() == pytest.approx(
        0.7979, abs=1e-4
    )


def test_pairwise_shapes_and_nothing() -> None:
    b = torch.tensor([t[0] for t in TABLE], dtype=torch.float32)
    assert box_iou(b, A)[:, 0].tolist() == pytest.approx([t[1] for t in TABLE], abs=1e-6)
    assert box_iou(A[:0], b).shape == (0, 6)
    assert box_iou(b, A[:0]).shape == (6, 0)
    point = torch.zeros(1, 4)
    assert box_iou(point, point).item() == 0
    assert box_area(torch.tensor([5.0, 5, 1, 1])).item() == 0


def test_share_of_a_box_in_a_crowd() -> None:
    crowd = torch.tensor([[0.0, 0, 100, 100]])
    boxes = torch.tensor([[10.0, 10, 20, 20], [-10, 0, 10, 10], [200, 200, 210, 210], [5, 5, 5, 9]])
    assert box_iof(boxes, crowd)[:, 0].tolist() == pytest.approx([1, 0.5, 0, 0])


def test_distance_and_aspect() -> None:
    b = torch.tensor([[8.0, 0, 12, 4]])
    assert distance_iou(A, b).item() == pytest.approx(-64 / (144 + 16))
    assert complete_iou(A, b).item() == pytest.approx(-0.4)  # equal aspect: v = 0
    wide = torch.tensor([[0.0, 1, 4, 3]])  # the same centre: IoU 1/2
    v = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
    assert complete_iou(A, wide).item() == pytest.approx(0.5 - v * v / (0.5 + v), abs=1e-6)


@pytest.mark.parametrize("measure", [iou, generalized_iou, distance_iou])
def test_gradients(measure) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(6, 2, generator=generator, dtype=torch.float64) * 5
    a = torch.cat((corner, corner + 3), 1).requires_grad_()
    b = torch.cat((corner.flip(0), corner.flip(0) + 2.3), 1).requires_grad_()
    assert torch.autograd.gradcheck(measure, (a, b))


@pytest.mark.parametrize("measure", [iou, generalized_iou, distance_iou, complete_iou])
def test_gradient_is_finite_without_area(measure) -> None:  # type: ignore[no-untyped-def]
    point = torch.zeros(1, 4, requires_grad=True)
    measure(point, torch.zeros(1, 4)).sum().backward()
    assert point.grad is not None
    assert point.grad.isfinite().all()


def test_clip_and_valid() -> None:
    boxes = torch.tensor([[-5.0, -5, 50, 50], [30, 2, 60, 8], [3, 3, 3, 9], [1, 1, float("nan"), 9]])
    expected = torch.tensor([[0.0, 0, 20, 10], [20, 2, 20, 8], [3, 3, 3, 9]])
    assert torch.equal(clip_boxes(boxes[:3], (10, 20)), expected)
    sizes: Tensor = torch.tensor([[10, 20], [100, 100]])
    batched = clip_boxes(boxes[None, :3].expand(2, 3, 4), sizes[:, None])
    assert torch.equal(batched[0], expected)
    assert torch.equal(batched[1, 1], boxes[1])
    assert valid_boxes(boxes).tolist() == [True, True, False, False]
    assert valid_boxes(boxes, min_side=7).tolist() == [True, False, False, False]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(0, 40), st.sampled_from([torch.float32, torch.float64]))
def test_compiled_pairs_equal_the_elementwise_form(seed: int, n: int, m: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    sets = []
    for count in (n, m):
        corner = torch.randint(0, 20, (count, 2), generator=generator, dtype=dtype)
        # some without area, some with swapped corners
        side = torch.randint(-2, 12, (count, 2), generator=generator, dtype=dtype)
        sets.append(torch.cat((corner, corner + side), 1))
    a, b = sets
    assert torch.equal(box_iou(a, b), iou(a[:, None], b[None]))
    strided = torch.cat((b, b), 1)[:, :4]
    assert torch.equal(box_iou(a, strided), box_iou(a, b))


def test_pairs_are_differentiable_and_known_to_the_compiler() -> None:
    a = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 6]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[2.0, 1, 6, 5], [0.5, 0, 3, 3]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda boxes: box_iou(boxes, b), a)
    with FakeTensorMode():
        assert box_iou(torch.empty(3, 4), torch.empty(5, 4)).shape == (3, 5)
    parameters = torch.nn.Parameter(b.float()), torch.nn.Parameter(a.detach().float())
    assert box_iou(*parameters).requires_grad
