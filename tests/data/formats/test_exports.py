"""Exports that are not read are named, with the export to choose instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from saccade.data.formats import read, recognise
from saccade.data.formats.exports import describe_export
from saccade.errors import DataError

CREATEML = json.dumps([{"image": "0.jpg", "annotations": [{"label": "a", "coordinates": {"x": 1}}]}])


def _pictures(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / name)
    return root


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("_annotations.createml.json", CREATEML, "CreateML's JSON.*choose"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\n", "colour masks of CVAT.*choose COCO"),
        ("train.tfrecord-00000-of-00002", "x", "TFRecords.*choose"),
        ("labels.xml", "<?xml version='1.0'?><document><x/></document>", "XML with <document> at its top"),
        ("train/metadata.jsonl", '{"file_name": "0.jpg", "label": 1}', "JSON lines.*write a .csv"),
        (
            "_annotations.csv",
            "width,height,class,xmin,ymin,xmax,ymax\n8,6,a,1,1,2,2\n",
            "table of boxes.*without a column of pictures",
        ),
        ("train/_classes.csv", "Pixel Value, Class\n0, background\n", "mask export.*COCO Segmentation"),
    ],
)
def test_an_export_is_named_with_what_to_choose(tmp_path: Path, name: str, text: str, words: str) -> None:
    _pictures(tmp_path, "images/0.jpg")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        read(tmp_path)


def test_a_single_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(CREATEML)
    (tmp_path / "a.csv").write_text("class,xmin,ymin,xmax,ymax\na,1,1,2,2\n")
    with pytest.raises(DataError, match=r"a.json: CreateML's JSON"):
        read(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"a.csv: a table of boxes"):
        read(tmp_path / "a.csv")


def test_cityscapes_is_named(tmp_path: Path) -> None:
    _pictures(tmp_path, "leftImg8bit/train/a/a_0_leftImg8bit.png", "gtFine/train/a/a_0_gtFine_polygons.png")
    with pytest.raises(DataError, match=r"gtFine/, leftImg8bit/: the layout of Cityscapes\. Put"):
        read(tmp_path)


def test_classes_in_the_names_of_files_are_seen(tmp_path: Path) -> None:
    _pictures(tmp_path, *(f"train/{c}.{i}.jpg" for c in ("cat", "dog") for i in range(2)), "test/1.jpg", "test/2.jpg")
    with pytest.raises(DataError, match=r"test/, train/: .*seem to say the classes \('cat', 'dog'\): .*train/cat/"):
        read(tmp_path)


def test_columns_that_no_reader_knows_are_shown(tmp_path: Path) -> None:
    _pictures(tmp_path, "train/1.jpg", "test/2.jpg")
    (tmp_path / "train.csv").write_text("what,where\nx,y\n")
    with pytest.raises(DataError, match=r"train.csv with the columns 'what', 'where': call its columns 'image'"):
        read(tmp_path)


def test_folders_in_which_a_tool_left_its_labels_are_classes_only_when_asked_for(tmp_path: Path) -> None:
    _pictures(tmp_path, "monday/0.jpg", "tuesday/1.jpg")
    (tmp_path / "monday" / "0.json").write_text(CREATEML)
    with pytest.raises(DataError, match=r"monday/0.json: CreateML's JSON.* write folder:"):
        read(tmp_path)
    assert read(f"folder:{tmp_path}").classes == ["monday", "tuesday"]


def test_other_files_beside_class_folders_take_nothing_over(tmp_path: Path) -> None:
    _pictures(tmp_path, "cat/0.jpg", "dog/1.jpg")
    (tmp_path / "info.json").write_text('{"classes": ["cat", "dog"]}')
    (tmp_path / "project.xml").write_text("<project/>")
    (tmp_path / "notes.csv").write_text("who,what\nme,all\n")
    assert describe_export(tmp_path) is None
    assert recognise(tmp_path) == "folder"
