"""Segmentation from pictures and masks as they come: gray, 16 bits, empty, of the wrong size, with foreign values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import saccade
from saccade.data.rle import decode_rle


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright squares in gray pictures of 8 bits, of 16 bits, and in RGB; masks empty, full, three bad."""
    root = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    (root / "classes.txt").write_text("background\nsquare\n")
    for i in range(15):
        mask = np.zeros((48, 64), np.uint8)
        if i not in (3, 7):
            y, x = rng.integers(0, 24), rng.integers(0, 40)
            mask[y : y + 20, x : x + 20] = 1
        if i == 4:
            mask[:] = 1
        gray = 40 + 150 * mask + rng.integers(0, 30, mask.shape).astype(np.uint8)
        picture = [gray, gray.astype(np.uint16) * 257, np.repeat(gray[..., None], 3, 2)][i % 3]
        Image.fromarray(picture).save(root / "images" / f"{i:02}.png")
        if i == 12:
            mask = mask[:, :60]
        if i == 13:
            mask[5, 6] = 9
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
    (root / "masks" / "14.png").write_bytes(b"no picture")
    return root


def test_from_mixed_pictures_to_answers(
    mixed: Path, tmp_path: Path, shell: Callable[..., tuple[int, str, str]]
) -> None:
    """What is bad is refused by name and reason, the rest is learnt, and bits and channels make no difference."""
    code, out, _ = shell("check", mixed, "--json")
    refused = {entry["where"]: entry["why"] for entry in json.loads(out)["refused"]}
    assert code == 0
    assert refused["masks/12.png"] == "the mask is 48 x 60 pixels (height x width), its image is 48 x 64"
    assert refused["masks/13.png"].startswith("value 9 (1 pixels) is no class; allowed: 0..1, 255 to ignore")
    assert "cannot be read" in refused["masks/14.png"]
    words = ["--set", "width=4", "--set", "levels=2", "--size", 32, "--batch", 4, "--epochs", 12, "--set", "lr=0.02"]
    made = tmp_path / "run"
    code, _, err = shell("train", "unet", mixed, *words, "--workers", 0, "--out", made)
    assert code == 0, err
    assert "refused: 3 images and 3 labels" in err
    rgb = mixed / "images" / "02.png"
    pixels = np.array(Image.open(rgb))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    answers = saccade.predict(made, [rgb, tmp_path / "gray.png", tmp_path / "deep.png"], precision="fp32", workers=0)
    assert answers[0]["mask"] == answers[1]["mask"] == answers[2]["mask"]
    truth = np.array(Image.open(mixed / "masks" / "02.png")) == 1
    found = decode_rle(answers[0]["mask"]["square"]["rle"])
    assert (found & truth).sum() / (found | truth).sum() > 0.6


def test_a_mask_that_changes_its_size_later(mixed: Path, tmp_path: Path) -> None:
    """Between reading and training: the error names mask, image and both sizes."""
    import shutil

    from saccade.data.formats import read
    from saccade.data.truth import read_truth
    from saccade.errors import DataError

    shutil.copytree(mixed, tmp_path / "data")
    dataset = read(tmp_path / "data")
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(tmp_path / "data" / "masks" / "00.png")
    record = next(record for record in dataset.records if record.id.endswith("00.png"))
    with pytest.raises(DataError, match=r"masks/00.png: the mask is 10 x 10 \(height x width\), its image .* 48 x 64"):
        read_truth(record, dataset, "segment")


def test_nothing_but_background(tmp_path: Path, shell: Callable[..., tuple[int, str, str]]) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(4):
        Image.fromarray(np.full((40, 40, 3), 20 * i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    (tmp_path / "classes.txt").write_text("background\nsquare\n")
    code, _, err = shell("train", "unet", tmp_path, "--out", tmp_path / "run")
    assert code == 3
    assert "nothing to tell apart" in err
