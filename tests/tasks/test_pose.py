"""What is said of poses: verdicts, words, JSON, what is explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.joints import COCO_PERSON, named_joints
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError
from saccade.plots.draw import draw, fit
from saccade.plots.skeleton import LEFT, RIGHT
from saccade.tasks import pose
from saccade.tasks.contract import task_of

JOINTS = named_joints(["left_hip", "right_hip", "nose"], [(0, 1), (1, 2), (0, 2)])
POINTS = [[20.0, 80.0, 2.0], [80.0, 80.0, 1.0], [50.0, 20.0, 2.0]]


def annotation(
    poses: list[list[list[float]]], boxes: list[list[float]], scores: list[float] | None = None
) -> Annotation:
    objects = Objects(
        torch.tensor(boxes).reshape(-1, 4),
        torch.zeros(len(boxes), dtype=torch.int64),
        None if scores is None else torch.tensor(scores),
        keypoints=torch.tensor(poses).reshape(-1, 3, 3),
    )
    return Annotation((200, 300), objects=objects, joints=JOINTS)


BOX = [10.0, 10.0, 90.0, 90.0]
FAR = [200.0, 100.0, 290.0, 190.0]
AWAY = [[[10.0, 10.0, 0.9], [11.0, 10.0, 0.9], [50.0, 21.0, 0.9]]]


def test_verdicts() -> None:
    truth = annotation([POINTS, [[0.0, 0.0, 0.0]] * 3], [BOX, FAR])
    right = pose.judge(truth, annotation([POINTS], [BOX], [0.9]), ["person"])
    assert (right.score, right.mistakes) == (0, [])
    on_jointless = pose.judge(truth, annotation([POINTS, POINTS], [BOX, FAR], [0.9, 0.8]), ["person"])
    assert on_jointless.mistakes == []
    poor = pose.judge(truth, annotation(AWAY, [BOX], [0.9]), ["person"])
    (row,) = poor.mistakes
    assert (row["kind"], row["joint"], poor.score) == ("poor pose", "right_hip", 1)
    assert pose.mistake_in_words([row], ["person"]).startswith("person (0.90) in another pose, OKS 0.3")
    empty = Annotation((200, 300), objects=Objects.empty(scored=True), joints=JOINTS)
    missed = pose.judge(truth, empty, ["person"])
    assert pose.mistake_in_words(missed.mistakes, ["person"]) == "person missed"
    nothing = Annotation((200, 300), objects=truth.objects[:0] if truth.objects else None, joints=JOINTS)
    extra = pose.judge(nothing, annotation([POINTS], [BOX], [0.5]), ["person"])
    assert (extra.score, extra.mistakes[0]["kind"]) == (1, "background")
    with pytest.raises(DataError):
        pose.judge(Annotation((9, 9)), empty, ["person"])


def test_json_and_words() -> None:
    described = pose.to_json(annotation([POINTS], [BOX], [0.9]), ["person"])
    assert described["objects"]["keypoints"] == [dict(zip(JOINTS.names, POINTS, strict=True))]
    assert described["joints"] == {
        "names": ["left_hip", "right_hip", "nose"],
        "pairs": [[0, 1]],
        "bones": [[0, 1], [1, 2], [0, 2]],
    }
    assert pose.short_line(described) == "1 person"
    metric = task_of("pose").make_metric(["person"])
    metric.add("a", annotation([POINTS], [BOX]), annotation([POINTS], [BOX], [0.9]))
    found = metric.result(0).to_json()
    assert set(pose.MEANINGS) >= set(found["metrics"])
    assert "1.000" in pose.score_in_words(found)[0]
    assert "left_hip, right_hip, nose" in pose.cautions(found)[0]
    assert pose.score_in_words(task_of("pose").make_metric(["person"]).result(0).to_json()) == [
        "There was no labelled joint to measure."
    ]


def test_training_data_without_joints_is_refused() -> None:
    records = [Record("a", (9, 9), things=[Thing(0, (1, 1, 5, 5), keypoints=[(0, 0, 0)] * 3)])]
    with pytest.raises(DataError, match="no labelled joint in train"):
        pose.check_training(DataSet(Path("x"), "coco", "pose", ["person"], records, joints=JOINTS), records)


class Shy(nn.Module):
    """Sees the nose only where the image is bright."""

    def predict(self, batch: Batch) -> list[Annotation]:
        answers = []
        for image in batch.images:
            points = [[*POINTS[0][:2], 0.3], [*POINTS[1][:2], 0.2], [*POINTS[2][:2], float(image.mean())]]
            answers.append(annotation([points], [BOX], [0.9]))
        return answers


def test_what_is_explained_is_the_confidence_of_joints() -> None:
    model, images = Shy(), torch.ones(1, 3, 200, 300)
    answer = model.predict(Batch(images, [(200, 300)]))[0]
    targets = pose.choose_targets(answer, [], 2)
    assert [target.name(["person"]) for target in targets] == ["person: nose", "person: left_hip"]
    assert pose.choose_targets(answer, [3], 2) == []
    score = pose.likelihoods(model, targets, Batch(images, [(200, 300)]))
    assert torch.allclose(score(torch.cat([images, images / 2])), torch.tensor([[1.0, 0.3], [0.5, 0.3]]))


def test_skeletons_are_drawn_with_their_sides_and_names() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw(image, annotation([POINTS], [BOX]), ["person"])
    assert tuple(drawn[78:83, 19:22].reshape(-1, 3).max(0)) != (0, 0, 0)
    assert (drawn == LEFT).all(2).any()
    plain = annotation([POINTS], [BOX])
    plain.joints = None
    assert not (draw(image, plain, ["person"]) == LEFT).all(2).any()
    assert (
        drawn != draw(image, annotation([POINTS], [BOX]), ["person"], legend=False)
    ).any()  # names are of the legend
    two = draw(image, annotation([POINTS, POINTS], [BOX, BOX]), ["person"])
    assert (drawn != two).any()  # of several people joints are not named
    large, fitted = fit(image, annotation([POINTS], [BOX]), 1200)
    assert fitted.joints == JOINTS
    assert (draw(large, fitted, ["person"]) == LEFT).all(2).sum() > (drawn == LEFT).all(2).sum()
    hidden = annotation([[[*p[:2], 0.05] for p in POINTS]], [BOX], [0.9])
    assert not any((draw(image, hidden, ["person"]) == side).all(2).any() for side in (LEFT, RIGHT))


def test_sides_of_coco_are_those_of_the_person() -> None:
    from saccade.plots.skeleton import _colours

    colours = _colours(17, COCO_PERSON, (1, 2, 3))
    assert [colours[COCO_PERSON.names.index(n)] for n in ("left_knee", "right_knee", "nose")] == [
        LEFT,
        RIGHT,
        (1, 2, 3),
    ]
    assert _colours(3, named_joints(["r_eye", "l_eye", "x"]), (0, 0, 0)) == [RIGHT, LEFT, (0, 0, 0)]
