"""Every segmenter learns four pictures by heart through `saccade train`: mean IoU above 0.95.

In `make test-slow` alone, as `test_overfit.py` for detectors. The pictures are parts of street scenes at their full
size, poles and signs included. Networks whose answers come from a coarse map cannot draw all of these; what a map at
their stride says of the truth is found by `reachable`, and they must learn as much.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import saccade
from saccade.data.types import IGNORE
from saccade.metrics.segmentation import class_iou, count_pixels

IMAGES = 4
# Nothing varies, and the weights that are asked are those of the last step.
STILL: dict[str, Any] = {
    "flip": 0,
    "flip_vertical": 0,
    "transpose": 0,
    "jitter": 0,
    "color": 0,
    "ema": 0,
    "workers": 0,
    "batch": IMAGES,
    "balance": 0,
}
SMALL: dict[str, dict[str, Any]] = {
    "patch_small": {
        "stages": ((32, 5, 2), (64, 3, 2), (128, 3, 1)),
        "hidden": (256,),
        "windows": 512,
        "balance": 0.25,
        "lr": 0.004,
        "epochs": 500,
    },
    "fcn32s_small": {"dropout": 0.0},
    "fcn16s_small": {"dropout": 0.0},
    "fcn8s_small": {"dropout": 0.0},
    "fcn_resnet50": {"trunk_width": 16, "trunk_depths": (1, 1, 1, 1), "lr": 0.003, "epochs": 300},
    "deconvnet_small": {"epochs": 1100},
    "segnet_small": {"epochs": 900},
    "unet": {},
    "unet_light": {},
}
STRIDES = {"fcn32s_small": 32, "fcn16s_small": 16, "fcn8s_small": 8, "fcn_resnet50": 8}


def reachable(maps: list[np.ndarray], classes: int, stride: int) -> float:
    """The mean IoU of what a map of scores at a stride can say: the share of each class in cells of `stride` pixels,
    enlarged bilinearly, with the truth itself as the answer."""
    counts = np.zeros((classes, classes + 1), np.int64)
    for truth in maps:
        labels = torch.from_numpy(truth.astype(np.int64))
        shares = F.one_hot(labels.masked_fill(labels == IGNORE, classes), classes + 1)[..., :classes]
        shares = shares.permute(2, 0, 1)[None].float()
        cells = F.avg_pool2d(shares, stride, ceil_mode=True)
        drawn = F.interpolate(cells, scale_factor=stride, mode="bilinear")[0, :, : truth.shape[0], : truth.shape[1]]
        counts += count_pixels(truth, drawn.argmax(0).numpy().astype(np.uint8), classes)
    return float(np.nanmean(class_iou(counts)))


def learned(name: str, data: Path, out: Path) -> float:
    """Mean IoU on the pictures that a network was trained on."""
    settings = {"epochs": 250, "size": (96, 128)} | STILL | SMALL[name]
    run = saccade.train(name, data, out=out, progress=False, **settings)
    return float(run["metrics"]["mean_iou"]["value"])


@pytest.fixture
def streets(shared_data: Path, tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    """The middle of four street scenes as train and val, and their class maps."""
    source, maps = shared_data / "camvid", []
    names = sorted(path.stem for path in (source / "train").glob("*.jpg"))[:: 367 // IMAGES][:IMAGES]
    for number, name in enumerate(names):
        image = np.asarray(Image.open(source / "train" / f"{name}.jpg").convert("RGB"))[150:246, 120:248]
        truth = np.asarray(Image.open(source / "trainannot" / f"{name}.png"))[150:246, 120:248]
        for part in ("train", "val"):
            for folder, pixels in ((part, image), (f"{part}annot", truth)):
                (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{number}.png")
        maps.append(np.where(truth == 11, IGNORE, truth).astype(np.uint8))
    return tmp_path / "data", maps


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("name", SMALL)
def test_four_street_scenes_are_learned_by_heart(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streets: tuple[Path, list[np.ndarray]]
) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    data, maps = streets
    floor = min(0.95, reachable(maps, 11, STRIDES[name])) if name in STRIDES else 0.95
    assert learned(name, data, tmp_path / "run") > floor
