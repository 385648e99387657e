"""CSV files of tags and classes, and the faults they have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from saccade.data.dataset import DataSet
from saccade.data.formats import read
from saccade.errors import DataError


def _set(root: Path, text: str | bytes, count: int = 4, name: str = "labels.csv") -> Path:
    (root / "images").mkdir(exist_ok=True)
    for i in range(1, count + 1):
        Image.new("RGB", (8, 6), (i, 0, 0)).save(root / "images" / f"{i}.png")
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def _tags(data: DataSet) -> dict[str, list[str]]:
    return {Path(r.id).name: sorted(data.classes[i] for i in r.tags or ()) for r in data.records}


WANTED = {"1.png": ["sea", "trees"], "2.png": ["sea"], "3.png": [], "4.png": ["sun set"]}


@pytest.mark.parametrize(
    "text",
    [
        "image,sea,trees,sun set\n1.png,1,1,0\n2.png,1,0,0\n3.png,0,0,0\n4.png,0,0,1\n",
        "\ufeffFilenames;sea;trees;sun set\r\n1.png;1;1;0\r\n2.png;1;0;0\r\n3.png;0;0;0\r\n4.png;0;0;1\r\n",
        "sea\ttrees\tsun set\tfile\n1\t1\t0\timages/1.png\n1\t0\t0\t2.png\n0\t0\t0\t3\n0\t0\t1\timages\\4.png\n",
        'image,tags\n1.png,"sea, trees"\n2.png,sea\n3.png,\n4.png,sun set\n',
        "image,labels\n1.png,trees|sea\n2.png,sea\n3.png,\n4.png,sun set\n",
        "image,labels\n1.png,trees;sea\n2.png,sea\n3.png,\n4.png,sun set\n",
    ],
)
def test_the_same_tags_in_many_dresses(tmp_path: Path, text: str) -> None:
    data = read(_set(tmp_path, text))
    assert (data.format, data.task) == ("tags_csv", "tag")
    assert _tags(data) == WANTED
    assert data.ledger.labels_used == 4
    assert "1 pictures have no tag" in data.ledger.warnings


def test_blanks_separate_where_nothing_else_does(tmp_path: Path) -> None:
    data = read(_set(tmp_path, "image,tags\n1.png,haze primary\n2.png,primary\n", count=2))
    assert _tags(data) == {"1.png": ["haze", "primary"], "2.png": ["primary"]}


def test_a_class_column_with_splits(tmp_path: Path) -> None:
    text = "id,breed,split\n1,pug,train\n2,<b>=1+1</b>,train\n3,yes,valid\n4,pug,test\n"
    data = read(_set(tmp_path, text))
    assert (data.task, data.classes) == ("classify", ["<b>=1+1</b>", "pug", "yes"])
    assert data.splits == {"train": 2, "val": 1, "test": 1}


def test_a_file_for_each_split(tmp_path: Path) -> None:
    _set(tmp_path, "image,label\n1.png,a\n2.png,b\n", name="train.csv")
    _set(tmp_path, "image,label\n3.png,a\n4.png,b\n", name="val_labels.csv")
    assert read(tmp_path).splits == {"train": 2, "val": 2}


def test_bad_rows_are_refused_by_line_and_the_rest_is_used(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,1,0\n" for i in range(1, 31))
    text = f"image,a,b\n{rows}31.png,1\n32.png,2,0\n99.png,0,1\n1.png,1,0\n2.png,0,1\n33.png,0,1\n"
    data = read(_set(tmp_path, text, count=34))
    assert len(data.records) == 31
    assert [(e.where, e.what) for e in data.ledger.refused if e.where.startswith("labels")] == [
        ("labels.csv:32", "2 cells, the header has 3"),
        ("labels.csv:33", "a = '2'; allowed: 0 or 1"),
        ("labels.csv:34", f"no picture '99.png' in {tmp_path} or below"),
        ("labels.csv:35", "repeats labels.csv:2"),
        ("labels.csv:36", "contradicts labels.csv:3"),
    ]
    without = [e.where for e in data.ledger.refused if e.what == "no row names it"]
    assert without == ["images/31.png", "images/32.png", "images/34.png"]


def test_an_empty_class_is_refused_by_line(tmp_path: Path) -> None:
    data = read(_set(tmp_path, "image,label\n1.png,a\n2.png,\n3.png,b\n", count=3))
    assert data.ledger.refused[0].where == "labels.csv:3"
    assert data.ledger.refused[0].what == "the label is empty"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\n", r"labels.csv:1: a header and no row"),
        ("1.png,cat\n2.png,dog\n", r"labels.csv:1: no header"),
        ("image,width,height\n1.png,10,20\n2.png,11,21\n", r"labels.csv:1: no column of labels among 'image', 'width'"),
        ('image,label\n1.png,a\n2.png,"b\n3.png,a\n', r"labels.csv:3: a quote is opened and never closed"),
        (b"image,label\n1.png,a\n2.png,\0b\n", r"labels.csv:3: a NUL byte"),
        ("image,label\n1.png,a\n".encode("utf-16"), r"UTF-16 text; save it as UTF-8"),
        (b"image,label\n1.png,caf\xe9\n", r"labels.csv:2: not UTF-8 \(byte 0xe9\)"),
        ("image,label\n1.png,a\n2.png," + "x" * 200_000 + "\n", r"labels.csv:3: field larger than"),
        ("image,label,split\n1.png,a,train\n2.png,b,trian\n", r"labels.csv:3: unknown split 'trian'; did you mean"),
        ("width,label\n10,a\n", r"labels.csv:1: no column of image names"),
        ("", r"labels.csv: the file is empty"),
    ],
)
def test_faults_of_structure_name_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    root = _set(tmp_path, text)
    with pytest.raises(DataError, match=said):
        read(f"tags_csv:{root}")


def test_a_table_of_boxes_is_left_to_the_reader_of_boxes(tmp_path: Path) -> None:
    _set(tmp_path, "filename,width,height,class,xmin,ymin,xmax,ymax\n1.png,8,6,a,1,1,3,3\n")
    with pytest.raises(DataError, match="0 of 4 pictures have a label"):
        read(tmp_path)


@pytest.mark.shared
def test_real_sets(shared_data: Path) -> None:
    scenes = read(shared_data / "miml_scenes")
    counts = Counter(i for record in scenes.records for i in record.tags or ())
    assert (scenes.task, scenes.classes) == ("tag", ["desert", "mountains", "sea", "sunset", "trees"])
    assert [counts[i] for i in range(5)] == [164, 180, 232, 178, 226]
    assert (len(scenes.records), scenes.ledger.refused) == (800, [])
    photos = read(shared_data / "imagenet_photos")
    assert (photos.task, len(photos.records), len(photos.classes)) == ("classify", 100, 100)
    assert photos.classes[photos.records[0].label or 0] == "tench"
