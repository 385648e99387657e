"""Every detector that is made small learns eight pictures by heart through `saccade train`, recipe, stages and all,
and the small hourglass the joints of twenty people.

What does not is at fault until shown otherwise: the pictures that are asked are those that were learned from. In
`make test-slow` alone; the fast tests show the same of smaller forms, without loader and recipe (`test_contract.py`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import saccade
from saccade.data.dataset import DataSet
from saccade.data.formats import read
from saccade.data.image import probe
from saccade.data.scenes import write_scenes
from saccade.data.split import split
from saccade.data.truth import read_truth
from saccade.models import catalogue

IMAGES = 8
SMALL = [name for name, entry in catalogue().items() if entry["tasks"] == ["detect"] and name.endswith("_small")]
# As they are: nothing varies but the order.
STILL: dict[str, Any] = {"flip": 0, "jitter": 0, "color": 0, "workers": 0, "batch": 4}
# Where 100 epochs are not enough, or not all objects have a box among the first proposals.
MORE: dict[str, dict[str, Any]] = {
    "rcnn_small": {"epochs": 150, "most_proposals": 2000},
    "rfcn_small": {"epochs": 200},
    "sliding_window_small": {"epochs": 300},
}


def the_same_twice(dataset: DataSet, out: Path) -> Path:
    """The first training images of a data set of boxes as a COCO data set below `out`, which has them as val too."""
    split(dataset)
    records = [record for record in dataset.records if record.split == "train"][:IMAGES]
    classes = [{"id": i, "name": name} for i, name in enumerate(dataset.classes)]
    for part in ("train", "val"):
        images, boxes = [], []
        for number, record in enumerate(records):
            source = dataset.root / record.path
            target = out / part / f"{number}{source.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            height, width = probe(source).size
            images.append({"id": number, "file_name": target.name, "height": height, "width": width})
            objects = read_truth(record, dataset, "detect").objects
            assert objects is not None
            for (x1, y1, x2, y2), label in zip(objects.boxes.tolist(), objects.labels.tolist(), strict=True):
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                boxes.append(box | {"id": len(boxes) + 1, "image_id": number, "category_id": label})
        page = out / "annotations" / f"instances_{part}.json"
        page.parent.mkdir(exist_ok=True)
        page.write_text(json.dumps({"images": images, "annotations": boxes, "categories": classes}), encoding="utf-8")
    return out


def learned(name: str, data: Path, out: Path, size: int) -> float:
    """AP50 on the pictures that a network was trained on."""
    settings = {"epochs": 100, "size": size} | STILL | MORE.get(name, {})
    run = saccade.train(name, data, out=out, progress=False, **settings)
    return float(run["metrics"]["ap50"]["value"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_eight_scenes_are_learned_by_heart(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits of ten classes on photographs."""
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    write_scenes(tmp_path / "scenes", "detect", 5 * IMAGES // 4, seed=0, size=192)
    data = the_same_twice(read(tmp_path / "scenes", "detect"), tmp_path / "data")
    assert learned(name, data, tmp_path / "run", 192) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_eight_pictures_of_blood_cells_are_learned_by_heart(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    data = the_same_twice(read(shared_data / "bccd", "detect"), tmp_path / "data")
    assert learned(name, data, tmp_path / "run", 320) > 0.9


def the_same_people_twice(dataset: DataSet, out: Path, count: int) -> Path:
    """The first people of a data set of one person a picture, as a COCO data set below `out` with them as val too."""
    assert dataset.joints is not None
    kind = {"id": 1, "name": "person", "keypoints": list(dataset.joints.names)}
    for part in ("train", "val"):
        images, people = [], []
        for number, record in enumerate(dataset.records[:count]):
            target = out / part / f"{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(dataset.root / record.path, target)
            height, width = record.size
            images.append({"id": number, "file_name": target.name, "height": height, "width": width})
            (thing,) = record.things or ()
            x1, y1, x2, y2 = thing.box or (0, 0, width, height)
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            joints = {"keypoints": [v for point in thing.keypoints or () for v in point]}
            people.append(box | joints | {"id": number + 1, "image_id": number, "category_id": 1})
        page = out / "annotations" / f"person_keypoints_{part}.json"
        page.parent.mkdir(exist_ok=True)
        page.write_text(json.dumps({"images": images, "annotations": people, "categories": [kind]}), encoding="utf-8")
    return out


@pytest.mark.slow
def test_the_joints_of_twenty_people_are_learned_by_heart(tmp_path: Path, shared_data: Path) -> None:
    """At a fifth of the torso, in the boxes of the truth."""
    data = the_same_people_twice(read(shared_data / "lsp_pose", "pose"), tmp_path / "data", 20)
    still = STILL | {"rotate": 0, "epochs": 100}
    run = saccade.train("hourglass_small", data, task="pose", out=tmp_path / "run", progress=False, **still)
    assert run["metrics"]["pck"]["value"] > 0.95
