"""Identities: whole ones are held out, and val may show others than train."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from saccade.data.dataset import DataSet
from saccade.data.formats import read
from saccade.data.split import split
from saccade.errors import DataError


def write(folder: Path, pictures: int, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(pictures):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (24, 24, 3), np.uint8))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for k in range(10):
        write(tmp_path / f"s{k}", 4, k)
    write(tmp_path / "single", 1, 99)
    return tmp_path


def sides(dataset: DataSet) -> dict[str, set[str | None]]:
    found: dict[str, set[str | None]] = {}
    for record in dataset.records:
        assert record.label is not None
        found.setdefault(dataset.classes[record.label], set()).add(record.split)
    return found


def test_whole_identities_are_held_out_by_the_seed(people: Path) -> None:
    held = set()
    for seed in range(3):
        dataset = read(people, "embed")
        split(dataset, seed, 0.2)
        of = sides(dataset)
        assert all(len(splits) == 1 for splits in of.values())
        assert 8 <= dataset.splits["val"] <= 9
        held.add(frozenset(name for name, splits in of.items() if splits == {"val"}))
        assert any("of 11 identities are held out" in warning for warning in dataset.ledger.warnings)
    assert len(held) > 1


def test_an_identity_with_one_picture_is_stated(people: Path) -> None:
    assert any(
        "1 of 11 identities have one picture, such as 'single'" in w for w in read(people, "embed").ledger.warnings
    )


def test_without_groups_some_pictures_of_each_are_held_out(people: Path) -> None:
    dataset = read(people, "embed")
    split(dataset, 0, 0.25, group="none")
    assert sum(splits == {"train", "val"} for splits in sides(dataset).values()) >= 8


def test_val_may_show_others_than_train(tmp_path: Path) -> None:
    for k in range(3):
        write(tmp_path / "train" / f"a{k}", 2, k)
        write(tmp_path / "val" / f"b{k}", 2, 10 + k)
    with pytest.raises(DataError, match="lie in val or test only"):
        read(tmp_path)
    dataset = read(tmp_path, "embed")
    assert dataset.task == "embed"
    split(dataset)
    assert sides(dataset) == {f"a{k}": {"train"} for k in range(3)} | {f"b{k}": {"val"} for k in range(3)}
    assert not any("leak" in warning for warning in dataset.ledger.warnings)


def test_the_same_identities_in_train_and_val_are_a_leak(tmp_path: Path) -> None:
    for part, seed in (("train", 0), ("val", 10)):
        for k in range(2):
            write(tmp_path / part / f"a{k}", 3, seed + k)
    dataset = read(tmp_path, "embed")
    split(dataset)
    assert any("leak: 2 of 2 identities, such as 'a0'" in warning for warning in dataset.ledger.warnings)
