"""Systems of several stages, on two colours: VGG grown from A, a probe before the fit and one behind it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import saccade
from saccade import checkpoint
from saccade.errors import DataError, UsageError
from saccade.models import model_module
from saccade.models.backbones import resnet
from saccade.models.backbones.vgg import FIRST_FOUR, VARIANTS, grow, places, stages
from saccade.models.contract import recipe_of
from saccade.models.stage import Fit, Given, Solve, Stage
from saccade.solvers.probe import solve_probe
from saccade.training import stages as runner
from saccade.training.interrupt import Stopped
from saccade.training.state import STATE

TINY: dict[str, Any] = {"width": 2, "hidden": 4, "size": 32, "batch": 20, "workers": 0, "precision": "fp32"}
FLAGS = ["--recipe", "paper", "--precision", "fp32", "--size", "32", "--batch", "10", "--workers", "0"]
FLAGS += ["--set", "width=2", "--set", "hidden=4", "--set", "save_every=0"]


def _last(run: Path) -> dict[str, Tensor]:
    return checkpoint.load(run / "last.safetensors").weights


def test_a_grows_to_b_to_d_to_e() -> None:
    assert [s.model for s in stages("vgg19", "paper")] == ["vgg11", "vgg13", "vgg16", "vgg19"]
    assert [s.model for s in stages("vgg16", "paper")] == ["vgg11", "vgg13", "vgg16"]
    for name, recipe in (("vgg16", "default"), ("vgg16_bn", "paper"), ("vgg11", "paper")):
        assert [s.model for s in stages(name, recipe)] == [name]


def test_all_but_the_depths_carries_over() -> None:
    fields = {field.name for field in dataclasses.fields(VARIANTS["vgg11"])}
    of_trunks = {"tail"}  # no stage is one
    assert set(stages("vgg13", "paper")[0].carries or ()) == fields - {"depths"} - of_trunks


def test_places_are_the_public_numbers() -> None:
    assert list(places(VARIANTS["vgg11"].depths).values()) == [0, 3, 6, 8, 11, 13, 16, 18]
    assert list(places(VARIANTS["vgg16"].depths).values()) == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def test_a_hands_on_its_first_four_convolutions_and_the_fully_connected_layers() -> None:
    tensors = {
        f"features.{i}.{kind}": torch.tensor(i) for i in (0, 3, 6, 8, 11, 13, 16, 18) for kind in ("weight", "bias")
    }
    tensors |= {f"classifier.{i}.{kind}": torch.tensor(-i) for i in (0, 3, 6) for kind in ("weight", "bias")}
    handed = grow(VARIANTS["vgg11"].depths, VARIANTS["vgg13"].depths, FIRST_FOUR, tensors)
    weights = {name: int(value) for name, value in handed.items() if name.endswith("weight")}
    assert weights == {
        "features.0.weight": 0,  # conv1_1, conv2_1, conv3_1, conv3_2 of both
        "features.5.weight": 3,
        "features.10.weight": 6,
        "features.12.weight": 8,
        "classifier.0.weight": 0,
        "classifier.3.weight": -3,
        "classifier.6.weight": -6,
    }
    shapes = saccade.create("vgg13", width=2, hidden=4).state_dict()
    before = saccade.create("vgg11", width=2, hidden=4).state_dict()
    for name, value in grow(VARIANTS["vgg11"].depths, VARIANTS["vgg13"].depths, FIRST_FOUR, before).items():
        assert value.shape == shapes[name].shape


def test_stages_come_first_and_hand_on_their_weights(colours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = TINY | {"epochs": 1, "lr": 0.0, "dropout": 0.0}
    saccade.train("vgg16", colours, out=run, recipe="paper", progress=False, **settings)
    a, b = run / "stages" / "1-vgg11", run / "stages" / "2-vgg13"
    for folder, model, start in ((a, "vgg11", None), (b, "vgg13", a), (run, "vgg16", b)):
        stored = json.loads((folder / "config.json").read_text())
        assert stored["model"] == model
        assert stored["config"]["width"] == 2
        assert stored["config"]["depths"] == list(VARIANTS[model].depths)
        assert stored["weights"] == (None if start is None else str(start / "adopted.safetensors"))
        assert (folder / "metrics.json").is_file()
    first, second, final = _last(a), _last(b), _last(run)
    for old, new in ((0, 0), (3, 5), (6, 10), (8, 12)):  # at a rate of zero nothing has moved since net A
        assert torch.equal(first[f"features.{old}.weight"], second[f"features.{new}.weight"])
    for place, number in places(VARIANTS["vgg13"].depths).items():
        after = places(VARIANTS["vgg16"].depths)[place]
        assert torch.equal(second[f"features.{number}.weight"], final[f"features.{after}.weight"])
    for number in (0, 3, 6):
        assert torch.equal(first[f"classifier.{number}.weight"], final[f"classifier.{number}.weight"])
    assert not torch.equal(first["features.11.weight"], second["features.15.weight"])  # conv4_1 is not handed on
    # the same folder, without stages: nothing of them is left
    saccade.train("vgg11", colours, out=run, overwrite=True, recipe="paper", progress=False, **settings)
    assert not (run / "stages").exists()


def test_given_weights_stand_in_for_the_stages(colours: Path, tmp_path: Path) -> None:
    settings = TINY | {"epochs": 1, "lr": 0.0}
    saccade.train("vgg13", colours, out=tmp_path / "a", progress=False, **settings)
    saccade.train(
        "vgg13", colours, out=tmp_path / "b", weights=tmp_path / "a", recipe="paper", progress=False, **settings
    )
    assert not (tmp_path / "a" / "stages").exists()
    assert not (tmp_path / "b" / "stages").exists()


def _start(colours: Path, run: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "saccade", "train", "vgg13", str(colours), "--out", str(run), *flags]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _saved_step(run: Path) -> int:
    try:
        return int(json.loads(checkpoint.read_tensors(run / STATE)[0]["state"])["progress"]["step"])
    except Exception:
        return -1


@pytest.fixture(scope="module")
def alone(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages that nothing stopped."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    settings = TINY | {"batch": 10, "epochs": 3, "save_every": 0}
    saccade.train("vgg13", colours, out=run, recipe="paper", progress=False, **settings)
    return run


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_stopped_in_a_stage_goes_on_bit_for_bit(number: int, alone: Path, colours: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    process = _start(colours, killed, *FLAGS, "--epochs", "3")
    stage, until = killed / "stages" / "1-vgg11", time.monotonic() + 600
    while _saved_step(stage) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(process.pid, number)
    _, output = process.communicate(timeout=600)
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert f"saccade train vgg13 {colours} --out {killed} --resume" in output
    assert not (stage / "adopted.safetensors").exists()
    saccade.train("vgg13", colours, out=killed, resume=True, progress=False)
    assert checkpoint.digest(_last(killed)) == checkpoint.digest(_last(alone))
    assert checkpoint.digest(_last(stage)) == checkpoint.digest(_last(alone / "stages" / "1-vgg11"))
    # finished stages are left alone when the run is resumed
    before = (stage / "last.safetensors").stat().st_mtime_ns
    saccade.train("vgg13", colours, out=killed, resume=True, progress=False, epochs=4)
    assert (stage / "last.safetensors").stat().st_mtime_ns == before
    assert len((killed / "log.jsonl").read_text().splitlines()) == 4


def test_a_run_killed_between_stage_and_main_run_skips_the_stage_and_keeps_its_share_of_the_minutes(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saccade.verbs import train as verb

    run, real, fits = tmp_path / "run", verb.fit, []

    def cut(plan: Any, folder: Path, *rest: Any) -> dict[str, Any]:
        fits.append(plan.model)
        if len(fits) == 2:
            raise KeyboardInterrupt
        return real(plan, folder, *rest)

    monkeypatch.setattr(verb, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        saccade.train("vgg13", colours, out=run, recipe="paper", progress=False, **TINY, minutes=0.02)
    saccade.train("vgg13", colours, out=run, resume=True, progress=False)
    assert fits == ["vgg11", "vgg13", "vgg13"]
    assert (run / "metrics.json").is_file()
    for folder in (run, run / "stages" / "1-vgg11"):
        stored = json.loads((folder / "config.json").read_text())
        assert stored["settings"]["minutes"] == 0.01
        assert stored["origins"]["minutes"] == "flag, shared among the fits"


SMALL: dict[str, Any] = {"width": 4, "depths": (1, 1, 1), "batch": 8, "workers": 0, "precision": "fp32", "epochs": 1}


def _counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the solves as they are made."""
    made: list[str] = []
    real = runner._solved

    def counted(plan: Any, stage: Solve, *rest: Any) -> dict[str, Tensor]:
        made.append(stage.name)
        return real(plan, stage, *rest)

    monkeypatch.setattr(runner, "_solved", counted)
    return made


def test_the_recipe_probe_fits_the_output_layer_first(
    colours: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = _counting(monkeypatch), tmp_path / "run"
    settings = SMALL | {"lr": 0.0}
    result = saccade.train("resnet20", colours, out=out, weights=run, recipe="probe", **settings)
    output = capsys.readouterr().err
    assert "stage 1 of 2: probe" in output
    assert "fc by logistic regression on 16 features of 40 images" in output
    assert "stage 2 of 2: resnet20" in output
    handed = checkpoint.read_tensors(out / "stages" / "1-probe" / "adopted.safetensors")[1]
    before, after = checkpoint.load(checkpoint.find(run)).weights, _last(out)
    assert torch.equal(handed["conv1.weight"], before["conv1.weight"])
    assert not torch.equal(handed["fc.weight"], before["fc.weight"])
    assert torch.equal(after["fc.weight"], handed["fc.weight"])  # at a rate of zero
    assert result["metrics"]["top1"]["value"] == 1.0
    assert made == ["probe"]
    # `transfer` fits the same layer on the same images
    saccade.transfer(colours, weights=run, out=tmp_path / "t", methods=["logistic"], seeds=1, progress=False, workers=0)
    probe = checkpoint.load(tmp_path / "t" / "runs" / "logistic" / "best.safetensors").weights
    torch.testing.assert_close(handed["fc.weight"], probe["fc.weight"], atol=1e-4, rtol=1e-3)
    saccade.train("resnet20", colours, out=out, resume=True, progress=False, epochs=2)
    assert made == ["probe"]
    stored = json.loads((out / "config.json").read_text())
    assert stored["recipe"] == "probe"
    assert stored["weights"] == str(out / "stages" / "1-probe" / "adopted.safetensors")


def test_what_the_recipe_probe_needs(colours: Path, run: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"recipe": "probe", "progress": False}
    with pytest.raises(UsageError, match="add --weights"):
        saccade.train("resnet20", colours, out=tmp_path / "a", **common)
    with pytest.raises(UsageError, match="no recipe 'probe'; it has: default, paper"):
        recipe_of(model_module("atss_small"), "atss_small", "probe")
    partly = {k: v for k, v in checkpoint.load(checkpoint.find(run)).weights.items() if "layer1" not in k}
    torch.save(partly, tmp_path / "part.pth")
    with pytest.raises(UsageError, match="frozen features need all but the output layer"):
        saccade.train("resnet20", colours, out=tmp_path / "b", weights=tmp_path / "part.pth", **common, **SMALL)
    few = tmp_path / "few"
    for name in ("red", "blue"):
        for number in range(6):
            source = colours / "train" / name / f"{number}.png"
            target = few / ("val" if number > 2 else "train") / name / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    with pytest.raises(DataError, match="too few training images"):
        saccade.train("resnet20", few, out=tmp_path / "c", weights=run, **common, **SMALL)


def test_a_solve_may_end_a_course(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with R-CNN, whose SVMs come behind the fine-tuning."""
    made, run = _counting(monkeypatch), tmp_path / "run"

    def stopping(given: Given) -> dict[str, Tensor]:
        (given.folder / "half").touch()
        if stop.pop():
            os.kill(os.getpid(), signal.SIGTERM)
        return solve_probe(resnet, given)

    def course(name: str, recipe: str) -> list[Stage]:
        return [Fit("descent", name, {"flip": 0.0}), Solve("probe", stopping), Solve("again", lambda given: {})]

    stop = [False, True]
    monkeypatch.setattr(resnet, "stages", course, raising=False)
    with pytest.raises(Stopped, match=f"stopped in stage probe; go on with: saccade train resnet20 .* --out {run}"):
        saccade.train("resnet20", colours, out=run, progress=False, minutes=0.02, **SMALL)
    fitted, solved = run / "stages" / "1-descent", run / "stages" / "2-probe"
    assert not (run / "best.safetensors").exists()
    assert (solved / "half").exists()
    assert not (solved / "adopted.safetensors").exists()
    stamp = (fitted / "last.safetensors").stat().st_mtime_ns
    result = saccade.train("resnet20", colours, out=run, resume=True, progress=False)
    assert (fitted / "last.safetensors").stat().st_mtime_ns == stamp
    stored = json.loads((fitted / "config.json").read_text())
    assert (stored["settings"]["flip"], stored["settings"]["minutes"]) == (0.0, 0.02)  # one fit has all the minutes
    final = checkpoint.load(run / "best.safetensors")
    handed = checkpoint.read_tensors(solved / "adopted.safetensors")[1]
    assert torch.equal(final.weights["conv1.weight"], _last(fitted)["conv1.weight"])
    assert torch.equal(final.weights["fc.weight"], handed["fc.weight"])
    assert not torch.equal(final.weights["fc.weight"], _last(fitted)["fc.weight"])
    assert result["metrics"]["top1"]["value"] == final.metrics["top1"] == 1.0
    assert (run / "report.html").is_file()
    assert made == ["probe", "probe", "again"]
    stop[:] = [False] * 4
    saccade.train("resnet20", colours, out=run, resume=True, progress=False)
    assert made == ["probe", "probe", "again"]  # all is there
    saccade.train("resnet20", colours, out=run, resume=True, progress=False, epochs=2)
    assert (
        len((fitted / "log.jsonl").read_text().splitlines()) == 2
    )  # the fit goes on, and so what follows is made anew
    assert [row["epoch"] for row in runner.rows_of(run)] == [
        1,
        2,
    ]  # of the fit that a solve followed
    assert made == ["probe", "probe", "again", "probe", "again"]  # what follows on a fit that goes on is made anew


def test_a_solve_gives_tensors_of_its_network(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Solve("wrong", lambda given: {"fc.weight": torch.zeros(1)})
    monkeypatch.setattr(resnet, "stages", lambda name, recipe: [wrong, Fit(name, name)], raising=False)
    with pytest.raises(ValueError, match=r"stage wrong of resnet20 .*'fc.weight'"):
        saccade.train("resnet20", colours, out=tmp_path / "run", progress=False, **SMALL)
