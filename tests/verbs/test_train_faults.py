"""What happens around a training run: a full disk, a dead worker, pictures that vanish, two runs in one folder."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from saccade import checkpoint
from saccade.data import loader, sources
from saccade.training.lock import lock
from saccade.training.prepare import Step
from saccade.verbs import train as loop

SMALL = ["--set", "width=4", "--set", "depths=[1,1,1]", "--batch", "8", "--precision", "fp32", "--epochs", "2"]


Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`


def train(shell: Shell, data: Path | str, run: Path, *more: str, workers: int = 0) -> tuple[int, str]:
    code, _, printed = shell("train", "resnet20", data, "--out", run, "--workers", workers, *more)
    return code, printed


def digest(run: Path) -> str:
    return checkpoint.digest(checkpoint.load(run / "last.safetensors").weights)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow over `size` bytes: to the writer, the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_when_there_is_space(
    colours: Path, tmp_path: Path, shell: Shell
) -> None:
    run = tmp_path / "run"
    assert train(shell, colours, run, *SMALL)[0] == 0
    before = digest(run)
    with largest_file(5000):
        code, printed = train(shell, colours, run, "--resume", "--epochs", "3", "--set", "save_every=0")
    assert code == 5
    assert "no space left" in printed
    assert f"--out {run} --resume" in printed
    assert digest(run) == before
    assert not list(run.rglob("*.tmp"))
    assert not (run / "lock").exists()
    assert train(shell, colours, run, "--resume", "--epochs", "3")[0] == 0
    assert digest(run) != before


def test_a_full_disk_in_another_verb_has_nothing_to_resume(
    run: Path, colours: Path, tmp_path: Path, shell: Shell
) -> None:
    with largest_file(3000):
        code, _, printed = shell("evaluate", run, colours, "--out", tmp_path / "scores", "--workers", 0)
    assert code == 5
    assert "no space left" in printed
    assert "--resume" not in printed


@contextlib.contextmanager
def more_memory(size: int) -> Iterator[None]:
    """This process may take `size` bytes more than it has now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux")
def test_out_of_memory_names_the_batch(colours: Path, tmp_path: Path, shell: Shell) -> None:
    """Forty images of 1024 px are 500 MB as floats."""
    with more_memory(400_000_000):
        code, printed = train(shell, colours, tmp_path / "run", *SMALL, "--batch", "40", "--size", "1024")
    assert code == 5
    for part in ("out of memory", "batches of 40 images of size 1024", "--batch"):
        assert part in printed
    assert len(printed) < 2000


def test_labels_that_change_by_a_letter_of_equal_length_are_seen(colours: Path, tmp_path: Path, shell: Shell) -> None:
    """No cache of labels stands between the files and a run: the same paths and sizes are not the same data."""
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(colours, data)
    rows = [f"{path.relative_to(data)},{path.parent.name:4},{path.parent.parent.name}" for path in data.rglob("*.png")]
    (data / "labels.csv").write_text("\n".join(["image,class,split", *sorted(rows)]))
    assert train(shell, f"tags_csv:{data / 'labels.csv'}", run, *SMALL[:-1], "1")[0] == 0
    text = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(text.replace("7.png,red ", "7.png,blue", 1))
    code, printed = train(shell, f"tags_csv:{data / 'labels.csv'}", run, "--resume", "--epochs", "2")
    assert code == 2
    assert "images or labels differ" in printed


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of change of every file and folder."""
    return {
        str(path.relative_to(folder)): (
            "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in [folder, *folder.rglob("*")]
    }


def test_the_data_set_is_only_read(colours: Path, tmp_path: Path, shell: Shell) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(colours, data)
    for path in [*data.rglob("*"), data]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = tree(data)
    try:
        assert train(shell, data, run, *SMALL[:-1], "1")[0] == 0
        assert shell("check", data)[0] == 0
        assert shell("evaluate", run, data, "--out", tmp_path / "scores")[0] == 0
        assert shell("predict", run, data / "val", "--out", tmp_path / "pictures")[0] == 0
        assert tree(data) == before
    finally:
        for path in [data, *data.rglob("*")]:
            path.chmod(0o755)


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="workers do not inherit the fault")
def test_a_killed_worker_is_a_clear_error(
    colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = os.getpid()
    read = sources.read_sample

    def die(record: object, *rest: object) -> object:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(record, *rest)

    monkeypatch.setattr(sources, "read_sample", die)
    code, printed = train(shell, colours, tmp_path / "run", *SMALL, workers=1)
    assert code == 5
    assert "a loader process died" in printed
    assert "--workers" in printed
    assert not multiprocessing.active_children()


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="workers do not inherit the fault")
def test_no_room_in_shared_memory_is_said_at_once(
    run: Path, colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a full /dev/shm does to a worker: what it may write there is less than a batch."""
    start = loader._start_worker

    def cramped(worker: int) -> None:
        start(worker)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    monkeypatch.setattr(loader, "_start_worker", cramped)
    monkeypatch.setattr(loader, "TIMEOUT", 1e9)  # it is not found out by waiting
    code, printed = train(shell, colours, tmp_path / "new", *SMALL, workers=1)
    assert (code, "no room in shared memory" in printed, "--workers" in printed) == (5, True, True)
    code, _, printed = shell("predict", run, colours / "val", "--json", "--workers", 1)
    assert (code, "no room in shared memory" in printed) == (5, True)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_saved(
    colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Step.forward, 0

    def spoiled(self: Step, batch: object) -> dict[str, torch.Tensor]:
        nonlocal calls
        calls += 1
        losses = forward(self, batch)  # type: ignore[arg-type]
        return {name: loss * float("nan") for name, loss in losses.items()} if calls == 7 else losses

    monkeypatch.setattr(Step, "forward", spoiled)
    run = tmp_path / "run"
    code, printed = train(shell, colours, run, *SMALL, "--set", "save_every=0")
    assert code == 6
    for part in ("step 6 ", "lr ", "nan", ".png", "state", "--precision fp32"):
        assert part in printed
    checkpoint.load(run / "last.safetensors")
    checkpoint.load(run / "best.safetensors")
    assert train(shell, colours, run, "--resume")[0] == 0


@pytest.mark.parametrize("harm", ["delete", "truncate"])
def test_a_picture_that_vanishes_in_mid_run_is_named(
    colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(colours, data)
    victim, end_of_epoch = data / "train" / "red" / "7.png", loop._end_of_epoch

    def destroy(*parts: object) -> None:
        end_of_epoch(*parts)  # type: ignore[arg-type]
        victim.unlink() if harm == "delete" else victim.write_bytes(victim.read_bytes()[:400])

    monkeypatch.setattr(loop, "_end_of_epoch", destroy)
    code, printed = train(shell, data, run, *SMALL, "--set", "cache=0", "--set", "save_every=0")
    assert code == 3
    assert str(victim) in printed
    checkpoint.load(run / "last.safetensors")


def test_two_runs_in_one_folder(colours: Path, tmp_path: Path, shell: Shell) -> None:
    run = tmp_path / "run"
    with lock(run):
        code, printed = train(shell, colours, run, *SMALL)
        assert code == 2
        assert "is training in this folder" in printed
        code, _ = train(shell, colours, run, *SMALL, "--overwrite")
        assert code == 2
        assert sorted(p.name for p in run.iterdir()) == ["lock"]
    assert not run.exists()


def test_a_run_that_ended_meanwhile_is_not_overwritten(
    colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may begin and end in the folder while this one is still reading its data."""
    run, plan = tmp_path / "run", loop.make_plan

    def slow(*arguments: object, **words: object) -> object:
        run.mkdir()
        (run / "config.json").write_text("{}")
        return plan(*arguments, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "make_plan", slow)
    code, printed = train(shell, colours, run, *SMALL)
    assert code == 2
    assert "holds a run already" in printed
    assert (run / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("make_plan", "stopped before the run had begun: nothing of it is kept; the same command begins it again"),
        ("_report", "stopped; go on with: saccade train resnet20 {data} --out {run} --resume"),
    ],
)
def test_a_signal_outside_the_loop_says_what_to_do(
    run: Path, colours: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, place: str, words: str
) -> None:
    """While the data are read, in a folder of another run; while the checkpoint of a finished run is measured."""
    own = Path(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(loop, place, lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
    code, printed = train(shell, colours, own, "--overwrite" if place == "make_plan" else "--resume")
    assert (code, printed.splitlines()[-1]) == (130, "saccade: " + words.format(data=colours, run=own))
    assert digest(own) == digest(run)
