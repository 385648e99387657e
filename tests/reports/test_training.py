"""The report: one file that needs nothing else, for every task, with names from anywhere."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Objects
from saccade.reports.evaluation import write_evaluation_report
from saccade.reports.gallery import Gallery
from saccade.reports.training import write_training_report
from saccade.reports.words import cautions, explain_course
from saccade.tasks.contract import task_of
from saccade.training.plan import make_plan

pytestmark = pytest.mark.usefixtures("drawn_figures")

NAMES = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$\\frac{_hidden", "日本\n{{ 7 * 7 }}"]
SIZE = (40, 60)


class Reader(HTMLParser):
    """Tags, and everything that a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def _check(folder: Path) -> str:
    """The report's text, after the checks that hold for every report."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(reader.tags)
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)
    assert not reader.handlers
    assert "url(" not in text
    assert "@import" not in text
    assert len(text) < 5_000_000
    assert not list(folder.rglob("*.tmp"))
    return text


def _objects(rng: np.random.Generator, n: int, scored: bool) -> Objects:
    corner = rng.uniform(0, 25, (n, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + rng.uniform(3, 14, (n, 2))], 1), dtype=torch.float32)
    masks = torch.zeros(n, *SIZE, dtype=torch.bool)
    for mask, box in zip(masks, boxes.int().tolist(), strict=True):
        mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    labels = torch.tensor(rng.integers(0, len(NAMES), n))
    return Objects(boxes, labels, torch.tensor(rng.random(n), dtype=torch.float32) if scored else None, masks)


def _annotation(task: str, rng: np.random.Generator, scored: bool) -> Annotation:
    scores = torch.tensor(rng.dirichlet(np.ones(len(NAMES))), dtype=torch.float32)
    if task == "classify":
        label = int(scores.argmax())
        return Annotation(SIZE, label, probabilities=scores if scored else None)
    if task == "localize":
        label = int(scores.argmax())
        objects = dataclasses.replace(_objects(rng, 1, scored), labels=torch.tensor([label]), masks=None)
        return Annotation(SIZE, label, probabilities=scores if scored else None, objects=objects)
    if task == "tag":
        return Annotation(SIZE, tags=scores > 0.3, probabilities=scores if scored else None)
    if task == "segment":
        return Annotation(SIZE, semantic=torch.tensor(rng.integers(0, len(NAMES), SIZE), dtype=torch.uint8))
    return Annotation(SIZE, objects=_objects(rng, int(rng.integers(0, 5)), scored))


def _evaluated(task: str, root: Path, images: int = 15) -> tuple[DataSet, dict[str, Any], Gallery]:
    """A data set of noise with hostile names, and what a blind model would get on it."""
    rng = np.random.default_rng(0)
    records = [Record(f"<b>{i}&.png", SIZE, "val", label=i % 4) for i in range(images)]
    dataset = DataSet(root, "folder", task, NAMES, records)
    dataset.ledger.warnings += ["leak: 1 of 15 pictures of val are also in train <script>"]
    for i in range(12):
        dataset.ledger.refuse_label(f"<i>labels/{i}.txt", "class 9, allowed 0..3")
    gallery, metric = Gallery(task, dataset, records), task_of(task).make_metric(NAMES)
    for record in records:
        Image.fromarray(rng.integers(0, 255, (*SIZE, 3), np.uint8)).save(root / record.id)
        truth, prediction = _annotation(task, rng, False), _annotation(task, rng, True)
        metric.add(record.id, truth, prediction)
        gallery.add(record, truth, prediction)
    found = metric.result(bootstrap=20).to_json()
    return dataset, {"split": "val", "images": images, "seconds": 1.0} | found, gallery


@pytest.mark.parametrize("task", ["classify", "localize", "tag", "detect", "instances", "segment"])
def test_every_task_with_hostile_names_in_one_file(task: str, tmp_path: Path) -> None:
    dataset, summary, gallery = _evaluated(task, tmp_path)
    write_evaluation_report(tmp_path, dataset, task, summary, gallery, [("model", "<run>")], "saccade evaluate '<run>'")
    text = _check(tmp_path)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert text.count("data:image/jpeg") >= 12 + 8
    assert "The worst mistakes" in text
    assert "the first 10 of 12" in text
    assert "leak: 1 of 15" in text.split("<nav>")[0]
    assert "Only 15 images were measured" in text
    for name, value in summary["metrics"].items():
        assert f">{name}</td>" in text
        assert value["value"] is None or f"{value['value']:.4f}" in text
    expected = {"classify": "confusion", "localize": "confusion", "tag": "precision_recall", "segment": "classes"}.get(
        task, "precision_recall"
    )
    assert Image.open(tmp_path / "plots" / f"{expected}.png").width > 300
    assert text.count("data:image/png") == len(list((tmp_path / "plots").glob("*.png")))


def test_objects_are_drawn_and_counted_from_the_thresholds_of_the_run_on(tmp_path: Path) -> None:
    record = Record("a.png", SIZE, "val", things=[])
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "a.png")
    dataset = DataSet(tmp_path, "voc", "detect", ["cat", "dog"], [record])
    box, scores = torch.tensor([[2.0, 2.0, 20.0, 20.0]]), torch.tensor([0.04, 0.04])
    truth = Annotation(SIZE, objects=Objects(box, torch.tensor([0])))
    found = Annotation(SIZE, objects=Objects(box.repeat(2, 1), torch.tensor([0, 1]), scores))
    gallery = Gallery("detect", dataset, [record], (0.03, 0.5))
    metric = task_of("detect").make_metric(dataset.classes, thresholds=(0.03, 0.5))
    metric.add("a.png", truth, found)
    gallery.add(record, truth, found)
    assert gallery.kinds() == []  # the cat is found, and the dog is not shown
    summary = {"split": "val", "images": 1, "seconds": 0.0} | metric.result(bootstrap=5).to_json()
    assert summary["curves"]["confusion"]["counts"] == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    write_evaluation_report(tmp_path, dataset, "detect", summary, gallery, [], "")
    assert "drawn from the score of the class (0.03 to 0.50) on" in _check(tmp_path)


def test_nothing_in_the_truth_is_said_and_not_a_fault(tmp_path: Path) -> None:
    record = Record("a.png", SIZE, "val", things=[])
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "a.png")
    dataset = DataSet(tmp_path, "voc", "detect", ["cat"], [record])
    gallery, metric = Gallery("detect", dataset, [record]), task_of("detect").make_metric(["cat"])
    empty = Annotation(SIZE, objects=Objects.empty()), Annotation(SIZE, objects=Objects.empty(scored=True))
    metric.add("a.png", *empty)
    gallery.add(record, *empty)
    summary = {"split": "val", "images": 1, "seconds": 0.0} | metric.result(bootstrap=5).to_json()
    write_evaluation_report(tmp_path, dataset, "detect", summary, gallery, [], "")
    text = _check(tmp_path)
    assert "There was no object to measure" in text
    assert "No mistake was found" in text


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_run_without_validation(colours: Path, tmp_path: Path, rows: int) -> None:
    plan = make_plan("resnet20", colours, flags={"lr": 0.05, "epochs": 2, "width": 8})
    plan = dataclasses.replace(plan, validation=[])
    log = [{"epoch": i + 1, "step": 5 * i + 5, "lr": 0.1, "losses": {"classification": 1.0}} for i in range(rows)]
    summary = {"metrics": {}, "seconds": 3.0, "images_per_second": 10.0}
    write_training_report(tmp_path, plan, log, summary, None, "a <fast> processor", "fp32")
    text = _check(tmp_path)
    assert "There are no validation images" in text
    assert "a &lt;fast&gt; processor" in text
    assert "Deep Residual Learning" in text
    assert "--epochs 2 --set lr=0.05 --set width=8" in text.replace("&#39;", "")
    flagged = re.findall(r'<tr class="changed"><td class="key">(\w+)</td>', text)
    assert flagged[:2] == ["epochs", "lr"]
    assert (tmp_path / "plots" / "training.png").is_file() == (rows > 0)


def test_train_and_evaluate_write_it(colours: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch": 8, "workers": 0, "width": 4, "depths": [1, 1, 1]}
    saccade.train("resnet20", colours, out=tmp_path / "run", progress=False, precision="fp32", **settings)
    text = _check(tmp_path / "run")
    assert "Predictions beside the truth" in text
    assert "best checkpoint" in text
    assert "saccade export" in text
    found = saccade.evaluate(tmp_path / "run", colours, bootstrap=20, out=tmp_path / "evaluation")
    text = _check(tmp_path / "evaluation")
    assert f"{found['metrics']['top1']['value']:.3f}" in text
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["metrics"] == found["metrics"]


def test_every_metric_has_a_meaning() -> None:
    for task in ("classify", "localize", "tag", "detect", "instances", "segment"):
        for name in task_of(task).make_metric(["a", "b"]).result(bootstrap=0).metrics:
            assert task_of(task).MEANINGS[name]


def test_a_score_at_the_level_of_guessing_is_said() -> None:
    rows = [{"name": "cat", "images": 160}, {"name": "dog", "images": 40}]
    metrics = {"top1": {"value": 0.82, "low": 0.76, "high": 0.88}}
    found = {"images": 200, "per_class": rows, "metrics": metrics}
    assert cautions("classify", found) == ["Not surely better than always answering cat, which is right for 80 %."]
    metrics["top1"]["low"] = 0.81
    assert cautions("classify", found) == []


def _course(validation: list[float], training: list[float]) -> list[dict[str, Any]]:
    each = zip(validation, training, strict=True)
    return [{"epoch": i, "losses": {"a": t}, "validation_losses": {"a": v}} for i, (v, t) in enumerate(each, 1)]


@pytest.mark.parametrize(
    ("validation", "training", "says", "overfits"),
    [
        ([3, 2, 1], [3, 2, 1], "lowest after epoch 3 of 3 (1), at the last evaluation", False),
        (
            [3, 1, 2],
            [3, 2, 1],
            "lowest after epoch 2 of 3 (1) and 2 at the last evaluation, after epoch 3, while",
            True,
        ),
        ([3, 1, 1.05], [3, 2, 1], "so small a rise", True),
        ([3, 1, 2], [3, 1, 2], "the training loss rose as well, from 1 to 2", False),
        ([3, 1, 1.01], [3, 2, 1], "stayed within 2 % of the lowest", False),
    ],
)
def test_overfitting_is_said_where_the_numbers_show_it(
    validation: list[float], training: list[float], says: str, overfits: bool
) -> None:
    [sentence] = explain_course(_course(validation, training), "ap")
    assert says in sentence
    assert ("what overfitting looks like" in sentence) is overfits
    assert ("may be chance" in sentence) is (validation[-1] == 1.05)


def test_a_course_without_measurements_says_nothing() -> None:
    assert explain_course([{"epoch": 1, "losses": {"a": 1.0}, "metrics": {"ap": 0.5}}], "ap") == []
    rows = [{"epoch": 4, "losses": {"a": 1.0}, "metrics": {"ap": 0.5}, "training_metrics": {"ap": 0.75}}]
    [sentence] = explain_course(rows, "ap")
    assert "After epoch 4 the score ap was 0.750 on training images" in sentence
