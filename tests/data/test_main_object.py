"""The one object of an image that localization asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data.dataset import DataSet, Ledger, Record, Thing
from saccade.data.formats import read
from saccade.data.keeping import KeepObjects
from saccade.data.main_object import keep_main_objects, main_object
from saccade.data.transforms import Resize
from saccade.data.truth import read_truth
from saccade.data.types import Annotation, Objects, Sample
from saccade.errors import DataError, UsageError

SMALL, LARGE = Thing(0, (0, 0, 5, 5)), Thing(1, (0, 0, 8, 9))


def test_the_largest_that_is_neither_crowd_nor_difficult() -> None:
    crowd, difficult = Thing(0, (0, 0, 20, 20), crowd=True), Thing(0, (0, 0, 20, 20), difficult=True)
    assert main_object([crowd, SMALL, LARGE, difficult]) is LARGE
    twin = Thing(0, (1, 1, 9, 10))
    assert main_object([SMALL, twin, LARGE]) is twin  # of equal areas the first
    assert main_object([crowd, difficult]) is None
    assert main_object([]) is None


def test_the_data_set_keeps_one_each_and_accounts_for_the_others() -> None:
    crowd = Thing(0, (0, 0, 20, 20), crowd=True)
    held: list[list[Thing]] = [[SMALL], [SMALL, LARGE], [SMALL, LARGE, crowd], [], [crowd]]
    records = [Record(f"{i}.png", (30, 30), things=things) for i, things in enumerate(held)]
    dataset = DataSet(Path("data"), "coco", "detect", ["a", "b"], records, Ledger(images_used=5, labels_used=7))
    keep_main_objects(dataset)
    assert dataset.task == "localize"
    assert [r.things for r in dataset.records] == [[SMALL], [LARGE], [LARGE]]
    ledger = dataset.ledger
    assert (ledger.images_used, ledger.labels_used, ledger.images_refused) == (3, 3, 2)
    assert [(e.where, e.what.split(";")[0]) for e in ledger.refused] == [
        ("3.png", "holds no object"),
        ("4.png", "holds only objects marked crowd or difficult"),
    ]
    assert any("2 of 5 images have several, 3 objects are left aside" in w for w in ledger.warnings)
    assert any("2 of 5 images have none and are refused" in w for w in ledger.warnings)


def test_truth_is_label_and_box_at_any_reduction(tmp_path: Path) -> None:
    record = Record("a.png", (30, 30), things=[SMALL, LARGE])
    dataset = DataSet(tmp_path, "coco", "localize", ["a", "b"], [record])
    truth = read_truth(record, dataset, "localize", reduction=2)
    assert truth.label == 1
    assert truth.objects is not None
    assert truth.objects.boxes.tolist() == [[0, 0, 4, 4.5]]
    with pytest.raises(DataError, match=r"b\.png: .* no object that is neither crowd nor difficult"):
        read_truth(Record("b.png", (30, 30), things=[]), dataset, "localize")


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """YOLO: images with two objects, one, none."""
    for i, rows in enumerate(("0 .3 .3 .2 .2\n1 .6 .6 .5 .5\n", "0 .5 .5 .4 .4\n", "")):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), 60 * i, np.uint8)).save(tmp_path / f"images/{i}.png")
        (tmp_path / f"labels/{i}.txt").write_text(rows)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: images\n")
    return tmp_path


def test_read(boxes: Path) -> None:
    dataset = read(boxes, "localize")
    assert [[t.label for t in r.things or []] for r in dataset.records] == [[1], [0]]
    assert dataset.ledger.images_refused == 1
    assert read(boxes).task == "detect"
    for i in range(3):
        (boxes / f"labels/{i}.txt").write_text("")
    with pytest.raises(DataError, match="no objects"):
        read(boxes, "localize")


def test_labels_without_boxes_do_not_serve(colours: Path) -> None:
    with pytest.raises(UsageError, match=r"task 'localize' needs boxes with classes; the labels .* serve: classify"):
        read(colours, "localize")


def test_a_step_that_loses_the_object_gives_way() -> None:
    box = Objects(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0]))
    sample = Sample(np.zeros((8, 8, 3), np.uint8), Annotation((8, 8), label=0, objects=box), "x", (8, 8))

    def lose(sample: Sample, rng: np.random.Generator) -> Sample:
        return Sample(sample.image, Annotation((8, 8), label=0, objects=Objects.empty()), "x", (8, 8))

    rng = np.random.default_rng(0)
    kept = KeepObjects(lose, Resize((16, 16)))(sample, rng)
    assert kept.truth.size == (16, 16)
    assert kept.truth.label == 0
    assert kept.truth.objects is not None
    assert kept.truth.objects.boxes.tolist() == [[0, 0, 8, 8]]
    assert KeepObjects(Resize((4, 4)), lose)(sample, rng).truth.size == (4, 4)
