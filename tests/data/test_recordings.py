"""Pictures of one recording: known by a pattern, by a word in their names, or by numbers under which they flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.data.dataset import DataSet, Record
from saccade.data.recordings import find_recordings
from saccade.data.split import split
from saccade.errors import UsageError


def _records(*ids: str, labels: str = "") -> list[Record]:
    return [Record(name, (9, 9), label=int(labels[i]) if labels else None) for i, name in enumerate(ids)]


def _found(records: list[Record], pattern: str = "auto") -> list[str | None]:
    return find_recordings(records, [None] * len(records), pattern)


def test_a_pattern_names_the_recording_by_its_group_or_by_all_of_it() -> None:
    records = _records("a/p1_x.png", "a/p2_y.png", "b/p1_z.png", "b/q.png")
    assert _found(records, r"(p\d)_") == ["p1", "p2", "p1", None]
    assert _found(records, r"p\d_") == ["p1_", "p2_", "p1_", None]
    assert _found(records, "none") == [None] * 4
    with pytest.raises(UsageError, match="no regular expression"):
        _found(records, "(p")
    with pytest.raises(UsageError, match="fits no image of the data set, such as"):
        _found(records, "patient")


def test_words_for_recordings_are_recognised() -> None:
    ids = ("patient_01/s1.png", "patient_01/s2.png", "patient_02/s1.png", "scan-patient03-slice7.png")
    assert _found(_records(*ids)) == ["patient_01", "patient_01", "patient_02", "patient03"]
    assert _found(_records("clip1_frame3.jpg", "clip2_frame3.jpg")) == ["clip1", "clip2"]


@pytest.mark.parametrize(
    "ids",
    [
        ("cat_001.jpg", "cat_002.jpg", "dog_001.jpg"),
        ("patient_1.png", "patient_2.png", "patient_3.png"),  # one picture each: nothing of the name is left
        ("2007_000032.jpg", "2008_000111.jpg"),
        ("video1/a.png", "video1/b.png"),  # one recording is no grouping
        ("suitcase/1a.png", "clipart2/b.png"),
    ],
)
def test_other_names_are_of_no_recording(ids: tuple[str, ...]) -> None:
    assert _found(_records(*ids)) == [None] * len(ids)


def test_a_class_of_one_recording_speaks_against_it() -> None:
    ids = [f"video{i // 4}/{i}.png" for i in range(8)]
    assert set(_found(_records(*ids))) == {"video0", "video1"}
    assert set(_found(_records(*ids, labels="00001111"))) == {None}
    assert set(_found(_records(*ids, labels="01010101"))) == {"video0", "video1"}


def _film(root: Path, name: str, seed: int, frames: int, flow: bool) -> None:
    """A view that moves over a wide scene, or pictures that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 255, (12, 60, 3), dtype=np.uint8)
    wide = np.asarray(Image.fromarray(cells).resize((600, 120), Image.Resampling.BICUBIC))
    for i in range(frames):
        start = 5 * i if flow else int(rng.integers(0, 480))
        Image.fromarray(wide[:, start : start + 120]).save(root / f"{name}_{30 * i:05d}.png")


@pytest.mark.parametrize(("flow", "found"), [(True, True), (False, False)])
def test_numbered_frames_are_of_a_recording_where_they_flow(tmp_path: Path, flow: bool, found: bool) -> None:
    for seed, name in enumerate(("0001TP", "0006R0", "0016E5", "Seq05VD")):
        _film(tmp_path, name, seed, 20, flow)
    ids = sorted(path.name for path in tmp_path.iterdir())
    data = DataSet(tmp_path, "masks", "segment", ["a"], [Record(name, (120, 120), semantic=name) for name in ids])
    split(data)
    sides = {name: {r.split for r in data.records if r.id.startswith(name)} for name in ("0001TP", "0006R0", "0016E5")}
    if found:
        assert {record.group for record in data.records} == {"0001TP", "0006R0", "0016E5", "Seq05VD"}
        assert all(len(side) == 1 for side in sides.values())
        assert len(data.of("val")) == 20
        assert "pictures of 4 recordings" in data.ledger.warnings[-1]
    else:
        assert {record.group for record in data.records} == {None}
        assert len(data.of("val")) == 16
