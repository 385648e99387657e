"""A classifier answers for given boxes; a model that takes proposals is given them; others refuse."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import saccade
from saccade import checkpoint
from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError, ModelFileError, UsageError
from saccade.inference.predictor import Predictor
from saccade.inference.regions import LEAST, classify_regions
from saccade.models import model_config, model_module

COLOURS = ["red", "green", "blue"]
SQUARES = [(4, 6, 24, 20), (30, 10, 58, 40), (10, 40, 26, 60)]  # x1 y1 x2 y2 of a red, a green and a blue one


class Brightest(nn.Module):
    """Says which colour is strongest in its input, and by how much of all light; notes its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, batch: Batch) -> list[Annotation]:
        self.shapes.append(tuple(batch.images.shape))
        parts = zip(batch.images, batch.sizes, strict=True)
        light = torch.stack([image[:, :h, :w].mean((1, 2)) for image, (h, w) in parts])
        scores = light / light.sum(1, keepdim=True).clamp_min(1e-6)
        return [
            Annotation(size, label=int(s.argmax()), probabilities=s)
            for size, s in zip(batch.sizes, scores, strict=True)
        ]


def picture() -> np.ndarray:
    image = np.full((64, 70, 3), 12, np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(SQUARES):
        image[y1:y2, x1:x2] = 0
        image[y1:y2, x1:x2, channel] = 240
    return image


def boxes(rows: list[Any]) -> Objects:
    return Objects(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), torch.zeros(len(rows), dtype=torch.int64))


@pytest.mark.parametrize("resize", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_each_box_is_seen_whole_and_by_itself(resize: Any, batch: int) -> None:
    predictor = Predictor(Brightest(), "classify", COLOURS, Preprocessing((16, 16), resize), precision="fp32")
    order = [2, 0, 1, 0]
    found = classify_regions(predictor, picture(), boxes([SQUARES[i] for i in order]), batch).objects
    assert found.labels.tolist() == order
    assert found.boxes.tolist() == [list(SQUARES[i]) for i in order]
    assert found.scores.min() > 0.99
    assert sum(shape[0] for shape in predictor.network.shapes) == 4
    assert {shape[2:] for shape in predictor.network.shapes} == {(16, 16)}


def test_boxes_over_the_border_are_clipped_and_those_outside_have_no_answer() -> None:
    predictor = Predictor(Brightest(), "classify", COLOURS, Preprocessing((16, 16), "stretch"), precision="fp32")
    given = boxes([(-50, -50, -2, -3), (30.5, 10.5, 57.5, 39.5), (70, 3, 90, 9), (10, 40, 26, 60), (60, 60, 500, 500)])
    found = classify_regions(predictor, picture(), given).objects
    assert found.boxes.tolist() == [[30.5, 10.5, 57.5, 39.5], [10, 40, 26, 60], [60, 60, 70, 64]]
    assert found.labels.tolist()[:2] == [1, 2]
    assert len(classify_regions(predictor, picture(), boxes([])).objects) == 0


class Repeats(nn.Module):
    """Takes proposals, and gives back those of which the input shows something."""

    def predict(self, batch: Batch) -> list[Annotation]:
        assert batch.given is not None
        self.last = batch.given
        return [Annotation(size, objects=g) for size, g in zip(batch.sizes, batch.given, strict=True)]


def test_a_model_that_takes_proposals_is_given_them_in_its_own_pixels(tmp_path: Path) -> None:
    shape = Preprocessing((32, 32), "letterbox", proposals="file")
    predictor = Predictor(Repeats(), "detect", COLOURS, shape, precision="fp32")
    given = replace_scores(boxes([SQUARES[1], (60, 60, 500, 500), (100, 100, 120, 120)]))
    Image.fromarray(np.kron(picture(), np.ones((16, 16, 1), np.uint8))).save(tmp_path / "large.jpg")
    for image, factor in ((picture(), 1), (tmp_path / "large.jpg", 16)):  # the file is decoded at a part of its size
        answer = predictor.answer(image, dataclasses.replace(given, boxes=given.boxes * factor)).objects
        seen = predictor.network.last[0]
        expected = torch.tensor([[*SQUARES[1]], [60, 60, 70, 64], [70, 64, 70, 64]]) * (32 / 70)
        torch.testing.assert_close(seen.boxes, expected.clamp(max=32), atol=0.3, rtol=0)
        assert seen.scores.tolist() == given.scores.tolist()
        torch.testing.assert_close(answer.boxes[0], torch.tensor([*SQUARES[1]]).float() * factor, atol=0.1, rtol=0)


def replace_scores(objects: Objects) -> Objects:
    return dataclasses.replace(objects, scores=torch.linspace(0.5, 1, len(objects)))


def test_boxes_and_models_that_do_not_fit_are_refused() -> None:
    takes = Predictor(Repeats(), "detect", COLOURS, Preprocessing((32, 32), "letterbox", proposals="file"))
    with pytest.raises(UsageError, match="this model is given boxes with each image"):
        takes.predict(picture())
    sees = Predictor(Brightest(), "classify", COLOURS, Preprocessing((32, 32), "stretch"))
    with pytest.raises(UsageError, match="given to a model that takes none"):
        sees.predict(picture(), boxes([SQUARES[0]]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained networks as run folders; the classifier tells colours by a mean of each channel."""
    root, made = tmp_path_factory.mktemp("runs"), {}
    models: list[tuple[str, str, dict[str, Any]]] = [
        ("classify", "resnet20", {"width": 4, "depths": (1, 1, 1)}),
        ("detect", "atss_small", {"trunk_width": 8, "channels": 16}),
    ]
    for task, name, changes in models:
        torch.manual_seed(0)
        config = model_config(name, classes=len(COLOURS), **changes)
        model: Any = model_module(name).Model(config)
        shape = Preprocessing((64, 64), "stretch")
        state = checkpoint.Checkpoint(
            name, dataclasses.asdict(config), COLOURS, task, shape.to_json(), model.state_dict()
        )
        (root / task).mkdir()
        checkpoint.save(state, root / task / "best.safetensors")
        made[task] = root / task
    return made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(picture()).save(folder / name)
    (folder / "c.png").write_bytes(b"no picture")
    rows = [{"file_name": "a.png", "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.5} for x1, y1, x2, y2 in SQUARES]
    rows += [{"file_name": "a.png", "bbox": [500, 0, 5, 5], "score": 0.5}, rows[0] | {"file_name": "c.png"}]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    return folder


def test_predict_answers_for_the_boxes_of_a_file(runs: dict[str, Path], images: Path) -> None:
    out, file = images.parent / "out", images.parent / "boxes.json"
    a, b, c = saccade.predict(runs["classify"], images, proposals=file, out=out, precision="fp32")
    assert a["objects"]["boxes"] == [list(square) for square in SQUARES]
    assert set(a["objects"]) == {"boxes", "labels", "scores", "names"}
    assert a["notes"] == ["1 of 4 boxes lie outside of the image"]
    assert b["objects"]["boxes"] == []
    assert b["notes"] == ["no boxes are given for this image"]
    assert "error" in c
    assert not np.array_equal(np.asarray(Image.open(out / "a.png")), picture())
    assert json.loads((out / "predictions.json").read_text())[0] == a
    predictor = saccade.load(runs["classify"], precision="fp32")
    x1, y1, x2, y2 = SQUARES[1]
    alone = predictor.answer(np.ascontiguousarray(picture()[y1:y2, x1:x2]))
    assert a["objects"]["labels"][1] == alone.label
    assert a["objects"]["scores"][1] == pytest.approx(float(alone.probabilities.max()), abs=1e-4)
    some = saccade.predict(runs["classify"], images / "a.png", proposals=file, threshold=1.0)[0]["objects"]["boxes"]
    assert some == []


def test_a_classifier_names_what_a_detector_finds(
    runs: dict[str, Path], images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(images.parent / "cache"))
    monkeypatch.setattr("saccade.inference.regions.LEAST", 0.0)
    found = saccade.predict(runs["detect"], images / "a.png", threshold=0.0)[0]["objects"]
    (named,) = saccade.predict(runs["classify"], images / "a.png", proposals=runs["detect"])
    whole = [box for box in found["boxes"] if box[0] < box[2] and box[1] < box[3]]
    assert np.allclose(named["objects"]["boxes"], whole, atol=0.01)
    assert len(list((images.parent / "cache").rglob("*.npy"))) == 1
    assert (
        saccade.predict(runs["classify"], images / "b.png", proposals=runs["detect"])[0]["objects"] == named["objects"]
    )
    assert len(list((images.parent / "cache").rglob("*.npy"))) == 1  # b.png holds what a.png does
    assert 0 < LEAST < 1


def test_the_command_takes_a_file_of_boxes(
    runs: dict[str, Path], images: Path, shell: Callable[..., tuple[int, str, str]]
) -> None:
    file = images.parent / "boxes.json"
    code, out, _ = shell("predict", runs["classify"], images / "a.png", "--proposals", file, "--json")
    assert code == 0
    assert len(json.loads(out)[0]["objects"]["names"]) == 3
    code, _, err = shell("predict", runs["detect"], images, "--proposals", file)
    assert code == 2
    assert "takes no boxes" in err


def test_what_takes_no_boxes_says_so(runs: dict[str, Path], images: Path) -> None:
    file = images.parent / "boxes.json"
    with pytest.raises(UsageError, match=r"this model \(detect\) looks for itself and takes no boxes"):
        saccade.predict(runs["detect"], images, proposals=file)
    with pytest.raises(UsageError, match="a model to classify finds no boxes"):
        saccade.predict(runs["classify"], images, proposals=runs["classify"])
    with pytest.raises(UsageError, match="frames of camera:7 need the run of a detector"):
        saccade.predict(runs["classify"], [images, "camera:7"], proposals=file)
    with pytest.raises(DataError, match="no such file"):
        saccade.predict(runs["classify"], images, proposals=images / "boxes.json")


def test_a_checkpoint_may_not_ask_for_proposals_that_its_model_does_not_take(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    state = checkpoint.load(runs["classify"] / "best.safetensors")
    path = tmp_path / "odd.safetensors"
    checkpoint.save(dataclasses.replace(state, preprocessing={**state.preprocessing, "proposals": "file"}), path)
    with pytest.raises(ModelFileError, match="says 'file' of proposals, which does not fit resnet20"):
        saccade.load(path)
