"""Keypoint R-CNN: it learns where joints are, and its weights have the public layout."""

from __future__ import annotations

import pytest
import torch
from tests.models.pictures import pictures

from saccade.data.joints import COCO_PERSON, Joints
from saccade.models import create
from saccade.models.detectors import fpn
from saccade.models.detectors.keypoint_rcnn import VARIANTS, Config, Model, from_public
from saccade.tasks.contract import task_of
from saccade.verbs.weights import preprocessing_of_weights

TINY = {
    "classes": 4,
    "trunk_width": 16,
    "channels": 32,
    "head_width": 64,
    "head_sample": 32,
    "joint_width": 32,
    "joint_depth": 2,
    "joints": 4,
}


def test_public_layout() -> None:
    """torchvision's keypointrcnn_resnet50_fpn: what its keypoint head is called, and its released file's old keys."""
    with torch.device("meta"):
        state = Model(Config()).state_dict()
    heads = {key: list(value.shape) for key, value in state.items() if "keypoint" in key}
    assert heads == {
        **{f"roi_heads.keypoint_head.{2 * i}.weight": [512, 512 if i else 256, 3, 3] for i in range(8)},
        **{f"roi_heads.keypoint_head.{2 * i}.bias": [512] for i in range(8)},
        "roi_heads.keypoint_predictor.kps_score_lowres.weight": [512, 17, 4, 4],
        "roi_heads.keypoint_predictor.kps_score_lowres.bias": [17],
    }
    old = {"rpn.head.conv.weight": torch.zeros(1), "backbone.fpn.inner_blocks.0.bias": torch.zeros(1)}
    assert set(from_public(old)) == {"rpn.head.conv.0.0.weight", "backbone.fpn.inner_blocks.0.0.bias"}
    with torch.device("meta"):
        rest = fpn.Model(fpn.Config(classes=1)).state_dict()
    assert set(state) - set(heads) == set(rest)


def test_published_weights_know_cocos_joints() -> None:
    from saccade.models import model_module
    from saccade.models.published import find_published

    published = find_published("keypoint_rcnn_r50_fpn", "coco")
    module = model_module("keypoint_rcnn_r50_fpn")
    assert preprocessing_of_weights(module, "keypoint_rcnn_r50_fpn", "pose", published).joints == COCO_PERSON
    assert VARIANTS["keypoint_rcnn_r50_fpn"].joints == len(COCO_PERSON)


@pytest.mark.slow
def test_it_finds_the_joints_of_a_few_pictures() -> None:
    torch.manual_seed(0)
    batch = pictures("pose", 4, 96)
    model = create("keypoint_rcnn_small", **TINY).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        losses = model.loss(batch)
        assert set(losses) == {"objectness", "rpn_box", "class", "box", "joints"}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    model.eval()
    metric = task_of("pose").make_metric(["a", "b", "c", "d"])
    joints = Joints(("a", "b", "c", "d"))
    for i, (truth, answer) in enumerate(zip(batch.truth or [], model.predict(batch), strict=True)):
        truth.joints = answer.joints = joints
        metric.add(str(i), truth, answer)
    values = metric.result(0).metrics
    assert (values["oks_ap50"].value or 0) > 0.9
    assert (values["pck"].value or 0) > 0.95
