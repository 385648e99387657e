"""Exports that are not read are named, with the export to choose instead."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from corpus import page, thing, voc
from saccade.data.formats import read, recognise
from saccade.data.formats.exports import describe_export
from saccade.data.image import decode
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


def _zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return path


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("annotations.xml", "images/0.jpg", "images/1.JPG", "__MACOSX/._1.jpg"),
            r"a ZIP archive with 2 pictures, CVAT's labels \(annotations.xml\), 1 .xml file; archives are not read. "
            r"Unpack it \(python -m zipfile -e '.*/my set.zip' '.*/my set'\) and give the folder .*/my set",
        ),
        (("annotations.xml",), "with no picture, CVAT's labels.*into the folder of the pictures.*export again with"),
        (("data.yaml", "train/images/0.jpg", "train/labels/0.txt"), r"1 picture, YOLO's description \(data.yaml\)"),
        (("train/_annotations.coco.json", "train/0.jpg"), "Roboflow's labels in COCO's form"),
        (("result.json", "images/0.jpg"), "Label Studio's labels in COCO's form"),
        (("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook, which is not read; save its table as .csv"),
    ],
)
def test_an_archive_is_named_with_what_it_holds_and_how_to_unpack_it(
    tmp_path: Path, names: tuple[str, ...], words: str
) -> None:
    """Given itself, with a format in front, or in a folder of nothing else."""
    path = _zipped(tmp_path / "my set.zip", *names)
    for place in (path, f"coco:{path}", tmp_path):
        with pytest.raises(DataError, match=words):
            read(place)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.rar", b"Rar!\x1a\x07\x01\0", r"a RAR archive; archives are not read. Unpack it and give what comes out"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c\0", "a 7z archive; archives are not read"),
        ("a.zip", b"PK\x03\x04 cut off", "a ZIP archive; archives are not read. Unpack it"),
        ("no suffix", b"BZh9", "a bzip2 file; .* such as the folder .*no suffix-unpacked"),
        ("a.tar.gz", None, r"a gzip file of a tar archive; .*python -m tarfile -e .*/a.tar.gz .*/a\)"),
        ("a.tar", None, r"a tar archive; .*python -m tarfile -e .*/a.tar .*/a\)"),
    ],
)
def test_other_archives_are_known_by_their_content(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    if content is None:
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(_pictures(tmp_path / "set", "0.jpg"), "set")
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read(tmp_path / name)
    if content is not None:
        with pytest.raises(DataError, match=r"found a.* (archive|file): unpack it"):
            decode(tmp_path / name)


def test_a_part_of_a_data_set_says_what_it_is_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From inside too; a folder of another name says nothing of what is above it."""
    root = voc(page(thing()))(tmp_path / "set")
    words = "it seems to be a part of .*set, which is a data set \\(voc\\): give that folder"
    for name in ("images", "annotations"):
        with pytest.raises(DataError, match=words):
            read(root / name)
    monkeypatch.chdir(root)
    with pytest.raises(DataError, match=words):
        read("images")
    _pictures(root / "others", "0.jpg")
    with pytest.raises(DataError, match="0 of 1 pictures have a label"):
        read(root / "others")
    with pytest.raises(DataError, match=r"0\.jpg: a picture by itself; a data set is the folder"):
        read(root / "others" / "0.jpg")


def test_a_run_in_the_place_of_data_is_named(tmp_path: Path) -> None:
    """Its plots are no class of pictures."""
    _pictures(tmp_path, "plots/0.png", "plots/1.png")
    (tmp_path / "best.safetensors").touch()
    (tmp_path / "config.json").write_text('{"data": "/my/photos"}')
    with pytest.raises(DataError, match="the folder of a run, not of data; it was trained on /my/photos"):
        read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert read(tmp_path).classes == ["plots"]


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
