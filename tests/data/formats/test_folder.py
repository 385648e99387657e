"""Class folders as people have them, and the faults they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.formats import read
from saccade.errors import DataError


def _photo(path: Path, seed: int = 0, size: tuple[int, int] = (10, 12)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(abs(hash(str(path))) % 2**32 + seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _set(root: Path, *names: str) -> Path:
    for name in names:
        _photo(root / name)
    return root


def test_classes_without_splits_go_by_name_and_deeper_folders_belong_to_them(tmp_path: Path) -> None:
    root = _set(tmp_path, "dog/a.png", "cat/b.png", "cat/deep/er/c.jpg", "dog/.ipynb_checkpoints/a-checkpoint.png")
    _photo(root / "__MACOSX" / "dog" / "._a.png")
    data = read(root)
    assert (data.format, data.task, data.classes) == ("folder", "classify", ["cat", "dog"])
    assert [(r.id, r.label, r.split, r.size) for r in data.records] == [
        ("cat/b.png", 0, None, (10, 12)),
        ("cat/deep/er/c.jpg", 0, None, (10, 12)),
        ("dog/a.png", 1, None, (10, 12)),
    ]
    assert (data.ledger.images_used, data.ledger.labels_used, data.ledger.refused) == (3, 3, [])


def test_splits_under_the_names_people_give_them(tmp_path: Path) -> None:
    root = _set(tmp_path, "Train/a/1.png", "Train/b/2.png", "valid/a/3.png", "testing/b/4.png")
    data = read(root)
    assert data.splits == {"train": 2, "val": 1, "test": 1}
    assert sorted(data.ledger.warnings) == ["test has no picture of 'a'", "val has no picture of 'b'"]


def test_a_class_that_only_val_has_is_refused_by_name(tmp_path: Path) -> None:
    root = _set(tmp_path, "train/cat/1.png", "train/dog/2.png", "val/cat/3.png", "val/dgo/4.png")
    with pytest.raises(DataError, match=r"'dgo'.*val or test only.*misspelt"):
        read(root)


def test_a_class_without_any_picture_is_an_error_that_names_it(tmp_path: Path) -> None:
    root = _set(tmp_path, "cat/1.png", "dog/2.png")
    (root / "emu").mkdir()
    with pytest.raises(DataError, match="class 'emu' has no readable picture"):
        read(root)


def test_a_folder_of_other_files_is_no_class_but_is_named(tmp_path: Path) -> None:
    root = _set(tmp_path, "cat/1.png", "dog/2.png")
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").write_text("x")
    data = read(root)
    assert data.classes == ["cat", "dog"]
    assert data.ledger.warnings == ["notes/ holds files but no picture: not taken for a class"]


def test_one_picture_under_two_classes_is_named_with_both_paths(tmp_path: Path) -> None:
    root = _set(tmp_path, "cat/1.png", "dog/2.png")
    (root / "dog" / "copy.png").write_bytes((root / "cat" / "1.png").read_bytes())
    data = read(root)
    assert data.ledger.warnings == ["one picture under several classes: cat/1.png = dog/copy.png"]


def test_unreadable_and_loose_pictures_are_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    root = _set(tmp_path, "cat/1.png", "dog/2.png", "loose.png")
    (root / "cat" / "bad.jpg").write_bytes(b"<html>not here</html>")
    (root / "dog" / "empty.jpg").touch()
    data = read(root)
    assert len(data.records) == 2
    assert sorted(entry.where for entry in data.ledger.refused) == ["cat/bad.jpg", "dog/empty.jpg", "loose.png"]
    assert data.ledger.images_refused == 3


def test_nearly_equal_names_stay_apart_with_a_warning_and_counts(tmp_path: Path) -> None:
    root = _set(tmp_path, "circle/1.png", "circle /2.png", "Circle/3.png", "circel/4.png", "square/5.png", "yes/6.png")
    data = read(root)
    assert len(data.classes) == 6
    text = "\n".join(data.ledger.warnings)
    assert len(data.ledger.warnings) == 3
    assert "'circle ' (1 labels)" in text
    assert "'Circle'" in text
    assert "'circel'" in text
    assert "square" not in text


def test_all_pictures_unreadable_is_an_error(tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match="no readable picture"):
        read(tmp_path)


def test_a_folder_named_images_is_no_class(tmp_path: Path) -> None:
    root = _set(tmp_path, "images/1.png", "lables/2.png")
    with pytest.raises(DataError, match=r"0 of 2 pictures have a label; found images/, lables/; looked in"):
        read(root)


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.png", "valid/2.png", "test/3.png"),
        ("train_images/1.png", "test_images/2.png"),
        ("training_set/training_set/1.png", "test_set/test_set/2.png"),
        ("seg_train/1.png", "seg_test/2.png", "seg_pred/3.png"),
        ("train/1.png", "samples/2.png"),
        ("archive/train/1.png", "archive/test/2.png"),
        ("train2017/1.png", "val2017/2.png"),
        ("train/train/1.png", "test1/test1/2.png"),
        ("stage1_train/1.png", "stage1_test/2.png"),
    ],
)
def test_splits_that_hold_pictures_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = _set(tmp_path, *names)
    for place in (root, f"folder:{root}"):
        with pytest.raises(DataError, match=r"splits.* never classes"):
            read(place)


def test_train_is_a_class_beside_other_vehicles_only(tmp_path: Path) -> None:
    data = read(_set(tmp_path, "bus/1.png", "car/2.png", "train/3.png"))
    assert (data.classes, data.splits) == (["bus", "car", "train"], {})
    assert data.ledger.warnings == ["train/ is read as a class, as it lies beside folders of other classes"]
    data = read(_set(tmp_path / "b", "train/bus/1.png", "train/train/2.png", "val/bus/3.png", "val/train/4.png"))
    assert (data.classes, data.splits) == (["bus", "train"], {"train": 2, "val": 2})


def test_a_test_folder_beside_classes_is_refused_by_name(tmp_path: Path) -> None:
    data = read(_set(tmp_path, "cat/1.png", "dog/2.png", "test/3.png", "test/4.png"))
    assert data.classes == ["cat", "dog"]
    assert [e.where for e in data.ledger.refused] == ["test/3.png", "test/4.png"]


def test_doubled_folders_and_folders_around_are_passed_through(tmp_path: Path) -> None:
    doubled = _set(
        tmp_path / "a", *(f"{s}/{s}/{c}/1.png" for s in ("training_set", "test_set") for c in ("cat", "dog"))
    )
    assert (read(doubled).classes, read(doubled).splits) == (["cat", "dog"], {"train": 2, "test": 2})
    around = _set(tmp_path / "b", "archive/pets/cat/1.png", "archive/pets/dog/2.png")
    assert [r.id for r in read(around).records] == ["archive/pets/cat/1.png", "archive/pets/dog/2.png"]
    assert read(around).classes == ["cat", "dog"]
    splits = _set(tmp_path / "c", "archive/train/cat/1.png", "archive/train/dog/2.png", "archive/val/cat/3.png")
    assert read(splits).splits == {"train": 2, "val": 1}
    (tmp_path / "d" / "cat").mkdir(parents=True)
    (tmp_path / "d" / "cat" / "loop").symlink_to(tmp_path / "d", target_is_directory=True)
    with pytest.raises(DataError, match="no picture"):
        read(tmp_path / "d")


def test_pictures_beside_their_masks_are_no_classes_but_masks_may_be_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="If its folders are the classes, write folder:"):
        read(_set(tmp_path / "a", "images_png/1.png", "masks_png/1.png"))
    assert read(_set(tmp_path / "b", "with_mask/1.png", "without_mask/2.png")).classes == ["with_mask", "without_mask"]
    assert read(f"folder:{_set(tmp_path / 'c', 'mask/1.png', 'no_mask/2.png')}").classes == ["mask", "no_mask"]


def test_numbered_parts_are_no_classes_where_a_table_names_the_pictures(tmp_path: Path) -> None:
    root = _set(tmp_path, "part_1/a.png", "part_2/b.png")
    assert read(root).classes == ["part_1", "part_2"]
    (root / "metadata.csv").write_text("lesion,image,dx,age\n1,a.png,x,70\n2,b.png,y,80\n")
    with pytest.raises(DataError, match=r"metadata.csv:1: no column of labels among 'lesion', 'image', 'dx', 'age'"):
        read(root)


def test_a_table_and_documents_beside_class_folders_are_named(tmp_path: Path) -> None:
    root = _set(tmp_path, "cat/1.png", "dog/2.png")
    (root / "metadata.csv").write_text("file_name,text\ncat/1.png,a cat\ndog/2.png,a dog\n")
    (root / "docs").mkdir()
    (root / "docs" / "paper.pdf").write_bytes(b"%PDF-1.7")
    data = read(root)
    assert data.classes == ["cat", "dog"]
    assert "metadata.csv is left aside: the folders are the classes" in data.ledger.warnings
    assert [e.where for e in data.ledger.refused] == ["docs/paper.pdf"]


def test_a_split_is_named_as_a_whole_and_below_the_root(tmp_path: Path) -> None:
    root = _set(tmp_path / "test" / "my_test_project", "bus_stop/1.png", "train_station/2.png", "contest/3.png")
    data = read(root)
    assert (data.classes, data.splits) == (["bus_stop", "contest", "train_station"], {})


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "classes", "splits", "images"),
    [
        ("ants_bees", 2, {"train": 245}, 245),
        ("cifar10_images", 10, {"train": 4000, "test": 500}, 4500),
        ("orl_faces", 28, {}, 280),
        ("face_crops_tv", 8, {}, 40),
    ],
)
def test_real_sets(shared_data: Path, name: str, classes: int, splits: dict[str, int], images: int) -> None:
    data = read(shared_data / name)
    assert (data.format, len(data.classes), data.splits, len(data.records)) == ("folder", classes, splits, images)
    assert data.ledger.refused == []
