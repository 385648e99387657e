"""Results files: read and written, every kind of bad entry named by its number."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as run_lengths
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from saccade.data.dataset import DataSet, Record
from saccade.data.formats import read
from saccade.data.rle import rle_counts
from saccade.data.truth import read_truth
from saccade.data.types import Annotation, Objects
from saccade.errors import DataError, UsageError
from saccade.metrics.coco_results import MAX_ENTRIES, ResultRows, Results, read_results
from saccade.tasks.contract import task_of

GOOD = {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}


def dataset(source: bool = True) -> DataSet:
    records = [
        Record("images/0007.jpg", (10, 20), source_id=7 if source else None),
        Record("images/b.jpg", (10, 20), source_id="b9" if source else None),
    ]
    return DataSet(Path("."), "coco", "detect", ["cat", "dog"], records)


def write_results(predictions: Results | dict[str, Annotation], dataset: DataSet, path: Path) -> None:
    rows = ResultRows(dataset)
    for id, prediction in predictions.items():
        rows.add(Record(id, prediction.size), prediction, prediction)
    path.write_text(json.dumps(rows.rows, allow_nan=False))


def file(folder: Path, content: Any) -> Path:
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_numbers_keep_their_precision(tmp_path: Path) -> None:
    found = read_results(file(tmp_path, [GOOD | {"score": 0.1 + 1e-15, "bbox": [0.1, 0.2, 0.3, 0.4]}]), dataset())
    objects = found["images/0007.jpg"].objects
    assert objects is not None
    assert objects.scores is not None
    assert objects.scores.tolist() == [0.1 + 1e-15]
    assert objects.boxes.tolist() == [[0.1, 0.2, 0.1 + 0.3, 0.2 + 0.4]]
    assert objects.labels.tolist() == [1]
    assert found["images/0007.jpg"].size == (10, 20)
    assert found.named == {"images/0007.jpg"}


def test_images_without_entries_have_no_objects_and_ap_is_zero(tmp_path: Path) -> None:
    found = read_results(file(tmp_path, []), dataset())
    assert list(found) == ["images/0007.jpg", "images/b.jpg"]
    metric = task_of("detect").make_metric(["cat", "dog"])
    truth = Annotation((10, 20), objects=Objects(torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0])))
    for id, prediction in found.items():
        metric.add(id, truth, prediction)
    assert metric.result(0).metrics["ap"].value == 0


@pytest.mark.parametrize("name", [7, "7", "0007", "0007.jpg", "images/0007.jpg"])
def test_without_source_ids_the_file_name_is_the_key(tmp_path: Path, name: int | str) -> None:
    found = read_results(file(tmp_path, [GOOD | {"image_id": name}]), dataset(source=False))
    assert found.named == {"images/0007.jpg"}


def test_category_ids_of_the_data_set_return(tmp_path: Path) -> None:
    @dataclass
    class Stated(DataSet):
        category_ids: list[int | str] | None = None

    plain = dataset()
    stated = Stated(plain.root, "coco", "detect", plain.classes, plain.records, category_ids=[17, "18b"])
    found = read_results(file(tmp_path, [GOOD | {"category_id": "18b"}, GOOD | {"category_id": 17}]), stated)
    objects = found["images/0007.jpg"].objects
    assert objects is not None
    assert objects.labels.tolist() == [1, 0]
    write_results(found, stated, tmp_path / "out.json")
    assert [r["category_id"] for r in json.loads((tmp_path / "out.json").read_text())] == ["18b", 17]
    with pytest.raises(DataError, match="category_id 1 is unknown, allowed 17, 18b"):
        read_results(file(tmp_path, [GOOD | {"category_id": 1}]), stated)


def test_a_stem_that_fits_two_images_fits_none(tmp_path: Path) -> None:
    twins = dataset(source=False)
    twins.records.append(Record("other/0007.jpg", (10, 20)))
    with pytest.raises(DataError, match="entry 0: image_id 7 is not in the data set"):
        read_results(file(tmp_path, [GOOD]), twins)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (GOOD | {"image_id": 8}, "entry 1: image_id 8 is not in the data set"),
        (GOOD | {"category_id": 3}, "entry 1: category_id 3 is unknown, allowed 1, 2"),
        (GOOD | {"category_id": True}, "category_id True"),
        (GOOD | {"category_id": [1]}, r"category_id \[1\]"),
        (GOOD | {"score": float("nan")}, "entry 1: score nan is not a finite number"),
        (GOOD | {"score": None}, "score None"),
        (GOOD | {"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]"),
        (GOOD | {"bbox": [1, 2, -3, 4]}, "width and height >= 0"),
        (GOOD | {"bbox": [1, 2, 3, float("inf")]}, "inf"),
        (GOOD | {"bbox": [1, 2, 3, "4"]}, "bbox"),
        ({k: v for k, v in GOOD.items() if k != "bbox"}, "bbox None"),
        ([1, 2], r"entry 1: expected an object .* found \[1, 2\]"),
        (
            GOOD | {"segmentation": {"size": [20, 10], "counts": [200]}},
            r"mask of size \[20, 10\], the image is \[10, 20\]",
        ),
        (GOOD | {"segmentation": {"size": [10, 20], "counts": [100]}}, "runs sum to 100, size 10 x 20 needs 200"),
        (GOOD | {"segmentation": {"size": [10, 20], "counts": [300, -100]}}, "entry 1: RLE has a run below 0"),
        (GOOD | {"segmentation": {"size": [10, 20], "counts": "~~é"}}, "damaged"),
        (GOOD | {"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}, "over the limit"),
        (GOOD | {"segmentation": {"size": 5, "counts": [200]}}, "entry 1: RLE size 5"),
        (GOOD | {"segmentation": 5}, "neither polygons nor run lengths"),
        (GOOD | {"segmentation": [[0, 0, 1e9, 0, 1e9, 9]]}, "entry 1: the outline of a polygon"),
        (GOOD | {"bbox": [1, 2, 3, 10**4000]}, "bbox"),
        (GOOD | {"segmentation": [[1, 2, 3, 4]]}, "at least 3 points"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_results(file(tmp_path, [GOOD, entry]), dataset())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1, column 1"),
        ('[{"image_id": 7', "line 1"),
        ("{}", "expected a list"),
        ("[" * 100_000, "results.json"),
        ("\ufeff[]", None),
    ],
)
def test_files_that_are_no_list(tmp_path: Path, content: str, message: str | None) -> None:
    path = file(tmp_path, content)
    if message is None:
        assert read_results(path, dataset()).named == set()
    else:
        with pytest.raises(DataError, match=message):
            read_results(path, dataset())


def test_missing_and_latin1_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_results(tmp_path / "none.json", dataset())
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(DataError, match="not UTF-8 text \\(byte 2\\)"):
        read_results(tmp_path / "latin.json", dataset())


def test_masks_of_every_form(tmp_path: Path) -> None:
    dense = np.zeros((10, 20), dtype=np.uint8)
    dense[2:6, 3:9] = 1
    packed = run_lengths.encode(np.asfortranarray(dense))["counts"]
    text = packed.decode() if isinstance(packed, bytes) else packed
    counts = rle_counts({"size": [10, 20], "counts": text}).tolist()
    forms: list[Any] = [
        {"size": [10, 20], "counts": text},
        {"size": [10, 20], "counts": counts},
        [[3, 2, 9, 2, 9, 6, 3, 6]],
    ]
    rows = [{"image_id": 7, "category_id": 1, "score": 0.5, "segmentation": form} for form in forms]
    found = read_results(file(tmp_path, rows), dataset())
    objects = found["images/0007.jpg"].objects
    assert found.masks
    assert objects is not None
    assert objects.masks is not None
    for mask in objects.masks:
        assert np.array_equal(mask.numpy(), dense.astype(bool))
    assert objects.boxes.tolist() == [[3, 2, 9, 6]] * 3


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    masks = torch.zeros(2, 10, 20, dtype=torch.bool)
    masks[0, 1:4, 2:7], masks[1, 5:, 11:] = True, True
    objects = Objects(
        torch.tensor([[2.0, 1, 7, 4], [11, 5, 20, 10]]), torch.tensor([1, 0]), torch.tensor([0.5, 0.25]), masks
    )
    path = tmp_path / "out.json"
    write_results({"images/b.jpg": Annotation((10, 20), objects=objects)}, dataset(), path)
    rows = json.loads(path.read_text())
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in rows] == [
        ("b9", 2, [2, 1, 5, 3]),
        ("b9", 1, [11, 5, 9, 5]),
    ]
    back = read_results(path, dataset())["images/b.jpg"].objects
    assert back is not None
    assert back.masks is not None
    assert torch.equal(back.masks, masks)
    assert torch.equal(back.boxes, objects.boxes.double())
    assert torch.equal(back.labels, objects.labels)
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]
    again = tmp_path / "again.json"
    write_results(read_results(path, dataset()), dataset(), again)
    assert json.loads(again.read_text()) == rows


def test_writing_refuses_what_json_cannot_hold(tmp_path: Path) -> None:
    bad = Annotation(
        (10, 20), objects=Objects(torch.full((1, 4), float("nan")), torch.tensor([0]), torch.tensor([0.5]))
    )
    with pytest.raises(DataError, match=r"images/b.jpg: object 0 has box \[nan"):
        write_results({"images/b.jpg": bad}, dataset(), tmp_path / "out.json")
    with pytest.raises(DataError, match=r"'c\.jpg', which is not an image"):
        write_results({"c.jpg": bad}, dataset(), tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == []


def test_masks_of_polygons_score_as_cocos_own_evaluation_does(tmp_path: Path) -> None:
    """Truth and results as polygons with corners between pixels and outside of the image, from the files alone."""
    rng = np.random.default_rng(3)
    images = [{"id": i, "file_name": f"{i}.png", "width": 120, "height": 90} for i in range(1, 5)]
    truth, results = [], []
    for number in range(24):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radius = rng.uniform(0.5, 1, 9) * rng.uniform(4, 30)
        centre = rng.uniform(0, 90, 2)
        points = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], axis=1) + centre
        row = {"image_id": 1 + number % 4, "category_id": 1 + number % 2}
        x1, y1, x2, y2 = (*points.min(0).tolist(), *points.max(0).tolist())
        row["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        truth.append({"id": number + 1, "area": 500, "iscrowd": 0, "segmentation": [points.ravel().tolist()]} | row)
        found = points + rng.normal(0, 0.6, points.shape)
        results.append(row | {"score": float(rng.random()), "segmentation": [found.ravel().tolist()]})
    content = {"images": images, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], "annotations": truth}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    data = read(tmp_path / "labels.json", "instances")
    answers = read_results(file(tmp_path, results), data)
    metric = task_of("instances").make_metric(data.classes)
    for record in data.records:
        metric.add(record.id, read_truth(record, data, "instances"), answers[record.id])
    ours = metric.result(0).metrics
    reference = COCO(content)
    for row in results:
        row["segmentation"] = run_lengths.merge(run_lengths.frPyObjects(row["segmentation"], 90, 120))
    judged = COCOeval_faster(reference, reference.loadRes(results), "segm")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    for name, index in (("mask_ap", 0), ("mask_ap50", 1), ("mask_ap75", 2), ("mask_ar_1", 6), ("mask_ar_100", 8)):
        assert ours[name].value == pytest.approx(float(judged.stats[index]), abs=1e-12), name
    assert 0.3 < float(judged.stats[0]) < 0.99


def test_corners_that_count_from_1_are_read_as_those_of_voc_are(tmp_path: Path) -> None:
    path = file(tmp_path, [GOOD | {"bbox": [5, 3, 4, 6]}])  # pixels 5 to 9 and 3 to 9, counted from 1
    objects = read_results(path, dataset(), corners="voc")["images/0007.jpg"].objects
    assert objects is not None
    assert objects.boxes.tolist() == [[4, 2, 9, 9]]
    with pytest.raises(UsageError, match="corners is 'one'; allowed: coco, voc"):
        read_results(path, dataset(), corners="one")


def test_more_entries_than_an_image_can_have_are_refused(tmp_path: Path) -> None:
    rows = [GOOD | {"score": 0.5 - i * 1e-6} for i in range(MAX_ENTRIES + 1)]
    with pytest.raises(DataError, match=r"entry 10000: image_id 7 has more than 10,000 entries"):
        read_results(file(tmp_path, rows), dataset())
    assert len(read_results(file(tmp_path, rows[:-1]), dataset())["images/0007.jpg"].objects or []) == MAX_ENTRIES
