"""Small data sets of made pictures, always the same: squares to detect, class maps of noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def write_squares(root: Path, counts: Mapping[str, int]) -> Path:
    """YOLO: pictures of 64 x 64 pixels with a bright square each, so many of each split. Returns `root`."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 80, (64, 64, 3), np.uint8)
            x, y = rng.integers(0, 40, 2)
            pixels[y : y + 24, x : x + 24] = 220
            Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
            middle = f"{(x + 12) / 64} {(y + 12) / 64} {24 / 64} {24 / 64}"
            (root / "labels" / split / f"{i}.txt").write_text(f"0 {middle}\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [square]\n")
    return root


def write_noise_maps(root: Path, counts: Mapping[str, int], size: tuple[int, int]) -> Path:
    """Pictures of `size` (height, width) with class maps of two values, all of them noise. Returns `root`."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(root / "images" / split / f"{i}.png")
            Image.fromarray(rng.integers(0, 2, size, np.uint8)).save(root / "masks" / split / f"{i}.png")
    return root
