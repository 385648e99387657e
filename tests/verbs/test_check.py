"""`saccade check`: the counts, the faults and the sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from corpus import coco, voc
from saccade.errors import DataError, ResourceError, UsageError
from saccade.verbs.check import check, in_words


def _photo(path: Path, seed: int, size: tuple[int, int] = (64, 80)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(cells).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


def _classes(root: Path) -> Path:
    for i in range(12):
        _photo(root / "train" / ("a" if i else "b") / f"{i}.jpg", i)
    _photo(root / "val" / "a" / "copy.jpg", 1)
    _photo(root / "val" / "b" / "x.jpg", 99, (30, 200))
    return root


def test_counts_leaks_truncation_and_unevenness(tmp_path: Path) -> None:
    root = _classes(tmp_path)
    whole = (root / "train" / "a" / "5.jpg").read_bytes()
    (root / "train" / "a" / "5.jpg").write_bytes(whole[: len(whole) // 2])
    result = check(root)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["format"], result["task"], result["classes"]) == ("folder", "classify", ["a", "b"])
    assert result["images"] == result["objects"] == 13
    assert result["splits"] == {"train": {"images": 11, "objects": 11}, "val": {"images": 2, "objects": 2}}
    assert result["used"] == {"images": 13, "labels": 13}
    assert result["per_class"] == {"a": {"images": 11, "objects": 11}, "b": {"images": 2, "objects": 2}}
    assert [entry["where"] for entry in result["refused"]] == ["train/a/5.jpg"]
    assert any(w.startswith("leak: 1 of 2 pictures of val") for w in result["warnings"])
    assert (result["sizes"]["smallest"], result["sizes"]["objects"]) == ([64, 80], None)


def test_all_pictures_damaged_is_an_error(tmp_path: Path) -> None:
    root = _classes(tmp_path)
    for path in root.rglob("*.jpg"):
        path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError):
        check(root)


def _masks(root: Path) -> Path:
    for i in range(3):
        _photo(root / "images" / f"{i}.png", i, (20, 30))
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[:5] = 1
        mask[5:7] = 255
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return root


def test_class_maps_are_counted_in_pixels_without_the_ignored(tmp_path: Path) -> None:
    result = check(_masks(tmp_path))
    assert result["per_class"] == {
        "background": {"images": 3, "pixels": 3 * 13 * 30},
        "foreground": {"images": 3, "pixels": 3 * 5 * 30},
    }
    assert result["splits"] == {"unsplit": {"images": 3, "objects": 3}}
    (tmp_path / "classes.txt").write_text("soil\nplant\nweed\nstone\n")
    assert check(tmp_path)["warnings"] == ["no picture shows 2 of the classes: 'weed', 'stone'"]


def test_instances_have_sizes_and_the_sheet_shows_them(tmp_path: Path) -> None:
    root = _masks(tmp_path / "set")
    result = check(root, "instances", out=tmp_path / "out")
    assert result["sizes"]["objects"] == {"small": 6, "medium": 0, "large": 0}
    assert result["contact_sheet"] == str(tmp_path / "out" / "contact_sheet.png")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["contact_sheet.png"]
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        colours = sheet.convert("RGB").getcolors(2**24)
    assert colours is not None
    assert len(colours) > 100
    assert sheet.width > 3 * 256


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    root = _masks(tmp_path / "set")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="cannot be written"):
        check(root, out=tmp_path / "file" / "sheet.png")


def test_the_sheet_goes_into_no_run(tmp_path: Path) -> None:
    root = _masks(tmp_path / "set")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is the folder of a run"):
        check(root, out=tmp_path)


def test_the_sheet_takes_the_place_of_no_image(tmp_path: Path) -> None:
    photo = tmp_path / "a" / "1.png"
    _photo(photo, 1)
    _photo(tmp_path / "b" / "2.png", 2)
    before = photo.read_bytes()
    with pytest.raises(UsageError, match=r"1\.png: an image of the data set"):
        check(tmp_path, out=photo)
    assert photo.read_bytes() == before


def test_the_text_for_people_shows_names_as_they_are(tmp_path: Path) -> None:
    for i, name in enumerate(("[red]a[b]", "<b>b")):
        _photo(tmp_path / name / "1.jpg", i)
    (tmp_path / "loose.jpg").write_bytes(b"")
    text = in_words(check(tmp_path))
    assert "[red]a[b]" in text
    assert "<b>b" in text
    assert "refused: 1" in text
    assert "loose.jpg: not in a class folder" in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.shared
def test_real_sets(shared_data: Path) -> None:
    nuclei = check(shared_data / "dsb2018_nuclei")
    assert (nuclei["images"], nuclei["refused"]) == (120, [])
    assert nuclei["objects"] == sum(row["objects"] for row in nuclei["per_class"].values())
    scenes = check(shared_data / "miml_scenes")
    assert [row["objects"] for row in scenes["per_class"].values()] == [164, 180, 232, 178, 226]


def test_labels_that_the_task_leaves_aside_are_named_with_their_task(tmp_path: Path) -> None:
    def joints(content: dict[str, Any]) -> None:
        content["categories"][0]["keypoints"] = ["head", "tail"]
        for row in content["annotations"]:
            row["keypoints"] = [6, 7, 2, 9, 9, 2]

    root = coco(joints)(tmp_path / "set")
    result = check(root)
    assert (result["task"], list(result["other_tasks"])) == ("detect", ["pose"])
    assert "objects also have joints: --task pose reads them" in in_words(result)
    assert check(root, "pose")["other_tasks"] == {}
    other = voc("")(tmp_path / "voc")
    for name in ("JPEGImages", "SegmentationClass"):
        _photo(other / name / "0.png", 0)
    assert check(other)["other_tasks"] == {"segment": "the folder also holds class maps"}
