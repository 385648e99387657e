"""A model to embed from training to explanation, on drawn faces."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import saccade
from saccade.errors import UsageError
from saccade.models import create
from saccade.training.plan import make_plan

SMALL: dict[str, Any] = {"trunk_width": 8, "trunk_depths": (1, 1, 1, 1), "embedding": 16, "size": 48, "batch": 16}
QUIET: dict[str, Any] = {"workers": 0, "progress": False}


def draw_face(identity: int, rng: np.random.Generator) -> np.ndarray:
    """A face of 48 pixels whose shape and colours are the identity's, moved and lit by chance."""
    own = np.random.default_rng(1000 + identity)
    skin, hair, eyes = (own.integers(60, 230, 3) for _ in range(3))
    width, height, gap, mouth = own.integers(11, 18), own.integers(15, 21), own.integers(5, 9), own.integers(3, 9)
    x, y = 24 + rng.integers(-2, 3), 25 + rng.integers(-2, 3)
    image = np.full((48, 48, 3), 128, np.uint8)
    for colour, centre, axes in (
        (hair, (x, y - 3), (width + 3, height + 2)),
        (skin, (x, y), (width, height)),
        (eyes, (x - gap, y - 4), (2, 2)),
        (eyes, (x + gap, y - 4), (2, 2)),
        (hair, (x, y + 9), (mouth, 1)),
    ):
        place = tuple(map(int, centre))
        cv2.ellipse(image, place, tuple(map(int, axes)), 0, 0, 360, tuple(map(int, colour)), -1)
    lit = image * rng.uniform(0.8, 1.2) + rng.normal(0, 6, image.shape)
    return np.asarray(lit.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people with four pictures each to train on, four others to validate, as folders."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for identity in range(12):
        folder = root / ("train" if identity < 8 else "val") / f"p{identity:02d}"
        folder.mkdir(parents=True)
        for i in range(4):
            cv2.imwrite(str(folder / f"{i}.png"), draw_face(identity, rng))
    return root


@pytest.fixture(scope="module")
def run(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs") / "run"
    return saccade.train("facenet_small", faces, out=out, epochs=10, **SMALL, **QUIET)


def test_training_measures_people_that_it_has_not_seen(run: dict[str, Any], faces: Path) -> None:
    metrics = {name: value["value"] for name, value in run["metrics"].items()}
    assert {"auc", "eer", "tar_at_far_1e-2", "tar_at_far_1e-3", "rank_1", "rank_5", "dir_at_far_1e-2"} == set(metrics)
    assert metrics["auc"] > 0.8
    assert metrics["tar_at_far_1e-3"] is None  # 96 pairs of different people cannot show it
    assert [row["name"] for row in run["per_class"]] == [f"p{i:02d}" for i in range(8, 12)]
    chosen = run["curves"]["chosen"]
    assert saccade.load(run["run"]).thresholds == (pytest.approx(chosen["threshold"]),)
    report = (Path(run["run"]) / "report.html").read_text(encoding="utf-8")
    assert "The pairs that mislead most" in report
    assert "p08/" in report


def test_people_who_cannot_choose_a_checkpoint_leave_the_last(faces: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces, data)
    for other in ("p09", "p10", "p11"):
        shutil.rmtree(data / "val" / other)
    found = saccade.train("facenet_small", data, out=tmp_path / "run", epochs=4, patience=0.3, **SMALL, **QUIET)
    assert found["metrics"]["auc"]["value"] is None
    best, last = (saccade.checkpoint.load(tmp_path / "run" / f"{name}.safetensors") for name in ("best", "last"))
    assert all(torch.equal(best.weights[name], tensor) for name, tensor in last.weights.items())
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "cannot choose the checkpoint, for they show one identity (p08)" in report
    shutil.rmtree(data / "val")
    (data / "val").mkdir()
    for name in ("p08", "p09"):
        (data / "val" / name).mkdir()
        shutil.copy(faces / "val" / name / "0.png", data / "val" / name)
    warnings = make_plan("facenet_small", data).dataset.ledger.warnings
    assert any("they show each identity once" in warning for warning in warnings)


def test_evaluation_takes_people_that_no_class_names(
    run: dict[str, Any], faces: Path, tmp_path: Path, drawn_figures: None
) -> None:
    """The data's classes are others than the model's; the rates are those at the model's threshold."""
    again = saccade.evaluate(run["run"], faces / "val", split="all", bootstrap=0, workers=0, out=tmp_path / "scores")
    for name in ("roc", "similarities", "ranks"):
        assert cv2.imread(str(tmp_path / "scores" / "plots" / f"{name}.png")).shape[0] > 100
    assert again["metrics"]["auc"]["value"] == pytest.approx(run["metrics"]["auc"]["value"], abs=0.02)
    assert again["curves"]["given"]["threshold"] == pytest.approx(run["curves"]["chosen"]["threshold"])
    with pytest.raises(UsageError, match="crops"):
        saccade.evaluate(run["run"], faces, crops=2)


def test_predict_compares_pictures_with_those_before(run: dict[str, Any], faces: Path, tmp_path: Path) -> None:
    paths = [faces / "val" / name for name in ("p08/0.png", "p08/1.png", "p09/0.png")]
    found = saccade.predict(run["run"], paths, out=tmp_path / "out", workers=0)
    assert [len(answer["alike"]) for answer in found] == [0, 1, 2]
    assert all(len(answer["embedding"]) == 16 for answer in found)
    assert sum(v * v for v in found[0]["embedding"]) == pytest.approx(1, abs=1e-4)
    a, b = (torch.tensor(answer["embedding"]) for answer in found[:2])
    assert found[1]["alike"][0]["similarity"] == pytest.approx(float(a @ b), abs=1e-4)
    threshold = saccade.load(run["run"]).thresholds[0]
    for answer in found[1:]:
        assert all(each["same"] == (each["similarity"] >= threshold) for each in answer["alike"])
    asked = saccade.predict(run["run"], paths[:2], threshold=1.0, workers=0)
    assert asked[1]["alike"][0]["same"] is False
    pictures = [cv2.imread(str(tmp_path / "out" / name)) for name in ("0.png", "1.png", "0-2.png")]
    assert pictures[1].shape[1] > 1.9 * pictures[0].shape[1]  # beside the one that is most like it
    assert json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8")) == found


def test_what_makes_two_alike_is_explained(run: dict[str, Any], faces: Path, tmp_path: Path) -> None:
    pair = [faces / "val" / name for name in ("p08/0.png", "p08/1.png")]
    found = saccade.explain(run["run"], pair, out=tmp_path / "why", methods=["occlusion"])
    assert [image["explained"][0]["name"] for image in found["images"]] == ["like 1.png", "like 0.png"]
    alone = saccade.explain(run["run"], pair[:1], methods=["occlusion"])
    assert [each["name"] for each in alone["images"][0]["explained"]] == ["as it is"]
    with pytest.raises(UsageError, match="needs the gradient"):
        saccade.explain(run["run"], pair, methods=["grad_cam"])
    folder = tmp_path / "other"
    folder.mkdir()
    same = [pair[0], Path(shutil.copy(pair[1], folder / pair[0].name))]  # two people, each with a picture of one name
    found = saccade.explain(run["run"], same, out=tmp_path / "again", methods=["occlusion"])
    assert found["images"][0]["explained"][0]["name"] == f"like other/{pair[0].name}"
    assert f"<h2>other/{pair[0].name}</h2>" in (tmp_path / "again" / "report.html").read_text()


def test_labels_that_are_blended_or_repeated_are_refused(faces: Path, tmp_path: Path) -> None:
    for name, value in (("mixup", 0.2), ("repeat_threshold", 0.1)):
        with pytest.raises(UsageError, match=name):
            saccade.train("facenet_small", faces, out=tmp_path / "run", **SMALL, **QUIET, **{name: value})


def test_a_pass_of_one_identity_is_refused(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="4 identities with 4 images each; 3 passes"):
        saccade.train("facenet_small", faces, out=tmp_path / "run", accumulate=3, **SMALL, **QUIET)


def test_features_as_they_are_train_nothing(faces: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = create("resnet18", width=8, depths=(1, 1, 1, 1))
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    settings = {name: SMALL[name] for name in ("trunk_width", "trunk_depths", "size")}
    found = saccade.train(
        "facenet_small",
        faces,
        out=tmp_path / "run",
        recipe="frozen",
        weights=tmp_path / "weights.pt",
        **settings,
        **QUIET,
    )
    assert found["metrics"]["auc"]["value"] > 0.55
    assert found["seconds"] == 0
    assert (tmp_path / "run" / "report.html").is_file()
    again = saccade.evaluate(tmp_path / "run", faces, bootstrap=0, workers=0)
    assert again["metrics"]["auc"]["value"] == pytest.approx(found["metrics"]["auc"]["value"], abs=0.02)  # bf16


def test_a_fitted_similarity_judges_the_pairs(faces: Path, tmp_path: Path) -> None:
    settings = {"first": 8, "second": 8, "local": ((8, 3, 2),), "hidden": 32, "size": 48, "batch": 8, "epochs": 3}
    found = saccade.train(
        "deepface_small", faces, out=tmp_path / "run", similarity_kind="chi_square", **settings, **QUIET
    )
    assert 0 < found["curves"]["chosen"]["threshold"] < 1
    model = saccade.load(tmp_path / "run")
    vectors = np.stack([model.predict(path).embedding.numpy() for path in sorted((faces / "val").rglob("*.png"))])
    alike = model.similarity(vectors, vectors)
    assert not np.allclose(alike, vectors @ vectors.T, atol=0.01)
    assert found["curves"]["worst_pairs"]["different"][0][2] == pytest.approx(
        float(np.where(np.kron(np.eye(4), np.ones((4, 4))), -1, alike).max()), abs=1e-3
    )


HEART: dict[str, dict[str, Any]] = {
    "siamese_small": {"trunk_width": 16, "embedding": 32},
    "facenet_small": {"trunk_width": 16, "embedding": 32},
    "deepface_small": {"first": 8, "second": 8, "local": ((8, 3, 2),), "hidden": 64, "dropout": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEART)
def test_faces_are_learned_by_heart(name: str, faces: Path, tmp_path: Path) -> None:
    """The pictures that are asked are those that were learned from: every pair is judged rightly."""
    for split in ("train", "val"):
        shutil.copytree(faces / "train", tmp_path / "data" / split)
    still = {"flip": 0, "jitter": 0, "color": 0, "rotate": 0, "size": 48, "batch": 16, "epochs": 80}
    found = saccade.train(name, tmp_path / "data", out=tmp_path / "run", **HEART[name], **still, **QUIET)
    assert found["metrics"]["auc"]["value"] > 0.999
    assert found["metrics"]["rank_1"]["value"] == 1


@pytest.mark.slow
@pytest.mark.shared
def test_features_of_photographs_tell_strangers_apart(shared_data: Path, tmp_path: Path) -> None:
    """SqueezeNet's features, standardised on 20 people of the ORL faces, of the other 8; eigenfaces: 0.968, 0.869
    there."""
    for number in range(1, 29):
        folder = tmp_path / "orl" / ("train" if number <= 20 else "val") / f"s{number}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(shared_data / "orl_faces" / f"s{number}", target_is_directory=True)
    weights = shared_data / "weights" / "squeezenet1_0_imagenet" / "squeezenet1_0.npz"
    settings = {"recipe": "frozen", "trunk": "squeezenet1_0_caffe", "size": 227, "weights": weights}
    found = saccade.train("facenet_small", tmp_path / "orl", out=tmp_path / "run", **settings, **QUIET)
    assert found["metrics"]["auc"]["value"] > 0.995
    assert found["metrics"]["rank_1"]["value"] > 0.97
