"""Matching against tables worked by hand and a plain second implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saccade.layers.matching import BACKGROUND, IGNORED, best_pairs, match_adaptive, match_by_overlap
from saccade.layers.sampling import hard_negatives, sample_anchors
from saccade.ops.boxes import box_iou


def plain_pairs(iou: Tensor) -> dict[int, int]:
    """The definition: all pairs by falling IoU, each truth and each anchor once."""
    pairs: dict[int, int] = {}
    for flat in iou.flatten().argsort(descending=True, stable=True).tolist():
        row, column = divmod(flat, iou.shape[1])
        if iou[row, column] > 0 and row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def plain_match(iou: Tensor, high: float, low: float, force_best: bool, cover: Tensor) -> list[int]:
    """One image, anchor by anchor."""
    matches = []
    for column in range(iou.shape[1]):
        owner, best = max(enumerate(iou[:, column].tolist()), key=lambda pair: pair[1], default=(0, -1.0))
        matched = owner if best >= high else BACKGROUND if best < low else IGNORED
        matches.append(IGNORED if matched == BACKGROUND and cover[column] > 0.5 else matched)
    for row, column in plain_pairs(iou).items() if force_best else ():
        matches[column] = row
    return matches


def images_of(counts: list[int], anchors: int, seed: int, ties: bool) -> list[Tensor]:
    """IoUs [t, anchors] of images with so many truths; of four values alone where `ties`."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(count, anchors, generator=generator) for count in counts]
    return [(iou * 4).floor() / 4 for iou in images] if ties else images


def test_bands() -> None:
    iou = torch.tensor([[0.7, 0.69, 0.3, 0.29, 0.5], [0.1, 0.1, 0.1, 0.1, 0.9]])
    assert match_by_overlap([iou], 0.7, 0.3, force_best=False)[0].tolist() == [0, IGNORED, IGNORED, BACKGROUND, 1]
    assert match_by_overlap([iou], 0.5, 0.5, force_best=False)[0].tolist() == [0, 0, BACKGROUND, BACKGROUND, 1]


def test_every_truth_gets_its_best_anchor() -> None:
    iou = torch.tensor([[0.8, 0.2, 0.1], [0.75, 0.3, 0.0], [0.0, 0.0, 0.0]])
    # Truth 0 wins anchor 0; truth 1, which wants it too, gets anchor 1; truth 2 touches nothing.
    assert match_by_overlap([iou], 0.7, 0.3, force_best=True)[0].tolist() == [0, 1, BACKGROUND]
    assert match_by_overlap([iou], 0.7, 0.3, force_best=False)[0].tolist() == [0, IGNORED, BACKGROUND]


def test_ties_go_to_the_first() -> None:
    iou = torch.tensor([[0.6, 0.6], [0.6, 0.6]])
    assert match_by_overlap([iou], 0.5, 0.5, force_best=False)[0].tolist() == [0, 0]
    assert match_by_overlap([iou], 0.9, 0.9, force_best=True)[0].tolist() == [0, 1]


def test_crowds_silence_background_only() -> None:
    iou = torch.tensor([[0.6, 0.0, 0.0, 0.2]])
    cover = torch.tensor([[1.0, 0.9, 0.5, 0.9]])
    assert match_by_overlap([iou], 0.5, 0.5, False, cover)[0].tolist() == [0, IGNORED, BACKGROUND, IGNORED]
    assert match_by_overlap([iou[:0]], 0.5, 0.5, True, cover)[0].tolist() == [IGNORED, IGNORED, BACKGROUND, IGNORED]


def test_nothing_to_match() -> None:
    assert match_by_overlap([torch.zeros(0, 3)], 0.5, 0.4, True)[0].tolist() == [BACKGROUND] * 3
    assert match_by_overlap([torch.zeros(2, 0)], 0.5, 0.4, True)[0].tolist() == []
    with pytest.raises(ValueError, match="above"):
        match_by_overlap([torch.zeros(1, 1)], 0.3, 0.5, True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 7), min_size=1, max_size=4), st.integers(1, 9), st.booleans())
def test_a_batch_is_matched_as_its_images_one_by_one(seed: int, counts: list[int], anchors: int, ties: bool) -> None:
    images = images_of(counts, anchors, seed, ties)
    cover = torch.rand(len(images), anchors, generator=torch.Generator().manual_seed(seed))
    found = best_pairs(images).split(counts)
    before = [iou.clone() for iou in images]
    for force_best in (False, True):
        matches = match_by_overlap(images, 0.75, 0.5, force_best, cover)
        for iou, own, got, column in zip(images, cover, matches, found, strict=True):
            assert got.tolist() == plain_match(iou, float(torch.tensor(0.75)), 0.5, force_best, own)
            assert {i: c for i, c in enumerate(column.tolist()) if c >= 0} == plain_pairs(iou)
    assert all(torch.equal(iou, old) for iou, old in zip(images, before, strict=True))


def test_four_hundred_truths_of_one_image() -> None:
    """Beside an image without any; most of them want an anchor that another has, and 300 anchors serve 300 of them."""
    images = images_of([400, 0], 300, 0, ties=True)
    found = best_pairs(images).tolist()
    assert {i: c for i, c in enumerate(found) if c >= 0} == plain_pairs(images[0])
    assert len({c for c in found if c >= 0}) == 300


def plain_adaptive(iou: Tensor, anchors: Tensor, truths: Tensor, per_level: list[int], wanted: int) -> list[int]:
    """Algorithm 1 of the paper for one image, truth by truth, and the addition for truths without an anchor."""
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2
    best = torch.full((len(anchors),), -1.0)
    matches = torch.full((len(anchors),), BACKGROUND)
    for number, truth in enumerate(truths):
        chosen: list[int] = []
        for start, count in zip((0, per_level[0]), per_level, strict=True):
            far = (middle[start : start + count] - (truth[:2] + truth[2:]) / 2).square().sum(1)
            chosen += (far.argsort(stable=True)[:wanted] + start).tolist()
        threshold = iou[number, chosen].mean() + iou[number, chosen].std()
        for column in chosen:
            inside = (middle[column] > truth[:2]).all() and (middle[column] < truth[2:]).all()
            if inside and iou[number, column] >= threshold and iou[number, column] > best[column]:
                best[column], matches[column] = iou[number, column], number
    alone = [number for number in range(len(truths)) if number not in matches.tolist()]
    for row, column in plain_pairs(iou[alone].masked_fill(matches >= 0, 0)).items():
        matches[column] = alone[row]
    return matches.tolist()


@pytest.mark.parametrize("counts", [[3, 5], [0, 0], [0, 1, 6], [40, 0, 1], [400]])
def test_adaptive_for_a_batch_is_the_paper_for_each_image(counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(sum(counts))
    per_level = [144, 36]
    x, y = torch.meshgrid(torch.arange(12.0) * 8, torch.arange(12.0) * 8, indexing="xy")
    fine = torch.stack((x - 2, y - 2, x + 10, y + 10), -1).view(-1, 4)
    x, y = torch.meshgrid(torch.arange(6.0) * 16, torch.arange(6.0) * 16, indexing="xy")
    anchors = torch.cat((fine, torch.stack((x - 4, y - 4, x + 20, y + 20), -1).view(-1, 4)))
    corner = torch.rand(len(counts), max(*counts, 1), 2, generator=generator) * 70
    side = torch.rand(*corner.shape, generator=generator) ** 3 * 40 + 0.5  # many smaller than a cell
    truths = torch.cat((corner, corner + side), 2)
    overlaps = [box_iou(boxes[:count], anchors) for boxes, count in zip(truths, counts, strict=True)]
    matches = match_adaptive(overlaps, anchors, truths, per_level, [9, 9])
    for i, count in enumerate(counts):
        assert matches[i].tolist() == plain_adaptive(overlaps[i], anchors, truths[i, :count], per_level, 9)


def test_adaptive_by_hand() -> None:
    # Anchors of side 4 at x = 0, 4, 8, 12, 16 and a truth over x in [2, 12]: IoUs 2/12, 4/10, 4/10, 0, 0.
    x = torch.arange(5.0) * 4
    anchors = torch.stack((x, torch.zeros(5), x + 4, torch.full((5,), 4.0)), 1)
    truths = torch.tensor([[[2.0, 0, 12, 4]]])
    iou = torch.tensor([[2 / 12, 0.4, 0.4, 0.0, 0.0]])
    # All five: mean 0.193, deviation 0.202, threshold 0.396. The nearest three (0, 1, 2): 0.322 + 0.135 = 0.457, so
    # none passes, and the truth gets the first of the best.
    assert match_adaptive([iou], anchors, truths, [5], [5])[0].tolist() == [BACKGROUND, 0, 0, BACKGROUND, BACKGROUND]
    assert match_adaptive([iou], anchors, truths, [5], [3])[0].tolist() == [BACKGROUND, 0] + [BACKGROUND] * 3
    cover = torch.tensor([[0.0, 1, 0, 0, 1]])
    assert match_adaptive([iou], anchors, truths, [5], [5], cover)[0].tolist() == [-1, 0, 0, -1, IGNORED]
    assert match_adaptive([iou[:0]], anchors, truths, [5], [5], cover)[0].tolist() == [-1, IGNORED, -1, -1, IGNORED]


def test_adaptive_levels_are_separate() -> None:
    anchors = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [0, 0, 8, 8]])
    truths = torch.tensor([[[0.0, 0, 8, 8]]])
    iou = torch.tensor([[0.25, 0.25, 1.0]])
    assert match_adaptive([iou], anchors, truths, [2, 1], [1, 1])[0].tolist() == [BACKGROUND, BACKGROUND, 0]


@pytest.mark.parametrize(("batch", "share"), [(16, 0.25), (64, 0.5), (200, 0.5), (8, 0.0)])
def test_balanced_sampling_of_a_batch(batch: int, share: float) -> None:
    """As many of each kind as if every image were drawn for alone; nothing that is ignored, nothing twice."""
    matches = torch.full((5, 100), BACKGROUND)
    matches[0, :10] = 3
    matches[0, 90:] = IGNORED
    matches[1] = 2  # objects alone
    matches[2] = IGNORED
    matches[4, :60] = 0
    matches[4, 60:] = IGNORED
    drawn = sample_anchors(matches, batch, share)
    assert drawn.rows.shape == drawn.valid.shape == (5, min(batch, 100))
    for own, row, valid in zip(matches, drawn.rows, drawn.valid, strict=True):
        chosen = row[valid]
        assert len(set(chosen.tolist())) == len(chosen)
        positives = min(int((own >= 0).sum()), int(batch * share))
        negatives = min(int((own == BACKGROUND).sum()), batch - positives)
        assert (own[chosen] >= 0).sum() == positives
        assert (own[chosen] == BACKGROUND).sum() == negatives
        assert len(chosen) == positives + negatives


def test_sampling_follows_from_the_seed_and_is_even() -> None:
    matches = torch.full((1, 40), BACKGROUND)
    matches[0, :10] = 0
    first, again = (sample_anchors(matches, 8, 0.5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.rows, again.rows)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(40)
    for _ in range(500):
        counts[sample_anchors(matches, 8, 0.5, generator).rows[0]] += 1
    # 4 of 10 positives and 4 of 30 others in each draw: 200 and 67 times, give or take 5 standard deviations.
    assert (counts[:10] - 200).abs().max() < 55
    assert (counts[10:] - 500 * 4 / 30).abs().max() < 38


def test_easy_background_below_a_floor_takes_no_part() -> None:
    """Fast R-CNN, section 2.3: background has an IoU in [0.1, 0.5)."""
    overlaps = [torch.tensor([[0.6, 0.3, 0.1, 0.05, 0.0]]), torch.zeros(0, 5)]
    matches = match_by_overlap(overlaps, 0.5, 0.5, force_best=False, floor=0.1)
    assert matches.tolist() == [[0, BACKGROUND, BACKGROUND, IGNORED, IGNORED], [IGNORED] * 5]
    assert (match_by_overlap(overlaps, 0.5, 0.5, force_best=False)[1] == BACKGROUND).all()


def test_hard_negatives() -> None:
    losses = torch.tensor([[9.0, 1, 2, 3, 4, 5, 8], [1, 2, 3, 4, 5, 6, 7]])
    matches = torch.full((2, 7), BACKGROUND)
    matches[0, 0] = 0
    matches[0, 6] = IGNORED
    chosen = hard_negatives(losses, matches)
    assert chosen.nonzero().tolist() == [[0, 3], [0, 4], [0, 5]]
    assert hard_negatives(losses, matches, at_least=2)[1].nonzero().flatten().tolist() == [5, 6]
    assert hard_negatives(losses, matches, ratio=50).sum() == 5
