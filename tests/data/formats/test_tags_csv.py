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
    ("text", "message"),
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
def test_faults_of_structure_name_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    root = _set(tmp_path, text)
    with pytest.raises(DataError, match=message):
        read(f"tags_csv:{root}")


def test_a_table_of_boxes_is_left_to_the_reader_of_boxes(tmp_path: Path) -> None:
    _set(tmp_path, "filename,width,height,class,xmin,ymin,xmax,ymax\n1.png,8,6,a,1,1,3,3\n")
    assert read(tmp_path).format == "boxes_csv"


def _pictures(root: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (i, 0, 0)).save(root / name)
    return root


def _classes(data: DataSet) -> dict[str, str]:
    return {r.id: data.classes[-1 if r.label is None else r.label] for r in data.records}


def test_class_names_with_commas_semicolons_and_blanks_stay_whole(tmp_path: Path) -> None:
    text = 'image,label\n1.png,"dog, brown"\n2.png,cat; old\n3.png,great white shark\n4.png,a|b\n'
    data = read(_set(tmp_path, text))
    assert (data.task, data.classes) == ("classify", ["a|b", "cat; old", "dog, brown", "great white shark"])
    assert data.ledger.warnings == []


def test_a_class_that_looks_like_a_list_is_kept_with_a_warning(tmp_path: Path) -> None:
    data = read(_set(tmp_path, "image,label\n1.png,sea\n2.png,sun\n3.png,sea;sun\n", count=3))
    assert data.classes == ["sea", "sea;sun", "sun"]
    assert "call the column 'tags'" in data.ledger.warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        "image,tags\n1.png,sea; old town\n2.png,\n",
        "image,tags\n1.png,\"['sea', 'old town']\"\n2.png,[]\n",
        "image,Finding Labels\n1.png,sea|old town\n2.png,\n",
        "image, sea, old town\n1.png, True, TRUE\n2.png, False, false\n",
        "image,sea,old town\n1.png,1.0,1\n2.png,0.0,0\n",
        "image,sea,old town\n1.png,1,1\n2.png,-1,-1\n",
        ",image,sea,old town\n0,1.png,1,1\n1,2.png,0,0\n",
        "Unnamed: 0,sea,old town,file\n0,1,1,1.png\n1,0,0,2.png\n",
        "id,fname,sea,old town\n7,1.png,1,1\n8,2.png,0,0\n",
        "img_id,sea,old town\n1,1,1\n2,0,0\n",
        "which,sea,old town\nimages/1.PNG,1,1\nimages\\\\2.png,0,0\n",
        "image,tags\r1.png,sea;old town\r2.png,\r",
    ],
)
def test_flags_lists_and_index_columns_as_tools_write_them(tmp_path: Path, text: str) -> None:
    data = read(_set(tmp_path, text.replace("\\\\", "\\"), count=2))
    assert data.task == "tag"
    assert _tags(data) == {"1.png": ["old town", "sea"], "2.png": []}
    assert data.ledger.refused == []


def test_minus_one_beside_zero_is_uncertain_and_refused(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,{i % 2},1\n" for i in range(1, 31))
    data = read(_set(tmp_path, f"image,a,b\n{rows}31.png,-1,1\n", count=31))
    assert ("labels.csv:32", "a = '-1'; allowed: 0 or 1") in [(e.where, e.what) for e in data.ledger.refused]


def test_labels_go_to_the_path_that_is_stated(tmp_path: Path) -> None:
    _pictures(tmp_path, "train/0.jpg", "valid/0.jpg", "1.jpg", "1.png")
    text = "path,label\n/content/set/train/0.jpg,a\nvalid\\0.jpg,b\n0.jpg,c\n1,d\ntest/0.jpg,e\n"
    (tmp_path / "labels.csv").write_text(text)
    data = read(tmp_path)
    assert _classes(data) == {"train/0.jpg": "a", "valid/0.jpg": "b"}
    refused = {e.where: e.what for e in data.ledger.refused}
    assert "several pictures: train/0.jpg, valid/0.jpg" in refused["labels.csv:4"]
    assert "several pictures: 1.jpg, 1.png" in refused["labels.csv:5"]
    assert "no picture 'test/0.jpg'" in refused["labels.csv:6"]


def test_a_table_in_each_split_labels_the_pictures_beside_it(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        _pictures(tmp_path, f"{split}/0_jpg.rf.a.jpg", f"{split}/1_jpg.rf.b.jpg")
        flags = ("1, 0", "0, 1") if split == "train" else ("0, 1", "0, 0")
        text = f"filename, cat, dog\n0_jpg.rf.a.jpg, {flags[0]}\n1_jpg.rf.b.jpg, {flags[1]}\n"
        (tmp_path / split / "_classes.csv").write_text(text)
    for root in (str(tmp_path), f"tags_csv:{tmp_path}"):
        data = read(root)
        assert {r.id: (r.split, r.tags) for r in data.records} == {
            "train/0_jpg.rf.a.jpg": ("train", [0]),
            "train/1_jpg.rf.b.jpg": ("train", [1]),
            "valid/0_jpg.rf.a.jpg": ("val", [1]),
            "valid/1_jpg.rf.b.jpg": ("val", []),
        }
        assert data.ledger.refused == []


def test_tables_of_splits_must_have_the_same_classes(tmp_path: Path) -> None:
    for split, name in (("train", "cat"), ("valid", "cta")):
        _pictures(tmp_path, f"{split}/0.jpg")
        (tmp_path / split / "_classes.csv").write_text(f"filename,dog,{name}\n0.jpg,1,0\n")
    with pytest.raises(DataError, match=r"train/_classes.csv, valid/_classes.csv have different 0/1 columns"):
        read(tmp_path)


def test_metadata_of_an_imagefolder(tmp_path: Path) -> None:
    _pictures(tmp_path, "train/0.png", "train/1.png", "test/0.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/0.png,a\ntrain/1.png,b\ntest/0.png,a\n")
    data = read(tmp_path)
    assert (_classes(data)["test/0.png"], data.splits) == ("a", {"train": 2, "test": 1})


def test_fastai_says_what_is_held_out(tmp_path: Path) -> None:
    _pictures(tmp_path, "train/0.jpg", "train/1.jpg", "test/2.jpg")
    (tmp_path / "train.csv").write_text("fname,labels,is_valid\n0.jpg,cat dog,False\n1.jpg,dog,True\n")
    data = read(tmp_path)
    assert {r.id: (r.split, r.tags) for r in data.records} == {
        "train/0.jpg": ("train", [0, 1]),
        "train/1.jpg": ("val", [1]),
    }
    assert [(e.where, e.what) for e in data.ledger.refused] == [("test/2.jpg", "no row names it")]
    assert "blanks separate the tags" in data.ledger.warnings[0]


def test_ids_without_suffix_beside_tables_without_labels(tmp_path: Path) -> None:
    _pictures(tmp_path, "train_images/0a.png", "train_images/0b.png", "test_images/0c.png")
    (tmp_path / "train.csv").write_text("id_code,diagnosis\n0a,0\n0b,2\n")
    (tmp_path / "test.csv").write_text("id_code\n0c\n")
    (tmp_path / "sample_submission.csv").write_text("id_code,diagnosis\n0c,0\n")
    data = read(tmp_path)
    assert (_classes(data), data.splits) == ({"train_images/0a.png": "0", "train_images/0b.png": "2"}, {"train": 2})
    assert [w.partition(" is left aside")[0] for w in data.ledger.warnings] == ["sample_submission.csv", "test.csv"]


def test_several_tables_that_are_no_splits_are_not_chosen_among(tmp_path: Path) -> None:
    for name in ("labels.csv", "test.csv"):
        _set(tmp_path, "image,label\n1.png,a\n2.png,b\n", name=name)
    with pytest.raises(DataError, match=r"2 CSV files.*name one of tags_csv:.*labels.csv, tags_csv:.*test.csv"):
        read(tmp_path)


def test_one_table_alone_states_no_split_by_its_name(tmp_path: Path) -> None:
    data = read(_set(tmp_path, "image,label\n1.png,a\n2.png,b\n", count=2, name="test_labels.csv"))
    assert data.splits == {}


def test_a_table_without_labels_does_not_hide_class_folders(tmp_path: Path) -> None:
    _pictures(tmp_path, "cat/0.png", "dog/1.png")
    (tmp_path / "metadata.csv").write_text("filename,width,height\ncat/0.png,8,6\ndog/1.png,8,6\n")
    assert (read(tmp_path).format, read(tmp_path).classes) == ("folder", ["cat", "dog"])
    (tmp_path / "metadata.csv").write_text("filename,label\ncat/0.png,tom\ndog/1.png,rex\n")
    assert read(tmp_path).format == "tags_csv"


def test_a_column_called_class_goes_before_columns_of_flags(tmp_path: Path) -> None:
    data = read(_set(tmp_path, "Path,ClassId,Occluded\n1.png,0,1\n2.png,1,0\n", count=2))
    assert (data.task, data.classes) == ("classify", ["0", "1"])


def test_columns_that_say_no_class_are_named(tmp_path: Path) -> None:
    data = read(_set(tmp_path, "image,label,age\n1.png,a,3\n2.png,b,4\n", count=2))
    assert data.ledger.warnings == ["labels.csv: columns that are not used: 'age'"]


def test_tables_in_a_folder_of_labels(tmp_path: Path) -> None:
    _pictures(tmp_path, "images/1.png", "images/2.png")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.csv").write_text("image,label\n1.png,a\n../images/2.png,b\n")
    for root in (tmp_path, tmp_path / "annotations" / "all.csv"):
        assert _classes(read(root)) == {"images/1.png": "a", "images/2.png": "b"}


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
