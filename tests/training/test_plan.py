"""What a plan remembers of its data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corpus import changed, yolo
from saccade.errors import DataError
from saccade.training.plan import make_plan


def test_the_splits_that_the_files_state_are_kept_beside_those_that_were_chosen(colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours, tmp_path / "set")
    (tmp_path / "set" / "val").rename(tmp_path / "set" / "test")
    plan = make_plan("resnet20", tmp_path / "set")
    assert plan.dataset.splits == {"train": 32, "val": 8, "test": 10}  # a val is held out of train, test stays a test
    assert len(plan.testing) == 10
    assert {split for id, split in plan.given.items() if id.startswith("test/")} == {"test"}
    plan = make_plan("resnet20", colours / "train")
    assert set(plan.dataset.splits) == {"train", "val"}
    assert plan.given == {record.id: None for record in plan.dataset.records}


def test_objects_in_val_alone_are_nothing_to_learn(tmp_path: Path) -> None:
    data = changed(yolo(), lambda root: [path.write_text("") for path in (root / "labels/train").iterdir()])(tmp_path)
    with pytest.raises(DataError, match=r"no object in train \(0 of 3 images have one\)"):
        make_plan("ssd_small", data)


def test_epochs_and_minutes_given_together_both_end_the_run(colours: Path) -> None:
    def ends_by_epochs(**flags: float) -> bool:
        return make_plan("resnet20", colours, flags=flags).ends_by_epochs

    assert ends_by_epochs()
    assert ends_by_epochs(epochs=3)
    assert not ends_by_epochs(minutes=1)  # the epochs of the recipe are set aside
    assert ends_by_epochs(epochs=3, minutes=1)
