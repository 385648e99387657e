from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saccade.ops import nms as module
from saccade.ops.nms import batched_nms, nms, nms_padded

CHAIN = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])  # IoU of neighbours 3/7, of the ends 1/9


def plain(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> list[int]:
    """The definition, box by box."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i)):
        for k in kept:
            a, b = boxes[i].numpy(), boxes[k].numpy()
            side = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
            shared = side[0] * side[1]
            areas = [max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in (a, b)]
            union = np.float32(areas[0]) + np.float32(areas[1]) - shared
            if labels[i] == labels[k] and union > 0 and shared / union > np.float32(threshold):
                break
        else:
            kept.append(i)
    return kept


def test_chain_only_kept_boxes_suppress() -> None:
    """SYSTEMS section 12: the middle box goes, and must not take the last one with it."""
    assert nms(CHAIN, torch.tensor([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]
    assert nms(CHAIN, torch.tensor([0.7, 0.9, 0.8]), 0.3).tolist() == [1]


def test_threshold_is_strict_and_ties_go_to_the_lower_index() -> None:
    halves = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 4]])  # IoU exactly 1/2
    assert nms(halves, torch.tensor([0.5, 0.5]), 0.5).tolist() == [0, 1]
    assert nms(halves, torch.tensor([0.5, 0.5]), 0.49).tolist() == [0]
    assert nms(halves, torch.tensor([0.5, 0.6]), 0.49).tolist() == [1]
    same = halves[:1].expand(3, 4)
    assert nms(same, torch.ones(3), 0.5).tolist() == [0]


def test_labels_do_not_suppress_each_other() -> None:
    boxes = CHAIN[:1].expand(4, 4)
    labels = torch.tensor([7, -3, 7, 1_000_000])
    assert batched_nms(boxes, torch.tensor([0.1, 0.2, 0.3, 0.4]), labels, 0.5).tolist() == [3, 2, 1]


def test_nothing_and_bad_arguments() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).dtype == torch.int64
    with pytest.raises(ValueError, match=r"boxes must be \[n, 4\]"):
        nms(torch.zeros(3, 5), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="scores must be"):
        nms(torch.zeros(3, 4), torch.zeros(2), 0.5)
    with pytest.raises(ValueError, match="iou_threshold"):
        nms(torch.zeros(3, 4), torch.zeros(3), 1.5)
    with pytest.raises(ValueError, match="labels must be"):
        batched_nms(torch.zeros(3, 4), torch.zeros(3), torch.zeros(2), 0.5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 60), st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
def test_definition_reference_and_compiled_agree(seed: int, n: int, classes: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 20, (n, 2), generator=generator).float()
    boxes = torch.cat((corner, corner + torch.randint(0, 12, (n, 2), generator=generator)), 1)  # some without area
    scores = torch.randint(0, 10, (n,), generator=generator) / 10  # many ties
    labels = torch.randint(0, classes, (n,), generator=generator)
    expected = plain(boxes, scores, labels, threshold)
    assert batched_nms(boxes, scores, labels, threshold).tolist() == expected
    order = scores.sort(descending=True, stable=True).indices
    reference = module._suppress_reference(boxes[order], labels[order], threshold, n)
    assert order[reference].tolist() == expected


def test_reference_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 16)
    corner = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 40
    boxes = torch.cat((corner, corner + 10), 1)
    groups = torch.zeros(300, dtype=torch.int64)
    for limit in (300, 7):
        expected = module._suppress_compiled(boxes, groups, 0.4, limit)
        assert torch.equal(module._suppress_reference(boxes, groups, 0.4, limit), expected)
        assert len(expected) <= limit


def test_padded_form_keeps_its_shape_and_skips_absent_boxes() -> None:
    boxes = torch.stack((CHAIN, CHAIN.flip(0)))
    scores = torch.tensor([[0.9, 0.8, 0.7], [-torch.inf, 0.8, 0.7]])
    for op in (nms_padded, module._padded_reference):
        assert op(boxes[:, None], scores[:, None], 0.3, 4).tolist() == [[0, 2, -1, -1], [1, -1, -1, -1]]
        assert op(boxes[:, :, None], scores[:, :, None], 0.3, 2).tolist() == [[0, 1], [1, 2]]
        assert op(boxes[:, None, :0], scores[:, None, :0], 0.3, 2).tolist() == [[-1, -1]] * 2
    torch.library.opcheck(nms_padded, (boxes[:, None], scores[:, None], 0.3, 4))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.sampled_from([3, 500]))
def test_padded_form_and_its_reference_agree(seed: int, b: int, g: int, m: int, limit: int) -> None:
    """Chains of neighbours (as long as the rounds of the reference must be), ties, absent boxes."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (b, g, m, 2), generator=generator).float() * torch.tensor([1.0, 0.0])
    boxes = torch.cat((corner, corner + 8), -1)
    scores = torch.randint(0, 10, (b, g, m), generator=generator) / 10
    scores[torch.rand(b, g, m, generator=generator) < 0.2] = -torch.inf
    kept = nms_padded(boxes, scores, 0.3, limit)
    assert torch.equal(module._padded_reference(boxes, scores, 0.3, limit), kept)
    labels = torch.arange(g).repeat_interleave(m)
    for i in range(b):
        present = (scores[i].flatten() > -torch.inf).nonzero()[:, 0]
        own = plain(boxes[i].view(-1, 4)[present], scores[i].flatten()[present], labels[present], 0.3)
        assert kept[i][kept[i] >= 0].tolist() == present[own][:limit].tolist()


def test_a_chain_longer_than_any_check() -> None:
    """Each box overlaps the next alone, so that the answer takes as many rounds as there are boxes."""
    x = torch.arange(300.0) * 4
    boxes = torch.stack((x, torch.zeros(300), x + 10, torch.full((300,), 10.0)), 1)
    order = torch.arange(300.0, 0, -1)
    kept = module._padded_reference(boxes[None, None], order[None, None], 0.4, 300)[0]
    assert kept[kept >= 0].tolist() == list(range(0, 300, 2))


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 0.5, 0.9])
def test_grid_misses_no_overlap(threshold: float) -> None:
    """Sides from 1 to 1000 pixels far from the origin: boxes that suppress lie in other cells than their victims."""
    generator = torch.Generator().manual_seed(3)
    side = 10 ** (torch.rand(1500, 2, generator=generator) * 3)
    corner = torch.rand(1500, 2, generator=generator) * 1200 - 5000
    boxes = torch.cat((corner, corner + side), 1)
    boxes[700:] = boxes[:800] + torch.randn(800, 4, generator=generator) * side[:800].repeat(1, 2) / 10
    labels = torch.randint(0, 3, (1500,), generator=generator)
    for groups in (torch.zeros_like(labels), labels):
        expected = module._suppress_reference(boxes, groups, threshold, 1500)
        assert 0 < len(expected) < 1500
        assert torch.equal(module._suppress_compiled(boxes, groups, threshold, 1500), expected)


def test_boxes_that_are_not_finite_overlap_nothing() -> None:
    inf, nan = float("inf"), float("nan")
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, inf, 4], [nan, 0, 4, 4], [-inf, -inf, inf, inf], [0, 0, 4, 4]])
    boxes = torch.cat((boxes, torch.tensor([[-3e38, -3e38, 3e38, 3e38]])))
    scores = torch.arange(6.0, 0, -1)
    assert nms(boxes, scores, 0.5).tolist() == [0, 1, 2, 3, 5]
