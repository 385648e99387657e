"""`saccade compare`: what differs, on the same images, in every task; and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import saccade
from made_sets import write_noise_maps, write_squares
from saccade.errors import DataError, ModelFileError, UsageError
from saccade.inference.predictor import load
from saccade.training.lock import lock
from saccade.training.state import read_config, write_config

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
SMALL: dict[str, Any] = {"epochs": 2, "batch": 8, "workers": 0, "width": 2, "depths": [1, 1, 1], "precision": "fp32"}


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory, colours: Path) -> Path:
    """A run that learned next to nothing, of the data of the fixture `run`."""
    folder = tmp_path_factory.mktemp("weak") / "weak"
    saccade.train("resnet20", colours, out=folder, progress=False, **SMALL | {"lr": 0.0001})
    return folder


def test_two_runs(run: Path, weak: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Path] = []
    monkeypatch.setattr("saccade.verbs.compare.load", lambda path, *more: loaded.append(path) or load(path, *more))
    code, out, err = shell("compare", weak, run, "--out", tmp_path / "page", "--workers", 0, "--precision", "fp32")
    assert code == 0, err
    assert f"report: {tmp_path}/page/report.html" in out
    assert loaded == [weak, run]  # each once, though pictures are chosen when all have been measured
    found = json.loads((tmp_path / "page" / "compare.json").read_text())
    assert (found["task"], found["metric"], found["images"]) == ("classify", "top1", 10)
    assert {row["name"] for row in found["settings"]} == {"epochs", "lr", "width"}
    first, second = found["runs"]
    change = second["difference"]
    assert first["difference"] is None
    assert change["value"] == pytest.approx(second["metrics"]["top1"]["value"] - first["metrics"]["top1"]["value"])
    assert change["low"] <= change["value"] <= change["high"]
    assert (
        second["metrics"]["top1"]
        == saccade.evaluate(run, read_config(run)["data"], precision="fp32")["metrics"]["top1"]
    )
    assert second["parameters"] > first["parameters"]
    assert second["macs"] > first["macs"]
    assert first["seconds_per_image"] > 0
    assert all(max(row["badness"]) > min(row["badness"]) for row in found["differ_most"])
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert found["findings"][0] in page.replace("&#39;", "'")
    for words in (
        "Settings that differ",
        "Where they differ most",
        "true: ",
        f"{weak.name}: ",
        read_config(run)["data"],
        "10 images are few",
    ):
        assert words in page
    assert (tmp_path / "page" / "plots" / "runs.png").is_file()


def test_a_run_does_not_differ_from_its_copy(run: Path, tmp_path: Path) -> None:
    """And the copy may have data of its own, of which some are the same pictures under other names."""
    data = Path(read_config(run)["data"])
    shutil.copytree(data, tmp_path / "data")
    for i, path in enumerate(sorted((tmp_path / "data" / "val").rglob("*.png"))):
        path.rename(path.with_name(f"other{9 - i}.png"))
    saccade.train("resnet20", tmp_path / "data", out=tmp_path / "run", progress=False, **SMALL)
    shutil.copy(run / "best.safetensors", tmp_path / "run" / "best.safetensors")
    found = saccade.compare([run, tmp_path / "run"], workers=0, precision="fp32", bootstrap=50)
    assert found["images"] == 10
    assert found["runs"][1]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["differ_most"] == []
    assert not any("Only the" in warning for warning in found["warnings"])
    assert [row["name"] for row in found["runs"]] == ["trained0/run", f"{tmp_path.name}/run"]


def test_images_in_common_alone_are_compared(run: Path, colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours, tmp_path / "data")
    for path in sorted((tmp_path / "data" / "val").rglob("*.png"))[::2]:
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, 0] = 0
        Image.fromarray(pixels).save(path)
    saccade.train("resnet20", tmp_path / "data", out=tmp_path / "run", progress=False, **SMALL)
    found = saccade.compare([run, tmp_path / "run"], workers=0, bootstrap=0)
    assert (found["images"], found["images_of_runs"]) == (5, [10, 10])
    assert "Only the 5 validation images that all runs have" in found["warnings"][0]
    assert found["runs"][1]["difference"]["low"] is None


@pytest.mark.parametrize("task", ["detect", "segment", "embed"])
def test_other_tasks(task: str, colours: Path, tmp_path: Path) -> None:
    """Boxes, class maps and vectors go the same way."""
    usual: dict[str, Any] = {"epochs": 1, "batch": 4, "workers": 0, "precision": "fp32"}
    model, data, settings = {
        "detect": ("atss_small", write_squares, {"size": 64, "trunk_width": 8, "channels": 16}),
        "segment": ("unet", partial(write_noise_maps, size=(48, 50)), {"size": 32, "width": 4}),
        "embed": ("siamese_small", lambda *_: colours, {"size": 32, "trunk_width": 4}),
    }[task]
    place = data(tmp_path / "data", {"train": 6, "val": 3})  # type: ignore[operator]
    for seed in (0, 1):
        flags = usual | settings | {"seed": seed, "holdout": 0.0}
        saccade.train(model, place, out=tmp_path / str(seed), task=task, progress=False, **flags)
    found = saccade.compare([tmp_path / "0", tmp_path / "1"], out=tmp_path / "page", workers=0, bootstrap=20)
    assert found["task"] == task
    page = (tmp_path / "page" / "report.html").read_text()
    for row in found["differ_most"]:
        assert len(row["badness"]) == 2
        if task == "embed":
            assert row["id"] == " and ".join(row["pair"])
            assert "of the pairs of" in page
        else:
            assert page.count("<li>0: ") == len(found["differ_most"])
    assert task != "embed" or found["differ_most"]
    assert [row["name"] for row in found["settings"]] == ["seed"]


def test_refusals(run: Path, weak: Path, tmp_path: Path, shell: Shell) -> None:
    assert shell("compare", run)[0] == 2
    with pytest.raises(UsageError, match="two different runs or more"):
        saccade.compare([run, run])
    with pytest.raises(UsageError, match="is no run folder"):
        saccade.compare([run, tmp_path])
    with pytest.raises(UsageError, match="is the folder of a run"):
        saccade.compare([run, weak], out=run)
    other = tmp_path / "other"
    shutil.copytree(weak, other)
    with lock(other), pytest.raises(UsageError, match="other: a process is training in it"):
        saccade.compare([run, other])
    (other / "metrics.json").unlink()
    with pytest.raises(UsageError, match=r"has not ended .*saccade train resnet20 .*other --resume. Where it diverged"):
        saccade.compare([run, other])
    (other / "metrics.json").write_text("{}")
    for name in ("best.safetensors", "last.safetensors"):
        (other / name).rename(tmp_path / name)
    with pytest.raises(ModelFileError, match=r"no best\.safetensors or last\.safetensors, so that the run cannot"):
        saccade.compare([run, other])
    shutil.copy(tmp_path / "last.safetensors", other)
    for change, says in (
        ({"task": "tag"}, "task differs: .*other has tag, .* has classify"),
        ({"classes": ["blue", "green"]}, "classes differ"),
    ):
        write_config(other, read_config(weak) | change)
        with pytest.raises(UsageError, match=says):
            saccade.compare([run, other])
    write_config(other, read_config(weak) | {"data": str(tmp_path / "gone")})
    with pytest.raises(DataError, match="other: its data cannot be read as they were"):
        saccade.compare([run, other])
    (other / "config.json").write_text("{")
    with pytest.raises(ModelFileError, match="damaged"):
        saccade.compare([run, other])


def test_nothing_in_common(run: Path, colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours, tmp_path / "data")
    for path in (tmp_path / "data" / "val").rglob("*.png"):
        Image.fromarray(np.full((32, 32, 3), int(path.stem), np.uint8)).save(path)
    saccade.train("resnet20", tmp_path / "data", out=tmp_path / "run", progress=False, **SMALL | {"epochs": 1})
    with pytest.raises(DataError, match="no validation image is the same"):
        saccade.compare([run, tmp_path / "run"])
