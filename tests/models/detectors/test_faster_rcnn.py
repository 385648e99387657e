from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import saccade
from saccade import checkpoint
from saccade.data.scenes import write_scenes
from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.anchors import shapes_of
from saccade.models import create, model_config
from saccade.models.detectors.faster_rcnn import Config, Model, adapt, stages
from saccade.ops.boxes import box_iou

TINY: dict[str, Any] = {"classes": 3, "rpn_channels": 32, "head_width": 64, "rpn_after": (100, 50)}
SMALL: Config = model_config("faster_rcnn_c4_small", trunk_width=16, **TINY)
# the papers' forms, narrow
VGG = {"trunk": "vgg11", "trunk_width": 4, "trunk_hidden": 16, "tail": True, "pooling": "pool", "rpn_two_way": True}
C4 = {"trunk": "resnet50", "trunk_width": 4, "trunk_depths": (1, 1, 1, 1), "tail": True, "pooled": 4}
DENSE = {"trunk": "densenet121", "trunk_depths": (1, 1, 1, 1), "tail": True}  # has none
LOSSES = {"rpn_objectness", "rpn_box", "class", "box"}


def annotation(boxes: list[list[float]], labels: list[int], side: int = 128) -> Annotation:
    objects = Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels, dtype=torch.int64))
    return Annotation((side, side), objects=objects)


def scenes(n: int = 4, side: int = 128) -> Batch:
    """Bright rectangles of three colours on a gray ground, two an image."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, side, side, generator=generator) * 0.1 + 0.4
    truth = []
    for i in range(n):
        boxes = [[10.0 + 5 * i, 12, 50 + 5 * i, 60], [70, 64.0 - 4 * i, 110, 104 - 4 * i]]
        labels = [i % 3, (i + 1) % 3]
        for (x0, y0, x1, y1), label in zip(boxes, labels, strict=True):
            images[i, :, int(y0) : int(y1), int(x0) : int(x1)] = 0.1
            images[i, label, int(y0) : int(y1), int(x0) : int(x1)] = 0.95
        truth.append(annotation(boxes, labels))
    return Batch(images, [(side, side)] * n, truth)


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boxes") / "scenes"
    write_scenes(folder, "detect", 10, seed=0)
    return folder


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_counts_of_other_forms() -> None:
    """VGG-16 with 12 anchors for COCO (numbers.json); ResNet-50 without its classifier and with 105 outputs."""
    with torch.device("meta"):
        coco = Config(classes=80, anchors=((1.0, 1.0),) * 12)
        assert count(Model(coco)) == 138_316_573
        rpn = 9 * 1024 * 512 + 512 + 513 * 54
        assert count(create("faster_rcnn_r50_c4")) == 23_508_032 + rpn + 2049 * 105


def test_anchors_are_those_of_the_release() -> None:
    """20,646 for 600 x 1000 (numbers.json); the first is (-84, -40, 100, 56) as corners."""
    with torch.device("meta"):
        model = Model(Config())
    anchors = model.rpn.to_empty(device="cpu").get_buffer("cell0").copy_(shapes_of(Config().anchors))
    grid = model.rpn.anchors([torch.empty(1, 1, 37, 62)], (600, 1000))[0]
    assert len(grid) == 20_646
    assert grid[0].tolist() == [-84, -40, 100, 56]
    assert len(anchors) == 9


@pytest.mark.parametrize("changes", [{"trunk_width": 16}, VGG, VGG | {"pooling": "align"}, C4, DENSE])
def test_a_step_reaches_every_parameter_whatever_the_trunk(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create("faster_rcnn_c4_small", **TINY | changes).train()
    batch = scenes(2)
    batch.truth = [(batch.truth or [])[0], annotation([], [])]
    losses = model.loss(batch)
    assert set(losses) == LOSSES
    torch.stack(list(losses.values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    found = model.eval().predict(batch)
    assert [each.size for each in found] == [(128, 128)] * 2


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, score_threshold=0.0)).eval()
    images = torch.rand(2, 3, 128, 128)
    other = images.clone()
    other[1, :, 80:] = 0.9
    first, second = (model.predict(Batch(x, [(128, 128), (80, 128)]))[1].objects for x in (images, other))
    assert first is not None
    assert second is not None
    assert torch.equal(first.boxes, second.boxes)
    assert first.boxes[:, 3].max() <= 80


def test_anchors_are_fitted() -> None:
    assert adapt(SMALL, [annotation([[0.0, 0, 10, 10]], [0])]) == SMALL
    boxes = [[0.0, 0, 10 + i % 3, 30 + i % 5] for i in range(40)]
    fitted = adapt(SMALL, [annotation(boxes, [0] * 40)])
    assert len(fitted.anchors) == len(SMALL.anchors)
    assert all(10 <= w <= 12 and 30 <= h <= 34 for w, h in fitted.anchors)


def learn(model: Model, batch: Batch, steps: int) -> None:
    optimizer = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], lr=2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        optimizer.step()


def check_found(model: Model, batch: Batch) -> None:
    """Every object with IoU > 0.5 and score > 0.5, and few others with such a score."""
    for truth, found in zip(batch.truth or [], model.eval().predict(batch), strict=True):
        assert truth.objects is not None
        assert found.objects is not None
        assert found.objects.scores is not None
        sure = found.objects[found.objects.scores > 0.5]
        overlap = box_iou(truth.objects.boxes, sure.boxes) * (truth.objects.labels[:, None] == sure.labels)
        assert (overlap > 0.5).any(1).all()
        assert len(sure) <= 2 * len(truth.objects)


def test_learns_four_images_in_four_steps() -> None:
    """Each step moves what is its own and nothing else, norms' statistics included, and in the end it detects."""
    batch, tensors = scenes(), None
    course = stages("faster_rcnn_c4_small", "alternating")
    own = [("trunk.", "rpn."), ("trunk.", "roi_heads."), ("rpn.",), ("roi_heads.",)]
    for number, (stage, moving) in enumerate(zip(course, own, strict=True)):
        torch.manual_seed(0)
        model = Model(dataclasses.replace(adapt(SMALL, batch.truth or []), **stage.changes))
        if tensors is not None:
            assert model.load_state_dict(tensors, strict=False).unexpected_keys == []
        before = {name: value.clone() for name, value in model.state_dict().items()}
        learn(model, batch, (40, 60, 40, 30)[number])
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert {name for name in before if name.startswith(moving)} == moved
        assert set(model.loss(batch)) == ({"class", "box"} if number % 2 else {"rpn_objectness", "rpn_box"})
        tensors = stage.adopt(model.state_dict())
    check_found(model, batch)
    assert Model(SMALL).state_dict().keys() == tensors.keys()


@pytest.mark.slow  # four runs with their reports; the contract test trains each network
def test_the_recipe_makes_the_four_steps(boxes: Path, tmp_path: Path) -> None:
    """At a rate of zero: the trunk of the second step begins as that of the first, and is that of all to come."""
    settings: dict[str, Any] = {"size": 64, "batch": 4, "workers": 0, "precision": "fp32", "epochs": 1, "lr": 0.0}
    small = {"trunk_width": 4, "rpn_channels": 8, "head_width": 8, "head_sample": 8, "ema": 0.0}
    saccade.train(
        "faster_rcnn_c4_small", boxes, out=tmp_path, recipe="alternating", progress=False, **settings, **small
    )
    names = ["1-rpn", "2-fast_rcnn", "3-rpn_shared"]
    assert sorted(p.name for p in (tmp_path / "stages").iterdir()) == names
    folders = [*(tmp_path / "stages" / name for name in names), tmp_path]
    weights = [checkpoint.load(folder / "last.safetensors").weights for folder in folders]
    for name in ("trunk.conv1.weight", "trunk.layer3.0.conv1.weight"):
        assert all(torch.equal(weights[0][name], each[name]) for each in weights)
        assert torch.equal(weights[0][name], weights[1][f"rpn_{name}"])
    assert torch.equal(weights[2]["roi_heads.box_head.fc6.weight"], weights[1]["roi_heads.box_head.fc6.weight"])
    assert saccade.load(tmp_path).predict(next(boxes.rglob("*.jpg"))) is not None
