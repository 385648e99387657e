"""YOLO: where images and labels may lie, rows, data.yaml, and what is wrong with them."""

from __future__ import annotations

import contextlib
import cProfile
import os
import random
import re
from pathlib import Path

import pytest
from PIL import Image

from saccade.data.formats import recognise, yolo
from saccade.data.formats.yolo_yaml import ranges
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


RESERVED = ("test", "train", "val", "valid", "classes", "readme", "data", "obj", "predefined_classes")


@pytest.mark.parametrize("layout", ["images/train", "images", "beside"])
def test_a_label_file_may_be_called_as_lists_are(tmp_path: Path, layout: str) -> None:
    """`test.txt` that belongs to `test.png` is its label file; a list of that name stays a list."""
    row, (images, labels) = "0 .5 .5 .4 .4\n", (layout, layout.replace("images", "labels"))
    for name in ("a", *RESERVED):
        for folder in (images, labels):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / images / f"{name}.png")
        (tmp_path / labels / f"{name}.txt").write_text(row)
    assert yolo.looks_like(tmp_path)
    ledger = yolo.read(tmp_path).ledger
    assert (ledger.images_used, ledger.labels_used, ledger.refused) == (10, 10, [])
    (tmp_path / labels / "classes.txt").write_text("cat\n")
    dataset = yolo.read(tmp_path)
    assert dataset.ledger.labels_used == 9
    assert any("classes.txt holds names" in w and "classes.png" in w for w in dataset.ledger.warnings)


def test_rows_beside_the_pictures(tmp_path: Path) -> None:
    """As labelImg leaves them: classes.txt counts its blank lines, unless the labels use their numbers."""
    for name, row in (("a", "0 .5 .5 .2 .2\n"), ("b", "2 .5 .5 .2 .2\n")):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(row)
    assert recognise(tmp_path) == "yolo"
    dataset = yolo.read(tmp_path)
    assert dataset.classes == ["0", "2"]
    assert "called by their ids" in dataset.ledger.warnings[0]
    (tmp_path / "predefined_classes.txt").write_text("cat\n\nowl\n\n")
    dataset = yolo.read(tmp_path)
    assert [dataset.classes[(r.things or [])[0].label] for r in dataset.records] == ["cat", "owl"]
    assert "'owl' is taken for class 2" in dataset.ledger.warnings[0]
    (tmp_path / "b.txt").write_text("1 .5 .5 .2 .2\n")
    dataset = yolo.read(tmp_path)
    assert [dataset.classes[(r.things or [])[0].label] for r in dataset.records] == ["cat", "owl"]
    assert "'owl' is taken for class 1" in dataset.ledger.warnings[0]
    (tmp_path / "a.txt").write_text("a photo of a cat\n")
    (tmp_path / "b.txt").write_text("a photo of an owl\n")
    assert not yolo.looks_like(tmp_path)


def test_the_export_of_cvat(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("valid", 1)):
        for i in range(count):
            picture = tmp_path / f"obj_{part}_data/{part}{i}.png"
            picture.parent.mkdir(exist_ok=True)
            Image.new("RGB", (9, 9)).save(picture)
            picture.with_suffix(".txt").write_text("1 .5 .5 .2 .2\n")
        lines = "".join(f"data/obj_{part}_data/{part}{i}.png\n" for i in range(count))
        (tmp_path / f"{part}.txt").write_text(lines)
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    text = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    (tmp_path / "obj.data").write_text(text)
    for place in (tmp_path, tmp_path / "obj.data"):
        assert recognise(place) == "yolo"
        dataset = yolo.read(place)
        assert (dataset.classes, dataset.splits) == (["cat", "dog"], {"train": 3, "val": 1})
        assert (dataset.ledger.labels_used, dataset.ledger.refused, dataset.ledger.warnings) == (4, [], [])
    (tmp_path / "obj.names").unlink()
    with pytest.raises(UsageError, match=r"obj\.data: key 'names'"):
        yolo.read(tmp_path)


ROOTS = ["/content/drive/MyDrive/ds/", "data/", "C:\\ds\\", "./", "../ds/", ""]


@pytest.mark.parametrize("root", ROOTS)
def test_paths_of_another_machine(tmp_path: Path, root: str) -> None:
    """A folder or a picture is found at the longest end of its path that is here; backslashes part folders."""
    folder, back = build(tmp_path / "set", {f"train/{i}": "0 .5 .5 .1 .1" for i in range(3)}), "\\" in root
    entry = root + ("images\\train" if back else "images/train")
    (folder / "data.yaml").write_text(NAMES + f"train: '{entry}'\n")
    assert yolo.read(folder).splits == {"train": 3}
    (folder / "data.yaml").write_text(NAMES + f"path: '{root}'\ntrain: images/train\n")
    assert yolo.read(folder).splits == {"train": 3}
    parts = "\\" if back else "/"
    (folder / "list.txt").write_text("".join(f"{entry}{parts}{i}.png\n" for i in (0, 2)))
    (folder / "data.yaml").write_text(NAMES + f"train: {root}list.txt\n")
    dataset = yolo.read(folder)
    assert [r.id for r in dataset.records] == ["images/train/0.png", "images/train/2.png"]
    assert dataset.ledger.refused == []
    assert "1 images, such as images/train/1.png, are in no list" in dataset.ledger.warnings[0]


def test_an_end_of_a_path_keeps_its_split_and_its_folder(tmp_path: Path) -> None:
    """`/x/val/images` is not `images` here, nor `b/0.png` the `0.png` of another folder."""
    build(tmp_path, {"0": "0 .5 .5 .1 .1", "a/0": "0 .5 .5 .1 .1"}, NAMES + "train: images\nval: /x/val/images\n")
    dataset = yolo.read(tmp_path)
    assert dataset.splits == {"train": 2}
    assert "key 'val': '/x/val/images'" in dataset.ledger.warnings[0]
    (tmp_path / "data.yaml").write_text(NAMES + "train: list.txt\n")
    (tmp_path / "list.txt").write_text("/x/images/a/0.png\n/x/images/b/0.png\n0.png\ndata/images/a/0.png\n")
    dataset = yolo.read(tmp_path)
    assert [r.id for r in dataset.records] == ["images/a/0.png"]
    assert [e.where for e in dataset.ledger.refused] == ["list.txt:2", "list.txt:3", "list.txt:4"]
    assert "name of 2 pictures" in dataset.ledger.refused[1].what
    assert "another line names" in dataset.ledger.refused[2].what
    (tmp_path / "list.txt").write_text("/x/b/7.png\n")
    with pytest.raises(DataError, match=r"no images.*\n  list\.txt:1: '/x/b/7\.png'"):
        yolo.read(tmp_path)


def test_a_part_that_is_not_here_leaves_the_others(tmp_path: Path) -> None:
    build(tmp_path, {"val/a": "0 .5 .5 .1 .1"}, NAMES + "train: images/train\nval: images/val\n")
    dataset = yolo.read(tmp_path)
    assert dataset.splits == {"val": 1}
    assert "key 'train': 'images/train' is neither a folder nor a list file here" in dataset.ledger.warnings[0]
    (tmp_path / "data.yaml").write_text(NAMES + "train: train.txt\nval: images/val\n")
    (tmp_path / "train.txt").write_text("/content/images/train/b.png\n")
    dataset = yolo.read(tmp_path)
    assert dataset.splits == {"val": 1}
    assert "key 'train': none of its pictures is here" in dataset.ledger.warnings[0]


def test_lists_of_splits_without_yaml(tmp_path: Path) -> None:
    build(tmp_path, dict.fromkeys("abcd", "0 .5 .5 .1 .1"), yaml=None)
    (tmp_path / "train.txt").write_text("images/a.png\n./images/b.png\n")
    (tmp_path / "valid.txt").write_text("/content/ds/images/c.png\n")
    (tmp_path / "test.txt").write_text("notes on the test\n")
    dataset = yolo.read(tmp_path)
    assert dataset.splits == {"train": 2, "val": 1}
    assert "1 images, such as images/d.png, are in no list" in dataset.ledger.warnings[0]


def test_yaml_of_any_name(tmp_path: Path) -> None:
    build(tmp_path, {"train/a": "1 .5 .5 .1 .1"}, yaml=None)
    (tmp_path / "cfg").mkdir()
    (tmp_path / "cfg/fruit.yaml").write_text("names: [apple, pear]\ntrain: ../images/train\n")
    assert "is it cfg/fruit.yaml? then give its path" in yolo.read(tmp_path).ledger.warnings[0]
    assert yolo.read(tmp_path / "cfg/fruit.yaml").classes == ["apple", "pear"]
    (tmp_path / "hyp.yaml").write_text("lr0: 0.01\n")
    (tmp_path / "fruit.yml").write_text("names: [apple, pear]\ntrain: images/train\n")
    assert yolo.read(tmp_path).classes == ["apple", "pear"]
    (tmp_path / "other.yaml").write_text("nc: 2\nval: images/train\n")
    with pytest.raises(UsageError, match=r"fruit\.yml, other\.yaml; give the path of one"):
        yolo.read(tmp_path)
    assert yolo.read(tmp_path / "other.yaml").splits == {"val": 1}


def test_paths_that_leave_the_data_set_are_named_or_refused(tmp_path: Path) -> None:
    elsewhere = build(tmp_path / "elsewhere", {"train/a": "0 .5 .5 .1 .1"}, yaml=None)
    root = build(tmp_path / "deep" / "set", {"val/b": "0 .5 .5 .1 .1"})
    stated = (f"path: {elsewhere}\ntrain: images/train\n", "path: ../../elsewhere\ntrain: images/train\n")
    for text in (*stated, f"train: {elsewhere}/images/train\n"):
        (root / "data.yaml").write_text(NAMES + text)
        dataset = yolo.read(root)
        assert dataset.splits == {"train": 1}
        assert (
            f"leads out of the data set: pictures are read from {elsewhere}/images/train" in dataset.ledger.warnings[0]
        )
    (root / "link").symlink_to(elsewhere)
    (root / "data.yaml").write_text(NAMES + "train: link/images/train\n")
    assert f"{elsewhere}/images/train" in yolo.read(root).ledger.warnings[0]
    for entry, says in (("../../elsewhere", "leads out"), ("/", "holds the data set"), ("..", "holds the data set")):
        (root / "data.yaml").write_text(NAMES + f"train: {entry}\n")
        with pytest.raises(UsageError, match=f"key 'train': '{entry}' .*{says}"):
            yolo.read(root)


def test_what_is_no_list_is_not_read(tmp_path: Path) -> None:
    """Neither a file of another kind, whose lines would be told, nor a pipe, which would never end."""
    root = build(tmp_path / "set", {"val/a": "0 .5 .5 .1 .1"})
    (tmp_path / "secret").write_text("a line that stays where it is\n")
    os.mkfifo(root / "pipe.txt")
    for entry in (str(tmp_path / "secret"), "pipe.txt"):
        (root / "data.yaml").write_text(NAMES + f"train: {entry}\nval: images/val\n")
        ledger = yolo.read(root).ledger
        assert f"{entry}' is neither a folder nor a list" in ledger.warnings[0]
        assert ledger.refused == []


def test_the_set_reads_alike_from_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no folder above it names a split, nor a word in the name of a folder of it."""
    root = tmp_path / "test" / "set"
    build(root, {"train_station/a": "0 .5 .5 .1 .1", "bus_stop/b": "0 .5 .5 .1 .1"}, yaml=None)
    outside = yolo.read(root)
    monkeypatch.chdir(root)
    for dataset in (outside, yolo.read(Path())):
        assert [(r.id, r.split) for r in dataset.records] == [
            ("images/bus_stop/b.png", None),
            ("images/train_station/a.png", None),
        ]
    (root / "data.yaml").write_text(NAMES + "train: ../../elsewhere\n")
    with pytest.raises(UsageError, match="leads out"):
        yolo.read(Path())


def test_two_pictures_of_one_stem(tmp_path: Path) -> None:
    """A label file of both is nobody's; `0.jpg.txt` is of the picture 0.jpg alone, or of 0.jpg.png where that is."""
    build(tmp_path, {"0": "0 .5 .5 .1 .1\n1 .5 .5 .2 .2\n", "1": "0 .5 .5 .1 .1\n"}, yaml=None)
    Image.new("RGB", (9, 9)).save(tmp_path / "images/0.jpg")
    ledger = yolo.read(tmp_path).ledger
    assert (ledger.images_used, ledger.labels_used, ledger.images_refused, ledger.labels_refused) == (1, 1, 2, 2)
    assert [e.where for e in ledger.refused if "shares" in e.what] == ["images/0.jpg", "images/0.png"]
    for name, row in (("0.jpg", "1 .5 .5 .3 .3"), ("0.png", "2 .5 .5 .3 .3")):
        (tmp_path / f"labels/{name}.txt").write_text(row)
    (tmp_path / "labels/0.txt").unlink()
    dataset = yolo.read(tmp_path)
    assert [dataset.classes[(r.things or [])[0].label] for r in dataset.records] == ["1", "2", "0"]
    Image.new("RGB", (9, 9)).save(tmp_path / "images/0.jpg.png")
    owner = {r.id: len(r.things or []) for r in yolo.read(tmp_path).records}
    assert owner == {"images/0.jpg": 0, "images/0.jpg.png": 1, "images/0.png": 1, "images/1.png": 1}


def test_equal_names_in_two_folders_keep_their_labels(tmp_path: Path) -> None:
    for i, part in enumerate(("a", "b", "c")):
        build(tmp_path / part, {"0": f"{i} .5 .5 .1 .1\n"}, yaml=None)
    build(tmp_path, {}, NAMES + "train: [a/images, b/images]\nval: c/images\n")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/0.txt").write_text("1 .5 .5 .9 .9\n")
    (tmp_path / "c/labels/0.txt").unlink()
    dataset = yolo.read(tmp_path)
    assert [e.where for e in dataset.ledger.refused] == ["labels/0.txt line 1"]
    records = dataset.records
    found = [[(t.label, round(t.box[2] - t.box[0])) for t in r.things or []] for r in records]
    assert found == [[(0, 10)], [(1, 10)], []]
    (tmp_path / "data.yaml").write_text(NAMES + "train: a/images\nval: c/images\n")
    (tmp_path / "a/images/0.png").rename(tmp_path / "a/images/1.png")
    (tmp_path / "a/labels/0.txt").rename(tmp_path / "a/labels/1.txt")
    records = yolo.read(tmp_path).records
    assert [round(t.box[2] - t.box[0]) for r in records for t in r.things or []] == [10, 90]


def test_labels_above_the_data_set_are_not_its_own(tmp_path: Path) -> None:
    root = build(tmp_path / "images" / "set", {"a": "0 .5 .5 .1 .1\n", "b": None})
    (tmp_path / "labels/set").mkdir(parents=True)
    (tmp_path / "labels/set/x.txt").write_text("0 .5 .5 .9 .9\n")
    Image.new("RGB", (9, 9)).save(root / "x.png")
    (root / "data.yaml").write_text(NAMES + "train: .\n")
    assert {r.id: len(r.things or []) for r in yolo.read(root).records} == {
        "images/a.png": 1,
        "images/b.png": 0,
        "x.png": 0,
    }


def test_class_lists_that_disagree(tmp_path: Path) -> None:
    for split, names in (("train", "cat\ndog\n"), ("val", "dog\ncat\n")):
        folder = tmp_path / split
        folder.mkdir()
        Image.new("RGB", (9, 9)).save(folder / "a.png")
        (folder / "a.txt").write_text("0 .5 .5 .1 .1\n")
        (folder / "classes.txt").write_text(names)
    with pytest.raises(DataError, match=r"train/classes\.txt and val/classes\.txt name the classes differently"):
        yolo.read(tmp_path)
    (tmp_path / "val/classes.txt").write_text("cat\ndog\n")
    (tmp_path / "predefined_classes.txt").write_text("cat\n")
    dataset = yolo.read(tmp_path)
    assert (dataset.classes, dataset.splits) == (["cat", "dog"], {"train": 1, "val": 1})


def test_label_files_without_pictures_are_refused_wherever_they_lie(tmp_path: Path) -> None:
    build(tmp_path, {"a": "0 .5 .5 .1 .1"}, yaml=None)
    (tmp_path / "labels/gone").mkdir()
    (tmp_path / "labels/gone/test.txt").write_text("0 .5 .5 .1 .1\n")
    (entry,) = yolo.read(tmp_path).ledger.refused
    assert entry.where == "labels/gone/test.txt line 1"


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
    assert dataset.joints is not None
    assert dataset.joints.pairs == ((0, 1),)
    assert "needs 11" in dataset.ledger.refused[0].what


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\ntrain: images/train\n"


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("names: [a, b]\nnc: 3\ntrain: images/train\n", "'nc' is 3, but 'names' holds 2"),
        ("names: [a, a]\ntrain: images/train\n", "key 'names': names of classes that repeat: 'a'"),
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
        ("names: [a]\nnames: [b]\n", "'names' stands twice"),
        ("names: {0: a, 00: b}\n", "the id 0 more than once"),
        ("names: {999999999: a}\n", r"the id 999999999, allowed 0\.\.99999"),
        ("names: {" + "9" * 900 + ": a}\n", "the id 9999"),
        ("train: x\nnc: " + "9" * 5000 + "\n", "'names' must be"),
        ("names: [a]\nnc: " + "9" * 5000 + "\n", "'nc' is 9999"),
        ("names: [a]\nkpt_shape: [100000000, 3]\n", r"\[1 to 1000 points, 2 or 3\], found"),
        ("names: [a]\n---\nnames: [b]\n", "no mapping"),
        ("? [a]\n: b\n", "a key must be text"),
    ],
)
def test_bad_yaml(tmp_path: Path, yaml: str, says: str) -> None:
    build(tmp_path, {"train/a": "0 .5 .5 .1 .1"}, yaml)
    with pytest.raises(UsageError, match=says):
        yolo.read(tmp_path)


def test_names_are_text(tmp_path: Path) -> None:
    build(tmp_path, {"train/a": "0 .5 .5 .1 .1"}, "names: [no, 'null', 0, 1.5, <b>]\ntrain: images/train\n")
    assert yolo.read(tmp_path).classes == ["no", "null", "0", "1.5", "<b>"]


def test_the_work_grows_with_the_input(tmp_path: Path) -> None:
    """Twice the names, rows and classes cost about twice the calls; counted, as seconds depend on the machine."""

    def calls(count: int) -> int:
        root = build(tmp_path / str(count), {"train/a": "".join(f"{i} .5 .5 .1 .1\n" for i in range(count + 9))})
        names = ", ".join(f"{2 * i}: n{i}" for i in range(count))
        (root / "data.yaml").write_text(f"names: {{{names}}}\ntrain: images/train\n")
        profile = cProfile.Profile()
        profile.runcall(yolo.read, root)
        return sum(entry.callcount for entry in profile.getstats())

    calls(10)  # imports
    first, second = calls(300), calls(600)
    assert second < 2.3 * first


def test_long_paths_cost_little(tmp_path: Path) -> None:
    long = "a/" * 500_000 + "x.png"
    build(tmp_path, {"a": "0 .5 .5 .1 .1"}, NAMES + "train: list.txt\n")
    (tmp_path / "list.txt").write_text(f"images/a.png\n{long}\n{'b' * 3000}.png\nnul\0.png\n")
    assert [e.where for e in yolo.read(tmp_path).ledger.refused] == ["list.txt:2", "list.txt:3", "list.txt:4"]
    for entry in (long, "b" * 3000):
        (tmp_path / "data.yaml").write_text(NAMES + f"train: {entry}\n")
        with pytest.raises(UsageError, match="key 'train'"):
            yolo.read(tmp_path)


def test_many_gaps_are_named_in_short() -> None:
    assert ranges([1, 2, 3, 7]) == "1..3, 7"
    assert len(ranges(list(range(0, 100_000, 2)))) < 200


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
