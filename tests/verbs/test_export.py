"""`saccade export`: an equal network in a file of another kind with what an app needs to know, or a clear refusal."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from models.forms import all_forms
from saccade import checkpoint
from saccade.checkpoint import Checkpoint
from saccade.data.pipelines import Preprocessing
from saccade.errors import UsageError, how_to_install
from saccade.inference.exported import TOLERANCE, Exported, largest_difference
from saccade.inference.onnx_file import run_onnx, write_onnx
from saccade.inference.trained import build
from saccade.models import create, model_config, model_module
from saccade.models.contract import example_inputs, one_person, proposals_of
from saccade.tasks.table import find_task

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
NEEDED = ("onnx", "onnxscript", "onnxruntime")
DEPLOY = all(importlib.util.find_spec(name) for name in NEEDED)
onnx = pytest.mark.skipif(not DEPLOY, reason="needs the extra `deploy`")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "onnx_app.py"


def small(form: str, folder: Path, side: int = 64) -> Path:
    """A checkpoint of a small network of the catalogue, untrained."""
    made = all_forms()[form]
    room = model_module(made.name)
    task = room.TASKS[0]
    kind = find_task(task)
    torch.manual_seed(0)
    model = create(made.name, **{"classes": 3} | made.changes)
    if hasattr(model, "backbone"):
        settle(model.backbone, side)
    shape = Preprocessing(
        None if kind.semantic else (side, side),
        "letterbox" if kind.objects else "stretch",
        proposals=proposals_of(room),
        one_person=one_person(room),
    )
    state = model.state_dict()
    path = folder / f"{form}.safetensors"
    named = ["a", "b", "c"]
    checkpoint.save(Checkpoint(made.name, dataclasses.asdict(model.config), named, task, shape.to_json(), state), path)
    return path


def settle(backbone: torch.nn.Module, side: int) -> None:
    """Batch norms with the statistics of noise, as training leaves them: with those of a new network scores of one
    stage saturate, and rounding decides which of many equal boxes stay."""
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        backbone.train()(torch.randn(4, 3, side, side))


def test_the_exported_file_answers_as_the_model_does(run: Path, shell: Shell) -> None:
    code, out, err = shell("export", run, "--to", "torch", "--batch", 2, "--size", 32, "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert printed["file"] == str(run / "model.pt2")
    assert printed["largest_difference"] < 1e-5
    assert printed["inputs"] == {"images": [2, 3, 32, 32]}
    assert printed["outputs"] == {"probabilities": [2, 2]}
    assert printed["suppression"] is None  # of boxes, which a classifier does not give
    assert "4 validation images of" in printed["compared_on"]
    images = torch.rand(2, 3, 32, 32)
    model = build(checkpoint.load(run / "best.safetensors"), run).eval()
    with torch.no_grad():
        (found,) = torch.export.load(printed["file"]).module()(images)
        torch.testing.assert_close(found, model(images).softmax(1))
    about = json.loads((run / "model.json").read_text())
    assert about["classes"] == ["blue", "red"]
    assert about["preprocessing"]["size"] == [32, 32]


def test_a_package_that_is_missing_is_named_with_the_command(
    run: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in NEEDED else there(name))
    code, out, err = shell("export", run, "--to", "onnx")
    assert (code, out) == (2, "")
    assert how_to_install("deploy") in err
    assert not (run / "model.onnx").exists()


def test_an_unknown_format_and_a_size_without_pixels(run: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'onnx'"):
        saccade.export(run, to="onxx")
    with pytest.raises(UsageError, match="size is '0x32', allowed: at least 1 pixel"):
        saccade.export(run, to="torch", size="0x32")


def test_a_network_that_differs_is_not_left_behind(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.verbs.export.TOLERANCE", -1.0)
    with pytest.raises(UsageError, match="differs"):
        saccade.export(run, to="torch", out=tmp_path / "a.pt2", batch=1, size=32)
    assert list(tmp_path.iterdir()) == []


def answers(scores: list[float], left: float = 0.0, label: int = 0) -> dict[str, torch.Tensor]:
    """Two places of one image."""
    boxes = torch.tensor([[[left, 0, 10 + left, 10], [20, 20, 30, 30]]])
    boxes = boxes * (torch.tensor(scores) > 0)[None, :, None]  # zeros in empty places
    return {"boxes": boxes, "labels": torch.tensor([[label, 1]]), "scores": torch.tensor([scores])}


def test_answers_differ_by_numbers_and_by_objects_that_are_alone() -> None:
    same = answers([0.9, 0.5])
    assert largest_difference(same, answers([0.9, 0.5])) == 0
    assert largest_difference(answers([0.9, 0.0]), same) > TOLERANCE
    assert largest_difference(answers([0.9, 0.5], label=2), same) > TOLERANCE
    assert largest_difference(answers([0.9, 0.5], left=5.0), same) > TOLERANCE
    assert largest_difference(answers([0.9, 0.52]), same) == pytest.approx(0.02, rel=1e-3)
    thin = answers([0.9, 0.5]) | {"boxes": same["boxes"].clone()}
    thin["boxes"][..., 3] = thin["boxes"][..., 1] + 1e-4  # thinner than rounding, to which the IoU is blind
    moved = thin | {"boxes": thin["boxes"] + 1e-4}
    assert largest_difference(moved, thin) < TOLERANCE
    swapped = {name: value.flip(1) for name, value in answers([0.5, 0.5]).items()}
    assert largest_difference(swapped, answers([0.5, 0.5])) == 0  # of equal scores either may come first
    joints = same | {"keypoints": torch.rand(1, 2, 100, 3)}
    moved = joints | {"keypoints": joints["keypoints"].clone()}
    moved["keypoints"][0, 0, :2, 0] += 1  # two of two hundred; a third is too many
    assert largest_difference(moved, joints) <= TOLERANCE
    moved["keypoints"][0, 1, 0, 1] += 1
    assert largest_difference(moved, joints) > TOLERANCE
    pixels = torch.zeros(1, 20, 20, dtype=torch.uint8)
    other = pixels.clone()
    other[0, 0, 0] = 1
    assert 0 < largest_difference({"classes": other}, {"classes": pixels}) < TOLERANCE
    assert largest_difference({"classes": pixels + 1}, {"classes": pixels}) > TOLERANCE


def test_boxes_before_suppression_on_request(tmp_path: Path, shell: Shell) -> None:
    path = small("atss", tmp_path)
    done = saccade.export(path, to="torch", batch=1, size=64, nms=False)
    assert set(done["outputs"]) == {"boxes", "scores"}
    assert done["outputs"]["scores"][2] == 3
    assert done["suppression"]["inside"] is False
    code, _, err = shell("export", small("mask_rcnn", tmp_path), "--to", "torch", "--no-nms")
    assert code == 2
    assert "masks are those of the boxes that suppression leaves" in err


def test_fully_connected_layers_are_factorised_on_request(run: Path, tmp_path: Path, shell: Shell) -> None:
    """At the full rank the file answers as the network does; of lower rank it answers otherwise, and is smaller."""
    config = model_config("fast_rcnn_small", classes=2, trunk_width=8, head_width=32, most_proposals=5)
    model = model_module("fast_rcnn_small").Model(config).eval()
    shape = Preprocessing(size=(64, 64), resize="letterbox", proposals="selective_search").to_json()
    path = tmp_path / "a.safetensors"
    stored = Checkpoint("fast_rcnn_small", dataclasses.asdict(config), ["a", "b"], "detect", shape, model.state_dict())
    checkpoint.save(stored, path)
    images, regions = example_inputs(model_module("fast_rcnn_small"), config, 64, 64)
    inputs = (images, torch.tensor([[64, 64]]), regions)
    files = []
    for ranks, equal in (("32,32", True), ("2,32", False)):
        files.append(tmp_path / f"{ranks}.pt2")
        code, _, err = shell(
            "export", path, "--to", "torch", "--out", files[-1], "--svd", ranks, "--batch", 1, "--size", 64
        )
        assert code == 0, err
        answers = torch.export.load(files[-1]).module()(*inputs)
        with torch.no_grad():
            wanted = Exported(model, "detect", True).eval()(*inputs)
            assert torch.allclose(answers[2], wanted[2], atol=1e-4) == equal
    assert files[1].stat().st_size < files[0].stat().st_size
    for file, ranks, fault in ((path, "2", "two ranks are needed"), (run, "2,2", "of Fast R-CNN; ")):
        code, out, err = shell("export", file, "--to", "torch", "--svd", ranks)
        assert (code, out) == (2, "")
        assert fault in err


@onnx
@pytest.mark.slow
@pytest.mark.parametrize("form", ["resnet", "atss", "faster_rcnn"])
def test_onnx_answers_as_the_network_does(form: str, tmp_path: Path, shell: Shell) -> None:
    """For any number of images; nothing of other packages on the screen; the file says what it is."""
    path = small(form, tmp_path)
    code, out, err = shell("export", path, "--json")
    assert (code, err) == (0, "")
    done = json.loads(out)
    assert done["largest_difference"] <= TOLERANCE
    assert done["inputs"]["images"][0] == "batch"
    about = json.loads((tmp_path / "model.json").read_text())
    assert about["outputs"] == done["outputs"]
    operators = {node.op_type for node in operations(tmp_path / "model.onnx")}
    assert ("NonMaxSuppression" in operators) == (form != "resnet")


def operations(path: Path) -> list[Any]:
    import onnx

    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}  # nothing of ours
    return list(model.graph.node)


@onnx
@pytest.mark.slow
@pytest.mark.parametrize("form", all_forms())
def test_onnx_of_every_kind_of_network(form: str, tmp_path: Path) -> None:
    done = saccade.export(small(form, tmp_path, all_forms()[form].side))
    assert done["largest_difference"] <= TOLERANCE
    operations(tmp_path / "model.onnx")


@onnx
def test_equal_values_stay_in_their_order_in_onnx(tmp_path: Path) -> None:
    class Ranked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            best, places = x.sort(dim=1, descending=True, stable=True)
            return best, places.argsort(stable=True)

    x = torch.tensor([[1.0, 3.0, 1.0, 3.0, 2.0]]).repeat(1, 20)
    write_onnx(torch.export.export(Ranked(), (x,)), ["x"], ["best", "back"], tmp_path / "a.onnx", {})
    found = run_onnx(tmp_path / "a.onnx", {"x": x})
    for name, wanted in zip(("best", "back"), Ranked()(x), strict=True):
        torch.testing.assert_close(found[name], wanted)


@onnx
def test_the_app_of_the_manual_finds_what_predict_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small("atss", tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (64, 48, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    saccade.export(path, batch=1, size=64, images=tmp_path / "a.png")
    about = json.loads((tmp_path / "model.json").read_text())
    wanted = saccade.load(path, precision="fp32").predict(tmp_path / "a.png", threshold=0.0).objects
    assert wanted is not None
    assert wanted.scores is not None
    gaps = wanted.scores[:-1] - wanted.scores[1:]
    place = 1 + int(gaps[1:].argmax())  # the widest gap, which rounding does not cross
    least = float(wanted.scores[place : place + 2].mean())
    about["thresholds"] = [least] * 3
    (tmp_path / "model.json").write_text(json.dumps(about))
    runpy.run_path(str(EXAMPLE), run_name="example")["main"]([str(tmp_path / "model.onnx"), str(tmp_path / "a.png")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == place + 1
    assert f" {float(wanted.scores[0]):.2f} " in lines[0]
    inside = EXAMPLE.read_text(encoding="utf-8")
    page = (EXAMPLE.parents[1] / "docs/reference/export.md").read_text(encoding="utf-8")
    assert "boxes, labels, scores = session.run([" in inside
    assert all(line.strip() in page for line in inside.splitlines() if line.startswith("        ") and "=" in line)
