"""Objects of a detection data set as pictures to classify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats import read
from saccade.data.object_pictures import records_of_objects, take_objects
from saccade.data.truth import read_sample
from saccade.verbs.evaluate import evaluate
from saccade.verbs.train import train


def test_every_clear_object_is_a_record_of_its_box() -> None:
    things = [
        Thing(1, (2.5, 3.0, 8.2, 9.0)),
        Thing(0, (0, 0, 9, 9), crowd=True),
        Thing(0, (0, 0, 9, 9), difficult=True),
        Thing(0, (29.7, 19.5, 30, 20)),
    ]
    records = [
        Record("a.jpg", (20, 30), "train", things=things, source_id=7),
        Record("b.jpg", (20, 30), things=[]),
        Record("c", (20, 30), things=things[:1], path="c.jpg", region=(100, 200, 130, 220)),
    ]
    dataset = DataSet(Path("data"), "coco", "detect", ["a", "b"], records)
    found = records_of_objects(dataset)
    assert [(r.id, r.path, r.region, r.size, r.label, r.split) for r in found] == [
        ("a.jpg#0", "a.jpg", (2, 3, 9, 9), (6, 7), 1, "train"),
        ("a.jpg#3", "a.jpg", (29, 19, 30, 20), (1, 1), 0, "train"),
        ("c#0", "c.jpg", (102, 203, 109, 209), (6, 7), 1, None),
    ]
    take_objects(dataset)
    assert (dataset.task, dataset.records) == ("classify", found)
    (warning,) = dataset.ledger.warnings
    assert "3 objects of 2 pictures; 2 objects marked crowd or difficult and 1 pictures" in warning


def _boxes(root: Path, count: int) -> Path:
    """A YOLO data set: on gray, a red square (class 0) at the left and a green one (class 1) at the right."""
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image = rng.integers(90, 130, (40, 80, 3), dtype=np.uint8)
        image[10:30, 10:30] = (200, 20, 20)
        image[10:30, 50:70] = (20, 200, 20)
        Image.fromarray(image).save(root / "images" / f"{i}.png")
        (root / "labels" / f"{i}.txt").write_text("0 0.25 0.5 0.25 0.5\n1 0.75 0.5 0.25 0.5\n")
    (root / "data.yaml").write_text("names: [red, green]\n")
    return root


def test_boxes_are_read_as_pictures_only_where_classify_is_asked_for(tmp_path: Path) -> None:
    root = _boxes(tmp_path / "boxes", 3)
    assert read(root).task == "detect"
    dataset = read(root, "classify")
    assert (dataset.task, len(dataset.records), dataset.ledger.images_used) == ("classify", 6, 6)
    for record in dataset.records:
        sample = read_sample(record, dataset, "classify", min_side=8)
        assert sample.image.shape == (20, 20, 3)
        assert sample.truth.label == record.label
        assert (sample.image == [(200, 20, 20), (20, 200, 20)][record.label or 0]).all()


def test_a_classifier_trains_on_objects_and_is_scored_on_them(tmp_path: Path) -> None:
    root = _boxes(tmp_path / "boxes", 6)
    run = tmp_path / "run"
    train(
        "resnet20", root, out=run, task="classify", epochs=1, batch=4, size=16, width=4, depths=(1, 1, 1), device="cpu"
    )
    scored = evaluate(run, root, split="all", device="cpu")
    assert scored["images"] == 12
    assert "top1" in scored["metrics"]
