"""Training end to end: it learns, it resumes bit for bit, it stops when told, it says what went wrong."""

from __future__ import annotations

import json
import math
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import saccade
from saccade import checkpoint
from saccade.data import sources
from saccade.data.types import Batch, Sample
from saccade.errors import DivergedError, UsageError
from saccade.training.plan import resume_plan
from saccade.training.prepare import Step
from saccade.training.state import STATE, read_config

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
SMALL: dict[str, Any] = {"epochs": 3, "batch": 8, "workers": 0, "width": 4, "depths": [1, 1, 1], "precision": "fp32"}
FLAGS = ["--set", "width=4", "--set", "depths=[1,1,1]", "--set", "save_every=0", "--workers", "0", "--batch", "4"]


def _weights(run: Path) -> str:
    return checkpoint.digest(checkpoint.load(run / "last.safetensors").weights)


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _comparable(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("minutes", "images_per_second", "waiting")}


def test_learns_and_leaves_a_whole_run(colours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = saccade.train("resnet20", colours, out=run, progress=False, **SMALL | {"epochs": 15, "ema": 0.9})
    assert result["metrics"]["top1"]["value"] == 1.0
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "log.jsonl", "best.safetensors", "last.safetensors", "state", "metrics.json"} <= names
    assert not list(run.rglob("*.tmp"))
    assert json.loads((run / "metrics.json").read_text())["metrics"]["top1"]["value"] == 1.0
    config = json.loads((run / "config.json").read_text())
    assert config["origins"]["epochs"] == "flag"
    assert config["origins"]["lr"] == "recipe default"
    assert config["classes"] == ["blue", "red"]
    assert config["versions"]["torch"] == torch.__version__
    assert config["threads"] == torch.get_num_threads()
    assert [row["epoch"] for row in _rows(run)] == list(range(1, 16))
    scores = saccade.evaluate(run, colours, bootstrap=50)
    assert scores["metrics"]["top1"]["value"] == 1.0
    answer = saccade.load(run).predict(colours / "val" / "red" / "0.png")
    assert answer.label == 1


@pytest.mark.parametrize(("epochs", "minutes"), [(2, 60.0), (100000, 0.02)])
def test_the_first_of_epochs_and_minutes_ends_the_run(
    epochs: int, minutes: float, colours: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    saccade.train("resnet20", colours, out=run, progress=False, **SMALL | {"epochs": epochs, "minutes": minutes})
    last = _rows(run)[-1]
    assert last["progress"] == 1.0
    assert (last["epoch"] == epochs) == (epochs == 2)


def test_a_run_that_waits_for_its_images_says_so(
    colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = sources.read_sample

    def slowly(*arguments: Any) -> Sample:
        time.sleep(0.1)
        return read(*arguments)

    monkeypatch.setattr(sources, "read_sample", slowly)
    code, _, err = shell("train", "resnet20", colours, "--epochs", 1, *FLAGS, "--out", tmp_path / "run")
    assert code == 0, err
    assert 0.5 < _rows(tmp_path / "run")[0]["waiting"] <= 1
    assert "of the time: see --workers, cache)" in err


def test_the_same_seed_gives_the_same_weights_and_another_does_not(colours: Path, tmp_path: Path) -> None:
    for name, seed, workers in (("a", 3, 0), ("b", 3, 2), ("c", 4, 0)):
        settings = SMALL | {"seed": seed, "workers": workers}
        saccade.train("resnet20", colours, out=tmp_path / name, progress=False, **settings)
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    assert _weights(a) == _weights(b)
    assert _weights(a) != _weights(c)
    assert [_comparable(row) for row in _rows(a)] == [_comparable(row) for row in _rows(b)]
    scores = [json.loads((run / "metrics.json").read_text())["metrics"] for run in (a, b)]
    assert scores[0] == scores[1]


def test_a_run_of_deterministic_algorithms_alone(
    colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["train", "resnet20", colours, "--epochs", 1, *FLAGS, "--deterministic", "--out"]
    for name in ("a", "b"):
        code, _, err = shell(*line, tmp_path / name)
        assert code == 0, err
        assert json.loads((tmp_path / name / "config.json").read_text())["settings"]["deterministic"] is True
    assert _weights(tmp_path / "a") == _weights(tmp_path / "b")
    assert not torch.are_deterministic_algorithms_enabled()

    def step(optimizer: torch.optim.SGD, closure: None = None) -> None:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    code, _, err = shell(*line, tmp_path / "c")
    assert code == 2
    assert "deterministic: put_" in err


def test_a_finished_run_goes_on_with_more_epochs(colours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    saccade.train("resnet20", colours, out=run, progress=False, **SMALL)
    before = _weights(run)
    saccade.train("resnet20", colours, out=run, progress=False, resume=True)
    assert _weights(run) == before
    saccade.train("resnet20", colours, out=run, progress=False, resume=True, epochs=5)
    assert [row["epoch"] for row in _rows(run)] == [1, 2, 3, 4, 5]
    assert _weights(run) != before


def test_a_finished_run_keeps_its_state_where_that_is_asked_for(colours: Path, tmp_path: Path) -> None:
    """Else counters alone, a small part of the weights; with averaged weights, too, more epochs go on from them."""
    sizes = {}
    for keep in (False, True):
        run = tmp_path / str(keep)
        saccade.train("resnet20", colours, out=run, progress=False, keep_state=keep, **SMALL, ema=0.9)
        sizes[keep] = (run / "state" / "resume.safetensors").stat().st_size
        saccade.train("resnet20", colours, out=run, progress=False, resume=True, epochs=4)
        assert len(_rows(run)) == 4
        assert _rows(run)[-1]["losses"]["classification"] < 1.0
    weights = (tmp_path / "True/last.safetensors").stat().st_size
    assert sizes[False] < weights
    assert sizes[True] > 2 * weights


def _start(colours: Path, run: Path, *more: str, resume: bool = False) -> subprocess.Popen[str]:
    """`saccade train` as a process group of its own; a resumed run takes its settings from the run."""
    flags = ["--resume", "--workers", "0", "--set", "save_every=0"] if resume else FLAGS
    command = [sys.executable, "-m", "saccade", "train", "resnet20", str(colours), "--out", str(run), *flags, *more]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _saved_step(run: Path) -> int:
    try:
        return int(json.loads(checkpoint.read_tensors(run / STATE)[0]["state"])["progress"]["step"])
    except Exception:
        return -1


def _wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    until = time.monotonic() + 600  # on a machine that is busy
    while _saved_step(run) < step and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)


def _stop_and_resume(
    colours: Path, tmp_path: Path, steps: list[int], number: int = signal.SIGKILL, epochs: str = "3"
) -> None:
    """Send a run (10 steps an epoch) the signal soon after each of `steps`, and compare its end with that of a run left
    alone."""
    alone, stopped, moment = tmp_path / "alone", tmp_path / "stopped", random.Random(0)
    settings = SMALL | {"epochs": int(epochs), "batch": 4, "precision": "auto"}
    saccade.train("resnet20", colours, out=alone, progress=False, save_every=0.0, **settings)
    for turn, step in enumerate(steps):
        saved = _saved_step(stopped)  # a run that was asked to stop may have saved a later step than the one waited for
        process = _start(colours, stopped, "--epochs", epochs, resume=turn > 0)
        _wait_for_step(process, stopped, max(step, saved + 1))
        time.sleep(moment.uniform(0, 0.05))
        os.killpg(process.pid, number)
        _, printed = process.communicate()
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), printed
    saccade.train("resnet20", colours, out=stopped, progress=False, resume=True)
    assert _weights(stopped) == _weights(alone)
    assert [_comparable(r) for r in _rows(stopped)] == [_comparable(r) for r in _rows(alone)]
    assert not list(stopped.rglob("*.tmp"))


def test_killed_in_the_middle_of_an_epoch_and_resumed_bit_for_bit(colours: Path, tmp_path: Path) -> None:
    _stop_and_resume(colours, tmp_path, [7])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(
    colours: Path, tmp_path: Path, number: int, code: int, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process; one of its own is sent SIGTERM in `test_stages.py`."""
    run, forward, steps = tmp_path / "run", Step.forward, []

    def signalled(self: Step, batch: Batch) -> dict[str, torch.Tensor]:
        steps.append(batch)
        if len(steps) == 4:
            os.kill(os.getpid(), number)
        return forward(self, batch)

    monkeypatch.setattr(Step, "forward", signalled)
    found, _, printed = shell("train", "resnet20", colours, "--out", run, *FLAGS, "--epochs", 1000)
    assert found == code
    assert "--resume" in printed
    assert 3 <= _saved_step(run) <= 5


_IN_A_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under `nohup`
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "saccade", *sys.argv[1:]])
"""


def test_a_terminal_that_is_closed_in_mid_run(colours: Path, tmp_path: Path) -> None:
    """It shows a bar; when it is gone, what is written there is an error, and the run is saved all the same."""
    import pty

    run = tmp_path / "run"
    ours, theirs = pty.openpty()
    arguments = ["train", "resnet20", str(colours), "--out", str(run), *FLAGS, "--epochs", "1000"]
    command = [sys.executable, "-c", _IN_A_TERMINAL, *arguments]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    while not (run / STATE).is_file() or b"images/s" not in shown:
        assert process.poll() is None, shown
        if select.select([ours], [], [], 0.1)[0]:
            shown += os.read(ours, 65536)
    os.close(ours)
    assert process.wait(timeout=60) == 129
    assert _saved_step(run) > 0


def test_divergence_names_step_rate_and_images(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step \d+ \(lr .*\): classification (nan|inf).*Images.*\.png"):
        saccade.train(
            "resnet20",
            colours,
            out=tmp_path / "run",
            progress=False,
            **SMALL | {"lr": 1e30, "warmup": 0.0, "clip_norm": 0.0, "epochs": 20},
        )
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_divergence_that_only_answers_show_is_no_fault_of_an_image(colours: Path, tmp_path: Path) -> None:
    """The last step of a run may have a finite loss and leave weights that answer with none."""
    flags = SMALL | {"lr": 1e30, "warmup": 0.0, "clip_norm": 0.0, "epochs": 1, "batch": 100}
    with pytest.raises(DivergedError, match=r"after epoch 1 \(lr .*\): .*no finite number.*Try a smaller lr"):
        saccade.train("resnet20", colours, out=tmp_path / "run", progress=False, **flags)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_has_diverged_is_named_by_its_own_step_and_never_saved(
    broken: str, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are read a step late: the third step breaks, the fourth fails because of it."""
    seen: list[list[str]] = []
    forward = Step.forward

    def breaking(self: Step, batch: Batch) -> dict[str, torch.Tensor]:
        seen.append(batch.ids)
        if len(seen) == 4:
            raise ValueError("weights that are not finite")
        losses = forward(self, batch)
        if len(seen) < 3:
            return losses
        if broken == "loss":
            return {name: loss * math.nan for name, loss in losses.items()}
        return {name: loss + 0 * (loss - loss.detach()).sqrt() for name, loss in losses.items()}  # the slope of a root

    monkeypatch.setattr(Step, "forward", breaking)
    run = tmp_path / "run"
    with pytest.raises(DivergedError, match=r"no longer finite at step 2 \(lr .*the last good state is") as caught:
        saccade.train("resnet20", colours, out=run, progress=False, **SMALL | {"save_every": 0.0})
    assert f"Images: {', '.join(seen[2])}." in str(caught.value)
    tensors = checkpoint.read_tensors(run / STATE)[1].values()
    assert all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())


def test_minutes_bound_the_run(colours: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    settings = {name: value for name, value in SMALL.items() if name != "epochs"} | {"minutes": 0.05}
    result = saccade.train("resnet20", colours, out=tmp_path / "run", progress=False, **settings)
    assert 3.0 <= result["seconds"] <= time.monotonic() - start
    assert _rows(tmp_path / "run")[-1]["lr"] < 0.01


def test_accumulated_gradients_are_those_of_the_whole_batch(colours: Path, tmp_path: Path) -> None:
    """Plain SGD and frozen statistics: four forward passes of two images equal one of eight."""
    settings = SMALL | {"epochs": 1, "norm": "frozen", "color": 0.0}
    for name, pieces in (("one", 1), ("four", 4)):
        saccade.train("resnet20", colours, out=tmp_path / name, progress=False, **settings, accumulate=pieces)
    one, four = (checkpoint.load(tmp_path / name / "last.safetensors").weights for name in ("one", "four"))
    for key, value in one.items():
        torch.testing.assert_close(four[key], value, rtol=1e-4, atol=1e-5)


def test_a_batch_is_found(colours: Path, tmp_path: Path) -> None:
    saccade.train("resnet20", colours, out=tmp_path / "run", progress=False, **SMALL | {"batch": 0, "epochs": 1})
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["batch"] == 32  # the largest power of two of 40 images
    assert config["origins"]["batch"] == "found"


def test_early_stop(colours: Path, tmp_path: Path) -> None:
    settings = SMALL | {"epochs": 40, "patience": 0.2, "lr": 0.0}
    saccade.train("resnet20", colours, out=tmp_path / "run", progress=False, **settings)
    assert len(_rows(tmp_path / "run")) < 30


def test_one_class_is_refused_before_anything_is_written(
    colours: Path, tmp_path: Path, shell: Callable[..., tuple[int, str, str]]
) -> None:
    for split in ("train", "val"):
        shutil.copytree(colours / split / "red", tmp_path / "data" / split / "red")
    code, _, err = shell("train", "resnet20", tmp_path / "data", "--out", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "all 20 training images are of one class (red), with nothing to tell apart; add" in err
    assert not (tmp_path / "run").exists()


def test_weights_of_another_class_count_replace_all_but_the_head(
    colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, three = tmp_path / "first", tmp_path / "three"
    saccade.train("resnet20", colours, out=first, progress=False, **SMALL)
    shutil.copytree(colours, three)
    for split in ("train", "val"):
        shutil.copytree(three / split / "red", three / split / "zebra")
    capfd.readouterr()
    saccade.train("resnet20", three, out=tmp_path / "run", weights=first, **SMALL | {"lr": 0.0})
    assert (
        f"from {first}; with a fresh start, as its classes are others: fc.bias, fc.weight\n" in capfd.readouterr().err
    )
    old, new = (checkpoint.load(r / "last.safetensors").weights for r in (first, tmp_path / "run"))
    assert new["fc.weight"].shape[0] == 3
    assert torch.equal(new["conv1.weight"], checkpoint.load(first / "best.safetensors").weights["conv1.weight"])
    assert old.keys() == new.keys()


def test_refusals(colours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(UsageError, match="the nearest here: resnet"):
        saccade.train("resnet19", colours, out=run, progress=False)
    with pytest.raises(UsageError, match="did you mean 'epochs'"):
        saccade.train("resnet20", colours, out=run, progress=False, epocs=3)
    with pytest.raises(UsageError, match="holds labels to classify"):
        saccade.train("atss_small", colours, out=run, progress=False)
    with pytest.raises(UsageError, match="no recipe 'best'"):
        saccade.train("resnet20", colours, out=run, progress=False, recipe="best")
    with pytest.raises(UsageError, match="holds no run"):
        saccade.train("resnet20", colours, out=run, progress=False, resume=True)
    with pytest.raises(UsageError, match="fp16 needs a GPU"):
        saccade.train("resnet20", colours, out=run, progress=False, device="cpu", **SMALL | {"precision": "fp16"})
    assert not (run / "config.json").exists()
    saccade.train("resnet20", colours, out=run, progress=False, **SMALL | {"epochs": 1})
    with pytest.raises(UsageError, match="holds a run already"):
        saccade.train("resnet20", colours, out=run, progress=False)
    with pytest.raises(UsageError, match=r"cannot change lr \(0\.\d+ in the run, 1\.0 now\); allowed"):
        saccade.train("resnet20", colours, out=run, progress=False, resume=True, lr=1.0, batch=8, width=4)
    with pytest.raises(UsageError, match=r"cannot change width \(4 in the run, 8 now\); allowed"):
        saccade.train("resnet20", colours, out=run, progress=False, resume=True, width=8)
    with pytest.raises(UsageError, match=r"cannot change weights \(None in the run, imagenet now\)"):
        resume_plan("resnet20", colours, read_config(run), weights="imagenet")
    with pytest.raises(UsageError, match=r"cannot change recipe \(default in the run, paper now\)"):
        saccade.train("resnet20", colours, out=run, progress=False, resume=True, recipe="paper")
    with pytest.raises(UsageError, match=r"model differs from that of the run .*resnet20 then, resnet32 now"):
        saccade.train("resnet32", colours, out=run, progress=False, resume=True)


@pytest.mark.parametrize(
    "given",
    [
        ["--batch", "4", "--size", "32"],
        ["--batch", "64", "--size", "32x32"],  # cut to all images
        ["--batch", "0", "--set", "lr=0.05"],  # both found
    ],
)
def test_the_same_command_goes_on_with_its_run(given: list[str], colours: Path, tmp_path: Path, shell: Shell) -> None:
    """Queue systems start the same line again; other settings may then differ."""
    (tmp_path / "settings.yaml").write_text("depths: [1, 1, 1]\nwidth: 4\nmilestones: [0.6, 0.9]\n")
    command = ["train", "resnet20", colours, "--out", tmp_path / "run", "--workers", 0, "--precision", "fp32", *given]
    command += ["--config", tmp_path / "settings.yaml"]
    assert shell(*command, "--epochs", 1)[0] == 0
    before = read_config(tmp_path / "run")["settings"]
    for epochs in (3, 2):
        code, _, err = shell(*command, "--epochs", epochs, "--resume")
        assert code == 0, err
        assert read_config(tmp_path / "run")["settings"] == before | {"epochs": epochs}
    code, _, err = shell(*command, "--set", "lr=0.06", "--resume")
    assert (code, "cannot change lr (" in err, "batch" in err) == (2, True, False)


@pytest.mark.parametrize("name", ["report.html", "stages/notes.txt", "best.safetensors"])
def test_files_of_the_user_are_not_replaced(name: str, colours: Path, tmp_path: Path, shell: Shell) -> None:
    mine, other = tmp_path / name, tmp_path / "thesis.txt"
    for path in (mine, other):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    code, _, err = shell("train", "resnet20", colours, "--out", tmp_path, "--epochs", 1, *FLAGS)
    assert code == 2
    assert f"holds no run, but {name.split('/')[0]}" in err
    assert mine.read_text() == other.read_text() == "mine"
    mine.unlink()
    if mine.parent != tmp_path:
        mine.parent.rmdir()
    code, _, err = shell("train", "resnet20", colours, "--out", tmp_path, "--epochs", 1, *FLAGS)
    assert code == 0, err
    assert other.read_text() == "mine"


def test_two_processes_make_one_run(colours: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [
        *launcher,
        "-m",
        "saccade",
        "train",
        "resnet20",
        str(colours),
        *FLAGS[:-1],
        "0",
        "--epochs",
        "2",
        "--set",
        "patience=0.6",
        "--json",
    ]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    run = tmp_path / result["run"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]
    assert [(row["epoch"], row["step"]) for row in _rows(run)] == [(1, 1), (2, 2)]
    assert read_config(run)["settings"]["batch"] == 32  # of both together: 16 is the largest power of two of 20 images
    # Each predicted its half of the validation images; together they say what one process does.
    last = _rows(run)[-1]["metrics"]
    alone = saccade.evaluate(run / "last.safetensors", colours, bootstrap=0, precision="fp32", workers=0)["metrics"]
    assert {name: value["value"] for name, value in alone.items()} == pytest.approx(last)


@pytest.mark.slow
def test_thirty_kills_thirty_resumes(colours: Path, tmp_path: Path) -> None:
    """Of three hundred steps, so that the run is still there for the last kill, however far each lets it get; where a
    step is drawn again, the kill meets a run that is still starting."""
    steps = sorted([1, *random.Random(0).choices(range(1, 200), k=29)])
    _stop_and_resume(colours, tmp_path, steps, epochs="30")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ten_signals_ten_resumes(colours: Path, tmp_path: Path, number: int) -> None:
    _stop_and_resume(colours, tmp_path, list(range(2, 21, 2)), number, epochs="20")
