"""The one mover: every column of `Objects` has a rule, and every geometric step moves every column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from saccade.config import Settings
from saccade.data.elastic import Elastic
from saccade.data.geometry import RULES, affine, map_points, move_objects, shift
from saccade.data.loader import collate
from saccade.data.mixing import Mosaic
from saccade.data.pipelines import to_original
from saccade.data.resampling import cut_masks, warp
from saccade.data.sampling import WHOLE, MinOverlapCrop
from saccade.data.transforms import Affine, CenterCrop, Flip, PadTo, RandomCrop, Resize, Transpose
from saccade.data.types import Annotation, Objects, Sample
from saccade.ops.cuboids import mirrored
from saccade.plots.draw import fit
from saccade.training.rescale import random_scale

SIZE = (64, 96)  # height, width
COLUMNS = [field.name for field in fields(Objects)]


def full() -> Objects:
    """Three objects well inside of an image of SIZE, with every column there is."""
    boxes = torch.tensor([[20.0, 16, 44, 40], [30, 20, 60, 44], [40, 24, 52, 48]])
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    for row, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        masks[row, y1:y2, x1:x2] = True
    points = torch.stack([boxes[:, :2], boxes[:, 2:]], dim=1)
    found = Objects(
        boxes,
        torch.tensor([3, 1, 2]),
        scores=torch.tensor([0.5, 0.25, 0.125]),
        masks=masks,
        keypoints=torch.cat([points, torch.full((3, 2, 1), 2.0)], dim=2),
        crowd=torch.tensor([False, True, False]),
        difficult=torch.tensor([True, False, False]),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(1) / 2,
        cuboids=torch.tensor([[1.5, 1.7, 4, -2, 1, 9, 0.5], [1.8, 0.6, 0.8, 0, 1, 5, -2], [1.5, 1.7, 4, 3, 1, 7, 3]]),
        hidden=torch.tensor([[0, 0], [0.5, 1], [0, 2]]),
    )
    lacking = [name for name in COLUMNS if getattr(found, name) is None]
    assert not lacking, f"a new column: give it values here, a rule in RULES and its check in `check`: {lacking}"
    return found


def sample() -> Sample:
    return Sample(np.zeros((*SIZE, 3), np.uint8), Annotation(SIZE, objects=full()), "x", SIZE)


def rescaled(before: Sample) -> Sample:
    settings = replace(Settings(), multi_scale=0.4)
    after = random_scale(collate([before]).to("cpu"), settings, 3)
    assert after.sizes[0] != before.truth.size
    factors = after.sizes[0][1] / SIZE[1], after.sizes[0][0] / SIZE[0]
    image = np.zeros((*after.sizes[0], 3), np.uint8)
    return replace(before, image=image, truth=after.truth[0], to_original=np.diag([1 / factors[0], 1 / factors[1], 1]))


def taken_back(before: Sample) -> Sample:
    """A prediction for an input of twice the size, in the pixels of the original."""
    doubled = replace(before, original_size=(128, 192), to_original=np.diag([2.0, 2, 1]))
    back = to_original(doubled.truth, collate([doubled]), 0)
    return replace(before, image=np.zeros((128, 192, 3), np.uint8), truth=back, to_original=np.diag([0.5, 0.5, 1]))


def drawn(before: Sample) -> Sample:
    image, truth = fit(before.image, before.truth, 192)
    return replace(before, image=image, truth=truth, to_original=np.diag([0.5, 0.5, 1]))


STEPS: dict[str, Callable[[Sample], Sample]] = {
    "resize": lambda s: Resize((100, 60))(s, np.random.default_rng(0)),
    "centred padding": lambda s: PadTo((80, 120), centred=True)(s, np.random.default_rng(0)),
    "centre crop": lambda s: CenterCrop((60, 60), (64, 64))(s, np.random.default_rng(0)),
    "random crop": lambda s: RandomCrop((60, 90))(s, np.random.default_rng(0)),
    "overlap crop": lambda s: MinOverlapCrop(expand=1, modes=(WHOLE,), size=(80, 80))(s, np.random.default_rng(0)),
    "mirror": lambda s: Flip(1.0, pairs=((0, 1),))(s, np.random.default_rng(0)),
    "upside down": lambda s: Flip(1.0, vertical=True)(s, np.random.default_rng(0)),
    "transpose": lambda s: Transpose(1.0, pairs=((0, 1),))(s, np.random.default_rng(0)),
    "zoom": lambda s: Affine(0, 0.3, 0.05)(s, np.random.default_rng(0)),
    "turn": lambda s: Affine(30)(s, np.random.default_rng(1)),
    "half turn": lambda s: warp(s, shift(96, 64) @ np.diag([-1.0, -1, 1]), SIZE),
    "rescale": rescaled,
    "to original": taken_back,
    "fit for drawing": drawn,
}


def check(out: Sample, trade: bool) -> None:
    """Every column of `out` is that of `full()` in the new pixels, as `to_original` has them."""
    before, after = full(), out.truth.objects
    matrix = np.linalg.inv(out.to_original)
    growth = abs(float(np.linalg.det(matrix)))
    for name in ("labels", "scores", "crowd", "difficult", "hidden"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    world = before.cuboids.numpy() if np.linalg.det(matrix) > 0 else mirrored(before.cuboids.double().numpy())
    np.testing.assert_allclose(after.cuboids.numpy(), world, atol=1e-5)
    points = before.keypoints.double().numpy()
    points[..., :2] = map_points(points[..., :2], matrix)
    if trade:
        points = points[:, ::-1]
    np.testing.assert_allclose(after.keypoints.numpy(), points, atol=1e-3)
    corners = before.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).double().numpy()
    corners = map_points(corners, matrix)
    hulls = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    np.testing.assert_allclose(after.boxes.numpy(), hulls, atol=1e-3 if not matrix[0, 1] * matrix[0, 0] else 1.5)
    np.testing.assert_allclose(after.area.numpy(), before.area.numpy() * growth, rtol=1e-4)
    assert tuple(after.masks.shape[1:]) == out.truth.size
    drawn_area, full_area = after.masks.flatten(1).sum(1).numpy(), before.masks.flatten(1).sum(1).numpy() * growth
    np.testing.assert_allclose(drawn_area, full_area, rtol=0.12)


def test_every_column_has_a_rule() -> None:
    assert list(RULES) == COLUMNS


@pytest.mark.parametrize("name", STEPS)
def test_every_step_moves_every_column(name: str) -> None:
    check(STEPS[name](sample()), trade=name in ("mirror", "transpose"))


def test_a_mosaic_moves_every_column() -> None:
    """What no matrix describes: the first image's objects lie in its quarter, as they were but for scale and place."""
    mosaic = Mosaic((128, 192), low=0.5, high=0.5, min_visible=0.0)
    out = mosaic(sample(), np.random.default_rng(2), sample).truth.objects
    assert all(getattr(out, name) is not None for name in COLUMNS)
    on_corners = (out.keypoints[..., :2].reshape(-1, 4) - out.boxes).abs().max(dim=1).values < 1.5
    assert on_corners.sum() >= 4  # those that no quarter cuts
    for row in range(len(out)):
        x1, y1, x2, y2 = out.boxes[row].round().int().tolist()
        assert out.masks[row, y1:y2, x1:x2].sum() == out.masks[row].sum()
        assert out.area[row] <= (out.boxes[row, 2:] - out.boxes[row, :2]).prod() * 0.7


def test_a_bend_moves_every_column() -> None:
    with pytest.raises(ValueError, match="cuboids cannot follow a bend"):
        Elastic(sigma=3.0)(sample(), np.random.default_rng(3))
    plain = replace(sample(), truth=Annotation(SIZE, objects=replace(full(), cuboids=None)))
    bent = Elastic(sigma=3.0)(plain, np.random.default_rng(3))
    field = Elastic(sigma=3.0)
    rng = np.random.default_rng(3)
    rng.random()
    map_back = field.field(SIZE, rng).backward
    before, after = plain.truth.objects, bent.truth.objects
    for name in ("labels", "scores", "crowd", "difficult", "area"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    back = map_back(after.keypoints[..., :2].reshape(-1, 2).double().numpy())
    np.testing.assert_allclose(back, before.keypoints[..., :2].reshape(-1, 2).numpy(), atol=0.01)
    for box, mask in zip(after.boxes.round().int().tolist(), after.masks, strict=True):
        assert mask[box[1] : box[3], box[0] : box[2]].sum() == mask.sum() > 0


def test_a_point_outside_is_absent_in_a_truth_and_stays_in_a_prediction() -> None:
    move = affine(shift(-30, 0), SIZE, lambda masks: cut_masks(masks, (30, 0, 126, 64)))
    predicted, truth = full(), replace(full(), scores=None)
    assert move_objects(truth, move, "all").keypoints[0, 0].tolist() == [0, 0, 0]
    assert move_objects(predicted, move, "all").keypoints[0, 0].tolist() == [-10, 16, 2]


def test_all_are_kept_also_outside() -> None:
    move = affine(shift(-50, 0), SIZE, lambda masks: cut_masks(masks, (50, 0, 146, 64)))
    out = move_objects(full(), move, "all")
    assert out.boxes.tolist() == [[0, 16, 0, 40], [0, 20, 10, 44], [0, 24, 2, 48]]
    assert out.labels.tolist() == [3, 1, 2]
    assert move_objects(full(), move, 0.25).labels.tolist() == [1]
    assert move_objects(full(), move, "centre").labels.tolist() == []


def proposals() -> Objects:
    """Boxes in the middle, at the borders and in the corners, those of the truth among them, without order."""
    ends = [[0.0, 0, 12, 9], [84, 52, 96, 64], [20, 16, 44, 40], [0, 0, 96, 64], [90, 0, 96, 6], [30, 20, 60, 44]]
    return Objects(torch.tensor(ends), torch.zeros(6, dtype=torch.int64), scores=torch.linspace(0, 1, 6))


@pytest.mark.parametrize("name", sorted(set(STEPS) - {"to original", "fit for drawing"}))
def test_given_boxes_move_and_are_clipped_but_never_dropped(name: str) -> None:
    before = proposals()
    out = STEPS[name](replace(sample(), given=before))
    if name == "rescale":
        settings = replace(Settings(), multi_scale=0.4)
        batch = collate([replace(sample(), given=before)]).to("cpu")
        out.given = random_scale(batch, settings, 3).given[0]
    matrix = np.linalg.inv(out.to_original)
    corners = before.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).double().numpy()
    corners = np.clip(map_points(corners, matrix), 0, out.truth.size[::-1])
    hulls = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    np.testing.assert_allclose(out.given.boxes.numpy(), hulls, atol=1e-3)
    assert torch.equal(out.given.scores, before.scores)


def test_given_boxes_of_a_mosaic_are_those_of_its_images_in_order() -> None:
    start = replace(sample(), given=proposals())
    out = Mosaic((128, 192))(start, np.random.default_rng(2), lambda: start)
    assert out.given.scores.tolist() == proposals().scores.tolist() * 4
    assert (out.given.boxes >= 0).all()
    assert (out.given.boxes <= torch.tensor([192.0, 128] * 2)).all()


def test_given_boxes_are_bent_with_the_image() -> None:
    flat = Annotation(SIZE, objects=replace(full(), cuboids=None))
    out = Elastic(sigma=3.0)(replace(sample(), truth=flat, given=proposals()), np.random.default_rng(3))
    assert torch.equal(out.given.scores, proposals().scores)
    bent = out.truth.objects.boxes[:2]  # hulls of masks there, of outlines here
    assert (out.given.boxes[[2, 5]] - bent).abs().max() < 2
    assert (out.given.boxes[3] - torch.tensor([0.0, 0, 96, 64])).abs().max() < 8
