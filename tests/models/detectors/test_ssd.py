"""SSD: counts, layout and priors of the published networks; losses and export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.data.types import Annotation, Batch, Objects
from saccade.layers.anchors import grid_anchors, shapes_of
from saccade.models.detectors import ssd
from saccade.ops.boxes import box_iou

LAYOUT = Path(__file__).parents[2] / "data" / "layouts" / "ssd300_vgg16.json"
TINY = dataclasses.replace(ssd.VARIANTS["ssd300"], classes=2, width=2)


def make(config: ssd.Config) -> ssd.Model:
    torch.manual_seed(0)
    return ssd.Model(config)


def truth(boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (64, 64), **more: Tensor) -> Annotation:
    return Annotation(
        size, objects=Objects(torch.tensor(boxes).view(-1, 4).float(), torch.tensor(labels).long(), **more)
    )


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("ssd300", 20, 26_285_486),
        ("ssd300_coco", 80, 34_305_206),
        ("ssd300_coco", 90, 35_641_826),
        ("ssd512", 20, 27_188_676),
        ("ssd512", 80, 36_038_196),
    ],
)
def test_parameters(name: str, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        model = ssd.Model(dataclasses.replace(ssd.VARIANTS[name], classes=classes))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_public_layout_loads_strictly() -> None:
    layout = json.loads(LAYOUT.read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = ssd.Model(ssd.VARIANTS["ssd300_coco"])
        state = {key: torch.empty(shape) for key, shape in layout.items()}
    model.load_state_dict(state, strict=True, assign=True)
    assert len(layout) == 71


@pytest.mark.parametrize(("name", "sides"), [("ssd300", (38, 19, 10, 5, 3, 1)), ("ssd512", (64, 32, 16, 8, 4, 2, 1))])
def test_maps_of_the_paper(name: str, sides: tuple[int, ...]) -> None:
    config = ssd.VARIANTS[name]
    with torch.device("meta"):
        model = ssd.Model(config)
        maps = model.backbone(torch.empty(1, 3, config.side, config.side))
        logits, offsets = model(torch.empty(2, 3, config.side, config.side))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (c, side, side) for c, side in zip(model.backbone.channels, sides, strict=True)
    ]
    total = {"ssd300": 8732, "ssd512": 24564}[name]
    assert logits.shape == (2, total, 21)
    assert offsets.shape == (2, total, 4)


def priors_of(config: ssd.Config, sides: tuple[int, ...]) -> Tensor:
    return torch.cat(
        [
            grid_anchors(shapes_of(level) * config.side, (side, side), (step, step), 0.5)
            for level, side, step in zip(config.priors, sides, config.steps, strict=True)
        ]
    )


def test_priors_of_coco_and_voc() -> None:
    sides = (38, 19, 10, 5, 3, 1)
    coco = priors_of(ssd.VARIANTS["ssd300_coco"], sides)
    expected = torch.tensor([[-6.5, -6.5, 14.5, 14.5], [-11.37043, -11.37043, 19.37043, 19.37043]])
    torch.testing.assert_close(coco[:2], expected, rtol=0, atol=1e-4)
    assert (coco[:, 2:] - coco[:, :2]).max() <= 300.001  # limited to the image
    voc = priors_of(ssd.VARIANTS["ssd300"], sides)
    width, height = (voc[:, 2:] - voc[:, :2]).unbind(1)
    torch.testing.assert_close(width[0], torch.tensor(30.0))
    torch.testing.assert_close(width[1], torch.tensor((30.0 * 60) ** 0.5))
    torch.testing.assert_close(width[5776 + 4] / height[5776 + 4], torch.tensor(3.0))
    torch.testing.assert_close((voc[-4:, :2] + voc[-4:, 2:]) / 2, torch.full((4, 2), 150.0))


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_without_objects_there_is_no_box_loss_and_every_parameter_is_reached(box_loss: Any) -> None:
    """Softmax learns from images without objects only if told how many negatives to take."""
    model = make(dataclasses.replace(TINY, box_loss=box_loss, min_negatives=3))
    batch = Batch(torch.rand(1, 3, 300, 300), [(300, 300)], [truth([], [], (300, 300))])
    losses = model.loss(batch)
    assert losses["box"].item() == 0
    assert losses["class"].item() > 0
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert make(dataclasses.replace(TINY, box_loss=box_loss)).loss(batch)["class"].item() == 0


def test_other_sides_are_divided_evenly() -> None:
    """Section 2.2: at 300 pixels the released steps, at others as many as the map has cells."""
    model = make(TINY).eval()
    boxes = model._outputs(torch.rand(1, 3, 320, 300))[2]
    torch.testing.assert_close(boxes[:1, 1::2].mean(1), torch.tensor([320 / 40 / 2]))
    torch.testing.assert_close(boxes[:1, ::2].mean(1), torch.tensor([300 / 38 / 2]))
    torch.testing.assert_close(model._outputs(torch.rand(1, 3, 300, 300))[2][0, ::2].mean(), torch.tensor(4.0))


@pytest.mark.parametrize(
    ("box_loss", "aside"),  # a square of 60 px found 6 px aside: IoU 54 / 66, diagonal of the hull sqrt(66^2 + 60^2)
    [
        ("smooth_l1", None),
        ("iou", 2 / 11),
        ("giou", 2 / 11),
        ("diou", 2 / 11 + 36 / 7956),
        ("ciou", 2 / 11 + 36 / 7956),
    ],
)
def test_a_prior_moved_onto_the_truth_costs_nothing(box_loss: Any, aside: float | None) -> None:
    """The softmax form with hand-set outputs: right boxes and sure classes give a loss of 0, at the right prior."""
    config = dataclasses.replace(ssd.VARIANTS["ssd300"], classes=2, box_loss=box_loss)
    with torch.device("meta"):
        model = ssd.Model(config)
    prior = priors_of(config, (38, 19, 10, 5, 3, 1))
    row = 5776 + 6 * (19 * 9 + 9)  # a 60 px square of the second map, around (152, 152)
    box = prior[row : row + 1]
    logits = torch.zeros(1, 8732, 3)
    matches_everything = (box_iou(box, prior)[0] > 0.5).nonzero().flatten()
    logits[..., 0] = 40
    logits[0, matches_everything] = torch.tensor([0.0, 0, 40])
    offsets = ssd.encode_boxes(box.expand(8732, 4), prior, ssd.VARIANCES)[None]
    model._outputs = lambda images: (logits, offsets, prior)  # type: ignore[method-assign]
    batch = Batch(torch.zeros(1, 3, 300, 300), [(300, 300)], [truth(box.tolist(), [1], (300, 300))])
    losses = model.loss(batch)
    assert losses["class"].item() == pytest.approx(0, abs=1e-6)
    assert losses["box"].item() == pytest.approx(0, abs=1e-6)
    (answer,) = model.predict(batch)
    assert answer.objects is not None
    assert answer.objects.labels.tolist()[0] == 1
    torch.testing.assert_close(answer.objects.boxes[:1], box)
    if aside is not None:
        moved = box + torch.tensor([6.0, 0, 6, 0])
        offsets = ssd.encode_boxes(moved.expand(8732, 4), prior, ssd.VARIANCES)[None]
        assert model.loss(batch)["box"].item() == pytest.approx(aside, abs=1e-4)
