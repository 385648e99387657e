"""A run folder that is damaged, or that comes from a stranger: refused by name, never followed to elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from saccade import checkpoint
from saccade.training.run_folder import agreed_run_folder
from saccade.training.state import STATE, write_config

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
READ = ["config.json", "log.jsonl", "best.safetensors", str(STATE)]  # by `train --resume`
WRITTEN = ["metrics.json", "data_report.json", "report.html"]


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A finished run of its own."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def resume(shell: Shell, colours: Path, run: Path, *more: str) -> tuple[int, str]:
    code, _, err = shell("train", "resnet20", colours, "--out", run, "--workers", 0, "--resume", *more)
    return code, err


@pytest.mark.parametrize("name", READ)
def test_one_damaged_byte_or_a_missing_end_is_a_model_file_error(
    copied: Path, colours: Path, shell: Shell, name: str
) -> None:
    path = copied / name
    whole = path.read_bytes()
    damaged = [bytes([*whole[:i], whole[i] ^ 1, *whole[i + 1 :]]) for i in (0, len(whole) // 2, len(whole) - 1)]
    for content in [*damaged, b"", whole[: len(whole) // 2], whole[:-1]]:
        path.write_bytes(content)
        code, printed = resume(shell, colours, copied)
        assert (code, str(path) in printed) == (4, True), printed
    path.write_bytes(whole)
    assert resume(shell, colours, copied)[0] == 0


@pytest.mark.parametrize("content", [b"{}", b"\xff\xfe", b"[" * 100_000])
def test_whatever_stands_in_the_other_files_of_a_run(copied: Path, colours: Path, shell: Shell, content: bytes) -> None:
    for name in ("config.json", "log.jsonl"):
        whole = (copied / name).read_bytes()
        (copied / name).write_bytes(content)
        assert resume(shell, colours, copied)[0] == 4
        (copied / name).write_bytes(whole)
    for name in (*WRITTEN, "lock"):  # made anew
        (copied / name).write_bytes(content)
    assert resume(shell, colours, copied)[0] == 0
    json.loads((copied / "metrics.json").read_text())


def test_a_state_or_configuration_that_was_written_by_hand(copied: Path, colours: Path, shell: Shell) -> None:
    config = json.loads((copied / "config.json").read_text())
    del config["sha256"], config["precision"]
    write_config(copied, config)
    assert resume(shell, colours, copied)[0] == 4
    write_config(copied, config | {"precision": "fp32"})
    metadata, tensors = checkpoint.read_tensors(copied / STATE)
    save_file(tensors, copied / STATE, {"state": metadata["state"].replace('"step": ', '"step": "x", "y": ')})
    code, printed = resume(shell, colours, copied)
    assert (code, "no checksum" in printed) == (4, True)


@pytest.mark.parametrize("name", [*READ, "state", "plots", "lock", "temporary"])
def test_a_link_in_a_run_folder_is_not_followed(
    copied: Path, colours: Path, tmp_path: Path, shell: Shell, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    path = copied / (f".config.json.{os.getpid()}.tmp" if name == "temporary" else name)
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.write_text("precious")
    before = content(elsewhere)
    path.symlink_to(elsewhere)
    code, printed = resume(shell, colours, copied, "--epochs", "13")
    if name == "temporary":
        assert code == 0
    else:
        assert code == (5 if name == "lock" else 4)
        assert str(path) in printed
    if name in ("log.jsonl", "state"):
        assert shell("train", "resnet20", colours, "--out", copied, "--epochs", "1", "--overwrite")[0] in (0, 4)
    assert content(elsewhere) == before


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "best.safetensors", str(STATE), "lock"])
def test_a_pipe_in_a_run_folder_is_not_waited_for(copied: Path, colours: Path, shell: Shell, name: str) -> None:
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    code, _ = resume(shell, colours, copied)
    assert code == {"lock": 5, "config.json": 2}.get(name, 4)  # without a config.json it is no run


def test_pipes_as_weights_or_settings(run: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    for suffix in (".safetensors", ".pth", ".npz", ".weights", ".yaml"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
    arguments = ["train", "resnet20", colours, "--out", tmp_path / "new", "--epochs", 1]
    for suffix in (".safetensors", ".pth", ".npz", ".weights"):
        assert shell(*arguments, "--weights", tmp_path / f"pipe{suffix}")[0] == 4
    assert shell(*arguments, "--config", tmp_path / "pipe.yaml")[0] == 2
    assert shell("predict", tmp_path / "pipe.safetensors", colours / "val")[0] == 4
    assert shell("weights", "resnet20", tmp_path / "pipe.pth")[0] == 4


def test_pictures_of_a_report_do_not_go_through_a_link(run: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plots").symlink_to(tmp_path / "elsewhere")
    code, _, printed = shell("evaluate", run, colours, "--out", tmp_path / "out")
    assert (code, "plots: a symbolic link" in printed) == (4, True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_two_runs_that_begin_together_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = (None, "resnet20", "photos", False, False)
    with agreed_run_folder(*asked) as first, agreed_run_folder(*asked) as second:
        assert (str(first), str(second)) == ("runs/resnet20-photos", "runs/resnet20-photos-2")
        (second / "log.jsonl").touch()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["resnet20-photos-2"]


@pytest.mark.parametrize("file", ["cells/data.yaml", "cells/_annotations.coco.json", "other/cells.yaml"])
def test_a_run_is_called_after_its_data_not_after_a_common_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with agreed_run_folder(None, "atss_small", file, False, False) as run:
        assert run == Path("runs/atss_small-cells")
    assert not (tmp_path / "runs").exists()
