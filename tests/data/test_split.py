"""Splits: given ones are respected, made ones are stratified, seeded and keep copies together."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats import read
from saccade.data.split import describe_use, find_leaks, split
from saccade.errors import UsageError


def _data(root: Path, records: list[Record], task: str = "classify", classes: int = 3) -> DataSet:
    return DataSet(root, "folder", task, [str(i) for i in range(classes)], records)


def _labelled(root: Path, counts: list[int]) -> DataSet:
    """Records without files: a picture that cannot be read is nobody's duplicate."""
    records = [Record(f"{label}/{i}.png", (9, 9), label=label) for label, n in enumerate(counts) for i in range(n)]
    return _data(root, records)


def _sides(data: DataSet) -> dict[str, str | None]:
    return {record.id: record.split for record in data.records}


def test_each_class_gives_its_share(tmp_path: Path) -> None:
    data = _labelled(tmp_path, [100, 50, 10])
    split(data)
    assert Counter(r.label for r in data.of("val")) == {0: 20, 1: 10, 2: 2}


def test_the_split_follows_from_seed_and_ids_alone(tmp_path: Path) -> None:
    one, two, three = (_labelled(tmp_path, [40, 40, 40]) for _ in range(3))
    random.Random(1).shuffle(two.records)
    split(one), split(two), split(three, seed=1)
    assert _sides(one) == _sides(two)
    assert _sides(one) != _sides(three)


def test_rare_classes_stay_in_train_and_something_is_held_out(tmp_path: Path) -> None:
    one_each = _labelled(tmp_path, [1, 1, 1])
    split(one_each)
    assert one_each.splits == {"train": 2, "val": 1}
    uneven = _labelled(tmp_path, [40, 3, 1])
    split(uneven)
    assert Counter(r.label for r in uneven.of("train"))[2] == 1
    assert Counter(r.label for r in uneven.of("train"))[1] >= 2


def test_tags_and_boxes_are_stratified_by_every_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tags = [
        Record(f"{i}.png", (9, 9), tags=[t for t in range(3) if rng.random() < (0.5, 0.2, 0.05)[t]]) for i in range(400)
    ]
    data = _data(tmp_path, tags, "tag")
    split(data)
    total = Counter(t for r in data.records for t in r.tags or ())
    held = Counter(t for r in data.of("val") for t in r.tags or ())
    for tag in range(3):
        assert abs(held[tag] / total[tag] - 0.2) < 0.06
    box = (0.0, 0.0, 3.0, 3.0)
    things = [Record(f"{i}.png", (9, 9), things=[Thing(0, box)] if i < 10 else []) for i in range(50)]
    data = _data(tmp_path, things, "detect")
    split(data)
    assert sum(bool(r.things) for r in data.of("val")) == 2
    assert len(data.of("val")) == 10


def _scene(path: Path, seed: int, quality: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC).save(path, quality=quality)


def test_copies_fall_on_one_side(tmp_path: Path) -> None:
    for i in range(20):
        for copy in range(3):
            _scene(tmp_path / "ab"[i % 2] / f"{i}_{copy}.jpg", i, 90 - 20 * copy)
    data = read(tmp_path)
    split(data, share=0.3)
    sides = {i: {r.split for r in data.records if Path(r.id).name.startswith(f"{i}_")} for i in range(20)}
    assert all(len(side) == 1 for side in sides.values())
    assert 15 <= len(data.of("val")) <= 21


def test_leaks_between_given_splits_are_named_and_counted(tmp_path: Path) -> None:
    for i in range(6):
        _scene(tmp_path / "train" / "ab"[i % 2] / f"{i}.jpg", i)
        _scene(tmp_path / "val" / "ab"[i % 2] / f"{i}.jpg", i + (100 if i > 1 else 0), 60)
    data = read(tmp_path)
    split(data)
    assert data.splits == {"train": 6, "val": 6}
    assert [w for w in data.ledger.warnings if w.startswith("leak: 2 of 6 pictures of val are also in train")]
    assert find_leaks(data)[0].startswith("leak: 2 of 6")


def test_given_splits_are_respected(tmp_path: Path) -> None:
    def made(*splits: str | None) -> DataSet:
        data = _data(tmp_path, [Record(f"{i}.png", (9, 9), split=s, label=0) for i, s in enumerate(splits)])
        split(data)
        return data

    assert made("train", "val", "test").splits == {"train": 1, "val": 1, "test": 1}
    no_val = made("train", "train", "test")
    assert no_val.splits == {"train": 1, "val": 1, "test": 1}
    assert "1 pictures of train are held out" in no_val.ledger.warnings[-1]
    assert made("test", None, None).splits == {"train": 1, "val": 1, "test": 1}
    assert made(*["train"] * 10).splits == {"train": 8, "val": 2}
    assert made("val", None, None).splits == {"train": 2, "val": 1}
    assert made("test").splits == {"test": 1}


def test_one_picture_is_not_held_out(tmp_path: Path) -> None:
    data = _labelled(tmp_path, [1])
    split(data)
    assert data.splits == {"train": 1}
    assert "nothing is held out" in data.ledger.warnings[0]


def test_a_share_of_nothing_holds_nothing_out(tmp_path: Path) -> None:
    data = _labelled(tmp_path, [5, 5])
    split(data, share=0)
    assert data.splits == {"train": 10}
    assert data.ledger.warnings == []


@pytest.mark.parametrize(
    ("splits", "use"),
    [
        ("nnnn", {"train": "4 pictures", "val": "20% of them, held out"}),
        ("tttt", {"train": "4 pictures", "val": "20% of train, held out"}),
        ("tttv", {"train": "3 pictures to learn from", "val": "1 pictures, which choose"}),
        ("ttte", {"train": "3 pictures", "val": "20% of train", "test": "1 pictures, scored once at the end"}),
        ("ttve", {"train": "2 pictures", "val": "1 pictures", "test": "1 pictures"}),
        ("eeee", {"test": "4 pictures"}),
    ],
)
def test_what_each_part_is_used_for_is_told_and_done(tmp_path: Path, splits: str, use: dict[str, str]) -> None:
    names = {"n": None, "t": "train", "v": "val", "e": "test"}
    data = _data(tmp_path, [Record(f"{i}.png", (9, 9), split=names[s], label=0) for i, s in enumerate(splits)])
    found = describe_use(data)
    assert found.keys() == use.keys()
    assert all(words in found[part] for part, words in use.items())
    split(data)
    assert data.splits.keys() == use.keys()


@pytest.mark.parametrize("share", [1.0, -1.0, float("nan")])
def test_the_share_is_a_share(tmp_path: Path, share: float) -> None:
    with pytest.raises(UsageError, match="allowed: from 0 on and below 1"):
        split(_labelled(tmp_path, [2]), share=share)


def test_a_file_that_is_no_picture_is_named_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        for i in range(4):
            Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
    (tmp_path / "a" / "notes.png").write_text("no picture")
    dataset = read(tmp_path)
    split(dataset)
    assert [(entry.where, entry.what.split("(")[0]) for entry in dataset.ledger.refused] == [
        ("a/notes.png", "not an image ")
    ]
