"""Names of joints, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.data.geometry import RULES, Outcome, affine
from saccade.data.joints import COCO_PERSON, LSP, MPII, OTHER_SIGMA, Joints, named_joints
from saccade.data.pipelines import Preprocessing
from saccade.data.transforms import Flip
from saccade.data.types import Annotation, Objects, Sample
from saccade.errors import ModelFileError


@pytest.mark.parametrize("joints", [COCO_PERSON, LSP, MPII])
def test_known_sets_pair_each_side_and_join_all(joints: Joints) -> None:
    for a, b in joints.pairs:
        assert {joints.names[a].replace("left", "right"), joints.names[a].replace("right", "left")} >= {joints.names[b]}
    sided = [i for i, name in enumerate(joints.names) if "left" in name or "right" in name]
    assert sorted(i for pair in joints.pairs for i in pair) == sided
    assert {i for bone in joints.bones for i in bone} == set(range(len(joints)))
    assert Joints.from_json(joints.to_json()) == joints


def test_pairs_follow_from_names() -> None:
    assert named_joints(["l_hand", "nose", "r_hand"]).pairs == ((0, 2),)
    assert named_joints(["Left Eye", "Right Eye", "left_over"]).pairs == ((0, 1),)
    assert named_joints(["tail", "l_tail"]).pairs == ()


def test_sigmas_are_cocos_where_coco_has_the_joint() -> None:
    assert COCO_PERSON.sigmas[:6] == [0.026, 0.025, 0.025, 0.035, 0.035, 0.079]
    assert COCO_PERSON.sigmas[-2:] == [0.089, 0.089]
    assert named_joints(["r_knee", "head_top", "Left Hip"]).sigmas == [0.087, OTHER_SIGMA, 0.107]


@pytest.mark.parametrize(
    ("names", "pairs", "bones"),
    [
        ((), (), ()),
        (("a", "a"), (), ()),
        (("a", "b"), ((0, 2),), ()),
        (("a", "b"), (), ((1, 1),)),
        (("a", "b", "c"), ((0, 1), (1, 2)), ()),
    ],
)
def test_what_cannot_be_is_refused(names: tuple[str, ...], pairs: tuple, bones: tuple) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=r"joint"):
        Joints(names, pairs, bones)


def test_they_travel_with_the_preprocessing() -> None:
    shape = Preprocessing((64, 64), "letterbox", joints=LSP)
    assert Preprocessing.from_json(shape.to_json()) == shape
    for damage in ({"names": ["a", "a"]}, {"pairs": [[0, 99]]}, {"names": 3}, {"bones": [[0]]}):
        with pytest.raises(ModelFileError):
            Preprocessing.from_json(shape.to_json() | {"joints": LSP.to_json() | damage})


def test_a_mirror_image_exchanges_left_and_right() -> None:
    import torch

    points = torch.tensor([[[2.0, 3.0, 2.0], [5.0, 1.0, 1.0], [8.0, 3.0, 2.0]]])
    objects = Objects(torch.tensor([[1.0, 0.0, 9.0, 5.0]]), torch.tensor([0]), keypoints=points)
    sample = Sample(np.zeros((6, 12, 3), np.uint8), Annotation((6, 12), objects=objects))
    flipped = Flip(1.0, pairs=named_joints(["l_eye", "nose", "r_eye"]).pairs)(sample, np.random.default_rng(0))
    assert flipped.truth.objects is not None
    assert flipped.truth.objects.keypoints is not None
    assert flipped.truth.objects.keypoints.tolist() == [[[4, 3, 2], [7, 1, 1], [10, 3, 2]]]


def test_points_that_leave_the_image_are_absent_in_truth_and_stay_in_answers() -> None:
    import torch

    points = torch.tensor([[[2.0, 3.0, 2.0], [50.0, 1.0, 0.5]]])
    move = affine(np.eye(3), (6, 12), lambda masks: masks)
    for predicted, last in ((False, [0, 0, 0]), (True, [50, 1, 0.5])):
        outcome = Outcome(np.zeros((1, 4)), np.ones(1), np.ones(1, bool), None, predicted)
        assert RULES["keypoints"](points, move, outcome)[0, 1].tolist() == last
