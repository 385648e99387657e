"""The camera follows the picture: after every step a cuboid projects to where its pixels have gone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.config import Settings
from saccade.data.geometry import map_points
from saccade.data.loader import collate
from saccade.data.packing import pack, unpack
from saccade.data.pipelines import to_original, training_transforms
from saccade.data.resampling import crop
from saccade.data.transforms import Affine, FitInside, Flip, PadTo, Resize, Transpose
from saccade.data.types import Annotation, Objects, Sample
from saccade.errors import UsageError
from saccade.ops.cuboids import corners, project
from saccade.training.rescale import random_scale

CAMERA = np.array([[700.0, 0, 600, 45], [0, 700, 180, 0.2], [0, 0, 1, 0.003]])
CUBOIDS = torch.tensor([[1.5, 1.7, 4, -3, 1.6, 15, 0.4], [1.8, 0.6, 0.8, 2, 1.5, 9, -2.0]])


def sample() -> Sample:
    boxes = torch.tensor([[300.0, 150, 500, 280], [700, 120, 800, 330]])
    objects = Objects(boxes, torch.tensor([0, 1]), cuboids=CUBOIDS, hidden=torch.zeros(2, 2))
    truth = Annotation((375, 1242), objects=objects, camera=CAMERA)
    return Sample(np.zeros((375, 1242, 3), np.uint8), truth, "a", (375, 1242))


def rescaled(before: Sample, rng: np.random.Generator) -> Sample:
    after = random_scale(collate([before]).to("cpu"), Settings(multi_scale=0.4), 3)
    assert after.truth is not None
    assert after.sizes[0] != before.truth.size
    np.testing.assert_array_equal(after.cameras[0], after.truth[0].camera)
    factors = after.sizes[0][1] / 1242, after.sizes[0][0] / 375
    scale = after.images.shape[-1] / 1242, after.images.shape[-2] / 375
    assert factors == pytest.approx(scale, abs=0.01)
    return replace(before, truth=after.truth[0], to_original=np.diag([1 / scale[0], 1 / scale[1], 1]))


def seen(annotation: Annotation) -> np.ndarray:
    """[16, 2] pixels of all corners, in an order that a mirror does not change."""
    assert annotation.objects is not None
    assert annotation.objects.cuboids is not None
    assert annotation.camera is not None
    points = project(corners(annotation.objects.cuboids.double().numpy()), annotation.camera)[..., :2]
    return points.reshape(-1, 2)


MIRROR = [1, 0, 3, 2, 5, 4, 7, 6]
STEPS = {
    "flip": lambda s, rng: Flip(1.0)(s, rng),
    "upside down": lambda s, rng: Flip(1.0, vertical=True)(s, rng),
    "transpose": lambda s, rng: Transpose(1.0)(s, rng),
    "fit": lambda s, rng: PadTo((320, 640))(FitInside((320, 640))(s, rng), rng),
    "centred": lambda s, rng: PadTo((800, 1300), centred=True)(s, rng),
    "stretch": lambda s, rng: Resize((200, 300))(s, rng),
    "zoom": lambda s, rng: Affine(10, 0.3, 0.1, (300, 1000), True)(s, rng),
    "crop": lambda s, rng: crop(s, (100, 20, 1000, 360)),
    "rescale": rescaled,
    "all": lambda s, rng: Flip(1.0)(
        crop(Affine(0, 0.2, 0.1)(FitInside((320, 640))(s, rng), rng), (9, 5, 600, 180)), rng
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_picture_of_a_cuboid_moves_with_the_image(name: str) -> None:
    before = sample()
    after = STEPS[name](before, np.random.default_rng(1))
    assert after.truth.objects is not None
    assert len(after.truth.objects) == 2
    there = seen(after.truth)
    back = map_points(there, after.to_original)
    over = np.linalg.det(after.to_original[:2, :2]) < 0
    order = [*MIRROR, *(8 + i for i in MIRROR)] if over else list(range(16))
    np.testing.assert_allclose(back[order], seen(before.truth), atol=0.01)
    assert after.truth.camera is not None
    assert np.linalg.det(after.truth.camera[:, :3]) > 0


def test_an_answer_returns_to_the_camera_of_the_original() -> None:
    after = STEPS["all"](sample(), np.random.default_rng(1))
    batch = collate([after])
    assert batch.cameras[0] is after.truth.camera
    answer = to_original(after.truth, batch, 0)
    assert answer.camera is not None
    np.testing.assert_allclose(answer.camera, CAMERA, atol=1e-9)
    assert answer.objects is not None
    assert answer.objects.cuboids is not None
    torch.testing.assert_close(answer.objects.cuboids, CUBOIDS)
    (packed,) = unpack(*pack([after.truth]))
    assert packed.camera is after.truth.camera
    assert packed.objects is not None
    torch.testing.assert_close(packed.objects.cuboids, after.truth.objects.cuboids if after.truth.objects else None)


@pytest.mark.parametrize("name", ["mosaic", "elastic", "rotate", "transpose", "flip_vertical"])
def test_settings_that_no_camera_follows_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} gives pictures that no upright camera sees"):
        training_transforms("boxes3d", Settings(resize="letterbox", **{name: 0.5}))  # type: ignore[arg-type]
