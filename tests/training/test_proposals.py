"""`--proposals FILE`: boxes of any source in training, evaluation and prediction, checked, stated, kept on resuming."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

import saccade
from models.region_scenes import dataset
from saccade import checkpoint
from saccade.data import proposals
from saccade.data.formats import read
from saccade.data.proposals import attach, given_for
from saccade.data.types import Objects
from saccade.errors import DataError, UsageError
from saccade.inference.regions import give_proposals
from saccade.ops.selective_search import selective_search
from saccade.training.interrupt import Stopped
from saccade.training.state import read_config

FLAGS: dict[str, Any] = {"epochs": 1, "size": 64, "batch": 2, "workers": 0, "precision": "fp32", "trunk_width": 4}
FLAGS |= {"trunk_depths": (1, 1, 1), "head_width": 16, "most_proposals": 40}
MODEL = "fast_rcnn_small"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images to train on, two to validate on, of 64 x 64 pixels."""
    return dataset(tmp_path_factory.mktemp("data") / "scenes", 4, 2)


def rows_for(data: Path, names: list[str]) -> list[dict[str, Any]]:
    """Boxes around and beside the object of each image, and one that crosses its border."""
    rows = []
    for name in names:
        split, number = name.split("/")
        truth = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        x, y, w, h = next(t["bbox"] for t in truth["annotations"] if t["image_id"] == int(number[0]) + 1)
        for box in ([x, y, w, h], [x - 2, y + 1, w, h], [0, 0, 20, 20], [40, 40, 60, 60]):
            rows.append({"file_name": name, "bbox": box})
    return rows


ALL = ["train/0.png", "train/1.png", "train/2.png", "train/3.png", "val/0.png", "val/1.png"]


def written(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of Fast R-CNN on the boxes of a file, and the file."""
    folder = tmp_path_factory.mktemp("run")
    file = written(folder / "boxes.json", rows_for(data, ALL))
    saccade.train(MODEL, data, out=folder / "run", proposals=file, progress=False, **FLAGS)
    return folder / "run", file


def test_the_run_says_what_it_was_trained_on(trained: tuple[Path, Path]) -> None:
    run, file = trained
    stored = read_config(run)
    assert stored["proposals"] == str(file)
    assert stored["preprocessing"]["proposals"] == "file"
    assert stored["config"]["most_proposals"] == 40
    origin = checkpoint.load(run / "best.safetensors").preprocessing["proposal_file"]
    assert origin.startswith("boxes.json, SHA-256 of its boxes here ")
    assert origin == stored["preprocessing"]["proposal_file"]


def test_evaluation_and_prediction_need_boxes_too(trained: tuple[Path, Path], data: Path) -> None:
    run, file = trained
    image = data / "val" / "0.png"
    for call in (lambda: saccade.evaluate(run, data), lambda: saccade.predict(run, image)):
        with pytest.raises(UsageError, match=r"trained on proposals of a file \(boxes\.json, .*--proposals FILE"):
            call()
    found = saccade.evaluate(run, data, proposals=file, bootstrap=0)
    assert found["proposals"] == str(file)
    assert found["warnings"] == []
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert found["metrics"]["ap50"]["value"] == pytest.approx(metrics["ap50"]["value"])
    computed = saccade.evaluate(run, data, proposals="selective_search", bootstrap=0)
    assert computed["proposals"] == "selective_search"
    (answer,) = saccade.predict(run, image, proposals=file)
    assert "objects" in answer
    (answer,) = saccade.predict(run, image, proposals="selective_search")
    assert "objects" in answer


def test_it_goes_on_with_the_same_boxes_only(trained: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    run, file = trained
    rows = json.loads(file.read_text())
    other = written(tmp_path / "other.json", rows[1:])
    for boxes, message in (
        (other, "other boxes than the run was trained on"),
        ("selective_search", "cannot change"),
    ):
        with pytest.raises(UsageError, match=message):
            saccade.train(MODEL, data, out=run, resume=True, proposals=boxes, progress=False)
    same = written(tmp_path / "moved.json", rows)
    for boxes in (None, same):
        again = saccade.train(MODEL, data, out=run, resume=True, proposals=boxes, progress=False)
        assert again["metrics"]


def on_small_pictures(image: np.ndarray, mode: str, seed: int, width: int) -> np.ndarray:
    """Selective search without enlarging the picture first."""
    return selective_search(image, mode, seed, 64)


def die_at_the_fourth_search(model: str, data: Path, run: Path) -> NoReturn:
    """Train until proposals of the fourth picture are asked for, and end this process as it stands."""
    real, calls = proposals.selective_search, []

    def search(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    proposals.selective_search = search  # type: ignore[assignment]
    flags = FLAGS | {"proposals": "selective_search_quality"}
    if model == "rcnn_small":
        del flags["head_width"]
        flags |= {"hidden": 16, "side": 16, "context": 1, "sample": 16}
    try:
        saccade.train(model, data, out=run, progress=False, **flags)
    finally:
        os._exit(1)


@pytest.mark.parametrize("model", [MODEL, "rcnn_small"])
def test_a_run_killed_while_its_proposals_are_computed_goes_on(
    model: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one fit and of several stages: by --resume with the settings and the source that it began with, or by the same
    command again."""
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(proposals, "selective_search", on_small_pictures)
    run = tmp_path / "run"
    child = os.fork()
    if not child:  # as it is here, with all that is imported
        die_at_the_fourth_search(model, data, run)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert sorted(path.name for path in run.iterdir()) == ["config.json", "lock"]
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 3
    with pytest.raises(UsageError, match="cannot change proposals"):
        saccade.train(model, data, out=run, resume=True, proposals="selective_search", progress=False)
    done = saccade.train(model, data, out=run, resume=True, progress=False)
    assert done["metrics"]
    stored = read_config(run)
    assert stored["config"]["most_proposals"] == 40
    assert stored["preprocessing"]["proposals"] == "selective_search_quality"
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 6
    with pytest.raises(UsageError, match="holds a run already"):
        saccade.train(model, data, out=run, progress=False)


def test_what_stops_a_run_before_its_first_step_is_said_before_proposals_are_computed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: tuple[Path, Path]
) -> None:
    """The size, a pass too small for batch norm, the precision, frozen parts, weights of another network."""

    def compute(*_: object) -> None:
        raise AssertionError("proposals are computed")

    monkeypatch.setattr("saccade.training.stages.compute_proposals", compute)
    for changes, words in (
        ({"size": 16, "batch": 1}, "learns nothing from one image of 16x16 at a time"),
        ({"precision": "fp16"}, "precision fp16 needs a GPU"),
        ({"freeze": 40}, r"allowed are 0 to \d"),
        ({"weights": trained[0], "trunk_width": 8, "head_width": 8}, "weights of another network"),
    ):
        with pytest.raises(UsageError, match=words):
            saccade.train(MODEL, data, out=tmp_path / "run", progress=False, **FLAGS | changes)
    with pytest.raises(UsageError, match=r"size 8x8 is too small for fast_rcnn_vgg16"):
        saccade.train("fast_rcnn_vgg16", data, out=tmp_path / "run", progress=False, size=8)
    assert not (tmp_path / "run").exists()


def test_what_was_only_planned_may_begin_anew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: tuple[Path, Path]
) -> None:
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("saccade.training.stages.compute_proposals", stop)
        command = f"stopped while proposals were computed.*go on with: saccade train {MODEL} {data} --out"
        with pytest.raises(Stopped, match=f"{command} {run} --resume"):
            saccade.train(MODEL, data, out=run, progress=False, **FLAGS)
        with pytest.raises(Stopped, match=command):  # a finished run, of whose beginning nothing is written again
            saccade.train(MODEL, data, out=trained[0], resume=True, progress=False)
    assert read_config(run)["config"]["most_proposals"] == 40
    saccade.train(MODEL, data, out=run, progress=False, proposals=trained[1], **FLAGS | {"most_proposals": 30})
    assert read_config(run)["config"]["most_proposals"] == 30
    with pytest.raises(UsageError, match="holds a run already"):
        saccade.train(MODEL, data, out=trained[0], progress=False, **FLAGS)


def test_the_price_of_a_truncated_svd_is_scored_before_export(
    trained: tuple[Path, Path], data: Path, tmp_path: Path, shell: Callable[..., tuple[int, str, str]]
) -> None:
    """At the full rank the scores are those of the run; what is saved stands in the answer, in words and the report."""
    run, file = trained
    plain, full = (
        saccade.evaluate(run, data, proposals=file, svd=ranks, precision="fp32") for ranks in (None, (16, 16))
    )
    assert plain["svd"] is None
    assert full["metrics"]["ap"]["value"] == pytest.approx(plain["metrics"]["ap"]["value"], abs=1e-3)
    out = tmp_path / "scores"
    code, printed, err = shell("evaluate", run, data, "--proposals", file, "--svd", "2,4", "--out", out)
    assert code == 0, err
    found = json.loads((out / "metrics.json").read_text())["svd"]
    assert found["ranks"] == [2, 4]
    (wide, narrow), (before, after) = found["layers"].values(), found["parameters"].values()
    saved = sum(u * v - t * (u + v) for (u, v), t in ((wide, 2), (narrow, 4)))
    assert before - after == saved > 0
    assert f"of rank 4; {saved:,} of the network's {before:,} parameters are saved" in " ".join(printed.split())
    report = (out / "report.html").read_text()
    assert "compressed by a truncated SVD" in report
    assert "--svd 2,4" in report
    with pytest.raises(UsageError, match="no network that svd could compress"):
        saccade.evaluate(out / "coco_results.json", data, svd="2,4")


def test_models_that_look_for_themselves_take_none(data: Path, tmp_path: Path) -> None:
    file = written(tmp_path / "boxes.json", rows_for(data, ALL))
    with pytest.raises(UsageError, match="most_proposals"):
        saccade.train(MODEL, data, out=tmp_path / "run", proposals=400, progress=False)
    with pytest.raises(UsageError, match="looks for itself"):
        saccade.train("faster_rcnn_c4_small", data, out=tmp_path / "run", proposals=file, progress=False)


def test_what_fits_no_image_is_counted(data: Path, tmp_path: Path) -> None:
    """Names that no image has, images that no name has, boxes outside; one across the border is clipped."""
    rows = rows_for(data, ALL[:5])
    rows += [{"file_name": "moon.png", "bbox": [0, 0, 5, 5]}, {"file_name": ALL[0], "bbox": [70, 70, 9, 9]}]
    scenes = read(data, "detect")
    found = give_proposals(scenes, written(tmp_path / "boxes.json", rows))
    assert (found.boxes, found.images, found.outside) == (20, 6, 1)
    assert (found.unnamed, found.foreign) == (["val/1.png"], ["moon.png"])
    first, *more = found.lines("boxes.json")
    assert first == "proposals of boxes.json: 3 boxes an image"
    assert more == [
        "boxes.json has no boxes for 1 of 6 images, such as val/1.png",
        "boxes.json names 1 images that the data set has not, such as 'moon.png'",
        "boxes.json: 1 boxes lie outside of their images and are left out",
    ]
    given = {record.id: given_for(scenes, record) for record in scenes.records}
    assert {name: len(boxes or ()) for name, boxes in given.items()} == dict.fromkeys(ALL[:5], 4) | {"val/1.png": 0}
    assert all(float(boxes.boxes.max()) <= 64 for boxes in given.values() if boxes is not None and len(boxes))


def test_a_file_of_other_images_is_refused(data: Path, tmp_path: Path) -> None:
    for rows, message in (
        ([{"file_name": "moon.png", "bbox": [0, 0, 5, 5]}], "names none of the 6 images"),
        ([{"file_name": name, "bbox": [100, 100, 50, 50]} for name in ALL], "6 of 6 boxes lie outside"),
        ([{"file_name": name, "bbox": [0.1, 0.2, 0.5, 0.5]} for name in ALL], "in pixels, not shares of the sides"),
    ):
        with pytest.raises(DataError, match=message):
            give_proposals(read(data, "detect"), written(tmp_path / "boxes.json", rows))


def test_scores_stay_with_their_boxes(data: Path) -> None:
    scenes = read(data, "detect")
    boxes = torch.tensor([[0.0, 0, 10, 10], [80, 80, 90, 90], [5, 5, 70, 70]])
    objects = Objects(boxes, torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7]))
    attach(scenes, {data / record.path: objects for record in scenes.records}, "here")
    found = given_for(scenes, scenes.records[0])
    assert found is not None
    assert found.boxes.tolist() == [[0, 0, 10, 10], [5, 5, 64, 64]]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.7]))
