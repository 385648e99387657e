from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.rle import decode_rle
from saccade.data.scenes import CLASSES, compose, material, write_scenes
from saccade.errors import UsageError


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_splits_share_no_digit_and_no_photograph_region() -> None:
    train, val = material("train"), material("val")
    assert len(train.digits) + len(val.digits) == 1797
    assert set(train.labels) == set(val.labels) == set(range(10))
    assert not {d.tobytes() for d in train.digits} & {d.tobytes() for d in val.digits}
    for left, right in zip(train.photographs, val.photographs, strict=True):
        assert left.shape[0] == right.shape[0]
        assert 0.68 < left.shape[1] / (left.shape[1] + right.shape[1]) < 0.72


def test_truth_of_a_scene_is_exact() -> None:
    """The digits change the pixels that their masks cover, and boxes touch the masks on all four sides."""
    stuff = material("train")
    for seed in range(5):
        scene = compose(stuff, np.random.default_rng(seed), 192, 6, (0.15, 0.33))
        assert len(scene.labels) >= 2
        assert np.sum(scene.masks, axis=0).max() == 1  # visible parts do not overlap
        for mask, (x1, y1, x2, y2) in zip(scene.masks, scene.boxes, strict=True):
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 30
            assert mask[y1].any()
            assert mask[y2 - 1].any()
            assert mask[:, x1].any()
            assert mask[:, x2 - 1].any()
            assert 20 <= y2 - y1 <= 80
            assert scene.image[mask].std(axis=0).mean() < 60  # one colour, apart from soft edges
        assert set(np.unique(scene.class_map)) == {0, *(1 + label for label in scene.labels)}


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_coco_files(task: str, tmp_path: Path) -> None:
    write_scenes(tmp_path / "a", task, 10, seed=1, size=96)  # type: ignore[arg-type]
    for split, count in (("train", 8), ("val", 2)):
        state = json.loads((tmp_path / "a" / "annotations" / f"instances_{split}.json").read_text())
        assert [c["name"] for c in state["categories"]] == list(CLASSES)
        assert len(state["images"]) == count
        for image in state["images"]:
            assert Image.open(tmp_path / "a" / split / image["file_name"]).size == (image["width"], image["height"])
        for annotation in state["annotations"]:
            mask = decode_rle(annotation["segmentation"])
            x, y, w, h = annotation["bbox"]
            assert mask[y : y + h, x : x + w].sum() == mask.sum() == annotation["area"]


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_scenes(tmp_path / name, "detect", 5, seed, 64)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert digest(tmp_path / "a") != digest(tmp_path / "c")


def test_class_folders(tmp_path: Path) -> None:
    write_scenes(tmp_path / "a", "classify", 40, seed=0)
    files = [p.relative_to(tmp_path / "a").parts for p in (tmp_path / "a").rglob("*.jpg")]
    assert sum(p[0] == "train" for p in files) == 32
    assert sum(p[0] == "val" for p in files) == 8
    assert {p[1] for p in files} <= set(CLASSES)


def test_class_maps(tmp_path: Path) -> None:
    write_scenes(tmp_path / "a", "segment", 5, seed=0, size=64)
    assert (tmp_path / "a" / "classes.txt").read_text().split() == ["background", "digit"]
    for path in (tmp_path / "a" / "images").rglob("*.jpg"):
        values = np.asarray(Image.open(tmp_path / "a" / "masks" / path.parent.name / f"{path.stem}.png"))
        assert values.shape == (64, 64)
        assert set(np.unique(values)) == {0, 1}


def test_wrong_arguments(tmp_path: Path) -> None:
    for task, images, size in (("pose", 10, 64), ("detect", 4, 64), ("detect", 10, 8)):
        with pytest.raises(UsageError):
            write_scenes(tmp_path / "a", task, images, 0, size)  # type: ignore[arg-type]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_scenes(tmp_path / "b", "detect", 10, 0)
