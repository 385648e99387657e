"""Heads in a row: each begins at the boxes of the one before and is held to its own overlap."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.matching import BACKGROUND, IGNORED
from saccade.layers.refining import corrected_regions, joined_outputs, matched_regions
from saccade.layers.regions import RegionOutputs, RegionRules
from saccade.layers.targets import Targets, detection_targets

RULES = RegionRules()


def outputs_of(logits: list[float], delta: list[float]) -> RegionOutputs:
    """One image, one region."""
    return RegionOutputs(torch.tensor([[logits]]), torch.tensor([[delta]]).requires_grad_())


def targets_of(boxes: list[list[float]], crowd: list[bool]) -> Targets:
    objects = Objects(torch.tensor(boxes), torch.arange(len(boxes)), crowd=torch.tensor(crowd))
    truth = [Annotation((64, 64), objects=objects)]
    return detection_targets(Batch(torch.zeros(1, 3, 64, 64), [(64, 64)], truth), len(boxes))


def test_the_next_head_begins_at_the_corrected_box() -> None:
    """Weights 10 and 5: a tenth of 20 pixels to the right, and half as wide again; x from -3 to 27, clipped."""
    outputs = outputs_of([0.0, 0, 0], [1.0, 0, 5 * math.log(1.5), 0])
    sizes, region = torch.tensor([[40, 30]]), torch.tensor([[[0.0, 0, 20, 20]]])
    found = corrected_regions(outputs, region, sizes, RULES)
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0, 27, 20]]]))
    assert not found.requires_grad
    finer = dataclasses.replace(
        RULES, weights=(20.0, 20.0, 10.0, 10.0)
    )  # of a second head: half as far, sqrt(1.5) wide
    half = 10 * 1.5**0.5
    expected = torch.tensor([[[0.0, 0, 11 + half, 20]]])
    torch.testing.assert_close(corrected_regions(outputs, region, sizes, finer), expected)
    assert not corrected_regions(outputs, torch.zeros(1, 1, 4), sizes, RULES).any()


def test_a_region_is_positive_from_the_heads_own_overlap_on() -> None:
    targets = targets_of([[0.0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 64, 64]], [False, False, True])
    thirteen, crowded, empty = [0.0, 0, 20, 13], [0.0, 44, 20, 60], [0.0] * 4  # an IoU of 0.65; inside the crowd region
    regions = torch.tensor([[thirteen, [40, 0, 60, 20], crowded, empty, [30, 30, 36, 36]]])
    for overlap, first in ((0.6, 0), (0.7, BACKGROUND)):
        wanted = matched_regions(regions, targets, dataclasses.replace(RULES, positive_iou=overlap))
        assert wanted.matches.tolist() == [[first, 1, IGNORED, IGNORED, BACKGROUND]]
        assert wanted.classes.tolist() == [[first + 1, 2, IGNORED, IGNORED, 0]]
        assert wanted.drawn.tolist() == [[True, True, False, False, True]]
        assert torch.equal(wanted.regions, regions)


@pytest.mark.parametrize("score", ["softmax", "quality"])
def test_the_heads_vote_and_the_last_draws(score: str) -> None:
    """0.9 and 0.5 of one class (of a background and a class by softmax, or of a class alone) are 0.7."""
    sure, unsure = math.log(9), 0.0
    heads = [outputs_of([0.0, x] if score == "softmax" else [x], [x] * 4) for x in (sure, unsure)]
    found = joined_outputs(heads, score)
    mean = found.logits.softmax(-1)[0, 0, 1] if score == "softmax" else found.logits.sigmoid()[0, 0, 0]
    assert mean.item() == pytest.approx(0.7)
    assert found.deltas is heads[1].deltas
    assert joined_outputs(heads[:1], score) is heads[0]


def test_votes_do_not_overflow() -> None:
    heads = [outputs_of([x, -x], [0.0] * 4) for x in (300.0, 200.0)]
    assert joined_outputs(heads, "softmax").logits.softmax(-1).tolist() == [[[1, 0]]]
    assert joined_outputs(heads, "quality").logits.sigmoid().tolist() == [[[1, 0]]]
