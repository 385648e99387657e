"""Our small detector: learning, export and edge cases, and the trunks that it takes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError, UsageError
from saccade.models import catalogue, create
from saccade.models.detectors import atss

TINY = dataclasses.replace(
    atss.VARIANTS["atss_small"], classes=2, trunk_width=8, trunk_depths=(1, 1, 1, 1), channels=16
)


def make(config: atss.Config) -> atss.Model:
    torch.manual_seed(0)
    return atss.Model(config)


def truth(boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (64, 64), **more: Tensor) -> Annotation:
    return Annotation(
        size, objects=Objects(torch.tensor(boxes).view(-1, 4).float(), torch.tensor(labels).long(), **more)
    )


def empty_batch(images: int = 2, side: int = 64) -> Batch:
    return Batch(torch.rand(images, 3, side, side), [(side, side)] * images, [truth([], [], (side, side))] * images)


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

    monkeypatch.setattr(atss, "mean_over_processes", keep)
    whole = gradients(slice(0, 2))
    monkeypatch.setattr(atss, "mean_over_processes", lambda count: counts[0] / 2)
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


def test_adapt_fits_each_map_to_the_boxes_of_its_size() -> None:
    config = atss.VARIANTS["atss_small"]
    generator = torch.Generator().manual_seed(0)
    sides = torch.cat(
        (18 + 4 * torch.rand(50, 1, generator=generator), 100 + 8 * torch.rand(500, 1, generator=generator))
    )
    boxes = torch.cat((torch.zeros(550, 2), sides, sides * 1.1), 1)
    objects = Objects(boxes, torch.zeros(550, dtype=torch.int64))
    adapted = atss.adapt(config, [Annotation((240, 320), objects=objects), Annotation((240, 320))])
    first, second = (torch.tensor(level) * 320 for level in adapted.priors[:2])
    assert ((first > 17) & (first < 25)).all()
    assert ((second > 99) & (second < 120)).all()
    assert adapted.priors[2:] == config.priors[2:]
    assert atss.adapt(config, []) == config
    assert atss.adapt(config, [truth([], [])]) == config
    fixed = dataclasses.replace(config, fit_priors=False)
    assert atss.adapt(fixed, [truth([[0, 0, 9, 9]] * 90, [0] * 90)]) == fixed


def test_both_names_are_one_network() -> None:
    assert atss.VARIANTS["atss_small"] == atss.VARIANTS["ssd_small"]
    old, new = catalogue()["ssd_small"], catalogue()["atss_small"]
    assert old == new
    assert new["year"] == 2020


@pytest.mark.parametrize(
    ("trunk", "made"), [("vgg11_bn", 2), ("darknet_reference", 0), ("zfnet", 2), ("shufflenet_v2_x0_5", 1)]
)
def test_maps_that_the_trunk_has_not_are_made(trunk: str, made: int) -> None:
    with torch.device("meta"):
        model = create("atss_small", trunk=trunk)
        maps = model.backbone(torch.empty(1, 3, 100, 130))
    down, up = [(12, 16), (6, 8), (3, 4), (2, 2)], [(13, 17), (7, 9), (4, 5), (2, 3)]
    assert [tuple(x.shape[2:]) for x in maps] in (down, up)
    assert len(model.backbone.coarse) == 3 * made


@pytest.mark.parametrize("changes", [{"trunk": "resnet20"}, {"strides": (8, 16)}, {"strides": (8, 32, 64, 128)}])
def test_strides_that_the_trunk_has_not_are_refused(changes: dict) -> None:
    priors = atss.VARIANTS["atss_small"].priors[: len(changes.get("strides", range(4)))]
    with torch.device("meta"), pytest.raises(UsageError, match=r"needs one at 8, and from there .* densenet"):
        create("atss_small", priors=priors, **changes)


def test_priors_for_every_map_are_asked_for() -> None:
    with torch.device("meta"), pytest.raises(UsageError, match="5 strides, but priors for 4 maps"):
        create("atss_small", strides=(4, 8, 16, 32, 64))
