from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.models import create, model_config
from saccade.models.detectors.fast_rcnn import Config, Model, compress, example_inputs
from saccade.models.make_catalogue import multiply_adds
from saccade.ops.roi_pool import roi_pool

TINY: dict[str, Any] = {"classes": 3, "head_width": 64, "most_proposals": 40}
SMALL: Config = model_config("fast_rcnn_small", trunk_width=16, **TINY)
# the paper's form, narrow
VGG = {"trunk": "vgg11", "trunk_width": 4, "trunk_hidden": 16, "tail": True, "pooling": "pool"}
C4 = {"trunk": "resnet18", "trunk_width": 4, "tail": True, "pooled": 4}
ALEX = {"trunk": "alexnet", "trunk_hidden": 16, "tail": True}


def objects(boxes: list[list[float]], labels: list[int] | None = None) -> Objects:
    rows = torch.tensor(boxes).view(-1, 4)
    return Objects(rows, torch.tensor(labels or [0] * len(rows), dtype=torch.int64))


def scenes(n: int = 4, side: int = 128) -> Batch:
    """Two bright rectangles an image; given are boxes around them and elsewhere."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(n, 3, side, side, generator=generator) * 0.1 + 0.4
    truth, given = [], []
    for i in range(n):
        boxes = torch.tensor([[10.0 + 5 * i, 12, 50 + 5 * i, 60], [70, 64.0 - 4 * i, 110, 104 - 4 * i]])
        labels = torch.tensor([i % 3, (i + 1) % 3])
        for (x0, y0, x1, y1), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
            images[i, :, y0:y1, x0:x1] = 0.1
            images[i, label, y0:y1, x0:x1] = 0.95
        near = (boxes.repeat(10, 1) + torch.randn(20, 4, generator=generator) * 5).clamp(0, side)
        corner = torch.rand(16 + i, 2, generator=generator) * 80
        far = torch.cat((corner, corner + 10 + torch.rand(16 + i, 2, generator=generator) * 38), 1)
        truth.append(Annotation((side, side), objects=Objects(boxes, labels)))
        given.append(objects(torch.cat((near, far)).tolist()))
    return Batch(images, [(side, side)] * n, truth, given=given)


def parameters(config: Config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in Model(config).parameters())


def test_count_for_coco() -> None:
    """numbers.json."""
    assert parameters(Config(classes=80)) == 135_919_829


@pytest.mark.parametrize("changes", [{"trunk_width": 16}, VGG, C4, ALEX])
def test_a_step_reaches_every_parameter_whatever_the_trunk(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, batch = create("fast_rcnn_small", **TINY | changes), scenes(2)
    batch.truth = [(batch.truth or [])[0], Annotation((128, 128), objects=objects([]))]
    losses = model.loss(batch)
    assert set(losses) == {"class", "box"}
    torch.stack(list(losses.values())).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert len(model.eval().predict(batch)) == 2


def test_regions_are_those_that_are_given_the_first_so_many() -> None:
    """A region answers by itself: what the others are, and how many the next image has, changes nothing."""
    torch.manual_seed(0)
    model, batch = Model(dataclasses.replace(SMALL, score_threshold=0.0, nms=1.0, detections=1000)).eval(), scenes(2)
    assert batch.given is not None
    all_of_them = model.predict(batch)[0].objects
    batch.given = [batch.given[0], batch.given[1][:1]]
    alone = model.predict(batch)
    assert alone[0].objects is not None
    assert all_of_them is not None
    torch.testing.assert_close(alone[0].objects.boxes, all_of_them.boxes)
    assert alone[1].objects is not None
    assert len(alone[1].objects) == 3  # a box of each class
    few = Model(dataclasses.replace(model.config, most_proposals=1)).eval()
    few.load_state_dict(model.state_dict())
    first = few.predict(scenes(2))[1].objects
    assert first is not None
    torch.testing.assert_close(first.boxes, alone[1].objects.boxes)
    batch.given = [objects([]), objects([[5.0, 5, 5, 9]])]
    assert [None if answer.objects is None else len(answer.objects) for answer in model.predict(batch)] == [0, 0]
    assert all(loss.isfinite() for loss in model.loss(batch).values())


def test_a_batch_without_regions_is_refused() -> None:
    batch, model = scenes(1), Model(SMALL)
    batch.given = None
    for ask in (model.loss, model.predict):
        with pytest.raises(
            UsageError, match=r"this batch has none: give the boxes .* Batch.given, from selective search"
        ):
            ask(batch)


def test_pooling_is_that_of_the_last_map() -> None:
    """Section 2.1: 7x7 maxima of conv5_3 at stride 16 go to fc6."""
    torch.manual_seed(0)
    model = create("fast_rcnn_small", **TINY | VGG).eval()
    images, regions = torch.rand(1, 3, 128, 128), torch.tensor([[[0.0, 16, 90, 100]]])
    level = model.trunk.features(images)[-1]
    assert level.shape[2:] == (8, 8)
    pooled = roi_pool(level, [regions[0]], 7, 1 / 16)
    hidden = model.trunk.classifier(pooled)
    torch.testing.assert_close(model(images, regions)[0][0], model.roi_heads.box_predictor.cls_score(hidden))


@pytest.mark.parametrize("changes", [{"trunk_width": 16}, VGG])
def test_factors_of_full_rank_are_the_same_network(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create("fast_rcnn_small", **TINY | changes).eval()
    inputs = example_inputs(model.config, 96, 96, 1)
    whole = 16 if changes is VGG else 64
    small = compress(model, (whole, whole))
    torch.testing.assert_close(small(*inputs), model(*inputs), atol=1e-4, rtol=1e-4)
    read = Model(small.config).eval()
    read.load_state_dict(small.state_dict())
    torch.testing.assert_close(read(*inputs), small(*inputs))
    one = compress(model, (1, whole))
    layer = model.trunk.classifier[0] if changes is VGG else model.roi_heads.box_head.fc6
    found = one.trunk.classifier[0] if changes is VGG else one.roi_heads.box_head.fc6
    u, s, v = torch.linalg.svd(layer.weight.double())
    best = s[0] * u[:, :1] * v[:1]  # Eckart & Young: nothing of rank 1 is nearer
    torch.testing.assert_close(found[1].weight @ found[0].weight, best.float(), atol=1e-5, rtol=1e-4)
    assert torch.equal(found[1].bias, layer.bias)
    for ranks, fault in (((whole + 1, 1), f"allowed: 1 to {whole}"), ((0, 1), "rank 0")):
        with pytest.raises(UsageError, match=fault):
            compress(model, ranks)
    with pytest.raises(UsageError, match="compressed already"):
        compress(small, (1, 1))


def test_what_has_no_fully_connected_layers_is_not_factorised() -> None:
    with torch.device("meta"), pytest.raises(UsageError, match="pass none behind the trunk resnet18; tail=false"):
        compress(create("fast_rcnn_small", **TINY | C4), (1, 1))


def test_multiply_adds_of_the_papers_ranks() -> None:
    """Section 3.1: t (u + v) in place of u v, for fc6 and fc7 of VGG-16 at t = 1024 and 256, and each region."""

    def count(config: Config) -> int:
        with torch.device("meta"):
            return multiply_adds(Model(config).eval(), *example_inputs(config, 64, 64, 1))

    one = Config(most_proposals=1)
    whole, least = count(one), count(dataclasses.replace(one, svd=(1024, 256)))
    before = 25_088 * 4096 + 4096 * 4096
    after = 1024 * (25_088 + 4096) + 256 * (4096 + 4096)
    assert whole - least == before - after
    assert after < 0.27 * before
