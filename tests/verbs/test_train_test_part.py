"""The test part of a data set stays a test: nothing is chosen by it, and it is scored once, at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import saccade
from saccade.verbs import train as training

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
SMALL: dict[str, Any] = {"batch": 8, "workers": 0, "width": 4, "depths": [1, 1, 1], "precision": "fp32"}


@pytest.fixture
def with_test(colours: Path, tmp_path: Path) -> Path:
    """Train and test, no val."""
    root = tmp_path / "set"
    shutil.copytree(colours, root)
    (root / "val").rename(root / "test")
    return root


def test_the_test_part_is_scored_once_and_chooses_nothing(
    with_test: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[set[str]] = []
    score = training.score

    def watched(predictor: Any, dataset: Any, records: Any, *more: Any, **words: Any) -> Any:
        looked_at.append({str(record.split) for record in records})
        return score(predictor, dataset, records, *more, **words)

    monkeypatch.setattr(training, "score", watched)
    result = saccade.train("resnet20", with_test, out=tmp_path / "run", progress=False, epochs=4, **SMALL)
    assert looked_at.count({"test"}) == 1
    assert looked_at[-1] == {"test"}
    assert all(splits == {"val"} for splits in looked_at[:-1])
    assert (result["split"], result["images"], result["test"]["images"]) == ("val", 8, 10)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test"] == result["test"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["images"] == {"train": 32, "val": 8, "test": 10}
    same = saccade.evaluate(tmp_path / "run", with_test, split="test", precision="fp32")
    assert same["metrics"]["top1"] == result["test"]["metrics"]["top1"]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "10 test images, which were looked at once" in page
    assert "Scores on the test images" in page


def test_the_command_line_tells_both_parts_apart(with_test: Path, tmp_path: Path, shell: Shell) -> None:
    flags = ["--epochs", 1, "--batch", 8, "--workers", 0, "--set", "width=4", "--set", "depths=[1,1,1]"]
    code, out, err = shell("train", "resnet20", with_test, *flags, "--out", tmp_path / "run")
    assert code == 0, err
    assert "8 validation images, which chose the checkpoint" in out
    assert "10 test images, scored once" in out
    assert "8 pictures of train are held out to choose the checkpoint" in err
    code, out, _ = shell("check", with_test)
    assert code == 0
    assert "train: 40 pictures to learn from, but for those held out" in out
    assert "test: 10 pictures, scored once at the end" in out


def test_nothing_held_out_leaves_the_last_weights(with_test: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = saccade.train("resnet20", with_test, out=run, progress=False, epochs=2, holdout=0, **SMALL)
    assert result["metrics"] == {}
    assert result["checkpoint"] == str(run / "last.safetensors")
    assert result["test"]["images"] == 10


def test_a_test_part_without_labels_is_left_alone(tmp_path: Path) -> None:
    from saccade.data.scenes import write_scenes

    write_scenes(tmp_path / "boxes", "detect", 30, seed=0)
    (tmp_path / "boxes" / "val").rename(tmp_path / "boxes" / "test")
    annotations = tmp_path / "boxes" / "annotations"
    found = json.loads((annotations / "instances_val.json").read_text())
    (annotations / "instances_val.json").unlink()
    (annotations / "instances_test.json").write_text(json.dumps(found | {"annotations": []}))
    tiny: dict[str, Any] = {"size": 64, "batch": 8, "trunk_width": 4, "channels": 8, "workers": 0, "precision": "fp32"}
    result = saccade.train("atss_small", tmp_path / "boxes", out=tmp_path / "run", epochs=1, progress=False, **tiny)
    assert "test" not in result
