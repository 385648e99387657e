"""What a view reads and shows: one way for every caller, large JPEGs decoded as finely as it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.config import Settings
from saccade.data.mixing import Mosaic
from saccade.data.pipelines import Preprocessing, inference_transforms, training_transforms
from saccade.data.transforms import Flip, RandomResizedCrop, Resize
from saccade.data.views import View, inference_view, training_view
from saccade.errors import DataError


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    y, x = np.mgrid[:320, :480]
    image = np.stack([128 + 100 * np.sin(x / 60), 128 + 100 * np.cos(y / 40), (x + y) / 8], 2)
    Image.fromarray(image.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    return tmp_path / "a.jpg"


def test_an_image_is_read_at_the_size_that_the_view_needs(photograph: Path) -> None:
    whole, fine, coarse = (View((), side).read(photograph) for side in (None, 200, 80))
    assert [sample.image.shape[0] for sample in (whole, fine, coarse)] == [320, 320, 80]
    assert coarse.original_size == (320, 480)
    assert np.allclose(coarse.to_original, np.diag([4, 4, 1]))
    assert coarse.id == str(photograph)
    seen = View((Resize((40, 40)),), 80).read(photograph)
    assert seen.truth.size == (40, 40)
    assert np.allclose(seen.to_original @ [40, 40, 1], [480, 320, 1])


def test_reading_names_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        View().read(tmp_path / "a.png")


def test_inference_decodes_twice_the_pixels_that_are_seen() -> None:
    square = Preprocessing((48, 64), "stretch", view=1.0)
    assert inference_view("detect", square) == View(tuple(inference_transforms("detect", square)), 128)
    assert inference_view("classify", replace(square, resize="crop", view=1.25)).min_side == 160
    assert inference_view("segment", Preprocessing(None, "stretch", 0.5, 16)).min_side is None


def test_training_decodes_what_the_smallest_crop_needs() -> None:
    crops = Settings(size=64, resize="crop", crop_min=0.25)
    assert training_view("classify", crops) == View(tuple(training_transforms("classify", crops)), 128)
    assert training_view("classify", replace(crops, pad=4)).min_side == 64
    assert training_view("detect", Settings(size=60, min_overlap_crop=1.0, resize="letterbox")).min_side == 200
    assert training_view("segment", Settings(size=64)).min_side is None


def test_without_mosaic_the_rest_stays() -> None:
    settings = Settings(size=96, mosaic=0.5)
    whole = training_view("detect", settings)
    assert isinstance(whole.transforms[0], Mosaic)
    assert training_view("detect", settings, mosaic=False) == replace(whole, transforms=whole.transforms[1:])


def test_more_transforms_come_last() -> None:
    view = View((Resize((8, 8)),), 16).then(Flip(1.0), Flip(1.0, vertical=True))
    assert view == View((Resize((8, 8)), Flip(1.0), Flip(1.0, vertical=True)), 16)


def test_a_random_crop_says_what_its_next_draw_needs() -> None:
    view = View((RandomResizedCrop((32, 32), 0.02), Flip()), 400)
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    sides = {view.side_of_draw((640, 960), np.random.default_rng(seed)) for seed in range(20)}
    assert len(sides) > 5
    view.side_of_draw((640, 960), rng)
    assert rng.bit_generator.state == before
    assert View((Flip(),), 400).side_of_draw((640, 960), rng) == 400
    assert View(view.transforms).side_of_draw((640, 960), rng) is None
