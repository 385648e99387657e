"""Matching against tables worked by hand and a plain second implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.layers.matching import BACKGROUND, IGNORED, best_pairs, match, match_adaptive
from saccade.layers.sampling import hard_negatives, sample_anchors


def test_bands() -> None:
    iou = torch.tensor([[0.7, 0.69, 0.3, 0.29, 0.5], [0.1, 0.1, 0.1, 0.1, 0.9]])
    assert match(iou, 0.7, 0.3, force_best=False).tolist() == [0, IGNORED, IGNORED, BACKGROUND, 1]
    assert match(iou, 0.5, 0.5, force_best=False).tolist() == [0, 0, BACKGROUND, BACKGROUND, 1]


def test_every_truth_gets_its_best_anchor() -> None:
    iou = torch.tensor([[0.8, 0.2, 0.1], [0.75, 0.3, 0.0], [0.0, 0.0, 0.0]])
    # Truth 0 wins anchor 0; truth 1, which wants it too, gets anchor 1; truth 2 touches nothing.
    assert match(iou, 0.7, 0.3, force_best=True).tolist() == [0, 1, BACKGROUND]
    assert match(iou, 0.7, 0.3, force_best=False).tolist() == [0, IGNORED, BACKGROUND]


def test_ties_go_to_the_first() -> None:
    iou = torch.tensor([[0.6, 0.6], [0.6, 0.6]])
    assert match(iou, 0.5, 0.5, force_best=False).tolist() == [0, 0]
    assert match(iou, 0.9, 0.9, force_best=True).tolist() == [0, 1]


def test_crowds_silence_background_only() -> None:
    iou = torch.tensor([[0.6, 0.0, 0.0, 0.2]])
    cover = torch.tensor([1.0, 0.9, 0.5, 0.9])
    assert match(iou, 0.5, 0.5, False, cover).tolist() == [0, IGNORED, BACKGROUND, IGNORED]
    assert match(iou[:0], 0.5, 0.5, True, cover).tolist() == [IGNORED, IGNORED, BACKGROUND, IGNORED]


def test_nothing_to_match() -> None:
    assert match(torch.zeros(0, 3), 0.5, 0.4, True).tolist() == [BACKGROUND] * 3
    assert match(torch.zeros(2, 0), 0.5, 0.4, True).tolist() == []
    with pytest.raises(ValueError, match="above"):
        match(torch.zeros(1, 1), 0.3, 0.5, True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 7), st.integers(1, 9), st.booleans())
def test_best_pairs_is_the_greedy_order(seed: int, truths: int, anchors: int, ties: bool) -> None:
    iou = torch.rand(truths, anchors, generator=torch.Generator().manual_seed(seed))
    if ties:
        iou = (iou * 4).floor() / 4
    pairs = {}
    for flat in iou.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(flat, anchors)
        if iou[row, column] > 0 and row not in pairs and column not in pairs.values():
            pairs[row] = column
    rows, columns = best_pairs(iou)
    assert dict(zip(rows.tolist(), columns.tolist(), strict=True)) == pairs


def test_adaptive_by_hand() -> None:
    # Anchors of side 4 at x = 0, 4, 8, 12, 16 and a truth over x in [2, 12]: IoUs 2/12, 4/10, 4/10, 0, 0.
    x = torch.arange(5.0) * 4
    anchors = torch.stack((x, torch.zeros(5), x + 4, torch.full((5,), 4.0)), 1)
    truths = torch.tensor([[2.0, 0, 12, 4]])
    iou = torch.tensor([[2 / 12, 0.4, 0.4, 0.0, 0.0]])
    # All five: mean 0.193, deviation 0.202, threshold 0.396. The nearest three (0, 1, 2): 0.322 + 0.135 = 0.457, so
    # none passes, and the truth gets the first of the best.
    assert match_adaptive(iou, anchors, truths, [5], [5]).tolist() == [BACKGROUND, 0, 0, BACKGROUND, BACKGROUND]
    assert match_adaptive(iou, anchors, truths, [5], [3]).tolist() == [BACKGROUND, 0] + [BACKGROUND] * 3
    cover = torch.tensor([0.0, 1, 0, 0, 1])
    assert match_adaptive(iou, anchors, truths, [5], [5], cover).tolist() == [BACKGROUND, 0, 0, BACKGROUND, IGNORED]
    assert match_adaptive(iou[:0], anchors, truths[:0], [5], [5], cover).tolist() == [-1, IGNORED, -1, -1, IGNORED]


def test_adaptive_levels_are_separate() -> None:
    anchors = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 8, 8]])
    truths = torch.tensor([[0.0, 0, 8, 8]])
    iou = torch.tensor([[0.25, 0.25, 1.0]])
    assert match_adaptive(iou, anchors, truths, [2, 1], [1, 1]).tolist() == [BACKGROUND, BACKGROUND, 0]


def test_balanced_sampling() -> None:
    matches = torch.full((100,), BACKGROUND)
    matches[:10] = 3
    matches[90:] = IGNORED
    positives, negatives = sample_anchors(matches, 16, 0.25, torch.Generator().manual_seed(0))
    assert (len(positives), len(negatives)) == (4, 12)
    assert (matches[positives] == 3).all()
    assert (matches[negatives] == BACKGROUND).all()
    again = sample_anchors(matches, 16, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(positives, again[0])
    positives, negatives = sample_anchors(matches, 64, 0.5)
    assert (len(positives), len(negatives)) == (10, 54)
    positives, negatives = sample_anchors(torch.full((5,), BACKGROUND), 8, 0.5)
    assert (len(positives), len(negatives)) == (0, 5)


def test_hard_negatives() -> None:
    losses = torch.tensor([[9.0, 1, 2, 3, 4, 5, 8], [1, 2, 3, 4, 5, 6, 7]])
    matches = torch.full((2, 7), BACKGROUND)
    matches[0, 0] = 0
    matches[0, 6] = IGNORED
    chosen = hard_negatives(losses, matches)
    assert chosen.nonzero().tolist() == [[0, 3], [0, 4], [0, 5]]
    assert hard_negatives(losses, matches, at_least=2)[1].nonzero().flatten().tolist() == [5, 6]
    assert hard_negatives(losses, matches, ratio=50).sum() == 5
