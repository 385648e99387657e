"""Numbers that others published for inputs that lie beside the checkout (metric_fixtures)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as run_lengths

from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Objects
from saccade.metrics.coco_results import read_results
from saccade.metrics.matching import Matches
from saccade.metrics.voc import ELEVEN, EVERY, voc_states
from saccade.tasks.contract import task_of

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def fixtures(shared_data: Path) -> Path:
    return shared_data / "metric_fixtures"


def as_labels(results: list[dict[str, Any]], ids: list[int]) -> list[dict[str, Any]]:
    return [row | {"category_id": ids.index(row["category_id"]) + 1} for row in results]


@pytest.mark.parametrize(
    ("kind", "task", "dtype"),
    [("bbox", "detect", torch.float32), ("bbox", "detect", torch.float64), ("segm", "instances", torch.float32)],
)
def test_coco_val2014(fixtures: Path, tmp_path: Path, kind: str, task: str, dtype: torch.dtype) -> None:
    place = fixtures / "coco_val2014_100"
    stated = json.loads((place / "instances_val2014_100.json").read_text())
    expected = json.loads((place / "expected.json").read_text())[kind]
    ids = sorted(c["id"] for c in stated["categories"])
    records = [Record(i["file_name"], (i["height"], i["width"]), source_id=i["id"]) for i in stated["images"]]
    dataset = DataSet(place, "coco", task, [str(i) for i in ids], records)
    raw = json.loads((place / f"instances_val2014_fake{kind}100_results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(as_labels(raw, ids)))
    predictions = read_results(tmp_path / "results.json", dataset)
    metric = task_of(task).make_metric(dataset.classes)
    for record in records:
        rows = [a for a in stated["annotations"] if a["image_id"] == record.source_id]
        boxes = torch.tensor([r["bbox"] for r in rows], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        truth = Objects(
            boxes.to(dtype),
            torch.tensor([ids.index(r["category_id"]) for r in rows], dtype=torch.int64),
            crowd=torch.tensor([bool(r["iscrowd"]) for r in rows]),
            area=torch.tensor([r["area"] for r in rows], dtype=dtype),
        )
        if kind == "segm" and rows:
            height, width = record.size
            runs = [run_lengths.segmToRle(r["segmentation"], width, height) for r in rows]
            truth.masks = torch.stack([torch.from_numpy(run_lengths.decode(r).astype(bool)) for r in runs])
        prediction = predictions[record.id]
        assert prediction.objects is not None
        assert prediction.objects.scores is not None
        prediction.objects.boxes = prediction.objects.boxes.to(dtype)
        prediction.objects.scores = prediction.objects.scores.to(dtype)
        metric.add(record.id, Annotation(record.size, objects=truth), prediction)
    found = metric.result(bootstrap=0).metrics
    prefix = "mask_" if kind == "segm" else ""
    for name, value in expected.items():
        mine = name.lower().replace("ar", "ar_") if name in ("AR1", "AR10", "AR100") else name.lower()
        assert found[prefix + mine].value == pytest.approx(value, abs=1e-12), name


def voc_ap(truth: dict[str, np.ndarray], detections: dict[str, np.ndarray], threshold: float) -> dict[str, float]:
    """AP of one class from boxes x y width height by image; detections carry their score in front."""
    matches = Matches(1)
    for id in sorted(truth.keys() | detections.keys()):
        boxes, rows = truth.get(id, np.zeros((0, 4))), detections.get(id, np.zeros((0, 5)))
        rows = rows[np.argsort(-rows[:, 0], kind="stable")]
        corners = [np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1) for b in (boxes, rows[:, 1:])]
        states = voc_states(corners[1], corners[0], np.zeros(len(boxes), dtype=bool), threshold, inclusive=True)
        matches.scores[id], matches.states[id], matches.truths[id] = rows[:, 0], states[None], np.array([len(boxes)])
    table = matches.table(sorted(matches.truths))
    one = np.ones((1, len(matches.truths)))
    return {
        "AP_11point": float(table.average_precision(one, ELEVEN)[0, 0]),
        "AP_everypoint": float(table.average_precision(one, EVERY)[0, 0]),
    }


def table_of(folder: Path) -> dict[str, np.ndarray]:
    return {
        path.stem: np.array([line.split()[1:] for line in path.read_text().splitlines() if line.strip()], dtype=float)
        for path in sorted(folder.glob("*.txt"))
        if path.read_text().strip()
    }


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.75])
def test_voc_ap_7images(fixtures: Path, threshold: float) -> None:
    place = fixtures / "voc_ap_7images"
    expected = json.loads((place / "expected.json").read_text())[f"iou_{threshold}"]
    found = voc_ap(table_of(place / "groundtruths"), table_of(place / "detections"), threshold)
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_voc_ap_cats(fixtures: Path, threshold: float) -> None:
    place = fixtures / "voc_ap_cats"
    expected = json.loads((place / "expected.json").read_text())[f"iou_{threshold}"]
    stated = json.loads((place / "gts_coco_format" / "toy_example_coco.JSON").read_text())
    names = {i["id"]: Path(i["file_name"]).stem for i in stated["images"]}
    truth: dict[str, Any] = {}
    for row in stated["annotations"]:
        truth.setdefault(names[row["image_id"]], []).append(row["bbox"])
    boxes = {id: np.array(rows, dtype=float) for id, rows in truth.items()}
    found = voc_ap(boxes, table_of(place / "dets_classname_abs_xywh"), threshold)
    assert found == pytest.approx(expected, abs=1e-12)
