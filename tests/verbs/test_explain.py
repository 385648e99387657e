"""`saccade explain` from the command line and from Python: every task, the report, bad input."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade import checkpoint
from saccade.data.pipelines import Preprocessing
from saccade.errors import UsageError
from saccade.models import model_config, model_module

pytestmark = pytest.mark.usefixtures("drawn_figures")

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tag": ("resnet20", {"width": 4, "depths": (1, 1, 1), "task": "tag"}),
    "detect": ("atss_small", {"trunk_width": 8, "channels": 16}),
    "segment": ("unet_light", {}),
}
CLASSES = ["cat", "dog", "<owl>"]


@pytest.fixture
def corner(tmp_path: Path) -> Path:
    """A wide bluish image, red at the right."""
    pixels = np.random.default_rng(0).integers(0, 160, (32, 64, 3), np.uint8)
    pixels[:, :40, 2] += 80
    pixels[:, 40:, 0] += 80
    path = tmp_path / "wide <b>.png"
    Image.fromarray(pixels).save(path)
    return path


def test_a_trained_classifier_end_to_end(run: Path, colours: Path, corner: Path, tmp_path: Path, shell: Shell) -> None:
    folder = tmp_path / "out"
    red = colours / "val" / "red" / "0.png"
    code, out, err = shell("explain", run, red, corner, "--out", folder, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["task"] == "classify"
    assert result["report"] == str(folder / "report.html")
    first, second = result["images"]
    assert first["size"] == [32, 32]
    assert second["size"] == [32, 64]
    assert first["explained"][0]["name"] == "red"
    assert sum(e["score"] for e in first["explained"]) == pytest.approx(1, abs=1e-3)  # both classes
    assert first["grad_cam"] == {"layer": "features[2]", "cells": [8, 8]}
    assert list(first["layers"])
    for entry in (first, second):
        for target in entry["explained"]:
            assert set(target["strongest"]) == {"grad_cam", "occlusion", "saliency"}
            assert len(target["files"]) == 3
            for name in target["files"]:
                assert Image.open(folder / name).size == (entry["size"][1], entry["size"][0])
    page = (folder / "report.html").read_text()
    assert "<b>" not in page.split("</style>")[1].replace("<b></b>", "")
    for words in (
        "Grad-CAM (Selvaraju",
        "Occlusion (Zeiler",
        "Gradient (Simonyan",
        "First-layer filters",
        "hot background",
    ):
        assert words in page
    assert {p.name for p in (folder / "plots").iterdir()} >= {"1-1.png", "1-2.png", "2-1.png", "filters.png"}


def test_without_images_some_of_its_own_are_explained(run: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    code, out, err = shell("explain", run, "--methods", "features", "--out", tmp_path / "out")
    assert code == 0, err
    assert f"4 of 10 validation images of {colours}, which the run was trained on" in err
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == [
        str(colours / "val" / name) for name in ("blue/0.png", "blue/2.png", "blue/4.png", "red/1.png")
    ]
    assert shell("explain", run, "--layers", "list")[0] == 0
    shutil.copy(run / "best.safetensors", tmp_path)
    code, _, err = shell("explain", tmp_path / "best.safetensors")
    assert (code, "does not say what it was trained on" in err, "best.safetensors IMAGE..." in err) == (2, True, True)


def test_chosen_classes_methods_and_layers(run: Path, corner: Path, tmp_path: Path, shell: Shell) -> None:
    code, out, err = shell("explain", run, corner, "--layers", "list", "--json")
    assert code == 0, err
    layers = json.loads(out)
    assert layers["features[2]"][1:] == [8, 8]
    name = next(iter(layers))
    words = ("--class", "blue", "--methods", "grad_cam,features", "--layers", name)
    code, out, err = shell("explain", run, corner, *words, "--out", tmp_path / "out")
    assert code == 0, err
    assert "blue" in out
    assert "red" not in out
    result = saccade.explain(run, corner, classes=["blue"], methods=["features"], layers=[name])
    assert result["report"] is None
    assert list(result["images"][0]["layers"]) == [name]
    assert result["images"][0]["explained"][0]["strongest"] == {}


@pytest.mark.parametrize("task", MODELS)
def test_every_task(task: str, corner: Path, tmp_path: Path, shell: Shell) -> None:
    torch.manual_seed(0)
    name, changes = MODELS[task]
    config = model_config(name, classes=len(CLASSES), **changes)
    model: Any = model_module(name).Model(config)
    shape = Preprocessing(size=(64, 64), resize="letterbox")
    state = checkpoint.Checkpoint(name, dataclasses.asdict(config), CLASSES, task, shape.to_json(), model.state_dict())
    checkpoint.save(state, tmp_path / "best.safetensors")
    code, _, err = shell("explain", tmp_path, corner, "--out", tmp_path / "out")
    assert code == 0, err
    page = (tmp_path / "out" / "report.html").read_text()
    (entry,) = saccade.explain(tmp_path, corner)["images"]
    assert entry["layers"]
    if task == "detect":
        assert "grad_cam" not in entry
        assert "Grad-CAM and gradient are left out" in page
        (blind,) = saccade.explain(tmp_path, corner, classes=["dog"], methods=["features"])["images"]
        assert blind["explained"] == [] or blind["explained"][0]["name"] == "dog"
        assert ("notes" in blind) == (not blind["explained"])
        with pytest.raises(UsageError, match=r"model to detect.*allowed here: occlusion, features"):
            saccade.explain(tmp_path, corner, methods=["grad_cam"])
    else:
        assert entry["grad_cam"]["cells"][0] > 1
        assert all(set(e["strongest"]) == {"grad_cam", "occlusion", "saliency"} for e in entry["explained"])


def made(folder: Path, name: str, proposals: str | None, **changes: Any) -> Path:
    """An untrained detector that finds something, as a checkpoint."""
    torch.manual_seed(0)
    config = model_config(name, classes=len(CLASSES), score_threshold=0.0, **changes)
    model: Any = model_module(name).Model(config)
    shape = Preprocessing(size=(64, 64), resize="letterbox", proposals=proposals)
    weights = model.state_dict()
    state = checkpoint.Checkpoint(name, dataclasses.asdict(config), CLASSES, "detect", shape.to_json(), weights)
    checkpoint.save(state, folder / "best.safetensors")
    return folder


def test_objects_are_explained_from_the_thresholds_of_the_run_on(corner: Path, tmp_path: Path) -> None:
    folder = made(tmp_path, "atss_small", None, trunk_width=8, channels=16)
    state = checkpoint.load(folder / "best.safetensors")
    (unsure,) = saccade.explain(folder, corner, methods=["features", "stages"])["images"]
    assert unsure["explained"] == []  # an untrained one is surer of nothing than the 0.3 of the task
    assert unsure["stages"][-1]["drawn"] == 0
    checkpoint.save(dataclasses.replace(state, thresholds=[0.0] * len(CLASSES)), folder / "best.safetensors")
    (asked,) = saccade.explain(folder, corner, methods=["features", "stages"])["images"]
    assert len(asked["explained"]) == 3
    assert asked["stages"][-1]["name"] == "answer"
    assert asked["stages"][-1]["drawn"] == asked["stages"][-1]["boxes"] > 0


def test_the_stages_of_a_detector_are_drawn(corner: Path, tmp_path: Path, run: Path, shell: Shell) -> None:
    detector = made(tmp_path, "fast_rcnn_small", "selective_search", trunk_width=4, head_width=16)
    code, out, err = shell("explain", detector, corner, "--methods", "stages", "--out", tmp_path / "out", "--json")
    assert code == 0, err
    (entry,) = json.loads(out)["images"]
    names = [stage["name"] for stage in entry["stages"]]
    assert names[0].endswith(" regions")  # selective search
    assert {"given proposals", "bins of a region", "before suppression", "answer"} < set(names)
    assert names[-1] == "answer"
    for stage in entry["stages"]:
        assert stage["drawn"] <= stage["boxes"]
        assert max(Image.open(tmp_path / "out" / stage["file"]).size) >= 64
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Stages (detectors)" in page
    assert "RoIAlign divides the region of the surest answer into 7 x 7 equal bins" in page
    assert (tmp_path / "out" / "plots" / "1-stages.png").is_file()
    with pytest.raises(UsageError, match="--methods stages is of detectors; a model to classify has: grad_cam"):
        saccade.explain(run, corner, methods=["stages"])


def test_steps_of_a_suppression_are_those_of_nms() -> None:
    from saccade.explanations.stages import suppression_steps
    from saccade.layers.stages import BoxStage
    from saccade.ops.nms import batched_nms

    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * 40
    boxes = torch.cat((corner, corner + 10 + 20 * torch.rand(60, 2, generator=generator)), 1)
    scores, labels = torch.linspace(1, 0, 60), torch.arange(60) % 2
    steps = list(suppression_steps(BoxStage("", "", boxes, scores, labels, 0.4)))
    assert [kept for kept, _ in steps] == batched_nms(boxes, scores, labels, 0.4).tolist()
    assert sum(1 + len(dropped) for _, dropped in steps) == 60


def test_bad_input(run: Path, corner: Path, tmp_path: Path, shell: Shell) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    for words, expected, message in (
        ((corner, "--class", "rad"), 2, "did you mean 'red'"),
        ((corner, "--class", "owl"), 2, "allowed: blue, red"),
        ((corner, "--layers", "features[9]"), 2, "Layers that do: "),
        ((corner, "--methods", "gradcam"), 2, "did you mean 'grad_cam'"),
        ((corner, "--methods", ","), 2, "--methods is empty"),
        ((corner, "--top", 0), 2, "top is 0, allowed: at least 1"),
        ((corner, "--device", "cuda:9"), 2, "available: cpu"),
        ((tmp_path / "no.png",), 3, "no.png"),
        ((tmp_path / "nothing.png",), 3, "no such image or folder"),
    ):
        code, _, err = shell("explain", run, *words, "--out", tmp_path / "out")
        assert code == expected, err
        assert message in err
        assert not (tmp_path / "out" / "report.html").exists()
    code, _, err = shell("explain", tmp_path / "nothing", corner)
    assert code == 4
    code, out, err = shell("explain", run, tmp_path / "no.png", corner, "--out", tmp_path / "out")
    assert code == 0, err
    assert f"{tmp_path / 'no.png'}: " in out
    assert "no.png" in (tmp_path / "out" / "report.html").read_text()


def test_a_map_of_one_cell_is_said_and_the_rest_is_shown(corner: Path, tmp_path: Path) -> None:
    config = model_config("resnet20", classes=3, width=4, depths=(1, 1, 1))
    model: Any = model_module("resnet20").Model(config)
    shape = Preprocessing(size=(1, 1), resize="stretch")
    state = checkpoint.Checkpoint(
        "resnet20", dataclasses.asdict(config), CLASSES, "classify", shape.to_json(), model.state_dict()
    )
    checkpoint.save(state, tmp_path / "best.safetensors")
    (entry,) = saccade.explain(tmp_path, corner, out=tmp_path / "out")["images"]
    assert "more than one cell" in entry["notes"][0]
    assert set(entry["explained"][0]["strongest"]) == {"occlusion", "saliency"}
    assert "more than one cell" in (tmp_path / "out" / "report.html").read_text()


def test_tags_are_given_from_the_thresholds_of_the_checkpoint(corner: Path, tmp_path: Path) -> None:
    name, changes = MODELS["tag"]
    torch.manual_seed(0)
    config = model_config(name, classes=3, **changes)
    model: Any = model_module(name).Model(config)
    shape = Preprocessing(size=(32, 32), resize="stretch")
    for thresholds, given in (((0.0, 1.0, 0.0), {"cat", "<owl>"}), ((1.0, 0.0, 1.0), {"dog"})):
        state = checkpoint.Checkpoint(
            name,
            dataclasses.asdict(config),
            CLASSES,
            "tag",
            shape.to_json(),
            model.state_dict(),
            thresholds=list(thresholds),
        )
        checkpoint.save(state, tmp_path / "best.safetensors")
        (entry,) = saccade.explain(tmp_path, corner, methods=["saliency"])["images"]
        assert {target["name"] for target in entry["explained"]} == given
