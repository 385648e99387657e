"""Poses of one person each, from data to answers: every person a picture in training, every box one in answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade.data.joints import COCO_PERSON, MPII, Joints
from saccade.data.types import Annotation, Objects
from saccade.errors import DataError, UsageError
from saccade.verbs.explain import explain
from saccade.verbs.predict import ALONE, predict

TINY = {"width": 8, "depth": 2, "stacks": 1}
RUN = {"epochs": 1, "batch": 4, "size": 32, "device": "cpu", "workers": 0}
NAMES = ["head", "left_hand", "right_hand"]
BOXES = [[8, 10, 30, 40], [60, 20, 24, 50]]  # x, y, width, height


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO's form: eight pictures with two people each, one of them with a third one without joints."""
    root, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    (root / "annotations").mkdir()
    images, rows = [], []
    for i in range(8):
        part = "train" if i < 6 else "val"
        (root / part).mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 250, (80, 100, 3), dtype=np.uint8)).save(root / part / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 80, "width": 100})
        for x, y, w, h in BOXES:
            points = [x + w / 2, y + 4, 2, x + 2, y + h / 2, 2, x + w - 2, y + h / 2, 1]
            rows.append({"bbox": [x, y, w, h], "keypoints": points, "num_keypoints": 3, "image_id": i})
        if i == 0:
            rows.append({"bbox": [40, 4, 9, 9], "keypoints": [0] * 9, "num_keypoints": 0, "image_id": i})
    for number, row in enumerate(rows):
        row |= {"id": number + 1, "category_id": 1, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
    kind = [{"id": 1, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2], [1, 3]]}]
    for part, own in (("train", range(6)), ("val", range(6, 8))):
        page = {
            "images": [images[i] for i in own],
            "annotations": [row for row in rows if row["image_id"] in own],
            "categories": kind,
        }
        (root / "annotations" / f"person_keypoints_{part}.json").write_text(json.dumps(page))
    return root


@pytest.fixture(scope="module")
def run(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hourglass") / "run"
    saccade.train("hourglass_small", people, out=out, **RUN, **TINY)
    return out


def test_every_person_is_a_training_picture(people: Path, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert (config["task"], config["config"]["joints"], config["config"]["pairs"]) == ("pose", 3, [[1, 2]])
    assert config["images"] == {"train": 12, "val": 2}
    assert config["preprocessing"]["one_person"] is True
    warnings = json.loads((run / "data_report.json").read_text())["warnings"]
    assert any("12 of 6 pictures; 1 objects that are marked crowd or have no" in line for line in warnings)
    page = (run / "report.html").read_text()
    assert "Each person was given by the true box" in page
    assert "right side" in page  # the legend, in place of names in every picture
    again = saccade.train("hourglass_small", people, out=run, resume=True)
    assert again["run"] == str(run)


def test_evaluation_joins_the_people_of_a_picture(people: Path, run: Path, tmp_path: Path) -> None:
    found = saccade.evaluate(run, people, split="all", bootstrap=0, out=tmp_path / "report")
    assert (found["proposals"], found["images"]) == ("truth", 8)
    assert {"oks_ap", "pck", "ap"} <= set(found["metrics"])
    assert found["metrics"]["ap50"]["value"] == 1  # the boxes are those of the truth
    rows = json.loads((tmp_path / "report" / "coco_results.json").read_text())
    assert len(rows) == 2 * 8 + 1
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": i, "bbox": BOXES[0], "score": 0.5} for i in range(8)]))
    half = saccade.evaluate(run, people, split="val", bootstrap=0, proposals=boxes)
    assert half["proposals"] == str(boxes)
    assert half["metrics"]["ar_100"]["value"] == 0.5
    with pytest.raises(UsageError, match="finds the joints in boxes of people"):
        saccade.evaluate(run, people, proposals="selective_search")


@pytest.fixture(scope="module")
def detector(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("atss") / "detector"
    small = {"trunk_width": 8, "trunk_depths": (1, 1, 1, 1), "channels": 8}
    saccade.train("atss_small", people, task="detect", out=out, **RUN | {"size": 64}, **small)
    return out


def test_answers_for_boxes_and_for_the_whole_picture(people: Path, run: Path, tmp_path: Path) -> None:
    picture = people / "val" / "6.png"
    (alone,) = predict(run, picture, out=tmp_path / "drawn", threshold=0, device="cpu")
    assert alone["notes"] == [ALONE]
    assert alone["objects"]["boxes"] == [[0, 0, 100, 80]]
    assert list(alone["objects"]["keypoints"][0]) == NAMES
    page = tmp_path / "boxes.json"
    rows = [{"file_name": "6.png", "bbox": box, "score": 0.5} for box in [*BOXES, [200, 0, 9, 9]]]
    page.write_text(json.dumps([*rows, {"file_name": "6.png", "bbox": [1, 1, 9, 9], "score": 0.1}]))  # nobody
    (both,) = predict(run, picture, proposals=page, device="cpu")  # all, however little sure
    assert sorted(both["objects"]["boxes"]) == [[8, 10, 38, 50], [60, 20, 84, 70]]
    assert both["notes"] == ["1 of 3 boxes lie outside of the image"]


def test_people_whom_a_detector_finds_in_pictures_and_videos(
    people: Path, run: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saccade.inference.regions.LEAST", 0.0)  # it has learned nothing yet
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    (found,) = predict(run, people / "val" / "6.png", proposals=detector, device="cpu")
    assert len(found["objects"]["boxes"]) > 1
    assert [list(pose) for pose in found["objects"]["keypoints"]] == [NAMES] * len(found["objects"]["boxes"])
    scores = saccade.evaluate(run, people, split="val", bootstrap=0, proposals=detector)
    assert (scores["proposals"], scores["metrics"]["ap50"]["value"] < 1) == (str(detector), True)
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"FFV1"), 10, (100, 80))
    for name in ("6.png", "7.png"):
        writer.write(cv2.imread(str(people / "val" / name)))
    writer.release()
    first, second = predict(run, clip, proposals=detector, out=tmp_path / "film", device="cpu")
    assert (first["objects"], second["frame"]) == (found["objects"], 1)
    assert (tmp_path / "film" / "clip.mp4").stat().st_size > 0
    finder = saccade.load(detector, "cpu")
    frames = list(saccade.load(run, "cpu").predict_video(clip, boxes=lambda pixels: _boxes(finder.predict(pixels))))
    assert frames[0].answer.objects is not None
    assert len(frames[0].answer.objects) == len(found["objects"]["boxes"])
    page = tmp_path / "boxes.json"
    page.write_text(json.dumps([{"file_name": "6.png", "bbox": BOXES[0]}]))
    with pytest.raises(UsageError, match=r"is for images; frames of .*clip.avi need the run of a detector"):
        predict(run, clip, proposals=page, device="cpu")


def _boxes(answer: Annotation) -> Objects:
    assert answer.objects is not None
    return answer.objects


def test_pictures_of_one_channel_and_of_16_bits_are_answered_as_their_8_bits(
    people: Path, run: Path, tmp_path: Path
) -> None:
    gray = np.asarray(Image.open(people / "val" / "6.png").convert("L"))
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    boxes = Objects(torch.tensor([[8.0, 10, 38, 50]]), torch.zeros(1, dtype=torch.int64))
    predictor = saccade.load(run, "cpu")
    three, one, deep = (
        _boxes(predictor.predict(image, boxes)).keypoints
        for image in (np.dstack([gray] * 3), tmp_path / "gray.png", tmp_path / "deep.png")
    )
    assert three is not None
    assert one is not None
    assert deep is not None
    assert torch.equal(three, one)
    assert torch.equal(three, deep)


def test_one_box_gives_what_its_square_gives(people: Path, run: Path) -> None:
    """The joints for a box are those of its surroundings alone, moved to the picture."""
    predictor = saccade.load(run, "cpu")
    pixels = np.asarray(Image.open(people / "val" / "7.png"))
    box = Objects(torch.tensor([[30.0, 20, 54, 60]]), torch.zeros(1, dtype=torch.int64))
    given = predictor.predict(pixels, box).objects
    cut = predictor.predict(np.ascontiguousarray(pixels[15:65, 17:67])).objects  # 1.25 * 40 pixels about (42, 40)
    assert given is not None
    assert given.keypoints is not None
    assert cut is not None
    assert cut.keypoints is not None
    moved = (cut.keypoints + torch.tensor([17.0, 15.0, 0.0])) * (cut.keypoints[..., 2:] > 0)  # absent: zeros
    torch.testing.assert_close(given.keypoints, moved, atol=2e-2, rtol=0)


def test_what_does_not_fit_one_person_is_refused(people: Path, run: Path, tmp_path: Path) -> None:
    for name, value in (("mosaic", 0.5), ("mixup", 8)):
        with pytest.raises(UsageError, match=f"{name} is for pictures with any number of objects"):
            saccade.train("hourglass_small", people, out=tmp_path / "a", **{name: value}, **RUN, **TINY)
    with pytest.raises(UsageError, match="hourglass_small learns from the people's own boxes"):
        saccade.train("hourglass_small", people, out=tmp_path / "c", proposals=tmp_path / "boxes.json", **RUN, **TINY)
    with pytest.raises(UsageError, match=r"joints=5: objects of .* have 3 \(head, left_hand, right_hand"):
        saccade.train("hourglass_small", people, out=tmp_path / "d", joints=5, **RUN, **TINY)
    with pytest.raises(UsageError, match="resize=stretch: the picture of one person keeps its shape"):
        saccade.train("hourglass_small", people, out=tmp_path / "b", resize="stretch", **RUN, **TINY)
    empty = Objects.empty()
    answer = saccade.load(run, "cpu").predict(people / "val" / "7.png", empty)
    assert answer.objects is not None
    assert answer.objects.keypoints is not None
    assert answer.objects.keypoints.shape == (0, 3, 3)
    with pytest.raises(DataError, match="such file"):
        predict(run, people / "val" / "7.png", proposals=tmp_path / "none.json")


def test_what_the_confidence_of_a_joint_hangs_on(people: Path, run: Path, tmp_path: Path) -> None:
    found = explain(run, [people / "val" / "7.png"], top=1, out=tmp_path / "why", methods=["occlusion"])
    assert found["images"][0]["explained"][0]["name"].removeprefix("person: ") in NAMES


@pytest.mark.shared
@pytest.mark.parametrize(
    ("data", "joints", "people"), [("mpii/test_mpii.json", MPII, 4), ("coco/test_coco.json", COCO_PERSON, 7)]
)
def test_files_of_mpii_and_coco_train(
    data: str, joints: Joints, people: int, tmp_path: Path, shared_data: Path
) -> None:
    """Of five pictures four are learned from; of COCO's four pictures three, whose people without joints are left."""
    page = shared_data / "pose_samples" / data
    for source in page.parent.glob("*.jpg"):
        shutil.copy(source, tmp_path)
    shutil.copy(page, tmp_path / "poses.json")  # `test` would be a split
    out = tmp_path / "run"
    run = saccade.train("hourglass_small", tmp_path / "poses.json", task="pose", out=out, **RUN, **TINY)
    config = json.loads((out / "config.json").read_text())
    assert config["preprocessing"]["joints"] == joints.to_json()
    assert config["config"]["joints"] == len(joints)
    assert config["images"]["train"] == people
    assert run["metrics"]["pck"]["value"] is not None


def test_a_model_knows_its_joints_and_weights_go_to_data_with_others(run: Path, tmp_path: Path) -> None:
    """Another joint needs another heat map, and what lies below it stays; people all of whose joints are unlabelled, or
    lie outside, are left aside and named."""
    (tmp_path / "images").mkdir()
    rows = {f"{i}.png": [[20 + i, 10 * k + 9, 1] for k in range(4)] for i in range(5)}
    rows |= {"5.png": [[20, 20, 0]] * 4, "6.png": [[-5, -5, 1], [500, 20, 1], [20, 500, 1], [0, 0, 0]]}
    for name in rows:
        Image.new("RGB", (100, 80)).save(tmp_path / "images" / name)
    (tmp_path / "joints.json").write_text(json.dumps({"joint_names": [*NAMES, "tail"], "images": rows}))
    with pytest.raises(DataError, match=r"its 4 joints \(head, .*tail, ...\) are not those of the prediction: 3"):
        saccade.evaluate(run, tmp_path, split="all", bootstrap=0)
    saccade.train("hourglass_small", tmp_path, weights=run, out=tmp_path / "run", **RUN, **TINY)
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert [row["where"] for row in report["refused"]] == ["joints.json: 5.png", "joints.json: 6.png"]
    assert all("0 joints are labelled" in row["why"] for row in report["refused"])
