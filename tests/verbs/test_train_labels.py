"""Training of labels and tags end to end: losses by name, blended images, balance, tuned thresholds, crops."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import saccade
from corpus import coco
from saccade import checkpoint
from saccade.data.types import Batch
from saccade.errors import ModelFileError, UsageError
from saccade.training.mixup import mix
from saccade.training.plan import make_plan
from saccade.training.state import read_config, write_config

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
SMALL: dict[str, Any] = {"batch": 8, "workers": 0, "width": 4, "depths": [1, 1, 1], "precision": "fp32"}
EVERYTHING: dict[str, Any] = {
    "mixup": 0.4,
    "cutmix": 1.0,
    "mix_probability": 0.8,
    "policy": "trivialaugment",
    "lighting": 0.1,
    "repeat_threshold": 0.7,
    "loss": "focal",
    "class_balance": "effective",
    "optimizer": "rmsprop",
    "lr": 0.002,
}


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 px images with the tags red, blue and (rare) bright, which are so."""
    root = tmp_path_factory.mktemp("tags")
    rng = np.random.default_rng(0)
    rows = ["image,split,red,blue,bright"]
    for i in range(48):
        held = [int(i % 2), int(i % 4 > 1), int(i % 6 == 0)]
        pixels = rng.integers(0, 60, (32, 32, 3), np.uint8)
        pixels[..., 0] += 90 * held[0]
        pixels[..., 2] += 90 * held[1]
        pixels += 90 * held[2]
        Image.fromarray(pixels).save(root / f"{i}.png")
        rows.append(f"{i}.png,{'val' if i >= 36 else 'train'},{','.join(map(str, held))}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def test_tags_that_all_images_share_are_refused(tags: Path, tmp_path: Path, shell: Shell) -> None:
    for i in range(8):
        shutil.copy(tags / f"{i}.png", tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("image,red,blue\n" + "".join(f"{i}.png,1,0\n" for i in range(8)))
    code, _, err = shell("train", "resnet20", tmp_path, "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "training images have the same tags (red), with nothing to tell apart" in err
    assert not (tmp_path / "run").exists()


def test_tags_by_warp_with_thresholds_of_their_own(tags: Path, tmp_path: Path, shell: Shell) -> None:
    run = tmp_path / "run"
    settings = SMALL | {"epochs": 14, "loss": "warp", "class_balance": "inverse", "lr": 0.05, "color": 0.0}
    result = saccade.train("resnet20", tags, out=run, progress=False, **settings)
    assert result["metrics"]["mean_ap"]["value"] > 0.9
    assert result["metrics"]["precision"]["value"] > 0.7  # ranks alone would say nothing of 0.5
    objective = json.loads((run / "config.json").read_text())["config"]["objective"]
    assert objective["loss"] == "warp"
    state = checkpoint.load(run / "best.safetensors")
    assert dict(zip(state.classes, objective["class_weights"], strict=True)) == {"red": 1, "blue": 1, "bright": 5}
    assert [row["threshold"] for row in result["per_class"]] == pytest.approx(state.thresholds)
    predictor = saccade.load(run, precision="fp32")
    answer = predictor.predict(tags / "47.png")
    assert answer.tags is not None
    assert answer.probabilities is not None
    assert answer.tags.tolist() == [
        s >= t for s, t in zip(answer.probabilities.tolist(), state.thresholds, strict=True)
    ]
    (shown,) = saccade.predict(run, tags / "47.png", precision="fp32")
    assert [tag["name"] for tag in shown["tags"]] == [n for n, t in zip(state.classes, answer.tags, strict=True) if t]
    assert len(saccade.predict(run, tags / "47.png", threshold=0.0)[0]["tags"]) == 3
    code, out, _ = shell("evaluate", run, tags, "--crops", 10, "--workers", 0, "--json")
    assert code == 0
    assert json.loads(out)["crops"] == 10
    assert json.loads(out)["metrics"]["mean_ap"]["value"] > 0.9
    code, out, err = shell("evaluate", run, tags, "--crops", 7)
    assert (code, out) == (2, "")
    assert "crops is 7, allowed: 1, 2, 10, 144" in err
    state.thresholds = [0.5]
    checkpoint.save(state, tmp_path / "bad.safetensors")
    with pytest.raises(ModelFileError, match="1 thresholds for 3 classes"):
        saccade.load(tmp_path / "bad.safetensors")


def test_a_run_with_everything_goes_on_exactly(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SMALL | EVERYTHING | {"epochs": 3, "save_every": 0}
    saccade.train("resnet20", colours, out=tmp_path / "alone", progress=False, **settings)

    def stop(batch: Batch, settings: Any, step: int, progress: float, rank: int) -> Batch:
        if step == 8:  # in the middle of the second epoch
            raise RuntimeError("power cut")
        return mix(batch, settings, step, progress, rank)

    monkeypatch.setattr("saccade.verbs.train.mix", stop)
    with pytest.raises(RuntimeError, match="power cut"):
        saccade.train("resnet20", colours, out=tmp_path / "cut", progress=False, **settings)
    monkeypatch.undo()
    saccade.train("resnet20", colours, out=tmp_path / "cut", progress=False, resume=True)
    alone, cut = (checkpoint.load(tmp_path / name / "last.safetensors").weights for name in ("alone", "cut"))
    assert checkpoint.digest(alone) == checkpoint.digest(cut)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"loss": "warp"}, r"loss=warp is not for classify; allowed: cross_entropy, hinge, focal"),
        ({"loss": "huber"}, r"loss of model resnet20 is 'huber': allowed: cross_entropy, hinge"),
        ({"objective": "hinge"}, r"unknown setting 'objective'"),
        ({"policy": "autoaugment"}, r"policy is 'autoaugment', allowed: none, randaugment, trivialaugment"),
    ],
)
def test_settings_that_do_not_fit_are_refused(colours: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan("resnet20", colours, flags=flags)


def test_what_is_for_labels_is_refused_for_objects(tmp_path: Path) -> None:
    data = coco()(tmp_path / "data")
    for flags, message in (
        ({"mixup": 0.2}, r"mixup=0.2 leaves one image of most pairs too faint.*for detect at least 1, such as 8"),
        ({"cutmix": 1.0}, r"cutmix blends"),
        ({"loss": "focal"}, r"loss is a setting of models that classify, tag or localize"),
        ({"class_balance": "inverse"}, r"class_balance is a setting of models that classify, tag or localize"),
    ):
        with pytest.raises(UsageError, match=message):
            make_plan("atss_small", data, flags=flags)


def test_the_digit_networks_with_their_own_criteria_take_no_other_loss(colours: Path) -> None:
    with pytest.raises(UsageError, match="lenet5_modern, or loss=cross_entropy"):
        make_plan("lenet5", colours, flags={"loss": "hinge"})
    assert make_plan("lenet5_modern", colours, flags={"loss": "hinge"}).config.objective.loss == "hinge"


def test_a_run_whose_loss_was_a_setting_goes_on(colours: Path, tmp_path: Path) -> None:
    """In run folders of version 0.1 what is now of the objective stands among the settings."""
    run, names = tmp_path / "run", ("loss", "focal_gamma", "label_smoothing", "class_balance", "effective_beta")
    flags: dict[str, Any] = SMALL | {"loss": "focal", "focal_gamma": 1.0, "class_balance": "inverse"}
    saccade.train("resnet20", colours, out=run, progress=False, epochs=1, **flags)
    stored = read_config(run)
    objective = stored["config"]["objective"]
    for name in (*names, "tune_thresholds"):
        stored["settings"][name] = objective[name]
        stored["origins"].setdefault(name, "default")
    for name in ("class_balance", "effective_beta", "tune_thresholds"):
        del objective[name]
    write_config(run, stored)
    with pytest.raises(UsageError, match=r"cannot change class_balance \(inverse in the run, none now\)"):
        saccade.train("resnet20", colours, out=run, resume=True, progress=False, class_balance="none")
    saccade.train("resnet20", colours, out=run, resume=True, progress=False, epochs=2, loss="focal")
    now = read_config(run)
    assert set(names) & set(now["settings"]) == set()
    assert {name: now["config"]["objective"][name] for name in ("loss", "focal_gamma", "class_balance")} == {
        "loss": "focal",
        "focal_gamma": 1.0,
        "class_balance": "inverse",
    }
    assert now["config"]["objective"]["class_weights"] == objective["class_weights"]
    assert (now["origins"]["loss"], "label_smoothing" in now["origins"]) == ("flag", True)
    assert "loss=" in (run / "report.html").read_text()
