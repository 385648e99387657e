"""YOLO: where images and labels may lie, rows, data.yaml, and what is wrong with them."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import pytest
from PIL import Image

from saccade.data.formats import yolo
from saccade.errors import DataError, UsageError

NAMES = "names: [cat, dog, owl]\n"


def build(root: Path, labels: dict[str, str | None], yaml: str | None = NAMES + "train: images/train\n") -> Path:
    """Images of 100 x 50 and their label files; None for no label file."""
    for name, text in labels.items():
        picture = root / "images" / f"{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (100, 50)).save(picture)
        label = root / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            label.write_text(text)
    if yaml is not None:
        (root / "data.yaml").write_text(yaml)
    return root


def test_boxes_polygons_and_background(tmp_path: Path) -> None:
    rows = "0 0.5 0.5 0.2 0.4\n\n2 0.1 0.2 0.3 0.2 0.3 0.6\n"
    build(tmp_path, {"train/a": rows, "train/b": "", "train/c": None, "val/d": "1 .5 .5 1.0000004 1\n"})
    (tmp_path / "data.yaml").write_text(NAMES + "nc: 3\ntrain: images/train\nval: [images/val]\ntest:\n")
    assert yolo.looks_like(tmp_path)
    assert yolo.looks_like(tmp_path / "data.yaml")
    for place in (tmp_path, tmp_path / "data.yaml"):
        dataset = yolo.read(place)
        assert dataset.classes == ["cat", "dog", "owl"]
        assert dataset.splits == {"train": 3, "val": 1}
        assert dataset.records[0].id == "images/train/a.png"
        box, outline = dataset.records[0].things or []
        assert box.box == pytest.approx((40, 15, 60, 35))
        assert outline.polygons == [pytest.approx([10, 10, 30, 10, 30, 30])]
        assert (outline.label, outline.box) == (2, pytest.approx((10, 10, 30, 30)))
        assert (dataset.records[3].things or [])[0].box == pytest.approx((0, 0, 100, 50))
        assert (dataset.task, dataset.ledger.labels_used, dataset.ledger.repaired) == ("detect", 3, [])
    alone = yolo.read(tmp_path, "instances")
    assert (alone.ledger.labels_used, alone.ledger.labels_refused) == (1, 2)


def test_without_yaml(tmp_path: Path) -> None:
    build(tmp_path, {"train/a": "3 .5 .5 .1 .1\n", "val/b": "7 .5 .5 .1 .1\n"}, yaml=None)
    assert yolo.looks_like(tmp_path)
    dataset = yolo.read(tmp_path)
    assert (dataset.classes, dataset.splits) == (["3", "7"], {"train": 1, "val": 1})
    assert [(r.things or [])[0].label for r in dataset.records] == [0, 1]
    (tmp_path / "classes.txt").write_text("".join(f"name{i}\n" for i in range(8)))
    assert yolo.read(tmp_path).classes[7] == "name7"


def test_split_folders_above_images(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        build(tmp_path / split, {"a": "0 .5 .5 .1 .1\n"}, yaml=None)
    assert yolo.read(tmp_path).splits == {"train": 1, "val": 1}
    (tmp_path / "data.yaml").write_text(NAMES + "train: ../train/images\nval: ../valid/images\n")
    dataset = yolo.read(tmp_path)
    assert (dataset.splits, dataset.classes) == ({"train": 1, "val": 1}, ["cat", "dog", "owl"])


def test_list_files_stay_inside(tmp_path: Path) -> None:
    root = build(tmp_path / "a" / "set", {"x": "0 .5 .5 .1 .1\n"}, NAMES + "train: train.txt\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    (root / "train.txt").write_text("./images/x.png\n../../outside.png\n/etc/passwd\n")
    dataset = yolo.read(root)
    assert [r.id for r in dataset.records] == ["images/x.png"]
    assert [e.where for e in dataset.ledger.refused] == ["train.txt:2", "train.txt:3"]


def test_names_with_gaps_and_several_sets_in_one_folder(tmp_path: Path) -> None:
    Path(tmp_path / "images/train").mkdir(parents=True)
    Image.new("RGB", (10, 10)).save(tmp_path / "images/train/a.png")
    for folder, row in (("object_detection", "1 .5 .5 .2 .2"), ("instance_segmentation", "7 0 0 1 0 1 1")):
        (tmp_path / folder / "labels/train").mkdir(parents=True)
        (tmp_path / folder / "labels/train/a.txt").write_text(row)
        text = "path: .\ntrain: images/train\nval: images/val\nnames: {7: owl, 1: cat}\n"
        (tmp_path / folder / "config.yaml").write_text(text)
    assert yolo.looks_like(tmp_path)
    boxes, outlines = yolo.read(tmp_path), yolo.read(tmp_path, "instances")
    assert (boxes.task, boxes.classes, boxes.category_ids) == ("detect", ["cat", "owl"], [1, 7])
    assert outlines.task == "instances"
    assert (outlines.records[0].things or [])[0].label == 1
    assert outlines.records[0].id == "images/train/a.png"
    assert "key 'val'" in outlines.ledger.warnings[0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("3 .5 .5 .1 .1", r"class 3, allowed 0\.\.2; do your ids start at 1\?"),
        ("-1 .5 .5 .1 .1", r"class -1, allowed 0\.\.2$"),
        ("1.5 .5 .5 .1 .1", "whole number"),
        ("dog .5 .5 .1 .1", "whole number"),
        ("0 50 25 10 10", "fractions"),
        ("0,0.5,0.5,0.1,0.1", "commas"),
        ("0 0,5 0,5 0,1 0,1", "commas"),
        ("0 .5 .5 .1", "4 columns"),
        ("0 .5 .5 .1 .1 .9", "6 columns"),
        ("0 .1 .1 .5 .1 .5 .5 .3", "odd count"),
        ("0 .5 .5 -.1 .1", "negative"),
        ("0 .5 .5 0 .1", "no area"),
        ("0 nan .5 .1 .1", "finite"),
        ("0 1e308 .5 .1 .1", "fractions"),
        ("0 .5 .5 ten .1", "'ten'"),
        ("0 1.2 .5 .1 .1", "outside"),
        ("0 .1 .1 .5 .1 .9 .1", "no area"),
        ("0 .2 .2 .1 .1", "repeats"),
    ],
)
def test_bad_rows_are_refused_by_line(tmp_path: Path, row: str, says: str) -> None:
    build(tmp_path, {"train/a": f"0 .2 .2 .1 .1\n\n{row}\n"})
    ledger = yolo.read(tmp_path).ledger
    assert [e.where for e in ledger.refused] == ["labels/train/a.txt line 3"]
    assert re.search(says, ledger.refused[0].what)
    assert (ledger.labels_used, ledger.labels_refused) == (1, 1)


def test_a_box_that_sticks_out_is_repaired(tmp_path: Path) -> None:
    dataset = yolo.read(build(tmp_path, {"train/a": "0 .95 .5 .2 .2\n"}))
    assert [e.where for e in dataset.ledger.repaired] == ["labels/train/a.txt line 1"]
    assert (dataset.records[0].things or [])[0].box == pytest.approx((85, 20, 100, 30))


def test_ids_that_start_at_one(tmp_path: Path) -> None:
    rows = "".join(f"{i} .{i} .5 .1 .1\n" for i in (1, 2, 3))
    with pytest.raises(DataError, match=r"class 3, allowed 0\.\.2; .*start at 1"):
        yolo.read(build(tmp_path, {"train/a": rows}))


def test_labels_that_cannot_be_found(tmp_path: Path) -> None:
    build(tmp_path, {"train/a": "0 .5 .5 .1 .1"})
    (tmp_path / "labels").rename(tmp_path / "lables")
    with pytest.raises(DataError, match=r"0 of 1 images have a label file; looked in .*labels"):
        yolo.read(tmp_path)


def test_labels_without_image_and_broken_images(tmp_path: Path) -> None:
    build(tmp_path, {"train/a": "0 .5 .5 .1 .1", "train/b": "0 .5 .5 .1 .1\n1 .5 .5 .1 .1"})
    (tmp_path / "labels/train/c.txt").write_text("0 .5 .5 .1 .1")
    (tmp_path / "images/train/b.png").write_bytes(b"no picture")
    ledger = yolo.read(tmp_path).ledger
    assert (ledger.images_used, ledger.labels_used) == (1, 1)
    assert (ledger.images_refused, ledger.labels_refused) == (1, 3)


def test_keypoints(tmp_path: Path) -> None:
    yaml = "names: [hand]\ntrain: images/train\nkpt_shape: [2, 3]\nflip_idx: [1, 0]\n"
    dataset = yolo.read(build(tmp_path, {"train/a": "0 .5 .5 .2 .2 .4 .4 2 .6 .6 1\n0 .5 .5 .2 .2\n"}, yaml))
    assert (dataset.records[0].things or [])[0].keypoints == [(40, 20, 2), (60, 30, 1)]
    assert dataset.flip_pairs == [(0, 1)]
    assert "needs 11" in dataset.ledger.refused[0].what


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\ntrain: images/train\n"


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("names: [a, b]\nnc: 3\ntrain: images/train\n", "'nc' is 3, but 'names' holds 2"),
        ("names: [a, a]\ntrain: images/train\n", "'a' more than once"),
        ("names: 7\ntrain: images/train\n", "'names' must be"),
        ("names: []\ntrain: images/train\n", "at least one"),
        ("names: {x: a}\ntrain: images/train\n", "whole numbers"),
        ("names: [a]\ntrain: pictures\n", "key 'train': 'pictures'"),
        ("names: [a]\ntrain: {x: y}\n", "key 'train' must be"),
        ("names: [a]\n\ttrain: images/train\n", "not YAML"),
        ("names: !!python/object/apply:os.system [touch canary]\ntrain: x\n", "data.yaml:1: aliases .* and tags"),
        (BOMB, "aliases"),
        ("- a\n- b\n", "no mapping"),
        ("[" * 5000, "data.yaml"),
    ],
)
def test_bad_yaml(tmp_path: Path, yaml: str, says: str) -> None:
    build(tmp_path, {"train/a": "0 .5 .5 .1 .1"}, yaml)
    with pytest.raises(UsageError, match=says):
        yolo.read(tmp_path)


def test_names_are_text(tmp_path: Path) -> None:
    build(tmp_path, {"train/a": "0 .5 .5 .1 .1"}, "names: [no, 'null', 0, 1.5, <b>]\ntrain: images/train\n")
    assert yolo.read(tmp_path).classes == ["no", "null", "0", "1.5", "<b>"]


def test_flipped_bytes_never_break_the_reader(tmp_path: Path) -> None:
    whole = b"0 0.5 0.5 0.2 0.4\n2 0.1 0.2 0.3 0.2 0.3 0.6\n"
    build(tmp_path, {"train/a": "0 .5 .5 .1 .1", "train/b": whole.decode()})
    rng = random.Random(0)
    for _ in range(150):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        (tmp_path / "labels/train/b.txt").write_bytes(raw)
        with contextlib.suppress(DataError):
            assert yolo.read(tmp_path).ledger.labels_used >= 1


@pytest.mark.shared
def test_counts_of_coco128(shared_data: Path) -> None:
    root = shared_data / "coco128"
    for place in (root, root / "object_detection", root / "object_detection" / "config.yaml"):
        dataset = yolo.read(place)
        assert (len(dataset.records), len(dataset.classes), dataset.ledger.labels_used) == (128, 80, 929)
        empty = [r.id for r in dataset.records if not r.things]
        assert [Path(name).stem for name in empty] == ["000000000250", "000000000508"]
        assert not dataset.ledger.refused
    for place in (root, root / "instance_segmentation"):
        dataset = yolo.read(place, "instances")
        assert (dataset.task, len(dataset.records), len(dataset.classes)) == ("instances", 100, 80)
        assert (dataset.ledger.labels_used, dataset.ledger.images_refused) == (746, 28)
        assert (dataset.category_ids or [])[-1] == 90
    assert dataset.classes == yolo.read(root).classes
