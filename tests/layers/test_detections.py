"""Answers of detectors: the same candidates whichever way they are found, and cut where a scope asks for scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saccade.data.types import Objects
from saccade.layers.cells import CellOutputs, read_cells
from saccade.layers.detections import best_objects, detections
from saccade.ops.boxes import clip_boxes
from saccade.ops.suppression import NmsRule, nms_rule

SIZE = (80, 100)


def draw_scores(anchors: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores [A, C] without ties and boxes [A, 4], some of them outside."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randperm(anchors * classes, generator=generator).reshape(anchors, classes) / (anchors * classes)
    corners = torch.rand(anchors, 2, generator=generator) * 90
    return scores, torch.cat((corners, corners + 30 * torch.rand(anchors, 2, generator=generator)), dim=1)


def by_class(scores: Tensor, boxes: Tensor, threshold: float, candidates: int, keep: int) -> Objects:
    """`detections` as it is written: the best candidates of each class, all of which enter NMS."""
    best, rows = scores.topk(min(candidates, len(scores)), dim=0)
    labels = torch.arange(scores.shape[1]).expand_as(best)
    flat = clip_boxes(boxes[rows.flatten()], SIZE)
    return best_objects(flat, best.flatten(), labels.flatten(), threshold, 0.5, keep)


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.95, 1.0])
@pytest.mark.parametrize("candidates", [3, 20, 500])
def test_candidates_are_the_best_of_each_class(threshold: float, candidates: int) -> None:
    made = [draw_scores(60, 4, seed) for seed in range(3)]
    scores, boxes = (torch.stack(parts) for parts in zip(*made, strict=True))
    scores[1, :, 2] *= 0.5  # a class of which fewer pass than of others
    found = detections(scores, boxes, [SIZE] * 3, threshold, candidates, 0.5, 25)
    for i, answer in enumerate(found):
        expected = by_class(scores[i], boxes[i], threshold, candidates, 25)
        assert answer.objects is not None
        for name in ("boxes", "labels", "scores"):
            assert torch.equal(getattr(answer.objects, name), getattr(expected, name)), name
    assert (threshold == 1.0) == (len(expected) == 0)


@pytest.mark.parametrize("form", ["hard", "soft", "soft_linear"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_a_scope_that_asks_for_scores_cuts_the_answer(form: str, agnostic: bool) -> None:
    scores, boxes = draw_scores(80, 3, 5)
    rule = NmsRule(form, agnostic=agnostic)
    with nms_rule(rule):
        whole = detections(scores[None], boxes[None], [SIZE], 0.01, 50, 0.5, 40)[0].objects
    with nms_rule(rule, 0.8):
        part = detections(scores[None], boxes[None], [SIZE], 0.01, 50, 0.5, 40)[0].objects
    assert whole is not None
    assert part is not None
    assert part.scores is not None
    assert whole.scores is not None
    wanted = whole[whole.scores >= 0.8]
    kept = part[part.scores >= 0.8]
    assert 0 < len(wanted) < len(whole)
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(getattr(kept, name), getattr(wanted, name)), name


def test_cells_without_confidence_change_no_answer() -> None:
    torch.manual_seed(0)
    cells = read_cells([4 * torch.randn(2, 3 * 9, 4, 5)], [torch.rand(3, 2) * 40 + 8], (64, 80), direct=True)

    def answer(part: CellOutputs, sizes: list[tuple[int, int]]) -> list[Objects | None]:
        scores = part.values[..., 4:5].sigmoid() * part.values[..., 5:].sigmoid()
        return [found.objects for found in detections(scores, part.boxes(), sizes, 0.2, 30, 0.5, 20)]

    whole = answer(cells, [(64, 80)] * 2)
    parts = cells.confident(0.2)
    assert [part.values.shape[1] for part in parts] == [int((v[:, 4].sigmoid() > 0.2).sum()) for v in cells.values]
    assert all(0 < part.values.shape[1] < 60 for part in parts)
    for expected, part in zip(whole, parts, strict=True):
        (found,) = answer(part, [(64, 80)])
        assert found is not None
        assert expected is not None
        assert found.labels.tolist() == expected.labels.tolist()
        torch.testing.assert_close(found.scores, expected.scores)
        torch.testing.assert_close(found.boxes, expected.boxes)
    with nms_rule(NmsRule(), 0.9):
        assert [part.values.shape[1] for part in cells.confident(0.2)] == [
            int((v[:, 4].sigmoid() >= 0.9).sum()) for v in cells.values
        ]
