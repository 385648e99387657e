"""Joints as files state them: COCO, LSP, MPII."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from PIL import Image

from saccade.data.dataset import DataSet, Thing
from saccade.data.formats import coco_write, read, recognise
from saccade.data.formats.pose import AREA, box_around, fit_joints
from saccade.data.joints import COCO_PERSON, LSP, MPII
from saccade.data.truth import read_truth
from saccade.errors import DataError, UsageError

POSE = [(10 + 2 * i, 20 + 3 * (i % 5)) for i in range(16)]


def pictures(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60), (9, 99, 9)).save(root / name)
    return root


def thing(dataset: DataSet, record: int = 0, number: int = 0) -> Thing:
    return (dataset.records[record].things or [])[number]


def test_joints_outside_the_image_are_absent_and_named() -> None:
    names = ["a", "b", "c", "d"]
    points, repair = fit_joints([1, 2, 2, 80.5, 5, 1, -9, 5, 2, 7, 99, 0], names, (60, 80))
    assert points == [(1, 2, 2), (80, 5, 1), (0, 0, 0), (0, 0, 0)]
    assert repair == "outside of the image of 80 x 60 (width x height), taken as absent: c (-9 5)"
    for bad, says in (([1, 2, 3] * 4, "visibility 3"), ([1, 2], "need 12"), ([float("nan"), 1, 2] * 4, "finite")):
        with pytest.raises(DataError, match=says):
            fit_joints(bad, names, (60, 80))


def test_a_box_around_joints_is_wider_by_a_tenth() -> None:
    points = [(10.0, 20.0, 2.0), (30.0, 30.0, 1.0), (70.0, 50.0, 0.0)]
    assert box_around(points, (60, 80)) == (8, 18, 32, 32)
    assert box_around(points, (31, 80)) == (8, 18, 32, 31)
    for few in ([(1.0, 1.0, 2.0)], [], [(3.0, 4.0, 2.0), (3.0, 4.0, 2.0)]):
        with pytest.raises(DataError, match="at least 2"):
            box_around(few, (60, 80))


def lsp(root: Path, table: np.ndarray, count: int) -> Path:
    pictures(root, *(f"images/im{i + 1:04d}.png" for i in range(count)))
    scipy.io.savemat(root / "joints.mat", {"joints": table})
    return root


def test_lsp_of_both_forms(tmp_path: Path) -> None:
    rows = np.zeros((14, 3, 3))
    rows[:, :2] = np.array(POSE[:14], dtype=float)[..., None]
    rows[:, 2] = 1
    rows[0, 2, 0] = 0  # not labelled
    rows[13, :2, 1] = -30
    rows[:, 2, 2] = 0
    extended = read(lsp(tmp_path / "extended", rows, 4))
    assert (extended.format, extended.task, extended.joints) == ("lsp", "pose", LSP)
    assert thing(extended).keypoints == [(0, 0, 0), *((float(x), float(y), 2.0) for x, y in POSE[1:14])]
    box = thing(extended).box
    assert box == pytest.approx((12 - 2.4, 20 - 2.4, 36 + 2.4, 32 + 2.4))
    assert thing(extended).area == pytest.approx(AREA * 28.8 * 16.8)
    ledger = extended.ledger
    assert [entry.where for entry in ledger.repaired] == ["joints.mat: im0002.png"]
    assert "head_top (-30 -30)" in ledger.repaired[0].what
    assert "0 joints are labelled" in ledger.refused[0].what
    assert "no person" in ledger.refused[1].what
    assert (ledger.images_used, ledger.labels_used, ledger.images_refused, ledger.labels_refused) == (3, 2, 1, 1)
    rows[:, 2] = 0
    rows[3, 2] = 1  # of the first set: hidden
    first = read(lsp(tmp_path / "first", rows.transpose(1, 0, 2), 3), "pose")
    assert [v for _, _, v in thing(first).keypoints or ()] == [2, 2, 2, 1, *[2] * 10]
    assert read(tmp_path / "first", "detect").task == "detect"


def test_lsp_halves_and_people_without_picture(tmp_path: Path) -> None:
    rows = np.ones((3, 14, 2000))
    rows[0] = np.arange(14)[:, None] + 5
    root = lsp(tmp_path, rows, 1)
    pictures(root, "images/im1001.png")
    dataset = read(root)
    assert dataset.splits == {"train": 1, "test": 1}
    assert dataset.ledger.labels_refused == 1998


@pytest.mark.parametrize("content", [b"MATLAB 5.0 MAT-file, rest missing", b"MATLAB 7.3 MAT-file"])
def test_damaged_mat(tmp_path: Path, content: bytes) -> None:
    pictures(tmp_path, "im1.png")
    (tmp_path / "joints.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"joints\.mat: damaged"):
        read(tmp_path)


def test_mat_of_another_shape(tmp_path: Path) -> None:
    pictures(tmp_path, "im1.png")
    for table, says in ((np.zeros((2, 14, 3)), "needed"), (np.zeros(4), "found float64")):
        scipy.io.savemat(tmp_path / "joints.mat", {"joints": table})
        with pytest.raises(DataError, match=says):
            read(tmp_path)


def person(**changes: Any) -> dict[str, Any]:
    points = [list(map(float, point)) for point in POSE]
    return {"image": "a.png", "joints": points, "joints_vis": [1] * 16, "center": [40.0, 30.0], "scale": 0.2} | changes


def test_mpii(tmp_path: Path) -> None:
    pictures(tmp_path, "images/a.png", "images/b.png", "images/c.png")
    people = [
        person(),
        person(joints_vis=[0] * 16),
        person(image="b.png", joints=[[200.0, 5.0], *person()["joints"][1:]]),
        person(image="b.png", joints=[[1, 2]]),
        person(image="gone.png"),
        person(image="b.png", joints_vis=[0] * 16, center=None),
    ]
    (tmp_path / "annot").mkdir()
    (tmp_path / "annot/train.json").write_text(json.dumps(people[:2]))
    (tmp_path / "annot/valid.json").write_text(json.dumps(people[2:]))
    assert recognise(tmp_path) == "mpii"
    dataset = read(tmp_path)
    assert (dataset.task, dataset.joints, dataset.splits) == ("pose", MPII, {"train": 1, "val": 1})
    assert thing(dataset).keypoints == [(float(x), float(y), 2.0) for x, y in POSE]
    assert (thing(dataset, 0, 1).keypoints, thing(dataset, 0, 1).box) == (None, (20, 10, 60, 50))
    assert (thing(dataset, 1).keypoints or [])[0] == (0, 0, 0)
    repaired = " | ".join(entry.what for entry in dataset.ledger.repaired)
    assert "no joint is labelled: a box around its center" in repaired
    assert "right_ankle (200 5)" in repaired
    refused = {entry.where: entry.what for entry in dataset.ledger.refused}
    assert "16 points" in refused["annot/valid.json: person 1"]
    assert "no picture 'gone.png'" in refused["annot/valid.json: person 2"]
    assert "no center" in refused["annot/valid.json: person 3"]
    assert "1 images below" in dataset.ledger.warnings[0]
    (tmp_path / "annot/more.json").write_text(json.dumps(people[:1]))
    with pytest.raises(DataError, match="several lists of people"):
        read(tmp_path)
    (tmp_path / "annot/more.json").write_text('[{"joints_vis": 1, "joints": 2}]')
    with pytest.raises(DataError, match="person 0"):
        read(tmp_path / "annot/more.json")


def coco(root: Path, *annotations: dict[str, Any], **category: Any) -> Path:
    pictures(root, "images/a.png")
    rows = [{"id": i, "image_id": 1, "category_id": 1} | row for i, row in enumerate(annotations, start=1)]
    named = {"id": 1, "name": "bird", "keypoints": ["beak", "w_a", "w_b"]} | category
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": rows, "categories": [named]}
    (root / "annotations").mkdir()
    (root / "annotations/train.json").write_text(json.dumps(content))
    return root


def test_coco_skeleton_and_pairs_come_from_the_category_and_return_to_it(tmp_path: Path) -> None:
    row = {"bbox": [5, 5, 30, 30], "keypoints": [6, 7, 2, 8, 9, 1, 99, 9, 2]}
    root = coco(tmp_path / "a", row, {"bbox": [1, 1, 9, 9]}, skeleton=[[1, 2], [1, 3]], flip_pairs=[[2, 3]])
    dataset = read(root, "pose")
    assert dataset.joints is not None
    assert (dataset.joints.bones, dataset.joints.pairs) == (((0, 1), (0, 2)), ((1, 2),))
    assert "w_b (99 9)" in dataset.ledger.repaired[0].what
    truth = read_truth(dataset.records[0], dataset, "pose")
    assert truth.joints == dataset.joints
    assert truth.objects is not None
    assert truth.objects.keypoints is not None
    assert truth.objects.keypoints.tolist() == [[[6, 7, 2], [8, 9, 1], [0, 0, 0]], [[0, 0, 0]] * 3]
    coco_write.write(dataset, tmp_path / "b")
    again = read(tmp_path / "b", "pose")
    assert (again.joints, thing(again).keypoints) == (dataset.joints, thing(dataset).keypoints)
    assert read(root).task == "detect"
    assert read(root).serves == ("detect", "tag", "localize", "pose")


def test_what_is_wrong_with_a_category_is_told(tmp_path: Path) -> None:
    row = {"bbox": [5, 5, 30, 30], "keypoints": [6, 7, 2, 8, 9, 1, 0, 0, 0]}
    wrong = read(coco(tmp_path / "a", row, skeleton=[[0, 9]]), "pose")
    assert wrong.joints is not None
    assert "skeleton of 'bird'" in wrong.ledger.warnings[0]
    with pytest.raises(UsageError, match=r"'pose' needs objects with named joints; .* serve: detect, tag, localize"):
        read(coco(tmp_path / "b", row, keypoints=["a", "a", "b"]), "pose")


@pytest.mark.shared
def test_shared_poses(shared_data: Path) -> None:
    dataset = read(shared_data / "lsp_pose")
    seen = [v > 0 for record in dataset.records for t in record.things or [] for _, _, v in t.keypoints or ()]
    assert (len(dataset.records), sum(seen)) == (300, 3648)  # of 3649 stated one lies outside of its image
    assert len(dataset.ledger.repaired) == 1
    as_json = read(shared_data / "lsp_pose" / "joints.json")
    assert as_json.joints == LSP
    for a, b in zip(dataset.records, as_json.records, strict=True):
        assert np.abs(np.array((a.things or [])[0].keypoints) - (b.things or [])[0].keypoints).max() < 0.01
    samples = read(shared_data / "pose_samples" / "mpii" / "test_mpii.json")
    assert (samples.joints, samples.ledger.images_used, samples.ledger.labels_used) == (MPII, 5, 5)
    assert read(shared_data / "pose_samples" / "coco" / "test_coco.json", "pose").joints == COCO_PERSON
