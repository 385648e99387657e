"""Training on what real folders hold: corrupt pictures, pictures without objects, one-pixel boxes, crowds of boxes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corpus import HOSTILE_NAMES, encoded, pixels, put

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
SIDE, COUNT = 96, 20


def _rows(i: int) -> str:
    """The label file of picture i: 400 objects, one-pixel objects, none, or two plain ones."""
    if i == 3:
        return "".join(f"{j % 2} {(j % 20 + 0.5) / 20} {(j // 20 + 0.5) / 20} .04 .04\n" for j in range(400))
    if i % 4 == 1:
        return "".join(f"0 {(x + 0.5) / SIDE} {(x + 0.5) / SIDE} {1 / SIDE} {1 / SIDE}\n" for x in (0, 40, SIDE - 1))
    return "" if i % 4 == 2 else "0 .3 .3 .4 .4\n1 .7 .7 .3 .5\n"


def _build(root: Path) -> Path:
    """Twenty pictures to train on, two of them corrupt, under hostile names; four for validation."""
    names = [name for name in HOSTILE_NAMES if len(name) < 100][:COUNT]
    for i, name in enumerate(names):
        whole = encoded(pixels(i, (SIDE, SIDE)))
        put(root / "images/train" / name, whole if i not in (5, 6) else whole[:20])
        put(root / "labels/train" / name.replace(".png", ".txt"), _rows(i))
    for i in range(4):
        put(root / f"images/val/{i}.png", encoded(pixels(100 + i, (SIDE, SIDE))))
        put(root / f"labels/val/{i}.txt", "" if i == 0 else "0 .3 .3 .4 .4\n")
    put(root / "data.yaml", "names: [cat, dog]\ntrain: images/train\nval: images/val\n")
    return root


def test_a_detector_trains_on_hard_data(tmp_path: Path, shell: Shell) -> None:
    data, run = _build(tmp_path / "data"), tmp_path / "run"
    code, out, err = shell("check", data, "--json")
    assert code == 0, err
    ledger = json.loads(out)
    assert (ledger["images"], len(ledger["refused"])) == (22, 2 + _labels_of_corrupt())
    expected = sum(_rows(i).count("\n") for i in range(COUNT) if i not in (5, 6)) + 3
    assert ledger["used"] == {"images": 22, "labels": expected}
    words = ["--size", 64, "--batch", 9, "--epochs", 1, "--workers", 0, "--precision", "fp32"]
    code, _, err = shell("train", "ssd_small", data, "--out", run, *words, "--set", "width=8", "--set", "channels=16")
    assert code == 0, err
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 2
    assert all(math.isfinite(value) for row in rows for value in row["losses"].values())
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert all(m["value"] is None or 0 <= m["value"] <= 1 for m in metrics.values())


def _labels_of_corrupt() -> int:
    return sum(_rows(i).count("\n") for i in (5, 6))


@pytest.mark.parametrize("model", ["resnet20"])
def test_one_picture_a_class_trains(model: str, tmp_path: Path, shell: Shell) -> None:
    """A last batch of one picture must not upset batch norm; a data set of two has nothing to validate on."""
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        put(tmp_path / "data" / name / "1.png", encoded(pixels(seed)))
    small = ["--set", "width=4", "--set", "depths=[1,1,1]", "--batch", 2, "--epochs", 1, "--workers", 0]
    code, _, err = shell("train", model, tmp_path / "data", "--out", tmp_path / "run", *small, "--precision", "fp32")
    assert code in (0, 3), err
    if code == 0:
        rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
        assert np.isfinite(rows[-1]["losses"]["classification"])
