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
from saccade.models.contract import example_inputs

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`


def test_the_exported_file_answers_as_the_model_does(run: Path, shell: Shell) -> None:
    code, out, err = shell("export", run, "--to", "torch", "--batch", 2, "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed["file"] == str(run / "model.pt2")
    assert printed["largest_difference"] < 1e-5
    assert printed["input"][:2] == [2, 3]
    assert printed["suppression"] is None  # of boxes, which a classifier does not give
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


def test_an_exported_detector_says_that_its_boxes_overlap(tmp_path: Path) -> None:
    config = model_config("atss_small", classes=2, trunk_width=8, channels=8)
    shape = Preprocessing(size=(64, 64), resize="letterbox").to_json()
    state = model_module("atss_small").Model(config).state_dict()
    path = tmp_path / "a.safetensors"
    checkpoint.save(Checkpoint("atss_small", dataclasses.asdict(config), ["a", "b"], "detect", shape, state), path)
    assert "before suppression" in saccade.export(path, to="torch")["suppression"]


def test_fully_connected_layers_are_factorised_on_request(run: Path, tmp_path: Path, shell: Shell) -> None:
    """At the full rank the file answers as the network does; of lower rank it answers otherwise, and is smaller."""
    config = model_config("fast_rcnn_small", classes=2, trunk_width=8, head_width=32, most_proposals=5)
    model = model_module("fast_rcnn_small").Model(config).eval()
    shape = Preprocessing(size=(64, 64), resize="letterbox", proposals="selective_search").to_json()
    path = tmp_path / "a.safetensors"
    stored = Checkpoint("fast_rcnn_small", dataclasses.asdict(config), ["a", "b"], "detect", shape, model.state_dict())
    checkpoint.save(stored, path)
    inputs = example_inputs(model_module("fast_rcnn_small"), config, 64, 64)
    files = []
    for ranks, equal in (("32,32", True), ("2,32", False)):
        files.append(tmp_path / f"{ranks}.pt2")
        code, _, err = shell("export", path, "--to", "torch", "--out", files[-1], "--svd", ranks)
        assert code == 0, err
        answers = torch.export.load(files[-1]).module()(*inputs)
        with torch.no_grad():
            assert torch.allclose(answers[0], model(*inputs)[0], atol=1e-4) == equal
    assert files[1].stat().st_size < files[0].stat().st_size
    for file, ranks, fault in ((path, "2", "two ranks are needed"), (run, "2,2", "of Fast R-CNN; ")):
        code, out, err = shell("export", file, "--to", "torch", "--svd", ranks)
        assert (code, out) == (2, "")
        assert fault in err
