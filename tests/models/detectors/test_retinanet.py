"""RetinaNet: public counts, layout, anchors, both losses on worked numbers, matching, answers, fitted anchors."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import UsageError
from saccade.layers.anchors import shapes_of
from saccade.layers.box_coding import decode_boxes, encode_boxes
from saccade.models.detectors.retinanet import VARIANTS, Config, Model, Subnet, adapt, from_public, octave_anchors
from saccade.ops.boxes import box_iou
from saccade.ops.nms import batched_nms

LAYOUT = Path(__file__).parents[2] / "data" / "layouts" / "retinanet_resnet50_fpn.json"
SMALL = dataclasses.replace(
    VARIANTS["retinanet_small"], classes=3, trunk_width=8, trunk_depths=(1, 1, 1, 1), channels=16
)


def annotation(boxes: list[list[float]], labels: list[int], side: int = 128) -> Annotation:
    return Annotation((side, side), objects=Objects(torch.tensor(boxes).view(-1, 4), torch.tensor(labels).long()))


def batch(side: int = 128) -> Batch:
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    truth = [annotation([[10.0, 12, 50, 60], [70, 64, 110, 104]], [0, 2], side), annotation([], [], side)]
    return Batch(images, [(side, side)] * 2, truth)


@pytest.fixture(scope="module")
def public() -> Model:
    with torch.device("meta"):
        return Model(VARIANTS["retinanet_r50_coco"])


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_counts_and_layout_of_the_public_checkpoint(public: Model) -> None:
    assert count(public) == 34_068_119
    layout = {key: tuple(shape) for key, shape in json.loads(LAYOUT.read_text()).items()}
    assert len(layout) == 354
    assert {key: tuple(value.shape) for key, value in public.state_dict().items()} == layout
    weights = {key: torch.empty(shape, device="meta") for key, shape in layout.items()}
    public.load_state_dict(from_public(weights), strict=True, assign=True)
    old = {}
    for key, value in weights.items():  # as the released V1 files name them
        parts = key.split(".")
        if parts[0] == "head" and parts[2] == "conv":
            parts[3:5] = [str(2 * int(parts[3]))]
        old[".".join(parts).replace("inner_blocks.0.0.", "inner_blocks.0.").replace("_blocks.2.0.", "_blocks.2.")] = (
            value
        )
    assert "head.regression_head.conv.6.weight" in old
    assert "backbone.fpn.layer_blocks.2.bias" in old
    assert from_public(old).keys() == weights.keys()


def test_counts_of_the_papers_forms() -> None:
    """SYSTEMS 8.7 and numbers.json: P6 from C5; and what the public form would have with it."""
    with torch.device("meta"):
        assert count(Model(Config())) == 37_968_692
        assert count(Model(Config(trunk="resnet101"))) == 56_960_820
        assert count(Model(Config(classes=20))) == 36_723_992
        assert count(Model(dataclasses.replace(VARIANTS["retinanet_r50_coco"], top="c5"))) == 38_196_887
        frozen = Model(dataclasses.replace(VARIANTS["retinanet_r50_coco"], trunk_norm="frozen"))
    assert count(frozen) == 34_014_999


def test_anchors(public: Model) -> None:
    """numbers.json: 201,600 at 800 x 1344; sizes 32, 40.32, 50.8, or cut to 32, 40, 50 and rounded."""
    exact, cut = octave_anchors(32)[0], octave_anchors(32, public=True)[0]
    sides = [math.sqrt(w * h) for w, h in exact]
    assert sides == pytest.approx([32, 40.3175, 50.7968] * 3, abs=1e-4)
    assert [round(h / w, 4) for w, h in exact] == [0.5] * 3 + [1.0] * 3 + [2.0] * 3
    assert cut[3:6] == ((32, 32), (40, 40), (50, 50))
    assert cut[0] == (46, 22)  # 32 at 1:2 is 45.25 x 22.63, corners at +-22.63 and +-11.31
    with torch.no_grad(), torch.device("meta"):
        logits, offsets = public(torch.empty(1, 3, 800, 1344))
    assert tuple(logits.shape) == (1, 201_600, 91)
    assert tuple(offsets.shape) == (1, 201_600, 4)


def test_steps_between_cells() -> None:
    """The public weights divide whole pixels: 800 // 13 = 61 on P6; the strides themselves elsewhere."""
    images = torch.zeros(1, 3, 200, 128)  # P6 has 4 rows of 64 pixels, or of 200 // 4 = 50
    for whole, step in ((False, 64.0), (True, 50.0)):
        model = Model(dataclasses.replace(SMALL, whole_steps=whole)).eval()
        with torch.no_grad():
            coarse = model._outputs(images)[2][3].view(4, 2, 9, 4)
        assert (coarse[1, 1, 0] - coarse[0, 0, 0]).tolist() == [64, step, 64, step]
        assert torch.equal(coarse[0, 0], shapes_of(model.config.anchors[3]))


def test_the_start_is_background() -> None:
    """Bias -4.595 for a prior of 0.01; by a softmax all objects together have it."""
    model = Model(SMALL)
    bias = model.head["classification_head"].get_parameter("cls_logits.bias")
    assert bias.tolist() == pytest.approx([-4.59511985] * 27)
    model = Model(dataclasses.replace(SMALL, scores="softmax"))
    bias = model.head["classification_head"].get_parameter("cls_logits.bias").view(9, 4)
    torch.testing.assert_close(bias.softmax(1)[:, 1:].sum(1), torch.full((9,), 0.01))


def test_the_arithmetic_of_the_lecture() -> None:
    """SYSTEMS 11.5: ten objects at cross-entropy 3, ten thousand backgrounds at p = 0.8, one class, in both forms."""
    objects, background = math.exp(-3), 0.8
    answers = torch.cat((torch.ones(10), torch.zeros(10_000))).long()[None]
    chance = torch.cat((torch.full((10,), objects), torch.full((10_000,), 1 - background))).double()
    for scores, logits in (
        ("sigmoid", chance.logit()[None, :, None]),
        ("softmax", torch.stack(((1 - chance).log(), chance.log()), 1)[None]),
    ):
        for gamma, of_objects, of_background in ((0.0, 30.0, 2231.4355), (2.0, 27.0871, 89.2574)):
            small = dataclasses.replace(SMALL, classes=1, scores=scores, focal_gamma=gamma, focal_alpha=None)
            losses = Model(small)._class_losses(logits, answers)[0]
            assert losses[:10].sum().item() == pytest.approx(of_objects, rel=1e-5)
            assert losses[10:].sum().item() == pytest.approx(of_background, rel=1e-5)
            balanced = Model(dataclasses.replace(small, focal_alpha=0.25))._class_losses(logits, answers)[0]
            torch.testing.assert_close(balanced, losses * torch.where(answers[0] > 0, 0.25, 0.75))


def test_an_output_for_background_is_never_wanted() -> None:
    model = Model(dataclasses.replace(SMALL, background=True))
    logits = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    answers = torch.tensor([[0, 1, 2, 3, 0]])
    wanted = F.one_hot(answers, 4).float() * torch.tensor([0.0, 1, 1, 1])
    p = logits.sigmoid()
    p_t, alpha = torch.where(wanted > 0, p, 1 - p), torch.where(wanted > 0, 0.25, 0.75)
    expected = (-alpha * (1 - p_t) ** 2 * p_t.log()).sum(-1)
    torch.testing.assert_close(model._class_losses(logits, answers), expected)
    assert model._scores(logits).shape == (1, 5, 3)
    assert torch.equal(model._scores(logits), p[..., 1:])


def test_the_loss_by_hand() -> None:
    """Each anchor at IoU 0.5 or more learns its object, between 0.4 and 0.5 nothing, below background; the best anchor
    of an object learns it in any case; both sums are divided by the anchors that have objects."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, box_loss="smooth_l1", beta=0.11, box_weight=1.0)
    model, given = Model(config).eval(), batch()
    with torch.no_grad():
        losses = model.loss(given)
        logits, offsets = model(given.images)
        anchors = torch.cat(model._outputs(given.images)[2])
    assert given.truth is not None
    objects = given.truth[0].objects
    assert objects is not None
    overlaps = box_iou(objects.boxes, anchors)
    best, owner = overlaps.max(0)
    positive, ignored = best >= 0.5, (best >= 0.4) & (best < 0.5)
    for row, anchor in enumerate(overlaps.argmax(1)):
        positive[anchor], owner[anchor], ignored[anchor] = True, row, False
    assert ignored.any()
    wanted = torch.zeros_like(logits)
    wanted[0, positive, objects.labels[owner[positive]]] = 1
    p_t = torch.where(wanted > 0, logits.sigmoid(), 1 - logits.sigmoid())
    focal = (-torch.where(wanted > 0, 0.25, 0.75) * (1 - p_t) ** 2 * p_t.log()).sum(-1)
    focal[0, ignored] = 0
    torch.testing.assert_close(losses["class"], focal.sum() / positive.sum())
    far = (offsets[0, positive] - encode_boxes(objects.boxes[owner[positive]], anchors[positive])).abs()
    smooth = torch.where(far < 0.11, far**2 / 0.22, far - 0.055)
    torch.testing.assert_close(losses["box"], smooth.sum() / positive.sum())


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
def test_answers_against_the_plain_way(scores: str) -> None:
    """Level by level the best pairs of anchor and class above the threshold, then NMS by class."""
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, scores=scores, candidates=20, score_threshold=0.2, detections=15)
    model, given = Model(config).eval(), batch()
    with torch.no_grad():
        predictor = model.head["classification_head"].get_submodule("cls_logits")
        predictor.weight.normal_()
        predictor.weight.mul_(2 / model(given.images)[0].std())  # scores between 0 and 1, no two alike
        predictor.bias.fill_(0.0)
        found = model.predict(given)
        each = model._outputs(given.images)
    for i, answer in enumerate(found):
        boxes, values, labels = [], [], []
        for logits, offsets, anchors in zip(*each, strict=True):
            chance = logits[i].sigmoid() if scores == "sigmoid" else logits[i].softmax(-1)[:, 1:]
            order = chance.flatten().argsort(descending=True)[:20]
            order = order[chance.flatten()[order] > 0.2]
            boxes.append(decode_boxes(offsets[i], anchors)[order // 3].clamp(0, 128))
            values.append(chance.flatten()[order])
            labels.append(order % 3)
        box, value, label = torch.cat(boxes), torch.cat(values), torch.cat(labels)
        whole = (box[:, 2:] > box[:, :2]).all(1)
        kept = whole.nonzero()[:, 0][batched_nms(box[whole], value[whole], label[whole], 0.5)[:15]]
        assert len(kept) == 15
        assert answer.objects is not None
        torch.testing.assert_close(answer.objects.boxes, box[kept])
        torch.testing.assert_close(answer.objects.scores, value[kept])
        assert torch.equal(answer.objects.labels, label[kept])


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, score_threshold=0.0)).eval()
    images, sizes = torch.rand(2, 3, 128, 128), [(128, 128), (80, 100)]
    other = images.clone()
    other[1, :, 80:], other[1, :, :, 100:] = 0.9, 0.1
    first, second = model.predict(Batch(images, sizes)), model.predict(Batch(other, sizes))
    for a, b in zip(first, second, strict=True):
        assert a.objects is not None
        assert b.objects is not None
        assert torch.equal(a.objects.boxes, b.objects.boxes)
    assert first[1].objects is not None
    assert float(first[1].objects.boxes[:, 2].max()) <= 100


def test_norms_belong_to_levels() -> None:
    """One set of convolutions, of norms a set a level: statistics of P3 do not reach P6."""
    subnet = Subnet(SMALL, 4, "bbox_reg").train()
    levels = [torch.randn(2, 16, side, side) * 10**i for i, side in enumerate((16, 8, 4, 2))]
    rows = subnet(levels)
    assert [tuple(r.shape) for r in rows] == [(2, 9 * side * side, 4) for side in (16, 8, 4, 2)]
    variances = [norms[0].running_var.mean().item() for norms in subnet.norms]  # type: ignore[index]
    assert variances == sorted(variances)
    assert variances[3] > 1.5 * variances[0]


def test_anchors_fitted_to_boxes() -> None:
    """Sizes from 20 to 160 pixels, all twice as high as wide."""
    sides = torch.linspace(20, 160, 60)
    boxes = torch.stack((torch.zeros(60), torch.zeros(60), sides / 2**0.5, sides * 2**0.5), 1)
    examples = [Annotation((320, 320), objects=Objects(boxes, torch.zeros(60).long()))]
    fitted = adapt(SMALL, examples)
    areas = [[math.sqrt(w * h) for w, h in level[:3]] for level in fitted.anchors]
    assert areas[0][0] == pytest.approx(27, abs=0.2)  # the 5th percentile
    assert areas[3][2] == pytest.approx(153, abs=1)  # the 95th
    flat = [a for level in areas for a in level]
    assert flat == sorted(flat)
    assert all(h / w == pytest.approx(2, abs=0.05) for level in fitted.anchors for w, h in level)
    best = box_iou(boxes - boxes[:, 2:].repeat(1, 2) / 2, torch.cat([shapes_of(level) for level in fitted.anchors]))
    assert float(best.max(1).values.min()) > 0.5  # every box has an anchor that it can be matched to
    assert adapt(dataclasses.replace(SMALL, fit_anchors=False), examples) == dataclasses.replace(
        SMALL, fit_anchors=False
    )
    assert adapt(SMALL, examples[:0]) == SMALL


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"anchors": (((8.0, 8.0),), ((8.0, 8.0), (9.0, 9.0)))}, r"equally many anchors.*got \[1, 2\]"),
        ({"anchors": octave_anchors(32)}, "anchors are for 1 levels, need 3 at least"),
        ({"low": 0.6}, "low=0.6 is above high=0.5"),
        ({"focal_alpha": 1.5}, "focal_alpha=1.5 is not between 0 and 1"),
        ({"trunk": "resnet20", "trunk_depths": None}, "resnet20 has maps at strides 1, 2, 4"),
    ],
)
def test_configurations_that_there_are_not(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Model(dataclasses.replace(SMALL, **changes))  # type: ignore[arg-type]
