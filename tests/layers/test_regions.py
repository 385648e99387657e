"""A second stage by itself: regions from anywhere, pooled by whichever operation, one box a class or one for all."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.box_coding import encode_boxes
from saccade.layers.matching import BACKGROUND, IGNORED
from saccade.layers.regions import (
    BoxPredictor,
    RegionOutputs,
    RegionRules,
    TwoLayerHead,
    draw_regions,
    given_regions,
    hardest_regions,
    region_losses,
    region_predictions,
)
from saccade.layers.targets import RegionTargets, Targets, detection_targets
from saccade.ops.roi_align import roi_align, to_rois
from saccade.ops.roi_pool import roi_pool

RULES = RegionRules(sample=8, positive=0.5)
SIZE = (64, 64)
CPU = torch.device("cpu")


def targets_of(*objects: tuple[list[list[float]], list[int]]) -> Targets:
    """Boxes and labels of each image, of two classes."""
    truth = [Annotation(SIZE, objects=Objects(torch.tensor(b).view(-1, 4), torch.tensor(n).long())) for b, n in objects]
    return detection_targets(Batch(torch.zeros(len(objects), 3, *SIZE), [SIZE] * len(objects), truth), 2)


def test_regions_are_drawn_with_the_true_boxes_among_them() -> None:
    targets = targets_of(([[0.0, 0, 20, 20]], [1]), ([], []))
    near, far, empty = [0.0, 0, 20, 18], [40.0, 40, 60, 60], [0.0] * 4
    wanted = draw_regions(torch.tensor([[near, far, empty], [far, empty, empty]]), targets, RULES)
    found = {tuple(r.tolist()): int(c) for r, c in zip(wanted.regions[0], wanted.classes[0], strict=True) if c >= 0}
    assert found == {tuple(near): 2, (0.0, 0.0, 20.0, 20.0): 2, tuple(far): 0}
    assert wanted.drawn.sum(1).tolist() == [3, 1]
    assert (wanted.classes[~wanted.drawn] == IGNORED).all()
    assert wanted.matches[1][wanted.drawn[1]].tolist() == [BACKGROUND]


def test_easy_background_may_be_left_out() -> None:
    targets = targets_of(([[0.0, 0, 20, 20]], [0]))
    regions = torch.tensor([[[0.0, 0, 20, 5], [40, 40, 60, 60]]])  # IoU 0.25 and 0
    wanted = draw_regions(regions, targets, dataclasses.replace(RULES, background_iou=0.1))
    assert wanted.drawn.sum() == 2
    assert [40.0, 40, 60, 60] not in wanted.regions[wanted.drawn].tolist()


def hand_made() -> RegionTargets:
    """One image, three places: an object of label 1, background, nothing."""
    regions = torch.tensor([[[0.0, 0, 20, 16], [40, 40, 60, 60], [0, 0, 0, 0]]])
    boxes = torch.tensor([[[0.0, 0, 20, 20]]]).expand(1, 3, 4)
    valid = torch.tensor([[True, True, False]])
    classes, matches = torch.tensor([[2, 0, IGNORED]]), torch.tensor([[0, BACKGROUND, IGNORED]])
    return RegionTargets(torch.arange(3)[None], regions, matches, classes, boxes, matches >= 0, valid)


@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_by_hand(agnostic: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = hand_made()
    logits = torch.randn(1, 3, 3, generator=generator)
    deltas = torch.randn(1, 3, 4 if agnostic else 12, generator=generator).requires_grad_()
    losses = region_losses(RegionOutputs(logits, deltas), wanted, RULES)
    torch.testing.assert_close(losses["class"], F.cross_entropy(logits[0, :2], torch.tensor([2, 0])))
    own = slice(0, 4) if agnostic else slice(8, 12)  # class 2 of 0, 1, 2
    target = encode_boxes(wanted.boxes[0, 0], wanted.regions[0, 0], (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(losses["box"], F.smooth_l1_loss(deltas[0, 0, own], target, reduction="sum") / 2)
    losses["box"].backward()
    assert deltas.grad is not None
    assert deltas.grad.nonzero()[:, 1].unique().tolist() == [0]


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize(("kind", "value"), [("iou", 6 / 7), ("giou", 6 / 7 + 50 / 225), ("diou", 6 / 7 + 50 / 450)])
def test_overlap_losses_by_hand(agnostic: bool, kind: Literal["iou", "giou", "diou"], value: float) -> None:
    """An offset that moves the region by half its side: IoU 25 / 175, the union 175 of a hull of 225, the centres
    sqrt(50) and the hull's corners sqrt(450) apart. Two regions were drawn, and the box counts 10 times."""
    wanted = hand_made()
    wanted.regions[0, 0], box = torch.tensor([0.0, 0, 10, 10]), torch.tensor([10.0, 10, 20, 20])
    wanted.boxes = box.expand(1, 3, 4)
    deltas = torch.zeros(1, 3, 1 if agnostic else 3, 4)
    deltas[0, 0, -1] = torch.tensor([5.0, 5, 0, 0])
    deltas.requires_grad_()
    outputs = RegionOutputs(torch.zeros(1, 3, 3), deltas.flatten(2))
    rules = dataclasses.replace(RULES, box_loss=kind, box_weight=10.0)
    loss = region_losses(outputs, wanted, rules)["box"]
    assert loss.item() == pytest.approx(10 * value / 2)
    loss.backward()
    assert deltas.grad is not None
    assert deltas.grad.isfinite().all()
    assert deltas.grad.nonzero()[:, :3].unique(dim=0).tolist() == [[0, 0, 0 if agnostic else 2]]


def overlapping() -> RegionOutputs:
    """For `hand_made`: boxes as the regions are, so that the first overlaps its object by 0.8."""
    return RegionOutputs(torch.tensor([[[0.3, -1.2, 0.4]] * 3]), torch.zeros(1, 3, 12).requires_grad_())


def test_loss_of_a_foretold_overlap_by_hand() -> None:
    outputs, x = overlapping(), math.log(0.6 / 0.4)
    outputs.ious = torch.tensor([[[-3.0, 2.0, x], [1.0, 1, 1], [1.0, 1, 1]]]).requires_grad_()
    losses = region_losses(outputs, hand_made(), dataclasses.replace(RULES, score="iou"))
    plain = region_losses(outputs, hand_made(), RULES)
    assert losses["iou"].item() == pytest.approx(-0.8 * math.log(0.6) - 0.2 * math.log(0.4))
    assert (losses["class"], losses["box"]) == (plain["class"], plain["box"])
    losses["iou"].backward()
    assert outputs.deltas.grad is None  # the box does not learn to be as good as foretold
    assert outputs.ious.grad is not None
    assert outputs.ious.grad.nonzero().tolist() == [[0, 0, 2]]


def test_loss_of_a_quality_by_hand() -> None:
    """Two classes, two regions drawn: four logits learn, one of them 0.8, the others 0; over one positive."""
    outputs = dataclasses.replace(overlapping(), logits=torch.tensor([[[0.3, -1.2], [0.5, 2.0], [9.0, 9.0]]]))
    losses = region_losses(outputs, hand_made(), dataclasses.replace(RULES, score="quality"))
    expected = 0.0
    for x, quality in ((0.3, 0.0), (-1.2, 0.8), (0.5, 0.0), (2.0, 0.0)):
        p = 1 / (1 + math.exp(-x))
        expected += (quality - p) ** 2 * -(quality * math.log(p) + (1 - quality) * math.log(1 - p))
    assert losses["class"].item() == pytest.approx(expected)
    torch.testing.assert_close(losses["box"], region_losses(overlapping(), hand_made(), RULES)["box"])


def test_scores_that_know_the_overlap() -> None:
    """Of two boxes on one object the likelier is suppressed by the one that is foretold to fit."""
    regions = torch.tensor([[[0.0, 0, 20, 20], [0, 0, 20, 21]]])
    logits, ious = torch.tensor([[[0.0, 3], [0, 2]]]), torch.tensor([[[9.0, -1], [-9, 1]]])
    outputs = RegionOutputs(logits, torch.zeros(1, 2, 8), ious)
    found = region_predictions(outputs, regions, [SIZE], dataclasses.replace(RULES, score="iou"))[0].objects
    assert found is not None
    assert found.scores is not None
    assert found.boxes.tolist() == [[0, 0, 20, 21]]
    assert found.scores.item() == pytest.approx(torch.tensor(2.0).sigmoid().item() * torch.tensor(1.0).sigmoid().item())
    outputs = RegionOutputs(torch.tensor([[[-3.0, 1.0], [2.0, -9.0]]]), torch.zeros(1, 2, 4))
    found = region_predictions(outputs, regions, [SIZE], dataclasses.replace(RULES, score="quality"))[0].objects
    assert found is not None
    assert found.scores is not None
    assert found.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.scores, torch.tensor([2.0, 1.0]).sigmoid())


@pytest.mark.parametrize("agnostic", [False, True])
def test_answers_are_thinned_out_by_class(agnostic: bool) -> None:
    """Two regions nearly the same: suppressed where they are of one class, kept where they are of two."""
    regions = torch.tensor([[[0.0, 0, 20, 20], [0, 0, 20, 21], [40, 40, 80, 80], [0, 0, 0, 0]]])
    logits = torch.tensor([[[0.0, 5, 1], [0, 3, -9], [0, -9, 6], [0, 9, 9]]])
    outputs = RegionOutputs(logits, torch.zeros(1, 4, 4 if agnostic else 12))
    found = region_predictions(outputs, regions, [(64, 50)], dataclasses.replace(RULES, score_threshold=0.01))[0]
    assert found.size == (64, 50)
    objects = found.objects
    assert objects is not None
    assert objects.scores is not None
    assert objects.boxes.tolist() == [[40, 40, 50, 64], [0, 0, 20, 20], [0, 0, 20, 20]]
    assert objects.labels.tolist() == [1, 0, 1]
    expected = logits[0].softmax(1)
    torch.testing.assert_close(objects.scores, torch.stack((expected[2, 2], expected[0, 1], expected[0, 2])))
    few = region_predictions(outputs, regions, [(64, 50)], dataclasses.replace(RULES, detections=1))[0].objects
    assert few is not None
    assert few.labels.tolist() == [1]


def test_boxes_are_each_classs_own() -> None:
    deltas = torch.zeros(1, 1, 3, 4)
    deltas[0, 0, 2, 0] = 10.0  # class 2 moves right by one width of the region
    outputs = RegionOutputs(torch.tensor([[[0.0, 1, 1]]]), deltas.flatten(2))
    found = region_predictions(outputs, torch.tensor([[[0.0, 0, 20, 20]]]), [SIZE], RULES)[0].objects
    assert found is not None
    assert sorted(zip(found.labels.tolist(), found.boxes.tolist(), strict=True)) == [
        (0, [0, 0, 20, 20]),
        (1, [20, 0, 40, 20]),
    ]


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_regions_that_are_given_need_no_proposal_network(pooling: str) -> None:
    """Fast R-CNN in small: two fits of a head on fixed features, regions from outside, RoIPool or RoIAlign, and the
    objects are found."""
    torch.manual_seed(0)
    features = torch.zeros(2, 3, 16, 16)
    features[0, 0, 2:8, 2:8] = features[1, 1, 8:14, 4:12] = 1.0
    truth = [[8.0, 8, 32, 32]], [[16.0, 32, 48, 56]]
    targets = targets_of((truth[0], [0]), (truth[1], [1]))
    given = given_regions([torch.tensor([[9.0, 6, 30, 34], [36, 36, 60, 60]]), torch.tensor([[14.0, 32, 44, 60]])], CPU)
    assert given.shape == (2, 2, 4)
    assert not given[1, 1].any()
    head, predictor = TwoLayerHead(3 * 9, 32, dropout=0.1), BoxPredictor(32, 2, agnostic=True)
    assert predictor.bbox_pred.out_features == 4

    def outputs(regions: Tensor) -> RegionOutputs:
        rois = to_rois(regions.unbind())
        pooled = roi_pool(features, rois, 3, 1 / 4) if pooling == "pool" else roi_align(features, rois, 3, 1 / 4)
        logits, deltas = predictor(head(pooled))
        return RegionOutputs(logits.unflatten(0, regions.shape[:2]), deltas.unflatten(0, regions.shape[:2]))

    optimizer = torch.optim.Adam([*head.parameters(), *predictor.parameters()], lr=0.01)
    for _ in range(60):
        wanted = draw_regions(given, targets, RULES)
        optimizer.zero_grad()
        torch.stack(list(region_losses(outputs(wanted.regions), wanted, RULES).values())).sum().backward()
        optimizer.step()
    head.eval()
    with torch.no_grad():
        found = region_predictions(outputs(given), given, [SIZE, SIZE], dataclasses.replace(RULES, score_threshold=0.5))
    for i, each in enumerate(found):
        assert each.objects is not None
        assert each.objects.labels.tolist() == [i]
        assert (each.objects.boxes - torch.tensor(truth[i])).abs().max() < 3


def test_no_regions_are_given() -> None:
    assert given_regions([torch.zeros(0, 4), torch.zeros(0, 4)], CPU).tolist() == [[[0.0] * 4]] * 2


def test_the_hardest_regions_are_learned_from_once_a_place() -> None:
    """Of two regions on one place the harder stays, of all the hardest `count`; what was not drawn never is."""
    regions = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9.5], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]])
    logits = torch.tensor([[[2.0, 0], [0.0, 1], [1.0, 0], [0.0, 9], [0.0, 50]]])  # the losses rise, but the third's
    drawn = torch.tensor([[True, True, True, True, False]])
    classes = torch.tensor([[0, 0, 0, 0, IGNORED]])
    positive = torch.zeros_like(drawn)
    rows = torch.arange(5)[None]
    wanted = RegionTargets(rows, regions, torch.full((1, 5), BACKGROUND), classes, regions, positive, drawn)
    outputs = RegionOutputs(logits, torch.zeros(1, 5, 4))
    for count, expected in ((2, [1, 3]), (3, [1, 2, 3]), (5, [1, 2, 3])):
        hard = hardest_regions(outputs, wanted, RegionRules(), count, 0.7)
        assert hard.drawn[0].nonzero().flatten().tolist() == expected
        assert (hard.classes[0] == 0).nonzero().flatten().tolist() == expected
    assert hardest_regions(outputs, wanted, RegionRules(), 5, 1.0).drawn[0].tolist() == drawn[0].tolist()
