"""Names that are splits, and names in which such a word only occurs."""

from __future__ import annotations

import pytest

from saccade.data.formats.splits import split_of_file, split_of_folder


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("train2017", "train"),
        ("training_set", "train"),
        ("train_images", "train"),
        ("images_train", "train"),
        ("seg_test", "test"),
        ("valid", "val"),
        ("dev", "val"),
        ("train_station", None),
        ("my_test_project", None),
        ("bus_stop", None),
        ("2017", None),
        ("set", None),
        ("trained", None),
        ("contest", None),
    ],
)
def test_a_folder_is_a_split_by_its_whole_name(name: str, split: str | None) -> None:
    assert split_of_folder(name) == split


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("train", "train"),
        ("instances_val2017", "val"),
        ("person_keypoints_train2017", "train"),
        ("test_annotations", "test"),
        ("_annotations.coco.train", "train"),
        ("labels-valid", "val"),
        ("my_test_labels", None),
        ("_annotations.coco", None),
        ("instances", None),
        ("latest", None),
    ],
)
def test_a_file_of_labels_is_of_a_split_by_its_whole_name(stem: str, split: str | None) -> None:
    assert split_of_file(stem) == split
