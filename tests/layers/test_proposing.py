"""The region proposal network by itself: on a pyramid of two maps, and on one map as in the first paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.anchors import reference_anchors, shapes_of
from saccade.layers.proposing import AnchorOutputs, ProposalRules, RegionProposalNetwork, RPNHead
from saccade.layers.targets import Targets, detection_targets

PLAIN = ProposalRules(before=(9, 9), after=(4, 3), min_side=0.0)


def truth_of(*boxes: list[list[float]], side: int = 64) -> Targets:
    """The targets of images of `side` pixels with these boxes of label 0."""
    truth = [
        Annotation((side, side), objects=Objects(torch.tensor(each).view(-1, 4), torch.zeros(len(each)).long()))
        for each in boxes
    ]
    return detection_targets(Batch(torch.zeros(len(boxes), 3, side, side), [(side, side)] * len(boxes), truth), 1)


def outputs_of(anchors: Tensor, logits: list[float]) -> AnchorOutputs:
    """One image, one level, boxes where the anchors are."""
    return AnchorOutputs([torch.tensor([logits])], [torch.zeros(1, len(anchors), 4)], [anchors])


def test_count_and_keys_of_the_papers_form() -> None:
    """numbers.json: 3x3 of 512, 18 scores and 36 offsets."""
    head = RPNHead(512, 9, two_way=True)
    assert sum(p.numel() for p in head.parameters()) == 2_387_510
    layers = ("conv.0.0", "cls_logits", "bbox_pred")
    assert set(head.state_dict()) == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert RPNHead(1024, 9, hidden=512).bbox_pred.weight.shape == (36, 512, 1, 1)


def test_two_scores_an_anchor_are_a_softmax() -> None:
    """The logistic function of our logit is the chance of "object" of the two, cell by cell and shape by shape."""
    head = RPNHead(4, 3, two_way=True)
    level = torch.randn(2, 4, 5, 6)
    logits = head([level])[0][0]
    scores = head.cls_logits(head.conv(level)).unflatten(1, (2, 3)).softmax(1)[:, 1]
    torch.testing.assert_close(logits.sigmoid(), scores.permute(0, 2, 3, 1).flatten(1))


def test_anchors_of_one_map_are_those_of_the_release() -> None:
    sizes = (reference_anchors()[:, 2:] - reference_anchors()[:, :2]).tolist()
    rpn = RegionProposalNetwork(RPNHead(1, 9), [shapes_of(sizes)], ProposalRules(), stride=16, offset=0.5)
    anchors = rpn.anchors([torch.empty(1, 1, 37, 62)], (600, 1000))[0]
    assert len(anchors) == 20_646
    assert torch.equal(anchors[:9], reference_anchors())
    assert torch.equal(anchors[9 * 63], reference_anchors()[0] + 16)


def test_levels_with_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equally many.*\[1, 2\]"):
        RegionProposalNetwork(RPNHead(1, 1), [torch.zeros(1, 4), torch.zeros(2, 4)], PLAIN)


def test_proposals_are_the_best_boxes_after_suppression() -> None:
    anchors = torch.tensor([[-4.0, 0, 20, 20], [0, 0, 20, 19], [30, 30, 60, 60], [40, 40, 41, 60], [50, 0, 90, 30]])
    outputs = outputs_of(anchors, [2.0, 3.0, 1.0, 9.0, 0.0])
    sizes = torch.tensor([[64, 64]])
    rpn = RegionProposalNetwork(RPNHead(1, 1), [torch.zeros(1, 4)], ProposalRules((4, 5), (4, 3), min_side=2.0))
    best = [[0.0, 0, 20, 19], [30, 30, 60, 60], [50, 0, 64, 30]]
    assert rpn.propose(outputs, sizes, training=False).tolist() == [best]  # clipped; the thin one left out
    assert rpn.propose(outputs, sizes, training=True).tolist() == [[*best[:2], [0.0] * 4, [0.0] * 4]]


def test_levels_do_not_suppress_each_other() -> None:
    box = torch.tensor([[4.0, 4, 20, 20]])
    one = outputs_of(box, [1.0])
    both = AnchorOutputs(one.logits * 2, one.deltas * 2, one.anchors * 2)
    rpn = RegionProposalNetwork(RPNHead(1, 1), [torch.zeros(1, 4)], PLAIN)
    found = rpn.propose(both, torch.tensor([[64, 64]]), training=False)[0]
    assert found.tolist() == [box[0].tolist()] * 2 + [[0.0] * 4]


def test_loss_by_hand() -> None:
    """Two positive and two background anchors; the one between the thresholds counts for nothing."""
    anchors = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 16], [40, 40, 60, 60], [30, 0, 50, 20], [0, 0, 20, 40.0]])
    outputs = outputs_of(anchors, [0.5, -1.0, 2.0, 0.0, 7.0])
    rpn = RegionProposalNetwork(RPNHead(1, 1), [torch.zeros(1, 4)], PLAIN)
    losses = rpn.loss(outputs, truth_of([[0.0, 0, 20, 20]]), torch.tensor([[64, 64]]))
    logits, wanted = torch.tensor([0.5, -1.0, 2.0, 0.0]), torch.tensor([1.0, 1, 0, 0])
    objectness = F.binary_cross_entropy_with_logits(logits, wanted)
    torch.testing.assert_close(losses["rpn_objectness"], objectness)
    offsets = torch.tensor([2 / 16, math.log(20 / 16)])  # y of the centre 8 -> 10, height 16 -> 20
    torch.testing.assert_close(losses["rpn_box"], (offsets - 1 / 18).sum() / 4)  # both beyond beta = 1/9


@pytest.mark.parametrize("inside", [True, False])
def test_anchors_across_the_border(inside: bool) -> None:
    """Left out in training, and then no object's best; each image has its own border inside the padding."""
    anchors = torch.tensor([[-5.0, 0, 15, 20], [20, 0, 40, 20], [0, 30, 20, 50]])
    rpn = RegionProposalNetwork(RPNHead(1, 1), [torch.zeros(1, 4)], ProposalRules(inside=inside))
    targets = truth_of([[0.0, 0, 15, 20]], [], side=64)
    sizes = torch.tensor([[64, 64], [40, 64]])
    values = []
    for logit in (0.0, 5.0):
        outputs = AnchorOutputs([torch.tensor([[logit, 1, 1], [1, 1, logit]])], [torch.zeros(2, 3, 4)], [anchors])
        values.append(rpn.loss(outputs, targets, sizes)["rpn_objectness"])
    assert (values[0] == values[1]) == inside


def test_images_without_objects_reach_the_head() -> None:
    rpn = RegionProposalNetwork(RPNHead(3, 1), [torch.tensor([[-8.0, -8, 8, 8]])], PLAIN, stride=16, offset=0.5)
    outputs = rpn([torch.randn(1, 3, 4, 4)], (64, 64))
    losses = rpn.loss(outputs, truth_of([]), torch.tensor([[64, 64]]))
    assert losses["rpn_box"].item() == 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in rpn.parameters())
