"""KITTI's layout: what is read, what is refused and where, and that writing gives back what was read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats import read
from saccade.data.formats.kitti import read_camera
from saccade.data.truth import read_truth
from saccade.errors import DataError
from saccade.metrics.voc import numpy_box_iou
from saccade.ops.cuboids import observation_angles, projected_boxes
from saccade.verbs.convert import convert
from streets import CAMERA, SIZE, make_street


@pytest.fixture
def street(tmp_path: Path) -> Path:
    return make_street(tmp_path / "street", 4)


def label(street: Path, frame: int = 0) -> Path:
    return street / "training" / "label_2" / f"{frame:06d}.txt"


def test_what_is_read(street: Path) -> None:
    dataset = read(street)
    assert (dataset.format, dataset.task, dataset.classes) == ("kitti", "boxes3d", ["Car", "Pedestrian"])
    assert dataset.serves == ("boxes3d", "detect", "tag", "localize")
    assert dataset.splits == {"train": 4}
    first = dataset.records[0]
    assert first.unlabelled == [(2.0, 30.0, 22.0, 44.0)]
    assert dataset.ledger.labels_used == 10
    truth = read_truth(first, dataset, "boxes3d")
    assert truth.objects is not None
    assert truth.objects.cuboids is not None
    assert truth.camera is not None
    np.testing.assert_allclose(truth.camera, CAMERA)
    assert truth.objects.crowd is not None
    assert truth.objects.crowd.tolist() == [False, False, True, True]  # the region, of each class
    assert truth.objects.labels.tolist() == [0, 1, 0, 1]
    assert Record.from_json(first.to_json()) == first
    flat = read(street, "detect")
    assert flat.task == "detect"
    plain = read_truth(flat.records[0], flat, "detect")
    assert plain.camera is None
    assert plain.objects is not None
    assert plain.objects.cuboids is None
    assert plain.objects.crowd is not None
    assert int(plain.objects.crowd.sum()) == 2
    small = read_truth(first, dataset, "boxes3d", reduction=2)
    assert small.objects is not None
    assert small.camera is not None
    assert small.objects.cuboids is not None
    seen = projected_boxes(small.objects.cuboids[:2].double().numpy(), small.camera)
    np.testing.assert_allclose(np.clip(seen, 0, [SIZE[1] / 2, SIZE[0] / 2] * 2), small.objects.boxes[:2], atol=0.01)


CAR = "Car 0.00 0 0.1 20 20 60 60 1.5 1.6 4 1 1.4 12 0.1"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Car 0.00 0 0.1 20 20 60 60 1.5 1.6 4", "training/label_2/000001.txt:3: 11 columns, a label of KITTI has 15"),
        (CAR + " 0.9", "16 are a result with its score"),
        (CAR.replace("1.4", "x"), "'x', which is not a finite number"),
        (CAR.replace("20 20 60 60", "900 20 960 60"), "lies outside of the image of 320 x 96"),
        (CAR.replace("20 20 60 60", "60 20 20 60"), "corners swapped"),
        (CAR.replace("0.00 0", "0.00 7"), "occluded 7: 0 to 1 and 0, 1, 2, 3 are allowed"),
        (CAR[:-3] + "90", "rotation_y 90 is no angle in radians"),
    ],
)
def test_bad_lines_are_refused_by_place(street: Path, line: str, reason: str) -> None:
    with label(street, 1).open("a") as file:
        file.write(line + "\n")
    if "/" in reason:
        label(street, 1).write_text("\n".join([*label(street, 1).read_text().splitlines()[:2], line]))
    dataset = read(street)
    assert len(dataset.ledger.refused) == 1
    entry = dataset.ledger.refused[0]
    assert reason in f"{entry.where}: {entry.what}"


def test_what_cannot_be_placed_keeps_its_box(street: Path) -> None:
    with label(street).open("a") as file:
        file.write(
            CAR.replace("1 1.4 12", "1 1.4 -2")
            + "\n"
            + CAR.replace("1.5 1.6 4", "1.5 0 4").replace("20 20", "30 30")
            + "\n"
        )
        file.write(CAR.replace("20 20 60 60", "-30 20 25 60").replace("0.00 0", "0.50 -1") + "\n")
    dataset = read(street)
    behind, unknown, cut = dataset.records[0].things[-3:] if dataset.records[0].things else []
    assert (behind.cuboid, unknown.cuboid, cut.hidden) == (None, None, (0.5, 0.0))
    words = [entry.what for entry in dataset.ledger.repaired]
    assert "behind the camera (z -2 m)" in words[0]
    assert "no size in metres" in words[1]
    assert "clipped to the image" in words[2]
    assert cut.box == (0.0, 20.0, 25.0, 60.0)


def test_cameras_that_are_missing_or_damaged(street: Path) -> None:
    calib = street / "training" / "calib"
    (calib / "000000.txt").unlink()
    (calib / "000001.txt").write_text("P0: 1\nP2: 1 2 3\n")
    (calib / "000002.txt").write_text("P0: 1\n")
    dataset = read(street)
    assert [record.id[-10:] for record in dataset.records] == ["000003.png"]
    reasons = [entry.what for entry in dataset.ledger.refused]
    assert reasons[0].startswith("no calib/000000.txt, which holds the camera")
    assert "training/calib/000001.txt:2: P2 has 3 numbers, a projection matrix 3 x 4 has 12" in reasons[1]
    assert "000002.txt: no line P2:" in reasons[2]
    assert len(read(street, "detect").records) == 4
    (calib / "000003.txt").unlink()
    assert read(street).task == "detect"
    assert any("read for boxes in pixels" in warning for warning in read(street).ledger.warnings)
    with pytest.raises(DataError, match="no picture has a camera"):
        read(street, "boxes3d")
    (calib / "flat.txt").write_text("P2: " + "0 " * 12)
    with pytest.raises(DataError, match=r"flat.txt:1: P2 is no camera"):
        read_camera(calib / "flat.txt")


def test_lists_say_the_splits_and_files_without_a_partner_are_named(street: Path) -> None:
    (street / "ImageSets").mkdir()
    (street / "ImageSets" / "train.txt").write_text("000000\n000001\n000009\n")
    (street / "ImageSets" / "val.txt").write_text("000002\n")
    label(street, 3).unlink()
    label(street, 8).write_text(CAR)
    dataset = read(street)
    assert [record.split for record in dataset.records] == ["train", "train", "val"]
    assert [(e.where, e.what) for e in dataset.ledger.refused] == [
        ("training/image_2/000003.png", "no label_2/000003.txt"),
        ("training/label_2/000008.txt", "no picture 000008 in image_2/"),
    ]
    assert any("names 1 pictures that are not there, such as 000009" in w for w in dataset.ledger.warnings)


def test_conversion_keeps_all_of_it(street: Path, tmp_path: Path) -> None:
    before = read(street)
    done = convert(street, "kitti", tmp_path / "again")
    assert done.lost == []
    after = read(tmp_path / "again")
    assert after.splits == {"train": 4}
    for one, other in zip(before.records, after.records, strict=True):
        assert other.camera == pytest.approx(one.camera)
        assert other.unlabelled == one.unlabelled
        for a, b in zip(one.things or [], other.things or [], strict=True):
            assert (before.classes[a.label], a.hidden) == (after.classes[b.label], b.hidden)
            assert b.box == pytest.approx(a.box, abs=0.006)
            assert b.cuboid == pytest.approx(a.cuboid, abs=1e-4)
    line = (tmp_path / "again" / "training" / "label_2" / "000000.txt").read_text().splitlines()[0].split()
    thing = (before.records[0].things or [])[0]
    assert float(line[3]) == pytest.approx(observation_angles(np.array([thing.cuboid]))[0], abs=1e-4)
    lost = convert(street, "voc", tmp_path / "voc").lost
    assert lost[-2:] == [
        "10 boxes in three dimensions, with their cameras (boxes in pixels are kept)",
        "1 regions without labels (DontCare)",
    ]


def test_boxes_of_other_formats_become_kitti(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    things = [Thing(0, (1, 2, 30, 40), difficult=True), Thing(0, (5, 5, 9, 9), crowd=True)]
    dataset = DataSet(tmp_path, "coco", "detect", ["big car"], [Record("a.png", (50, 60), None, things=things)])
    from saccade.data.formats.kitti_write import write

    lost = write(dataset, tmp_path / "out", "none")
    text = (tmp_path / "out" / "label_2" / "a.txt").read_text().splitlines()
    assert text[0] == "big_car 0.00 0 -10 1.00 2.00 30.00 40.00 -1 -1 -1 -1000 -1000 -1000 -10"
    assert text[1].startswith("DontCare -1 -1 -10 5.00 5.00 9.00 9.00")
    assert not list((tmp_path / "out" / "calib").iterdir())
    assert "1 class names with blanks (written as _)" in lost
    dataset.classes = ["DontCare"]
    with pytest.raises(DataError, match="several classes would be called 'DontCare'"):
        write(dataset, tmp_path / "bad", "none")


@pytest.mark.shared
def test_the_frames_of_kitti_project_to_their_boxes(shared_data: Path) -> None:
    dataset = read(shared_data / "kitti_mono3d")
    assert (dataset.task, dataset.classes) == ("boxes3d", ["Car", "Cyclist", "Pedestrian", "Truck"])
    assert (len(dataset.records), sum(len(r.things or []) for r in dataset.records)) == (9, 33)
    assert sum(len(r.unlabelled or []) for r in dataset.records) == 22
    assert not dataset.ledger.refused
    ious = []
    for record in dataset.records:
        for thing in record.things or []:
            camera = np.array(record.camera).reshape(3, 4)
            seen = np.clip(projected_boxes(np.array([thing.cuboid]), camera), 0, [record.size[1], record.size[0]] * 2)
            if thing.hidden is not None and thing.hidden[0] == 0:
                ious.append(numpy_box_iou(seen, np.array([thing.box]))[0, 0])
    assert (round(min(ious), 2), round(max(ious), 2), round(float(np.median(ious)), 2)) == (0.69, 0.98, 0.97)
