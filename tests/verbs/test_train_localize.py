"""The task localize from the command line: train, evaluate, predict, report, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import saccade
from saccade.errors import UsageError
from saccade.training.plan import make_plan

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
SMALL = {"trunk_width": 8, "reduced": 16, "box_hidden": [32], "size": 64, "workers": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YOLO: a bright red or blue square each, some with a second object; 12 to train on, 4 to validate, one empty."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    for split, count in (("train", 13), ("val", 4)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(90, 140, (60, 80, 3), np.uint8)
            side, label = 30, i % 2
            x, y = int(rng.integers(0, 80 - side)), int(rng.integers(0, 60 - side))
            pixels[y : y + side, x : x + side] = (250, 20, 20) if label == 0 else (20, 20, 250)
            Image.fromarray(pixels).save(root / "images" / split / f"{i:02}.png")
            row = f"{label} {(x + side / 2) / 80} {(y + side / 2) / 60} {side / 80} {side / 60}\n"
            text = "" if i == 12 else row + ("0 .5 .5 .1 .1\n" if i % 3 == 0 else "")
            (root / "labels" / split / f"{i:02}.txt").write_text(text)
    (root / "data.yaml").write_text("names: [red, blue]\ntrain: images/train\nval: images/val\n")
    return root


def test_from_data_to_pictures(data: Path, tmp_path: Path, shell: Shell) -> None:
    run = tmp_path / "run"
    flags = ["--set", "trunk_width=8", "--set", "reduced=16", "--set", "box_hidden=[32]", "--size", 64, "--workers", 0]
    words = ["train", "localizer_small", data, "--out", run, "--epochs", 2, "--batch", 4, "--precision", "fp32"]
    code, _, err = shell(*words, *flags)  # boxes are read to localize without being told
    assert code == 0, err
    printed = " ".join(err.split())
    assert "6 of 17 images have several, 6 objects are left aside" in printed
    assert "1 of 17 images have none and are refused" in printed
    assert json.loads((run / "config.json").read_text())["images"] == {"train": 12, "val": 4}
    assert "IoU 0.5" in (run / "report.html").read_text(encoding="utf-8")
    assert (run / "best.safetensors").is_file()

    found = saccade.evaluate(run, data, split="all", out=tmp_path / "evaluation", workers=0)
    assert found["images"] == 16
    wanted = {"localization_top1", "localization_top5", "box_accuracy", "mean_iou", "top1", "mean_accuracy"}
    assert set(found["metrics"]) == wanted
    assert found["metrics"]["localization_top1"]["value"] <= found["metrics"]["top1"]["value"]

    answers = saccade.predict(run, data / "images" / "val", out=tmp_path / "pictures", workers=0)
    for answer in answers:
        assert set(answer) == {"image", "size", "label", "scores", "objects"}
        assert answer["objects"]["names"] == [answer["label"]]
        (box,) = answer["objects"]["boxes"]
        assert 0 <= box[0] <= box[2] <= 80
        assert 0 <= box[1] <= box[3] <= 60
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4


def test_check_says_what_the_task_takes(data: Path, shell: Shell) -> None:
    code, out, _ = shell("check", data, "--task", "localize", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["task"], found["images"], found["objects"]) == ("localize", 16, 16)
    assert [row["where"] for row in found["refused"]] == ["images/train/12.png"]
    assert any("6 objects are left aside" in warning for warning in found["warnings"])


def test_what_does_not_fit_is_refused(data: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    for words, message in (
        ([colours], "localizer_small serves localize"),
        ([colours, "--task", "localize"], "needs boxes with classes"),
        ([data, "--task", "detect"], "cannot be trained to detect"),
        ([data, "--set", "mosaic=0.5"], "mosaic composes four images"),
        ([data, "--set", "resize=crop"], "letterbox and stretch"),
        ([data, "--set", "mixup=0.2"], "mixup blends labels, or joins"),
        ([data, "--set", "loss=warp"], "loss=warp is not for localize"),
        ([data, "--set", "box_loss=iou"], "box_loss of model localizer_small is 'iou': allowed: l1, l2, smooth_l1"),
    ):
        code, _, err = shell(
            "train", "localizer_small", *words, "--out", tmp_path / "run", "--workers", 0, "--epochs", 1
        )
        assert code == 2, (words, err)
        assert message in " ".join(err.split()), err
    assert not (tmp_path / "run").exists()


def test_classes_are_weighed_by_the_main_objects(data: Path) -> None:
    plan = make_plan("localizer_small", data, flags={"class_balance": "inverse"} | SMALL)
    assert plan.task == "localize"
    assert plan.config.objective.class_weights == (1.0, 1.0)  # six images of each, whatever else they show
    with pytest.raises(UsageError, match="mosaic"):
        make_plan("localizer_small", data, flags={"mosaic": 1.0})
