"""Near-duplicates: copies are found, other pictures are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.duplicates import find_duplicates, read_thumbnails


def _scene(seed: int, side: int = 96) -> Image.Image:
    """A smooth random picture: noise of 6 x 6 cells enlarged."""
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def test_copies_are_found_and_others_stand_alone(tmp_path: Path) -> None:
    for i in range(12):
        _scene(i).save(tmp_path / f"{i:02d}.png")
    _scene(3).save(tmp_path / "a.jpg", quality=50)
    _scene(3).resize((61, 61)).save(tmp_path / "b.png")
    _scene(7).convert("L").save(tmp_path / "c.jpg")
    paths = sorted(tmp_path.glob("[0-9]*")) + [tmp_path / name for name in ("a.jpg", "b.png", "c.jpg")]
    assert find_duplicates(read_thumbnails(paths)) == [*range(12), 3, 3, 7]


def test_flat_pictures_of_other_brightness_are_not_alike(tmp_path: Path) -> None:
    for i, level in enumerate((0, 40, 80, 40)):
        Image.new("L", (20, 20), level).save(tmp_path / f"{i}.png")
    assert find_duplicates(read_thumbnails([tmp_path / f"{i}.png" for i in range(4)])) == [0, 1, 2, 1]


def test_unreadable_pictures_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").write_bytes(b"x")
    assert find_duplicates(read_thumbnails([tmp_path / "a.png", tmp_path / "b.png"])) == [0, 1]
    assert find_duplicates([]) == []


def test_many_equal_hashes_are_grouped_too(tmp_path: Path) -> None:
    """Beyond the limit of a bucket equal hashes are still compared."""
    Image.new("L", (20, 20), 9).save(tmp_path / "a.png")
    assert find_duplicates(read_thumbnails([tmp_path / "a.png"]) * 500) == [0] * 500


@pytest.mark.shared
def test_real_photos_found_again_and_not_confused(shared_data: Path, tmp_path: Path) -> None:
    photos = sorted((shared_data / "coco128" / "images" / "train2017").glob("*.jpg"))[:40]
    for path in photos:
        with Image.open(path) as image:
            image.convert("RGB").resize((200, 160)).save(tmp_path / path.name, quality=60)
    groups = find_duplicates(read_thumbnails([*photos, *(tmp_path / path.name for path in photos)]))
    assert groups == [*range(40), *range(40)]
