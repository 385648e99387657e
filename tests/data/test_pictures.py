"""A record that is a region of a file: read, judged, split, cached, shown and written as a picture of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.formats import coco_write, read
from saccade.data.loader import Loader, Work
from saccade.data.orders import InOrder
from saccade.data.pictures import class_map_of, decode_picture
from saccade.data.pipelines import to_original
from saccade.data.split import split
from saccade.data.transforms import FitInside, PadTo
from saccade.data.truth import read_sample, read_truth
from saccade.data.types import IGNORE
from saccade.data.views import View
from saccade.errors import DataError

REGION = (5, 10, 45, 30)


@pytest.fixture
def dataset(tmp_path: Path) -> DataSet:
    """One file of 60 x 80 pixels and three records: a region with everything, another region, the whole."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(rng.integers(0, 2, (60, 80), dtype=np.uint8)).save(tmp_path / "map.png")
    ids = np.zeros((60, 80), np.uint8)
    ids[12:20, 10:30] = 7  # in the region: from (5, 2) to (25, 10)
    Image.fromarray(ids).save(tmp_path / "ids.png")
    things = [
        Thing(1, (5, 2, 25, 10), mask=("ids.png", 7)),
        Thing(0, (0, 0, 4, 4), polygons=[[0, 0, 4, 0, 4, 4, 0, 4]]),
    ]
    records = [
        Record("person", (20, 40), label=1, semantic="map.png", things=things, path="a.png", region=REGION),
        Record("tile", (8, 8), label=0, semantic="map.png", things=[], path="a.png", region=(72, 52, 80, 60)),
        Record("a.png", (60, 80), label=0, semantic="map.png", things=[]),
    ]
    return DataSet(tmp_path, "test", "instances", ["a", "b"], records)


def whole(dataset: DataSet) -> np.ndarray:
    return np.asarray(Image.open(dataset.root / "a.png"))


def test_json_of_a_record_and_of_one_from_before_regions(dataset: DataSet) -> None:
    for record in dataset.records:
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    plain = Record("b/c.png", (4, 5), label=1)
    assert (plain.path, plain.region) == ("b/c.png", None)
    assert not {"path", "region"} & set(plain.to_json())  # a run from before goes on: its fingerprint stays
    assert Record.from_json(plain.to_json()) == plain


def test_picture_and_truth_are_those_of_the_region(dataset: DataSet) -> None:
    person = dataset.records[0]
    sample = read_sample(person, dataset, "instances", min_side=4)
    assert np.array_equal(sample.image, whole(dataset)[10:30, 5:45])
    assert (sample.id, sample.original_size) == ("person", (20, 40))
    assert np.array_equal(sample.to_original, np.eye(3))
    objects = sample.truth.objects
    assert objects is not None
    assert objects.masks is not None
    assert objects.masks.shape == (2, 20, 40)
    assert objects.masks[0].nonzero().amin(0).tolist() == [2, 5]
    assert objects.masks[0].nonzero().amax(0).tolist() == [9, 24]
    semantic = read_truth(person, dataset, "segment").semantic
    assert semantic is not None
    map_ = np.asarray(Image.open(dataset.root / "map.png"))
    assert np.array_equal(semantic.numpy(), map_[10:30, 5:45])
    assert np.array_equal(class_map_of(dataset.records[1], dataset), map_[52:, 72:])


def test_predictions_return_to_the_pixels_of_the_region(dataset: DataSet) -> None:
    view = View((FitInside((32, 32)), PadTo((32, 32))), 32)
    for cache in (0, 1 << 20):
        loader = Loader(dataset, dataset.records, "detect", view, InOrder(), 3, Work(cache_bytes=cache))
        for epoch in range(2):
            (batch,) = loader.epoch(epoch)
            assert batch.truth is not None
            back = to_original(batch.truth[0], batch, 0)
            assert back.size == (20, 40)
            assert back.objects is not None
            torch.testing.assert_close(back.objects.boxes, torch.tensor([[5.0, 2, 25, 10], [0, 0, 4, 4]]))
            assert batch.original_sizes == [(20, 40), (8, 8), (60, 80)]


def test_a_region_outside_of_its_file_is_named(dataset: DataSet) -> None:
    beyond = replace(dataset.records[0], region=(41, 10, 81, 30))
    with pytest.raises(
        DataError, match=r"a\.png: is 60 x 80 .* the region 41 10 81 30 .* of person does not lie inside"
    ):
        decode_picture(beyond, dataset.root)
    with pytest.raises(DataError, match=r"map\.png: is 60 x 80"):
        class_map_of(beyond, dataset)
    other = replace(dataset.records[2], size=(60, 79))
    with pytest.raises(DataError, match="was 60 x 79 when the data set was read"):
        decode_picture(other, dataset.root)
    with pytest.raises(DataError, match=r"map\.png: the mask is 60 x 80 .* its image a\.png is 60 x 79"):
        class_map_of(other, dataset)


def test_a_class_map_without_stated_values_means_itself(dataset: DataSet) -> None:
    Image.fromarray(np.array([[0, 1, IGNORE]], np.uint8)).save(dataset.root / "map.png")
    record = Record("a.png", (1, 3), semantic="map.png")
    assert class_map_of(record, dataset).tolist() == [[0, 1, IGNORE]]
    dataset.mask_values = {0: 1, 1: 0, IGNORE: IGNORE}
    assert class_map_of(record, dataset).tolist() == [[1, 0, IGNORE]]


def test_records_of_one_file_stay_on_one_side(tmp_path: Path) -> None:
    records = []
    for file in range(12):
        shade = np.full((30, 30, 3), 20 * file, np.uint8)  # flat pictures are nobody's near-duplicates by their hash
        Image.fromarray(shade).save(tmp_path / f"{file}.png")
        for part in range(3):
            region = (10 * part, 0, 10 * part + 10, 30)
            records.append(Record(f"{part}-{file}", (30, 10), label=part, path=f"{file}.png", region=region))
    dataset = DataSet(tmp_path, "test", "classify", ["a", "b", "c"], records)
    split(dataset, share=0.3)
    sides = {file: {r.split for r in dataset.records if r.path == f"{file}.png"} for file in range(12)}
    assert all(len(side) == 1 for side in sides.values())
    assert set(dataset.splits) == {"train", "val"}


def test_a_file_that_cannot_be_decoded_refuses_all_its_records(dataset: DataSet) -> None:
    (dataset.root / "a.png").write_bytes((dataset.root / "a.png").read_bytes()[:60])
    split(dataset, share=0)
    assert not dataset.records
    assert [entry.where for entry in dataset.ledger.refused] == ["person", "tile", "a.png"]


def test_a_region_is_written_as_a_picture_of_its_own(dataset: DataSet, tmp_path: Path) -> None:
    dataset.records = dataset.records[:1]
    dataset.records[0].things = dataset.records[0].things[1:]  # type: ignore[index]
    coco_write.write(dataset, tmp_path / "out")
    (found,) = read(tmp_path / "out").records
    assert found.size == (20, 40)
    written, _ = decode_picture(found, tmp_path / "out")
    assert np.array_equal(written, whole(dataset)[10:30, 5:45])
    assert found.things is not None
    assert found.things[0].box == (0, 0, 4, 4)
