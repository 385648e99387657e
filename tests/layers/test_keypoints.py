"""The keypoint head: which cell a joint lies in, the loss of it, and the way back to pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.layers.keypoints import (
    NEAR,
    NOWHERE,
    KeypointHead,
    KeypointPredictor,
    KeypointTargets,
    keypoint_loss,
    keypoint_targets,
    peaks,
    read_keypoints,
)
from saccade.layers.targets import RegionTargets


def wanted(regions: list[list[float]], matches: list[int]) -> RegionTargets:
    boxes, numbers = torch.tensor([regions]), torch.tensor([matches])
    positive = numbers >= 0
    return RegionTargets(numbers, boxes, numbers, positive.long(), boxes, positive, torch.ones_like(positive))


def truth(*poses: list[list[float]], crowd: list[bool] | None = None) -> Annotation:
    boxes = torch.zeros(len(poses), 4)
    flags = None if crowd is None else torch.tensor(crowd)
    points = torch.tensor(poses)
    return Annotation(
        (99, 99), objects=Objects(boxes, torch.zeros(len(poses), dtype=torch.int64), keypoints=points, crowd=flags)
    )


def test_the_cell_of_each_joint() -> None:
    pose = [[10.0, 20.0, 2.0], [49.9, 59.9, 1.0], [50.0, 60.0, 2.0], [60.0, 30.0, 2.0], [30.0, 40.0, 0.0]]
    regions = [[10.0, 20.0, 50.0, 60.0], [0.0, 0.0, 8.0, 8.0], [10.0, 20.0, 50.0, 60.0]]
    found = keypoint_targets(wanted(regions, [0, 0, -2]), [truth(pose)], 5, 8)
    assert found.rois.tolist() == [[0, 10, 20, 50, 60]]  # in the second no joint lies, the third is background
    assert found.cells.tolist() == [[0, 63, 63, NOWHERE, NOWHERE]]


def test_crowds_are_not_counted_and_images_may_be_empty() -> None:
    crowd = [[1.0, 1.0, 2.0]]
    found = keypoint_targets(
        wanted([[0.0, 0.0, 8.0, 8.0]], [0]), [truth(crowd, [[5.0, 1.0, 2.0]], crowd=[True, False])], 1, 8
    )
    assert found.cells.tolist() == [[13]]
    nothing = keypoint_targets(
        wanted([[0.0, 0.0, 8.0, 8.0]], [-1]), [Annotation((9, 9), objects=Objects.empty())], 3, 8
    )
    assert (list(nothing.rois.shape), list(nothing.cells.shape)) == ([0, 5], [0, 3])
    for bad in (Annotation((9, 9)), Annotation((9, 9), objects=Objects(torch.zeros(1, 4), torch.zeros(1).long()))):
        with pytest.raises(DataError, match=r"needs Objects.keypoints \[n, 3, 3\]"):
            keypoint_targets(wanted([[0.0, 0.0, 8.0, 8.0]], [0]), [bad], 3, 8)


def test_loss_by_hand_and_its_gradient() -> None:
    logits = torch.zeros(2, 2, 4, 4, requires_grad=True)
    cells = torch.tensor([[5, NOWHERE], [NOWHERE, 0]])
    loss = keypoint_loss(logits, KeypointTargets(torch.zeros(2, 5), cells))
    assert loss.item() == pytest.approx(math.log(16))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 1, 1].item() == pytest.approx((1 / 16 - 1) / 2)
    assert logits.grad[0, 1].abs().sum() == 0
    none = keypoint_loss(logits[:0], KeypointTargets(torch.zeros(0, 5), cells[:0]))
    none.backward()
    assert none.item() == 0


def test_shapes_and_public_keys() -> None:
    head, predictor = KeypointHead(6, 8, 3), KeypointPredictor(8, 5)
    assert predictor(head(torch.rand(2, 6, 14, 14))).shape == (2, 5, 56, 56)
    assert predictor(head(torch.rand(0, 6, 14, 14))).shape == (0, 5, 56, 56)
    assert [key for key in head.state_dict() if "weight" in key] == ["0.weight", "2.weight", "4.weight"]


def test_places_come_back_and_confidence_is_the_probability_nearby() -> None:
    logits = torch.zeros(1, 2, 56, 56)
    logits[0, 0, 20, 30] = 12.0
    logits[0, 1, 0, 55] = 50.0
    boxes = torch.tensor([[100.0, 50.0, 212.0, 162.0]])  # two pixels a cell
    cellwise = peaks(logits, boxes)
    assert cellwise[0, :, :2].tolist() == [[161, 91], [211, 51]]
    likely = F.softmax(logits.flatten(2), 2).view(logits.shape)
    around = likely[0, 0, 20 - NEAR : 21 + NEAR, 30 - NEAR : 31 + NEAR].sum()
    assert cellwise[0, :, 2].tolist() == pytest.approx([around.item(), 1.0], abs=1e-5)
    exact = read_keypoints(logits, boxes)
    assert (exact[..., :2] - cellwise[..., :2]).abs().max() <= 1
    assert exact[..., 2].tolist() == [pytest.approx(v, abs=1e-5) for v in cellwise[..., 2].tolist()]
    empty = peaks(logits, torch.zeros(1, 4))
    assert empty[..., :2].abs().max() == 0
    assert read_keypoints(logits[:0], boxes[:0]).shape == (0, 2, 3)


def test_tiny_boxes_have_joints() -> None:
    found = read_keypoints(torch.randn(1, 3, 56, 56), torch.tensor([[5.0, 5.0, 5.2, 5.1]]))
    assert ((found[0, :, :2] >= 5) & (found[0, :, :2] <= 6)).all()
