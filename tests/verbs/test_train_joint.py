"""Training on a tree of classes and on images with a class alone, from the command line to the answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import saccade
from saccade.errors import DataError, UsageError
from saccade.training.state import read_config
from saccade.verbs.evaluate import evaluate

Shell = Callable[..., tuple[int, str, str]]
TINY: dict[str, Any] = {
    "trunk_width": 8,
    "trunk_depths": [1, 1],
    "convs": [8],
    "joined": 8,
    "size": 64,
    "batch": 8,
    "precision": "fp32",
    "fit_priors": False,
}
TREE = "warm: [red, orange]\ncold: [blue, cyan]\n"
COLOURS = {"red": (250, 20, 20), "orange": (250, 150, 20), "blue": (20, 20, 250), "cyan": (20, 220, 250)}


def picture(seed: int, *squares: tuple[str, tuple[int, int, int, int]]) -> Image.Image:
    values = np.random.default_rng(seed).integers(60, 120, (64, 64, 3), np.uint8)
    for name, (x1, y1, x2, y2) in squares:
        values[y1:y2, x1:x2] = COLOURS[name]
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """boxes/: red and blue squares with boxes; kinds/: orange and cyan ones without; tree.yaml."""
    root = tmp_path_factory.mktemp("joint")
    rows: list[dict[str, Any]] = []
    (root / "boxes/images").mkdir(parents=True)
    for i in range(10):
        x, y = 4 * (i % 3), 3 * (i % 4)
        boxes = [("red", (x, y, x + 24, y + 24)), ("blue", (36, 30, 60, 54))]
        picture(i, *boxes).save(root / f"boxes/images/{i}.png")
        for name, (x1, y1, x2, y2) in boxes:
            box = [x1, y1, x2 - x1, y2 - y1]
            category = 1 if name == "red" else 2
            rows.append({"id": len(rows) + 1, "image_id": i, "category_id": category, "bbox": box, "area": 576})
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(10)]
    names = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    (root / "boxes/annotations.json").write_text(
        json.dumps({"images": images, "annotations": rows, "categories": names})
    )
    for name in ("orange", "cyan"):
        (root / "kinds" / name).mkdir(parents=True)
        for i in range(6):
            picture(100 + i, (name, (8 + 4 * i, 10 + i, 32 + 4 * i, 36 + i))).save(root / f"kinds/{name}/{i}.png")
    (root / "tree.yaml").write_text(TREE)
    return root


def train(place: Path, out: Path, **more: Any) -> dict[str, Any]:
    given = {"epochs": 1, "tree": place / "tree.yaml", "join": place / "kinds", **TINY, **more}
    return saccade.train("yolo9000_small", place / "boxes", out=out, progress=False, workers=0, **given)


@pytest.fixture(scope="module")
def run(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joint_run") / "run"
    train(place, out)
    return out


def test_the_run_and_its_answers_go_by_the_nodes(run: Path, place: Path) -> None:
    nodes = ["warm", "red", "orange", "cold", "blue", "cyan"]
    stored = read_config(run)
    assert stored["classes"] == nodes
    assert stored["config"]["tree"] == [-1, 0, 0, -1, 3, 3]
    assert stored["images"] == {"train": 8 + 12, "val": 2}
    assert (stored["join"], stored["tree"]) == (str(place / "kinds"), str(place / "tree.yaml"))
    assert f"--tree {place / 'tree.yaml'} --join {place / 'kinds'}" in (run / "report.html").read_text()
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["losses"]["label"] > 0
    predictor = saccade.load(run)
    assert predictor.classes == nodes
    answer = predictor.predict(place / "kinds/orange/0.png")
    assert answer.objects is not None
    assert set(answer.objects.labels.tolist()) <= set(range(6))
    found = json.loads((run / "metrics.json").read_text())
    measured = {row["name"]: row["objects"] for row in found["per_class"] if row["objects"]}
    assert measured == {"red": 2, "blue": 2}
    ledger = json.loads((run / "data_report.json").read_text())
    assert ledger["used"] == {"images": 22, "labels": 32}


def test_its_results_file_speaks_of_the_classes_of_the_data(run: Path, place: Path, tmp_path: Path) -> None:
    found = evaluate(run, place / "boxes", out=tmp_path / "out", split="all", workers=0, progress=False)
    rows = json.loads((tmp_path / "out/coco_results.json").read_text())
    assert {row["category_id"] for row in rows} <= {1, 2}
    again = evaluate(tmp_path / "out/coco_results.json", place / "boxes", split="all", progress=False)
    assert again["metrics"]["ap"]["value"] == pytest.approx(found["metrics"]["ap"]["value"], abs=1e-6)


def test_it_goes_on_with_what_it_joined(run: Path, place: Path, tmp_path: Path) -> None:
    again = shutil.copytree(run, tmp_path / "run")
    saccade.train("yolo9000_small", place / "boxes", out=again, resume=True, epochs=2, progress=False, workers=0)
    assert read_config(again)["images"]["train"] == 20
    train(place, again, resume=True, epochs=3)
    (tmp_path / "other.yaml").write_text(TREE.replace("orange", "pink"))
    with pytest.raises(UsageError, match="cannot change the tree"):
        train(place, again, resume=True, tree=tmp_path / "other.yaml")


def test_going_on_without_what_was_joined_names_it(place: Path, tmp_path: Path) -> None:
    own = shutil.copytree(place, tmp_path / "place")
    train(own, tmp_path / "run")
    kinds = (own / "kinds").rename(tmp_path / "elsewhere")
    more: dict[str, Any] = {"out": tmp_path / "run", "resume": True, "epochs": 2, "progress": False, "workers": 0}
    with pytest.raises(DataError, match=r"the run joined .*kinds, which is not there any more; say where .* by --join"):
        saccade.train("yolo9000_small", own / "boxes", **more)
    (kinds / "orange/0.png").rename(tmp_path / "0.png")
    with pytest.raises(UsageError, match="images or labels differ"):
        saccade.train("yolo9000_small", own / "boxes", join=kinds, **more)
    (tmp_path / "0.png").rename(kinds / "orange/0.png")
    saccade.train("yolo9000_small", own / "boxes", join=kinds, **more)
    assert read_config(tmp_path / "run")["join"] == str(kinds)


def test_joined_without_a_tree_all_classes_stand_side_by_side(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "run", tree=None)
    stored = read_config(tmp_path / "run")
    assert stored["classes"] == ["red", "blue", "cyan", "orange"]
    assert stored["config"]["tree"] == []


def test_who_has_no_use_for_it_says_so(place: Path, tmp_path: Path, shell: Shell) -> None:
    words = ["train", "yolo2_small", place / "boxes", "--out", tmp_path / "run"]
    code, _, error = shell(*words, "--join", place / "kinds")
    assert code == 2
    assert "yolo2_small learns nothing from images that have a class and no boxes" in error
    assert "yolo9000, yolo9000_small" in error
    code, _, error = shell(*words, "--tree", place / "tree.yaml")
    assert code == 2
    assert "the classes of yolo2_small are no tree" in error
    words[1] = "yolo9000_small"
    code, _, error = shell(*words, "--tree", place / "tree.yaml")
    assert code == 2
    assert "tree.yaml: no data has 2 leaves of the tree: orange, cyan" in error
    assert not (tmp_path / "run").exists()
