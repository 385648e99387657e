"""`saccade export`: an equal network in a file of another kind, or a clear refusal."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import saccade
from saccade import checkpoint
from saccade.checkpoint import Checkpoint
from saccade.data.pipelines import Preprocessing
from saccade.errors import UsageError, how_to_install
from saccade.inference.trained import build
from saccade.models import model_config, model_module

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`


def test_the_exported_file_answers_as_the_model_does(run: Path, shell: Shell) -> None:
    code, out, err = shell("export", run, "--to", "torch", "--batch", 2, "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed["file"] == str(run / "model.pt2")
    assert printed["largest_difference"] < 1e-5
    assert printed["input"][:2] == [2, 3]
    images = torch.rand(*printed["input"])
    model = build(checkpoint.load(run / "best.safetensors"), run).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.export.load(printed["file"]).module()(images), model(images))


def test_a_package_that_is_missing_is_named_with_the_command(run: Path, shell: Shell) -> None:
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        pytest.skip("the extra `deploy` is installed")
    code, out, err = shell("export", run, "--to", "onnx")
    assert (code, out) == (2, "")
    assert how_to_install("deploy") in err
    assert not (run / "model.onnx").exists()


def test_an_unknown_format(run: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        saccade.export(run, to="onxx")


def test_a_network_that_differs_is_not_left_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.verbs.export.TOLERANCE", -1.0)
    with pytest.raises(UsageError, match="differs"):
        saccade.export(run, to="torch", out=tmp_path / "a.pt2")
    assert not (tmp_path / "a.pt2").exists()


def test_a_network_with_operations_of_our_own_is_no_onnx(tmp_path: Path, shell: Shell) -> None:
    config = model_config("faster_rcnn_small", classes=2)
    model = model_module("faster_rcnn_small").Model(config)
    shape = Preprocessing(size=(64, 64), resize="letterbox").to_json()
    names, path = ["a", "b"], tmp_path / "a.safetensors"
    checkpoint.save(
        Checkpoint("faster_rcnn_small", dataclasses.asdict(config), names, "detect", shape, model.state_dict()), path
    )
    code, out, err = shell("export", path, "--to", "onnx")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "faster_rcnn_small cannot be written as ONNX" in line
    assert "roi_align" in line
    assert "use --to torch" in line
    assert "atss_small" in line
    assert list(tmp_path.iterdir()) == [path]
