"""Box coding against the equations worked by hand, and as a round trip."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade.layers.box_coding import decode_boxes, encode_boxes

corner = st.floats(-500, 500, width=32)
side = st.floats(1, 800, width=32)
box = st.tuples(corner, corner, side, side).map(lambda v: (v[0], v[1], v[0] + v[2], v[1] + v[3]))


def test_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 20], [0, 0, 10, 20]])
    boxes = torch.tensor([[0.0, 0, 10, 20], [5, 10, 25, 20]])  # the second: centre (15, 15), sides 20 x 10
    expected = torch.tensor([[0, 0, 0, 0], [(15 - 5) / 10, (15 - 10) / 20, math.log(2), math.log(0.5)]])
    torch.testing.assert_close(encode_boxes(boxes, anchors), expected)
    weighted = encode_boxes(boxes, anchors, (10, 10, 5, 5))
    torch.testing.assert_close(weighted, expected * torch.tensor([10.0, 10, 5, 5]))
    torch.testing.assert_close(decode_boxes(weighted, anchors, (10, 10, 5, 5)), boxes)


@given(box, box)
def test_round_trip(first: tuple[float, ...], second: tuple[float, ...]) -> None:
    boxes = torch.tensor([first], dtype=torch.float64)
    anchors = torch.tensor([second], dtype=torch.float64)
    coded = encode_boxes(boxes, anchors, (10, 10, 5, 5))
    back = decode_boxes(coded, anchors, (10, 10, 5, 5), clamp=math.inf)
    torch.testing.assert_close(back, boxes, rtol=1e-7, atol=1e-6)


def test_growth_is_limited() -> None:
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    grown = decode_boxes(torch.tensor([[0.0, 0, 1e4, 100]]), anchors)
    torch.testing.assert_close(grown, torch.tensor([[-492.0, -492, 508, 508]]))


def test_leading_dimensions_and_half_precision() -> None:
    anchors = torch.tensor([[3000.0, 0, 3010, 10], [0, 0, 4, 4]])
    deltas = torch.zeros(5, 2, 4, dtype=torch.bfloat16)
    decoded = decode_boxes(deltas, anchors)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, anchors.expand(5, 2, 4))


def test_gradient() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 20], [3, 4, 9, 8]], dtype=torch.float64)
    deltas = torch.tensor([[0.1, -0.2, 0.3, 0.4], [1, 2, -0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    boxes = decode_boxes(deltas, anchors).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda d: decode_boxes(d, anchors, (10, 10, 5, 5)), deltas)
    assert torch.autograd.gradcheck(lambda b: encode_boxes(b, anchors), boxes)
    with pytest.raises(RuntimeError):
        encode_boxes(torch.zeros(3, 4), torch.zeros(2, 4))
