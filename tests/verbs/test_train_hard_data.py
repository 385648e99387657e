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


NAMES = [name for name in HOSTILE_NAMES if len(name) < 100][:COUNT]
CORRUPT = {
    5: 20,
    6: 700,
}  # index of a picture -> bytes that are left of it: one has no header, one is cut in its pixels


def _pictures(root: Path) -> None:
    """Twenty pictures to train on, two of them corrupt, under hostile names; four for validation."""
    for i, name in enumerate(NAMES):
        put(root / "images/train" / name, encoded(pixels(i, (SIDE, SIDE)))[: CORRUPT.get(i)])
    for i in range(4):
        put(root / f"images/val/{i}.png", encoded(pixels(100 + i, (SIDE, SIDE))))


def _boxes(root: Path) -> Path:
    _pictures(root)
    for i, name in enumerate(NAMES):
        put(root / "labels/train" / name.replace(".png", ".txt"), _rows(i))
    for i in range(4):
        put(root / f"labels/val/{i}.txt", "" if i == 0 else "0 .3 .3 .4 .4\n")
    put(root / "data.yaml", "names: [cat, dog]\ntrain: images/train\nval: images/val\n")
    return root


def _maps(root: Path) -> Path:
    """Class maps: all background, all void, single pixels, stripes."""
    _pictures(root)
    for split, names in (("train", NAMES), ("val", [f"{i}.png" for i in range(4)])):
        for i, name in enumerate(names):
            plane = np.zeros((SIDE, SIDE), np.uint8)
            if i % 4 == 0:
                plane[i, i], plane[-1, -1] = 1, 2
            elif i % 4 == 1:
                plane[:] = 255
            elif i % 4 == 3:
                plane[::3] = 1
            put(root / "masks" / split / name, encoded(plane))
    put(root / "classes.txt", "soil\nplant\nweed\n")
    return root


def _classes(root: Path) -> Path:
    for i, name in enumerate(NAMES):
        size = {1: (1, 1), 2: (1, 2000), 3: (300, 2)}.get(i, (SIDE, SIDE))
        put(root / "train" / f"<b>{i % 2}" / name, encoded(pixels(i, size))[: CORRUPT.get(i)])
    for i in range(4):
        put(root / "val" / f"<b>{i % 2}" / f"{i}.png", encoded(pixels(100 + i, (SIDE, SIDE))))
    return root


TRAININGS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "atss_small": (_boxes, ["trunk_width=8", "channels=16"]),
    "faster_rcnn_small": (_boxes, ["trunk_width=8", "channels=16", "head_width=32"]),
    "unet": (_maps, ["width=4", "levels=2"]),
    "resnet20": (_classes, ["width=4", "depths=[1,1,1]"]),
}


@pytest.mark.parametrize("model", TRAININGS)
def test_training_on_hard_data(model: str, tmp_path: Path, shell: Shell) -> None:
    """No crash, no NaN, and every picture and label accounted for, by `check` and by the run alike."""
    build, changes = TRAININGS[model]
    data, run = build(tmp_path / "data"), tmp_path / "run"
    code, out, err = shell("check", data, "--json")
    assert code == 0, err
    ledger = json.loads(out)
    assert ledger["images"] == COUNT - len(CORRUPT) + 4
    pictures = [name for entry in ledger["refused"] if (name := Path(entry["where"]).name).endswith(".png")]
    assert sorted(pictures) == sorted(NAMES[i] for i in CORRUPT)
    if build is _boxes:
        kept = sum(_rows(i).count("\n") for i in range(COUNT) if i not in CORRUPT) + 3
        assert ledger["used"] == {"images": 22, "labels": kept}
    words = ["--size", 64, "--batch", 9, "--epochs", 2, "--workers", 0, "--precision", "fp32"]
    more = [word for change in changes for word in ("--set", change)]
    code, _, err = shell("train", model, data, "--out", run, *words, *more)
    assert code == 0, err
    report = json.loads((run / "data_report.json").read_text())
    assert {e["where"] for e in report["refused"]} == {e["where"] for e in ledger["refused"]}
    assert report["used"] == ledger["used"]
    assert "refused: 2 images" in err
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4
    assert all(math.isfinite(value) for row in rows for value in row["losses"].values())
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert all(m["value"] is None or 0 <= m["value"] <= 1 for m in metrics.values())


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
