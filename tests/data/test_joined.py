"""Images that have a class alone, joined to images with boxes: paths, ids, labels, and a ledger that adds up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corpus import coco, encoded, folders, pixels, put
from saccade.data.dataset import DataSet, Record, Thing, count_labels
from saccade.data.formats import read
from saccade.data.joined import absolute, join, joint_factors
from saccade.data.mixing import Mosaic
from saccade.data.sources import Records
from saccade.data.truth import read_sample, read_truth
from saccade.data.types import Sample
from saccade.data.views import View
from saccade.data.word_tree import Tree, grow_into
from saccade.errors import DataError

TREE = Tree(("pet", "cat", "dog"), (-1, 0, 0))


@pytest.fixture
def both(tmp_path: Path) -> tuple[DataSet, DataSet]:
    """Four images with boxes of cats and dogs, the last for validation, and class folders of both: two pictures each,
    a copy of the validation picture, a broken one, and one in a val of its own."""
    data = read(coco()(tmp_path / "boxes"))
    for record in data.records:
        record.split = "val" if record.path.endswith("4.png") else "train"
    root = tmp_path / "kinds"
    for i, name in enumerate(("train/cat/a", "train/cat/b", "train/dog/a", "train/dog/b", "val/dog/c")):
        put(root / f"{name}.png", encoded(pixels(50 + i)))
    put(root / "train/dog/copy.png", (tmp_path / "boxes/images/4.png").read_bytes())
    put(root / "train/dog/broken.png", encoded(pixels(60))[:300])
    other = read(root, "classify")
    grow_into(TREE, [data, other], "tree.yaml")
    return data, other


def test_what_is_joined_and_what_is_not(both: tuple[DataSet, DataSet]) -> None:
    data, other = both
    files = other.ledger.images_used + other.ledger.images_refused + len(data.records)
    added = join(data, other)
    assert [record.id for record in added] == [
        f"joined/train/{name}.png" for name in ("cat/a", "cat/b", "dog/a", "dog/b")
    ]
    assert [record.label for record in added] == [1, 1, 2, 2]
    assert all(record.split == "train" and Path(record.path).is_file() and record.label_alone for record in added)
    assert {record.id for record in added} < {record.id for record in data.records}
    ledger = data.ledger
    assert ledger.images_used == len(data.records) == 8
    assert ledger.labels_used == sum(map(count_labels, data.records)) == 12
    assert ledger.images_used + ledger.images_refused + 1 == files  # one is left aside
    assert any(w == "kinds: 1 images of its val are left aside; what is joined trains" for w in ledger.warnings)
    assert sorted(entry.where.rsplit("/")[-1] for entry in ledger.refused) == ["broken.png", "copy.png"]
    copied = next(entry for entry in ledger.refused if entry.where.endswith("copy.png"))
    assert copied.where.startswith("kinds: ")
    assert copied.what == "is, or nearly is, images/4.png, which is in val"


def test_ids_stay_unique(both: tuple[DataSet, DataSet]) -> None:
    data, other = both
    data.records[0].id = "joined/train/cat/a.png"
    assert join(data, other)[0].id == "joined+/train/cat/a.png"


def test_nothing_left_to_join(both: tuple[DataSet, DataSet]) -> None:
    data, other = both
    other.records = [record for record in other.records if "copy" in record.id]
    with pytest.raises(DataError, match=r"no image to join \(1 refused, 0 in val or test\)"):
        join(data, other)


def test_its_truth_is_a_class_and_no_boxes(both: tuple[DataSet, DataSet]) -> None:
    data, other = both
    record = join(data, other)[2]
    truth = read_sample(record, data, "detect").truth
    assert (truth.label, truth.size) == (2, record.size)
    assert truth.objects is not None
    assert len(truth.objects) == 0
    assert read_truth(data.records[0], data, "detect").label is None


def test_objects_of_pictures_can_be_joined_too(both: tuple[DataSet, DataSet], tmp_path: Path) -> None:
    data, _ = both
    other = read(coco()(tmp_path / "more"), "classify")
    for i in range(1, 5):
        put(tmp_path / f"more/images/{i}.png", encoded(pixels(80 + i)))
    grow_into(TREE, [other], "tree.yaml")
    added = join(data, other)
    assert len(added) == 8
    assert read_sample(added[0], data, "detect").image.shape[:2] == added[0].size == (20, 20)


def test_a_mosaic_has_boxes_of_boxed_images_alone(both: tuple[DataSet, DataSet]) -> None:
    data, other = both
    join(data, other)
    training = [record for record in data.records if record.split == "train"]
    source = Records(data, training, "detect", View((Mosaic((64, 64)),)), 0, 0)
    for place, record in enumerate(training):
        sample = source[0, place]
        assert isinstance(sample, Sample)
        assert sample.truth.label == record.label
        assert sample.image.shape[:2] == (record.size if record.label_alone else (64, 64))
    assert [training[i].label_alone for i in source.partners] == [False] * 3


def test_how_often_images_with_boxes_are_repeated() -> None:
    things = [Thing(0, (0.0, 0.0, 1.0, 1.0))]
    records = [Record(f"b{i}", (8, 8), things=things) for i in range(5)]
    records += [Record(f"l{i}", (8, 8), label=0) for i in range(60)]
    np.testing.assert_allclose(joint_factors(records, 4), [3.0] * 5 + [1.0] * 60)
    np.testing.assert_allclose(joint_factors(records[:20], 4), [1.0] * 20)  # never seldomer


def test_a_place_is_kept_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders()(tmp_path / "kinds")
    monkeypatch.chdir(tmp_path)
    assert absolute("kinds") == str((tmp_path / "kinds").resolve())
    assert absolute("folder:kinds") == f"folder:{(tmp_path / 'kinds').resolve()}"
