from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from models.pictures import pictures
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.models.detectors.rfcn import VARIANTS, Config, Model, adapt

TINY = dataclasses.replace(
    VARIANTS["rfcn_small"], classes=3, trunk_width=16, trunk_depths=(1, 1, 1), channels=64, rpn_channels=64
)


def annotation(boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None) -> Annotation:
    objects = Objects(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        crowd=None if crowd is None else torch.tensor(crowd),
    )
    return Annotation((96, 96), objects=objects)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(TINY)


@pytest.mark.parametrize(("bins", "parameters"), [(7, 50_600_767), (3, 49_575_767)])
def test_counts_of_the_paper(bins: int, parameters: int) -> None:
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS["rfcn_r101"], bins=bins))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.head.scores.out_channels == {7: 1029, 3: 189}[bins]
    assert model.backbone.stride == 16


def test_proposals_of_the_paper_come_from_the_stage_before_the_last() -> None:
    with torch.device("meta"):
        assert Model(VARIANTS["rfcn_r50"]).backbone.channels == (1024, 2048)
        assert Model(TINY).backbone.channels == (64, 64)
    shapes = [(round(w), round(h)) for w, h in Config().anchors]  # the reference anchors of Faster R-CNN
    assert shapes == [
        (184, 96),
        (368, 192),
        (736, 384),
        (128, 128),
        (256, 256),
        (512, 512),
        (88, 176),
        (176, 352),
        (352, 704),
    ]


def test_a_region_is_the_vote_of_its_bins(model: Model) -> None:
    """Section 2.2: a score map that is 1 at one bin of one class adds 1 / k^2 to this class, wherever the region is."""
    scores = torch.zeros(1, 9 * 4, 12, 12)
    scores[:, 2 * 9 + 5] = 1  # class 2, bin (1, 2)
    model.head.maps = lambda features: (scores, torch.ones(1, 36, 12, 12))  # type: ignore[method-assign]
    outputs = model.head(torch.zeros(1), torch.tensor([[[8.0, 8, 56, 40], [20, 0, 96, 96]]]))
    torch.testing.assert_close(outputs.logits, torch.tensor([[[0, 0, 1 / 9, 0]] * 2]))
    torch.testing.assert_close(outputs.deltas, torch.ones(1, 2, 4))


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Model(dataclasses.replace(TINY, score_threshold=0.0)).eval()
    images = torch.rand(2, 3, 96, 96)
    sizes = [(96, 96), (60, 70)]
    other = images.clone()
    other[1, :, 60:] = 0.9
    other[1, :, :, 70:] = 0.1
    first, second = (model.predict(Batch(x, sizes))[1].objects for x in (images, other))
    assert first is not None
    assert second is not None
    assert len(first) > 0
    assert torch.equal(first.boxes, second.boxes)
    assert first.boxes[:, 2].max() <= 70
    assert first.boxes[:, 3].max() <= 60


@pytest.mark.parametrize("ohem", [True, False])
@pytest.mark.parametrize("kind", ["none", "crowd"])
def test_both_ways_to_draw_regions_where_there_is_no_object(kind: str, ohem: bool) -> None:
    """Finite losses, box losses exactly 0, and a gradient for every parameter."""
    torch.manual_seed(0)
    model = Model(dataclasses.replace(TINY, ohem=ohem))
    batch = pictures("detect", 2, 96)
    batch.truth = [annotation([], []) if kind == "none" else annotation([[0.0, 0, 96, 96]], [1], [True])] * 2
    losses = model.loss(batch)
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box"}
    assert losses["rpn_box"].item() == losses["box"].item() == 0
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_hard_examples_are_of_the_highest_loss() -> None:
    """Of the same regions the hard ones lose more each than those drawn by chance."""
    batch, values = pictures("detect", 4, 96), []
    for ohem in (True, False):
        torch.manual_seed(0)
        config = dataclasses.replace(TINY, ohem=ohem, head_sample=16, head_positive=0.25)
        values.append(Model(config).loss(batch)["class"].item())
    assert values[0] > values[1]


def test_a_trunk_without_a_dilated_form_serves_undilated() -> None:
    changes = {"trunk": "vgg11", "trunk_width": 4, "trunk_depths": None}
    with pytest.raises(UsageError, match="vgg11 has no setting 'dilated'"):
        Model(dataclasses.replace(TINY, **changes))
    model = Model(dataclasses.replace(TINY, dilated=False, **changes))
    assert model.backbone.stride == 16
    torch.stack(list(model.loss(pictures("detect", 1, 96)).values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_adapt_fits_the_boxes_and_leaves_little_data_alone() -> None:
    assert adapt(TINY, [annotation([[0.0, 0, 10, 10]], [0])]) == TINY
    side = torch.linspace(10, 40, 30)
    boxes = torch.stack((side * 0, side * 0, side, side * 2), 1).tolist()
    fitted = adapt(TINY, [annotation(boxes, [0] * 30)])
    assert len(fitted.anchors) == len(TINY.anchors)
    assert all(1.9 < h / w < 2.1 for w, h in fitted.anchors)
    assert json.loads(json.dumps(dataclasses.asdict(fitted)))["anchors"][0] == list(fitted.anchors[0])
