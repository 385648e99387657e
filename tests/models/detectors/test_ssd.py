"""SSD: counts, layout and priors of the published networks; learning, export and edge cases of the small form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.config import Settings
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError
from saccade.layers.anchors import grid_anchors, shapes_of
from saccade.models.detectors import ssd
from saccade.ops.boxes import box_iou

LAYOUT = Path(__file__).parents[2] / "data" / "layouts" / "ssd300_vgg16.json"
TINY = dataclasses.replace(ssd.VARIANTS["ssd_small"], classes=2, width=8, depths=(1, 1, 1, 1), channels=16)


def make(config: ssd.Config) -> ssd.Model:
    torch.manual_seed(0)
    return ssd.Model(config)


def truth(boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (64, 64), **more: Tensor) -> Annotation:
    return Annotation(
        size, objects=Objects(torch.tensor(boxes).view(-1, 4).float(), torch.tensor(labels).long(), **more)
    )


def empty_batch(images: int = 2, side: int = 64) -> Batch:
    return Batch(torch.rand(images, 3, side, side), [(side, side)] * images, [truth([], [], (side, side))] * images)


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


@pytest.mark.parametrize("variant", ["small", "softmax", "overlap"])
def test_without_objects_there_is_no_box_loss_and_every_parameter_is_reached(variant: str) -> None:
    changes: dict[str, dict[str, object]] = {
        "small": {},
        "softmax": {"class_loss": "softmax", "matching": "overlap", "box_loss": "smooth_l1"},
        "overlap": {"matching": "overlap"},
    }
    model = make(dataclasses.replace(TINY, **changes[variant]))  # type: ignore[arg-type]
    losses = model.loss(empty_batch())
    assert losses["box"].item() == 0
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_softmax_learns_from_empty_images_only_if_told() -> None:
    config = dataclasses.replace(TINY, class_loss="softmax", matching="overlap", box_loss="smooth_l1")
    assert make(config).loss(empty_batch())["class"].item() == 0
    assert make(dataclasses.replace(config, min_negatives=3)).loss(empty_batch())["class"].item() > 0


def test_half_empty_batch_counts_as_its_objects() -> None:
    model = make(TINY).eval()  # fixed statistics: images do not see each other
    full = Batch(torch.rand(1, 3, 64, 64), [(64, 64)], [truth([[8, 8, 40, 50]], [1])])
    empty = empty_batch(1)
    assert full.truth is not None
    assert empty.truth is not None
    both = Batch(torch.cat((full.images, empty.images)), full.sizes + empty.sizes, full.truth + empty.truth)
    torch.testing.assert_close(model.loss(both)["box"], model.loss(full)["box"])


def test_two_processes_give_the_gradients_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process holds one of two images; the counts are averaged as `mean_over_processes` would do."""
    model = make(TINY).eval()
    images = torch.rand(2, 3, 64, 64)
    truths = [truth([[8, 8, 40, 50], [30, 4, 60, 20]], [1, 0]), truth([], [])]
    counts: list[Tensor] = []

    def gradients(rows: slice) -> Tensor:
        model.zero_grad()
        sum(model.loss(Batch(images[rows], [(64, 64)] * 2, truths[rows])).values()).backward()  # type: ignore[union-attr]
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    def keep(count: Tensor) -> Tensor:
        counts.append(count.float())
        return counts[-1]

    monkeypatch.setattr(ssd, "mean_over_processes", keep)
    whole = gradients(slice(0, 2))
    monkeypatch.setattr(ssd, "mean_over_processes", lambda count: counts[0] / 2)
    torch.testing.assert_close((gradients(slice(0, 1)) + gradients(slice(1, 2))) / 2, whole)


def test_crowds_are_no_targets_and_no_background() -> None:
    model = make(TINY).eval()
    images = torch.rand(1, 3, 64, 64)
    crowd = truth([[0, 0, 64, 64]], [0], crowd=torch.tensor([True]))
    losses = model.loss(Batch(images, [(64, 64)], [crowd]))
    assert losses["box"].item() == 0
    assert losses["class"] < model.loss(Batch(images, [(64, 64)], [truth([], [])]))["class"]


def test_labels_out_of_range_are_refused() -> None:
    batch = Batch(torch.rand(1, 3, 64, 64), [(64, 64)], [truth([[0, 0, 9, 9]], [2])], ids=["a.jpg"])
    with pytest.raises(DataError, match=r"a\.jpg"):
        make(TINY).eval().loss(batch)


def test_predictions_lie_in_their_image_and_fall_in_score() -> None:
    model = make(dataclasses.replace(TINY, score_threshold=0.0, keep=30)).eval()
    sizes = [(64, 96), (50, 33)]
    for size, annotation in zip(sizes, model.predict(Batch(torch.rand(2, 3, 64, 96), sizes)), strict=True):
        objects = annotation.objects
        assert objects is not None
        assert objects.scores is not None
        assert annotation.size == size
        assert 0 < len(objects) <= 30
        assert objects.scores.diff().le(0).all()
        assert objects.boxes.min() >= 0
        assert (objects.boxes[:, 2] <= size[1]).all()
        assert (objects.boxes[:, 3] <= size[0]).all()
        assert set(objects.labels.tolist()) <= {0, 1}


def test_nothing_found_is_an_empty_answer() -> None:
    model = make(dataclasses.replace(TINY, score_threshold=0.99)).eval()
    (answer,) = model.predict(Batch(torch.rand(1, 3, 64, 64), [(64, 64)]))
    assert answer.objects is not None
    assert len(answer.objects) == 0


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
    model._outputs = lambda images: (logits, offsets, [prior])  # type: ignore[method-assign]
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


def test_adapt_fits_each_map_to_the_boxes_of_its_size() -> None:
    config = ssd.VARIANTS["ssd_small"]
    generator = torch.Generator().manual_seed(0)
    sides = torch.cat(
        (18 + 4 * torch.rand(50, 1, generator=generator), 100 + 8 * torch.rand(500, 1, generator=generator))
    )
    boxes = torch.cat((torch.zeros(550, 2), sides, sides * 1.1), 1)
    objects = Objects(boxes, torch.zeros(550, dtype=torch.int64))
    adapted = ssd.adapt(config, [Annotation((240, 320), objects=objects), Annotation((240, 320))])
    first, second = (torch.tensor(level) * 320 for level in adapted.priors[:2])
    assert ((first > 17) & (first < 25)).all()
    assert ((second > 99) & (second < 120)).all()
    assert adapted.priors[2:] == config.priors[2:]
    assert ssd.adapt(config, []) == config
    assert ssd.adapt(config, [truth([], [])]) == config
    assert ssd.adapt(ssd.VARIANTS["ssd300"], [truth([[0, 0, 9, 9]] * 90, [0] * 90)]) == ssd.VARIANTS["ssd300"]


def test_config_survives_json() -> None:
    config = ssd.Config(**json.loads(json.dumps(dataclasses.asdict(TINY))))
    assert make(config).eval()(torch.rand(1, 3, 64, 64))[0].shape == (1, 2 * (64 + 16 + 4 + 1), 2)


def test_recipes_name_settings_that_exist() -> None:
    known = {f.name for f in dataclasses.fields(Settings)}
    for recipe in ssd.RECIPES.values():
        assert set(recipe) - {"*"} <= set(ssd.VARIANTS)
        assert all(set(settings) <= known for settings in recipe.values())


@pytest.mark.parametrize("method", ["forward", "scored_boxes"])
def test_export(method: str) -> None:
    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = make(dataclasses.replace(TINY, score_threshold=0.0)).eval()

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            answer: tuple[Tensor, Tensor] = getattr(self.model, method)(images)
            return answer

    module = Exported().eval()
    images = torch.rand(2, 3, 64, 96)
    program = torch.export.export(module, (images,), strict=False)
    torch.testing.assert_close(program.module()(images), module(images))


def test_overfits_four_images() -> None:
    generator = torch.Generator().manual_seed(3)
    images = 0.3 * torch.rand(4, 3, 128, 128, generator=generator)
    truths = []
    for i in range(4):
        boxes = torch.tensor([[10.0, 12, 34, 40], [60, 20, 118, 70], [20, 76, 56, 112]]) + 2 * i
        labels = torch.tensor([i % 3, (i + 1) % 3, 2])
        for (x1, y1, x2, y2), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
            images[i, label, y1:y2, x1:x2] += 0.7
        truths.append(Annotation((128, 128), objects=Objects(boxes, labels)))
    batch = Batch(images, [(128, 128)] * 4, truths)
    config = dataclasses.replace(ssd.VARIANTS["ssd_small"], classes=3, width=16, depths=(1, 1, 1, 1), channels=32)
    model = make(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    model.train()
    for _ in range(80):
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    model.eval()
    for wanted, answer in zip(truths, model.predict(batch), strict=True):
        assert wanted.objects is not None
        assert answer.objects is not None
        assert answer.objects.scores is not None
        sure = answer.objects[answer.objects.scores > 0.5]
        hits = (box_iou(wanted.objects.boxes, sure.boxes) > 0.5) & (wanted.objects.labels[:, None] == sure.labels)
        assert hits.any(1).all()
        assert len(sure) == len(wanted.objects)
