"""What `read` answers before and after a format's own reader."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from corpus import coco
from saccade.data.formats import FORMATS, read, recognise
from saccade.errors import DataError, UsageError


def _classes(root: Path) -> Path:
    for i, name in enumerate(("cat/1.png", "dog/2.png")):
        (root / name).parent.mkdir(parents=True)
        Image.new("RGB", (9, 5), (50 * i, 0, 0)).save(root / name)
    return root


def test_missing_empty_and_pictureless_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such file or folder"):
        read(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="no picture in this folder or below"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="this file describes no data set"):
        read(tmp_path / "notes.txt")


def test_pictures_alone_have_no_label(tmp_path: Path) -> None:
    Image.new("RGB", (9, 5)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"0 of 1 pictures have a label; found no folders; looked in .* for:\n  coco"):
        read(tmp_path)


def test_a_folder_of_data_sets_lists_them(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for part in ("images", "masks"):
            (tmp_path / name / part).mkdir(parents=True)
            Image.new("L", (9, 5)).save(tmp_path / name / part / "a.png")
    Image.new("RGB", (9, 5)).save(tmp_path / "a.png")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 5)).save(tmp_path / "images" / "b.png")
    with pytest.raises(DataError, match=r"several data sets lie here; name one: .*one, .*two"):
        read(tmp_path)


def test_prefix_names_the_format(tmp_path: Path) -> None:
    root = _classes(tmp_path / "a:b")
    assert recognise(root) == "folder"
    assert read(f"folder:{root}").classes == ["cat", "dog"]
    assert read(str(root)).classes == ["cat", "dog"]
    with pytest.raises(UsageError, match=r"unknown format 'foldr'.*did you mean 'folder'"):
        read(f"foldr:{tmp_path / 'set'}")


def test_tasks_that_the_labels_do_not_serve(tmp_path: Path) -> None:
    root = _classes(tmp_path)
    with pytest.raises(
        UsageError, match=r"task 'detect' needs boxes with classes; the labels \(folder\) serve: classify"
    ):
        read(root, "detect")
    with pytest.raises(UsageError, match="unknown task 'clasify'"):
        read(root, "clasify")


def test_masks_beside_yolo_labels_are_read_when_asked_for(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        Image.new("L", (9, 5)).save(tmp_path / part / "a.png")
    (tmp_path / "data.yaml").write_text("names: [cell]\n")
    assert recognise(tmp_path) == "masks"
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 .5 .5 .2 .2\n")
    assert recognise(tmp_path) == "yolo"
    assert read(f"masks:{tmp_path}").format == "masks"


def test_what_else_a_folder_holds_is_named_with_how_to_ask_for_it(tmp_path: Path) -> None:
    root = coco()(tmp_path / "set")
    people = [{"image": "1.png", "joints": [[1, 1]] * 16, "joints_vis": [1] * 16, "center": [5, 5], "scale": 0.1}]
    (root / "people.json").write_text(json.dumps(people))
    hint = "read as coco (annotations.json), and holds mpii (people.json) too: give that file, or write mpii:"
    assert any(hint in warning for warning in read(root).ledger.warnings)
    for alone in (root / "annotations.json", f"coco:{root}"):  # which were asked for
        assert not any("mpii" in warning for warning in read(alone).ledger.warnings)
    with pytest.raises(UsageError, match=r"serve: detect, .*; the folder is read as coco .* holds mpii"):
        read(root, "pose")
    for row in (content := json.loads((root / "annotations.json").read_text()))["annotations"]:
        row["bbox"] = None
    (root / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"no objects in .*; the folder is read as coco \(annotations.json\)"):
        read(root)


def test_the_format_modules_are_named_after_their_words() -> None:
    assert {module.rsplit(".", 1)[1] for module in FORMATS.values()} == set(FORMATS)


def test_a_link_to_the_parent_counts_each_picture_once(tmp_path: Path) -> None:
    root = _classes(tmp_path)
    (root / "cat" / "again").symlink_to(root, target_is_directory=True)
    (root / "dog" / "self.png").symlink_to(root / "dog" / "self.png")
    data = read(root)
    assert data.classes == ["cat", "dog"]
    assert [r.id for r in data.records] == ["cat/1.png", "dog/2.png"]


def test_a_set_is_the_same_from_inside_and_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _classes(tmp_path / "train" / "pets")
    (root / "labels.csv").write_text("image,label\ncat/1.png,a\ndog/2.png,b\n")
    monkeypatch.chdir(root)
    for place in (root, ".", "./", "cat/..", "../pets", "labels.csv", "tags_csv:.", "tags_csv:labels.csv"):
        data = read(place)
        assert (data.root.name, data.splits, [r.id for r in data.records]) == ("pets", {}, ["cat/1.png", "dog/2.png"])
    assert read("folder:.").classes == ["cat", "dog"]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ants_bees", "folder"),
        ("bccd", "voc"),
        ("camvid", "masks"),
        ("cifar10_images", "folder"),
        ("coco128/instance_segmentation", "yolo"),
        ("coco128/object_detection", "yolo"),
        ("coco128/semantic_segmentation", "masks"),
        ("dsb2018_nuclei", "masks"),
        ("face_crops_tv", "folder"),
        ("imagenet_photos", "tags_csv"),
        ("isbi2012_membrane", "masks"),
        ("miml_scenes", "tags_csv"),
        ("miml_scenes/labels.csv", "tags_csv"),
        ("orl_faces", "folder"),
        ("penn_fudan", "masks"),
        ("raccoon", "voc"),
    ],
)
def test_every_real_set_is_recognised(shared_data: Path, name: str, wanted: str) -> None:
    assert recognise(shared_data / name) == wanted
