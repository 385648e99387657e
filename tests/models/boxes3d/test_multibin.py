"""MultiBin: the place that follows from geometry, the angles that bins stand for, and a street learnt by heart."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.data.formats import read
from saccade.data.loader import collate
from saccade.data.truth import read_sample
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError
from saccade.models import create
from saccade.models.boxes3d.multibin import USUAL, adapt, solve_places
from saccade.ops.cuboids import cuboid_ious, projected_boxes, ray_angles, wrap
from streets import CAMERA, SIZE, make_street

KITTI = np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]])
TINY = {"trunk_width": 8, "trunk_depths": (1, 1, 1), "hidden": 32, "side": 32, "grid": 4}


def some(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    low, high = [1.4, 0.6, 0.8, -6, 1.2, 12, -3], [2, 2, 5, 6, 2, 50, 3]
    return rng.uniform(low, high, (count, 7))


def test_the_place_of_a_cuboid_follows_from_its_box() -> None:
    cuboids = some(40)
    boxes = projected_boxes(cuboids, KITTI)
    places = solve_places(boxes, cuboids[:, :3], cuboids[:, 6], KITTI, (375, 1242))
    np.testing.assert_allclose(places, cuboids[:, 3:6], atol=1e-6)
    worse = solve_places(boxes + 1.5, cuboids[:, :3], cuboids[:, 6], KITTI, (375, 1242))
    assert np.linalg.norm(worse - cuboids[:, 3:6], axis=1).max() < 0.5  # a shift alone hardly matters


def test_a_side_that_the_border_cuts_off_does_not_count() -> None:
    cuboid = np.array([[1.5, 1.7, 4.2, -7.4, 1.6, 10, 1.2]])
    box = projected_boxes(cuboid, KITTI)
    assert box[0, 0] < 0
    seen = np.clip(box, 0, [1242, 375] * 2)
    place = solve_places(seen, cuboid[:, :3], cuboid[:, 6], KITTI, (375, 1242))
    assert np.linalg.norm(place[0] - cuboid[0, 3:6]) < 0.02
    taken = solve_places(seen - [[5, 0, 0, 0]], cuboid[:, :3], cuboid[:, 6], KITTI, (375, 1400))
    assert np.linalg.norm(taken[0] - cuboid[0, 3:6]) > 0.5  # as if that side had been seen


def test_a_box_that_nothing_fits_is_placed_by_its_height() -> None:
    box = np.array([[600.0, 100, 603, 300]])  # far too narrow for a car of this height: no way fits well
    place = solve_places(box, np.array([[1.5, 1.7, 4.0]]), np.array([0.0]), KITTI, (375, 1242))
    assert np.isfinite(place).all()
    assert place[0, 2] > 0
    assert solve_places(np.zeros((0, 4)), np.zeros((0, 3)), np.zeros(0), KITTI, (375, 1242)).shape == (0, 3)


def example(cuboids: np.ndarray, camera: np.ndarray = CAMERA) -> Batch:
    boxes = torch.from_numpy(np.clip(projected_boxes(cuboids, camera), 0, [SIZE[1], SIZE[0]] * 2)).float()
    objects = Objects(boxes, torch.zeros(len(boxes), dtype=torch.int64), cuboids=torch.from_numpy(cuboids).float())
    truth = Annotation(SIZE, objects=objects, camera=camera)
    given = [Objects(objects.boxes, objects.labels)]
    return Batch(torch.rand(1, 3, *SIZE), [SIZE], [truth], ["street.png"], given=given, cameras=[camera])


class Oracle(torch.nn.Module):
    """Says for each box what `_targets` asks for, in place of the network."""

    def __init__(self, model: torch.nn.Module, batch: Batch) -> None:
        super().__init__()
        _, target = model._targets(batch)  # type: ignore[operator]
        middles = torch.tensor(model._middles())  # type: ignore[operator]
        away = target[..., :1] - middles
        self.logits = -torch.atan2(away.sin(), away.cos()).abs()
        self.turned = torch.stack((away.cos(), away.sin()), -1)
        self.sizes = target[..., 1:4]

    def forward(self, images: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.logits, self.turned, self.sizes


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_what_the_heads_are_asked_for_gives_the_cuboid_back(bins: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    cuboids = np.array([[1.5, 1.7, 4, x, 1.4, 14, rng.uniform(-3, 3)] for x in (-5, 0, 5)])
    batch = example(cuboids)
    model = create("multibin_small", classes=2, bins=bins, jitter=0.0, **TINY).eval()
    oracle = Oracle(model, batch)
    monkeypatch.setattr(model, "forward", oracle.forward)
    losses = model.loss(batch)
    assert float(losses["angle"]) == pytest.approx(0, abs=1e-6)
    assert float(losses["size"]) == pytest.approx(0, abs=1e-6)
    found = model.predict(batch)[0]
    assert found.objects is not None
    assert found.objects.cuboids is not None
    np.testing.assert_allclose(found.objects.cuboids.numpy(), cuboids, atol=2e-3)


def test_the_moved_box_changes_the_angle_that_is_asked_for() -> None:
    """Section 5.1: the angle is that to the ray through the middle of the crop, wherever it was moved to."""
    cuboids = np.array([[1.5, 1.7, 4, 2.0, 1.4, 14, 0.7]])
    batch = example(cuboids)
    torch.manual_seed(0)
    boxes, target = create("multibin_small", jitter=0.2, **TINY)._targets(batch)
    assert not torch.equal(boxes[0], batch.given[0].boxes if batch.given else None)
    middle = (boxes[0, :, :2] + boxes[0, :, 2:]).double().numpy() / 2
    assert float(target[0, 0, 0]) == pytest.approx(wrap(0.7 - ray_angles(middle, CAMERA))[0], abs=1e-5)


def test_sizes_are_fitted_and_what_is_missing_is_named() -> None:
    truth = example(np.array([[1.5, 1.7, 4, 2.0, 1.4, 14, 0.7], [1.7, 1.7, 5, -3, 1.4, 14, 0]])).truth or []
    fitted = adapt(create("multibin_small", classes=2).config, truth)
    assert fitted.sizes == ((1.6, 1.7, 4.5), (1.6, 1.7, 4.5))
    model = create("multibin_small", classes=2, **TINY)
    assert model._mean_sizes().tolist() == [list(USUAL)] * 2
    batch = example(some(1))
    assert batch.given is not None
    other = [dataclasses.replace(batch.given[0], labels=torch.tensor([2]))]
    with pytest.raises(DataError, match=r"street.png: boxes of the classes \[2\] are given; the model knows 0 to 1"):
        model.predict(dataclasses.replace(batch, given=other))
    batch.cameras = [None]
    with pytest.raises(DataError, match=r"street.png: its camera is not known"):
        model.predict(batch)
    batch.given = None
    with pytest.raises(DataError, match="no boxes"):
        model.predict(batch)
    batch.truth = [dataclasses.replace(truth[0], camera=None)]
    with pytest.raises(DataError, match=r"street.png: cuboids and a camera are needed"):
        model.loss(batch)


def test_a_street_is_learnt_by_heart(tmp_path: Path) -> None:
    dataset = read(make_street(tmp_path, 4))
    batch = collate([read_sample(record, dataset, "boxes3d") for record in dataset.records]).to("cpu")
    plain = [
        t.objects[~t.objects.crowd] for t in batch.truth or [] if t.objects is not None and t.objects.crowd is not None
    ]
    batch.given = [Objects(each.boxes, each.labels) for each in plain]
    torch.manual_seed(0)
    start = create("multibin_small", classes=2, jitter=0.0, **TINY).config
    model = create("multibin_small", classes=2, jitter=0.0, sizes=adapt(start, batch.truth or []).sizes, **TINY).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(80):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 80)
        optimizer.zero_grad()
        torch.stack(list(model.loss(batch).values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(10):
            model(batch.images, torch.stack([each.boxes[:2] for each in batch.given]))
    ious = []
    for answer, truth in zip(model.eval().predict(batch), plain, strict=True):
        assert answer.objects is not None
        assert answer.objects.cuboids is not None
        assert truth.cuboids is not None
        ious += np.diag(cuboid_ious(answer.objects.cuboids.numpy(), truth.cuboids.numpy())[1]).tolist()
    assert np.median(ious) > 0.6
