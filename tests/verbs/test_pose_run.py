"""Poses from data to answers: the names of joints travel from the files through the checkpoint into every answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

import saccade
from saccade.data.joints import LSP
from saccade.errors import DataError
from saccade.verbs.explain import explain
from saccade.verbs.predict import predict

TINY = {"trunk_width": 8, "channels": 8, "head_width": 16, "head_sample": 16, "joint_width": 8, "joint_depth": 1}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of LSP's form, joints as bright points."""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    joints = np.ones((14, 3, 10))
    (root / "images").mkdir()
    for i in range(10):
        picture = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        joints[:, :2, i] = rng.uniform(12, 52, (14, 2))
        for x, y in joints[:, :2, i].astype(int):
            picture[y - 1 : y + 2, x - 1 : x + 2] = 250
        Image.fromarray(picture).save(root / "images" / f"im{i + 1:04d}.png")
    scipy.io.savemat(root / "joints.mat", {"joints": joints})
    return root


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pose") / "run"
    saccade.train("keypoint_rcnn_small", people, out=out, epochs=1, batch=4, size=64, device="cpu", workers=0, **TINY)
    return out


def test_training_evaluation_and_answers(people: Path, run: Path, tmp_path: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert (config["task"], config["config"]["joints"]) == ("pose", 14)
    scores = saccade.evaluate(run, people, split="all", bootstrap=0, out=tmp_path / "report")
    assert {"oks_ap", "pck", "pckh", "ap"} <= set(scores["metrics"])
    assert "Joint by joint" in (tmp_path / "report" / "report.html").read_text()
    again = saccade.evaluate(tmp_path / "report" / "coco_results.json", people, split="all", bootstrap=0)
    assert again["metrics"]["oks_ap"]["value"] == pytest.approx(scores["metrics"]["oks_ap"]["value"], abs=1e-6)
    answer = saccade.load(run, "cpu").predict(people / "images" / "im0001.png")
    assert answer.joints == LSP
    assert answer.objects is not None
    assert answer.objects.keypoints is not None
    assert answer.objects.keypoints.shape[1:] == (14, 3)
    rows = predict(run, people / "images" / "im0001.png", out=tmp_path / "drawn", threshold=0.0, device="cpu")
    assert rows[0]["joints"]["names"] == list(LSP.names)
    assert len(rows[0]["objects"]["keypoints"][0]) == 14


def test_joints_of_other_data_are_refused(people: Path, run: Path, tmp_path: Path) -> None:
    names = [f"j{i}" for i in range(14)]
    rows = {f"im{i + 1:04d}.png": [[10 + i, 20 + 2 * k, 1] for k in range(14)] for i in range(3)}
    (tmp_path / "images").mkdir()
    for name in rows:
        Image.open(people / "images" / name).save(tmp_path / "images" / name)
    (tmp_path / "joints.json").write_text(json.dumps({"joint_names": names, "images": rows}))
    with pytest.raises(DataError, match=r"14 joints \(j0, j1, j2, j3, ...\) are not those of the prediction"):
        saccade.evaluate(run, tmp_path, split="all", bootstrap=0)


def test_what_the_confidence_of_a_joint_hangs_on(
    people: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.tasks.detect.SMALLEST_SCORE", 0.0)
    monkeypatch.setattr("saccade.explanations.occlusion.SHARE", 2)  # nine patches
    found = explain(run, [people / "images" / "im0001.png"], top=2, out=tmp_path / "why", methods=["occlusion"])
    explained = found["images"][0]["explained"]
    assert len(explained) == 2
    assert explained[0]["name"].removeprefix("person: ") in LSP.names
