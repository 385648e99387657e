"""Conversion between COCO, VOC and YOLO: what each can hold comes back, and what it cannot is said."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from corpus import box
from corpus import coco as coco_set
from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats import coco, read, voc, yolo
from saccade.data.formats.output import file_names
from saccade.data.joints import Joints
from saccade.data.rle import decode_rle, encode_mask, encode_polygons, rle_area
from saccade.errors import DataError, ResourceError, UsageError
from saccade.verbs.convert import WRITERS, convert

READERS = {"coco": coco.read, "voc": voc.read, "yolo": yolo.read}
WIDTH, HEIGHT = 640, 427


def build(root: Path, things: dict[str, list[Thing]], splits: bool = True, kind: str = "yolo") -> DataSet:
    """Images `train/a.png`, ... and a data set of them, written nowhere yet."""
    records = []
    for name in things:
        picture = root / name
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (WIDTH, HEIGHT)).save(picture)
        split = name.partition("/")[0] if splits else None
        records.append(Record(name, (HEIGHT, WIDTH), split, things=things[name]))
    return DataSet(root, kind, "detect", ["cat", "dog, <b>", "owl"], records)


def named(dataset: DataSet) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    """Of each image, known by the last part of its name: class names and boxes, in order."""
    return {Path(r.id).name: [(dataset.classes[t.label], t.box) for t in r.things or []] for r in dataset.records}


def same_boxes(one: DataSet, other: DataSet) -> None:
    left, right = named(one), named(other)
    assert left.keys() == right.keys()
    for name, rows in left.items():
        assert [n for n, _ in rows] == [n for n, _ in right[name]]
        for (_, a), (_, b) in zip(rows, right[name], strict=True):
            assert a == pytest.approx(b, abs=0.01)


def pixels(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low * 1000, high * 1000).map(lambda v: v / 1000)


corner = st.tuples(pixels(0, 600), pixels(0, 400), pixels(2, 40), pixels(2, 27))
thing = st.builds(
    lambda label, box: Thing(label, (box[0], box[1], box[0] + box[2], box[1] + box[3])), st.integers(0, 2), corner
)
listed = st.lists(thing, max_size=4, unique_by=lambda t: (t.label, *(round(v, 1) for v in t.box)))


@settings(max_examples=15, deadline=None)
@given(listed, listed)
def test_boxes_survive_a_trip_through_all_formats(one: list[Thing], two: list[Thing]) -> None:
    sure = Thing(1, (0.0, 0.0, float(WIDTH), float(HEIGHT)))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = build(root / "start", {"train/a.png": [*one, sure], "val/b.png": two})
        dataset = first
        for step in ("coco", "voc", "yolo", "voc", "coco", "yolo"):
            out = root / f"{step}{len(list(root.iterdir()))}"
            WRITERS[step](dataset, out, "link")
            dataset = READERS[step](out)
            assert not dataset.ledger.refused
            assert dataset.splits == {"train": 1, "val": 1}
        same_boxes(first, dataset)


polygon = st.lists(st.tuples(pixels(0, WIDTH), pixels(0, HEIGHT)), min_size=3, max_size=8).map(
    lambda points: [v for p in points for v in p]
)


@settings(max_examples=25, deadline=None)
@given(polygon)
def test_polygons_survive_between_coco_and_yolo(outline: list[float]) -> None:
    xs, ys = outline[0::2], outline[1::2]
    box = (min(xs), min(ys), max(xs), max(ys))
    if box[2] - box[0] < 0.01 or box[3] - box[1] < 0.01:
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset = build(root / "start", {"a.png": [Thing(2, box, polygons=[outline])]}, splits=False)
        for step in ("coco", "yolo", "coco"):
            out = root / f"{step}{len(list(root.iterdir()))}"
            assert WRITERS[step](dataset, out, "copy") == []
            dataset = READERS[step](out)
        assert dataset.splits == {}
        assert dataset.task == "instances"
        (back,) = dataset.records[0].things or []
        assert dataset.classes[back.label] == "owl"
        assert (back.polygons or [])[0] == pytest.approx(outline, abs=0.01)


def test_parts_of_one_object_become_one_walk_of_the_same_area(tmp_path: Path) -> None:
    parts = [[0.0, 0.0, 10, 0, 10, 10, 0, 10], [20.0, 20, 40, 20, 40, 30], [100.0, 0, 110, 0, 110, 10, 100, 10]]
    dataset = build(tmp_path / "start", {"a.png": [Thing(0, (0, 0, 110, 30), polygons=parts)]}, splits=False)
    yolo_lost = WRITERS["yolo"](dataset, tmp_path / "yolo", "copy")
    assert yolo_lost == []
    (walk,) = (yolo.read(tmp_path / "yolo").records[0].things or [])[0].polygons or []
    x, y = np.array(walk[0::2]), np.array(walk[1::2])
    assert abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(100 + 100 + 100, abs=0.01)


def test_polygons_that_stick_out_of_the_picture_are_cut_for_yolo_and_whole_in_coco(tmp_path: Path) -> None:
    outline = [0.0, 0, 2 * WIDTH, 0, 0, 2 * HEIGHT]
    dataset = build(tmp_path / "start", {"a.png": [Thing(0, (0, 0, WIDTH, HEIGHT), polygons=[outline])]}, splits=False)
    for step in ("coco", "yolo"):
        WRITERS[step](dataset, tmp_path / step, "copy")
        back = READERS[step](tmp_path / step)
        (thing,) = back.records[0].things or []
        assert rle_area(encode_polygons(thing.polygons or [], (HEIGHT, WIDTH))) == WIDTH * HEIGHT
    row = (tmp_path / "yolo/labels/a.txt").read_text().split()[1:]
    assert all(0 <= float(v) <= 1 for v in row)
    written = json.loads((tmp_path / "coco/annotations/instances.json").read_text())["annotations"][0]
    assert (written["segmentation"], written["area"]) == ([outline], WIDTH * HEIGHT)


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[10:20, 10:30] = True
    things = [
        Thing(0, (10, 10, 30, 20), rle=encode_mask(mask), difficult=True),
        Thing(1, (0, 0, 99, 99), crowd=True, rle=encode_mask(mask)),
        Thing(1, (5, 5, 6, 50)),
        Thing(1, (5, 5, 60, 50), polygons=[[5, 5, 40, 5, 40, 50]], keypoints=[(6, 6, 2)]),
    ]
    dataset = build(tmp_path / "start", {"train/a.png": things, "b.png": []})
    dataset.records[1].split = None
    assert WRITERS["voc"](dataset, tmp_path / "voc", "copy") == [
        "1 classes without objects (VOC has no list of classes)",
        "1 crowd regions (written as difficult objects)",
        "1 images without a split (in no list)",
        "1 objects up to one pixel wide or high (left out)",
        "1 objects with keypoints (boxes are kept)",
        "3 outlines (polygons or masks; boxes are kept)",
    ]
    assert WRITERS["yolo"](dataset, tmp_path / "yolo", "copy") == [
        "1 boxes that differ from the box around their polygon (which replaces them)",
        "1 crowd regions (left out)",
        "1 difficult flags",
        "1 images without a split (data.yaml does not name them)",
        "1 masks (their boxes are kept)",
        "1 objects with keypoints (boxes are kept)",
    ]
    dataset.joints = Joints(("nose",))
    assert WRITERS["coco"](dataset, tmp_path / "coco", "copy") == ["1 difficult flags"]
    back = coco.read(tmp_path / "coco").records
    assert [(r.id, r.split) for r in back] == [("images/a.png", "train"), ("images/b.png", None)]
    assert (decode_rle((back[0].things or [])[0].rle or {}) == mask).all()
    assert (back[0].things or [])[1].crowd
    assert (back[0].things or [])[3].keypoints == [(6, 6, 2)]
    assert (tmp_path / "yolo/labels/train/a.txt").read_text().count("\n") == 3


def test_difficult_flag_and_ids_survive(tmp_path: Path) -> None:
    dataset = build(tmp_path / "start", {"a.png": [Thing(0, (1, 1, 9, 9), difficult=True, id=77)]}, False, "coco")
    dataset.category_ids = [3, 18, 90]
    dataset.records[0].source_id = 139
    WRITERS["voc"](dataset, tmp_path / "voc", "none")
    assert "<difficult>1</difficult>" in (tmp_path / "voc/Annotations/a.xml").read_text()
    WRITERS["coco"](dataset, tmp_path / "coco", "copy")
    back = coco.read(tmp_path / "coco")
    assert (back.category_ids, back.records[0].source_id) == ([3, 18, 90], 139)
    assert (back.records[0].things or [])[0].id == 77


def test_id_masks_become_run_lengths(tmp_path: Path) -> None:
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
    ids[4:8, 5:9] = 300
    dataset = build(tmp_path, {"a.png": [Thing(0, (5, 4, 9, 8), mask=("m.png", 300))]}, splits=False)
    Image.fromarray(ids).save(tmp_path / "m.png")
    WRITERS["coco"](dataset, tmp_path / "out", "copy")
    (back,) = coco.read(tmp_path / "out").records[0].things or []
    assert (decode_rle(back.rle or {}) == (ids == 300)).all()
    assert back.area == 16


HOSTILE = (
    *("test", "train", "val", "valid", "classes", "readme", "data", "obj", "images", "labels", "masks"),
    *("0", "1", "-1", "00", "photo", "photo 1", "photo -1", "a b", " blanks ", "a.b", "a.jpg", "10.jpg.xml", "10.jpg"),
    *(
        "caf\u00e9",
        "cafe\u0301",
        "CAF\u00c9",
        "Москва",
        "日本語",
        "🦉",
        "new\nline",
        "tab\t",
        "cr\r",
        "line\u2028",
        "nel\x85line",
    ),
    *(
        "'single'",
        '"double"',
        "<b>&amp;",
        "a,b;c",
        "#hash",
        "[1]*",
        "{{x}}",
        "back\\\\slash",
        "c:0",
        "http:__x",
        "x" * 240,
        "é" * 120,
    ),
    *("..", "~", "null", "-rf", "%2e", "$HOME", "train.txt", "data.yaml", "\ufffe"),
)
CLASSES = (
    "cat",
    "no",
    "null",
    "1",
    "a, b",
    "<b>",
    'it\'s "it"',
    "日本語",
    "caf\u00e9",
    "two\nlines",
    "a: b # c",
    "- x",
    "nel\x85line",
    "🦉",
)


def content(dataset: DataSet, *through: str) -> list[tuple[object, ...]]:
    """Split, classes and boxes of every image, in an order that does not depend on names, as they are behind some
    formats: in KITTI's a class is one word."""
    names = ["_".join(name.split()) for name in dataset.classes] if "kitti" in through else dataset.classes
    rows = [
        (r.split, r.size, *((names[t.label], *(round(v, 2) for v in t.box)) for t in r.things or ()))
        for r in dataset.records
    ]
    return sorted(rows, key=str)


def hostile(root: Path, names: Sequence[str], splits: bool) -> DataSet:
    """Every name as .jpg and .png in two folders, each image with a box of its own; one of them is empty."""
    root.mkdir()
    (root / "picture").write_bytes(PICTURE)
    records = []
    for i, name in enumerate(
        f"{folder}/{name}{end}" for folder in ("train", "val") for name in names for end in (".jpg", ".png")
    ):
        (root / name).parent.mkdir(exist_ok=True)
        os.link(root / "picture", root / name)
        things = [Thing(i % len(CLASSES), (i % 90, i // 90, i % 90 + 2.5, i // 90 + 3))] if i else []
        records.append(Record(name, (100, 100), name.partition("/")[0] if splits else None, things=things))
    return DataSet(root, "folder", "detect", list(CLASSES), records)


with io.BytesIO() as buffer:
    Image.new("L", (100, 100)).save(buffer, "PNG")
    PICTURE = buffer.getvalue()


@pytest.mark.parametrize("splits", [True, False])
@pytest.mark.parametrize("format", WRITERS)
def test_hostile_names_come_back_whole(format: str, splits: bool, tmp_path: Path) -> None:
    """What `convert` writes is read back whole and by itself: every image, split, class and box."""
    dataset = hostile(tmp_path / "start", HOSTILE, splits)
    WRITERS[format](dataset, tmp_path / "out", "link")
    back = read(tmp_path / "out")
    assert (back.format, back.ledger.refused, back.ledger.repaired) == (format, [], [])
    assert content(back) == content(dataset, format)
    for step in WRITERS:
        convert(tmp_path / "out", step, tmp_path / step, images="link")
        assert content(read(tmp_path / step)) == content(dataset, format, step)


word = st.text(st.sampled_from("ab01.- _'\u00e9\u0301\x85\\\\:é🦉"), min_size=1, max_size=6).filter(
    lambda w: w[0] != "."
)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.lists(word, min_size=1, max_size=6, unique=True), st.booleans())
def test_any_names_come_back_whole(names: list[str], splits: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dataset = hostile(Path(folder, "start"), names, splits)
        for format, write in WRITERS.items():
            write(dataset, Path(folder, format), "link")
            assert content(read(Path(folder, format))) == content(dataset, format)


def test_names_are_short_enough_for_a_file() -> None:
    records = [Record(f"{'d' * 200}/{'e' * 200}{i}/a.jpg", (9, 9)) for i in range(3)]
    names = list(file_names(records).values())
    assert len(set(names)) == 3
    assert max(map(len, names)) <= 255


def test_class_names_that_a_format_cannot_hold(tmp_path: Path, shell: Callable[..., tuple[int, str, str]]) -> None:
    dataset = build(tmp_path / "start", {"a.png": [Thing(0, (1, 1, 9, 9)), Thing(1, (2, 2, 9, 9))]}, splits=False)
    dataset.classes = ["a\x01b", "c\r", "owl"]
    assert "2 class names with control characters (written as _)" in WRITERS["voc"](dataset, tmp_path / "voc", "copy")
    assert read(tmp_path / "voc").classes == ["a_b", "c_"]
    dataset.classes = ["a\x01b", "a_b", "owl"]
    with pytest.raises(DataError, match=r"'a\\x01b' and 'a_b' would both be 'a_b'"):
        WRITERS["voc"](dataset, tmp_path / "one", "copy")
    source = coco_set(lambda c: c["categories"][0].update(name="cat\ud800"))(tmp_path / "data")
    for format in WRITERS:
        code, _, err = shell("convert", source, "--to", format, "--out", tmp_path / f"broken_{format}")
        assert code == 3, err
        assert "half of a character" in err
        assert not (tmp_path / f"broken_{format}").exists()


def test_equal_names_in_two_folders_stay_two_images(tmp_path: Path) -> None:
    things = [Thing(0, (1, 1, 9, 9))]
    dataset = build(tmp_path / "start", {"train/a.png": things, "val/a.png": things, "val/A.jpg": things})
    for name, reader in READERS.items():
        WRITERS[name](dataset, tmp_path / name, "copy")
        assert reader(tmp_path / name).splits == {"train": 1, "val": 2}


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    dataset = build(tmp_path / "start", {"a.png": [Thing(0, (1, 1, 9, 9))], "b.png": []}, splits=False)
    (tmp_path / "start/b.png").unlink()
    for name, write in WRITERS.items():
        with pytest.raises(DataError, match=r"b\.png: the image is not there"):
            write(dataset, tmp_path / name, "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["start"]
    with pytest.raises(UsageError, match="exists already"):
        WRITERS["voc"](dataset, tmp_path / "start", "copy")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        WRITERS["voc"](dataset, tmp_path / "file" / "out", "none")


def test_convert_reads_any_format(tmp_path: Path) -> None:
    dataset = build(tmp_path / "start", {"train/a.png": [Thing(0, (1, 1, 9, 9))], "val/b.png": []})
    WRITERS["yolo"](dataset, tmp_path / "yolo", "copy")
    done = convert(tmp_path / "yolo", "coco", tmp_path / "coco", images="link")
    assert (done.images, done.objects, done.splits, done.lost) == (2, 1, {"train": 1, "val": 1}, [])
    assert os.path.islink(tmp_path / "coco/images/a.png")
    same_boxes(dataset, coco.read(tmp_path / "coco"))
    with pytest.raises(UsageError, match="did you mean 'coco'"):
        convert(tmp_path / "yolo", "cocoo", tmp_path / "x")
    with pytest.raises(UsageError, match="images is 'move'"):
        convert(tmp_path / "yolo", "voc", tmp_path / "x", images="move")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("corners", "key", "says"),
    [([50, 10, 20, 10], "repaired", "what"), ([10, 10, -5, 10], "refused", "why")],
)
def test_what_was_repaired_or_refused_in_the_source_is_told(
    corners: list[int], key: str, says: str, tmp_path: Path, shell: Callable[..., tuple[int, str, str]]
) -> None:
    data = box(corners)(tmp_path / "data")
    code, out, err = shell("convert", data, "--to", "voc", "--out", tmp_path / "one")
    assert code == 0, err
    assert f"{key}: annotations.json: annotation 3" in out
    code, out, err = shell("convert", data, "--to", "voc", "--out", tmp_path / "two", "--json")
    (entry,) = json.loads(out)[key]
    assert "annotation 3" in entry["where"]
    assert entry[says]


@pytest.mark.shared
def test_real_sets_keep_their_boxes(shared_data: Path, tmp_path: Path) -> None:
    cells = voc.read(shared_data / "bccd")
    WRITERS["yolo"](cells, tmp_path / "yolo", "link")
    there = yolo.read(tmp_path / "yolo")
    WRITERS["coco"](there, tmp_path / "coco", "link")
    back = coco.read(tmp_path / "coco")
    assert back.splits == cells.splits
    same_boxes(cells, back)
