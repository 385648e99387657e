"""Which pictures a report keeps, and what it says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Objects
from saccade.reports.gallery import SAMPLED, SIDE, WORST, Exhibit, Gallery, choose, explain, side_of
from saccade.reports.operating import operating_section
from saccade.reports.sections import scores_section
from saccade.tasks import detect, tag


def test_choice_is_spread_bounded_and_independent_of_order() -> None:
    ids = [f"{i:03}" for i in range(100)]
    chosen = choose(ids, 4)
    assert chosen == ["012", "037", "062", "087"]
    assert choose(ids[::-1], 4) == chosen
    assert choose(ids[:3], 4) == ids[:3]
    assert choose([], 4) == []


def test_keeps_the_worst_and_a_fixed_choice_of_many(tmp_path: Path) -> None:
    records = [Record(f"{i}.png", (8, 8), "val", label=0) for i in range(60)]
    for record in records:
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / record.id)
    dataset = DataSet(tmp_path, "folder", "classify", ["a", "b"], records)
    gallery = Gallery("classify", dataset, records)
    for i, record in enumerate(records):
        correct = 0.02 + 0.015 * i
        gallery.add(
            record,
            Annotation((8, 8), label=0),
            Annotation((8, 8), 0, probabilities=torch.tensor([correct, 1 - correct])),
        )
    worst = gallery.worst()
    assert [e.id for e in worst] == [f"{i}.png" for i in range(WORST)]
    assert worst[0].mistakes == ["a comes in place 2, after b (0.98)"]
    assert len(gallery.sampled()) == SAMPLED
    assert [e.id for e in gallery.sampled()] == choose([r.id for r in records], SAMPLED)
    assert max(worst[0].pictures[0][1].shape) == SIDE


def test_an_image_that_went_away_is_named(tmp_path: Path) -> None:
    record = Record("gone.png", (8, 8), "val", label=0)
    gallery = Gallery("classify", DataSet(tmp_path, "folder", "classify", ["a", "b"], [record]), [record])
    gallery.add(record, Annotation((8, 8), label=0), Annotation((8, 8), 0, probabilities=torch.tensor([0.9, 0.1])))
    (exhibit,) = gallery.sampled()
    assert "gone.png" in exhibit.unreadable
    assert exhibit.correct
    assert gallery.worst() == []


def test_mistakes_in_words() -> None:
    classes = ["cat", "dog"]
    truth = Objects(torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [80, 0, 90, 10]]), torch.tensor([0, 0, 0]))
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30], [30, 30, 40, 40], [50, 50, 60, 60]])
    predicted = Objects(boxes, torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]))
    size = (100, 100)
    verdict = detect.judge(Annotation(size, objects=truth), Annotation(size, objects=predicted), classes)
    assert explain("detect", verdict, classes) == [
        "cat (0.80) found twice",
        "2 x dog (up to 0.70) where there is nothing",
        "cat taken for dog (0.50)",
        "cat missed",
    ]
    assert explain("detect", verdict, classes, 2)[-1] == "and 2 more kinds of mistakes"
    tags = Annotation(size, tags=torch.tensor([True, False]))
    verdict = tag.judge(tags, Annotation(size, probabilities=torch.tensor([0.1, 0.8])), classes)
    assert explain("tag", verdict, classes) == ["cat missed (0.10)", "dog said, but not there (0.80)"]


def test_wide_pictures_are_drawn_larger_and_below_each_other() -> None:
    assert (side_of((375, 1242)), side_of((300, 500)), side_of((1242, 375))) == (757, SIDE, SIDE)
    wide, other = (Exhibit("a", [("", np.zeros(shape, np.uint8))], "", "", None, [], 0) for shape in ((9, 19), (9, 18)))
    assert (wide.wide, other.wide) == (True, False)


def test_metres_have_no_bar_and_the_ranking_metric_comes_first() -> None:
    values = {name: {"value": 0.5, "low": None, "high": None} for name in ("ap_3d", "iou_3d", "place_error")}
    rows = scores_section("boxes3d", values).tables[0].rows
    assert [row.cells[0].text for row in rows] == ["iou_3d", "ap_3d", "place_error"]
    assert [row.cells[1].bar for row in rows] == [0.5, 0.5, None]


def test_a_class_that_is_neither_there_nor_found_has_no_threshold_to_show() -> None:
    row = {"threshold": 0.5, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    rows = [row | {"class": "Car"}, row | {"class": "Van"}, dict.fromkeys(row) | {"class": "Tram", "f1": 0.0}]
    (table,) = operating_section(row | {"classes": rows, "confidence": [0.5], "curve": [1.0]}).tables
    assert [line.cells[0].text for line in table.rows] == ["Car", "Van"]
