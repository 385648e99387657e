from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from saccade.data.cache import Kept
from saccade.data.dataset import DataSet, Record, Thing
from saccade.data.joints import Joints
from saccade.data.rle import encode_mask
from saccade.data.truth import read_sample, read_truth
from saccade.errors import DataError, UsageError


def data_set(root: Path, task: str, record: Record, **more: object) -> DataSet:
    return DataSet(root, "test", task, ["a", "b", "c"], [record], **more)  # type: ignore[arg-type]


def test_objects_with_all_fields(tmp_path: Path) -> None:
    ids = np.zeros((10, 12), dtype=np.uint16)
    ids[6:9, 1:5] = 300
    Image.fromarray(ids).save(tmp_path / "ids.png")
    drawn = np.zeros((10, 12), dtype=bool)
    drawn[0:2, 0:3] = True
    things = [
        Thing(0, (2, 1, 7, 4), polygons=[[2, 1, 7, 1, 7, 4, 2, 4]], difficult=True, keypoints=[(3, 2, 2), (0, 0, 0)]),
        Thing(1, (0, 0, 3, 2), rle=encode_mask(drawn), crowd=True, area=5.5),
        Thing(2, (1, 6, 5, 9), mask=("ids.png", 300)),
    ]
    record = Record("a.png", (10, 12), things=things)
    dataset = data_set(tmp_path, "instances", record, joints=Joints(("nose", "tail")))
    truth = read_truth(record, dataset, "instances")
    objects = truth.objects
    assert objects is not None
    assert truth.size == (10, 12)
    assert objects.masks is not None
    assert objects.masks.dtype == torch.bool
    assert objects.masks.sum((1, 2)).tolist() == [15, 6, 12]
    assert np.array_equal(objects.masks[1].numpy(), drawn)
    assert objects.masks[2, 6:9, 1:5].all()
    assert objects.boxes.tolist() == [[2, 1, 7, 4], [0, 0, 3, 2], [1, 6, 5, 9]]
    assert objects.labels.tolist() == [0, 1, 2]
    assert objects.crowd is not None
    assert objects.crowd.tolist() == [False, True, False]
    assert objects.difficult is not None
    assert objects.difficult.tolist() == [True, False, False]
    assert objects.area is not None
    assert objects.area.tolist() == [15, 5.5, 12]
    assert objects.keypoints is not None
    assert objects.keypoints[0].tolist() == [[3, 2, 2], [0, 0, 0]]
    assert objects.keypoints[1:].sum() == 0
    detect = read_truth(record, dataset, "detect").objects
    assert detect is not None
    assert detect.masks is None
    tags = read_truth(Record("b", (10, 12), things=[things[2]]), dataset, "tag").tags
    assert tags is not None
    assert tags.tolist() == [False, False, True]


def test_an_image_without_objects(tmp_path: Path) -> None:
    record = Record("a.png", (10, 12), things=[])
    truth = read_truth(record, data_set(tmp_path, "instances", record), "instances")
    assert truth.objects is not None
    assert truth.objects.boxes.shape == (0, 4)
    assert truth.objects.masks is not None
    assert truth.objects.masks.shape == (0, 10, 12)


def test_labels_and_what_is_missing(tmp_path: Path) -> None:
    record = Record("a.png", (10, 12), label=2)
    dataset = data_set(tmp_path, "classify", record)
    assert read_truth(record, dataset, "classify").label == 2
    for task in ("detect", "segment", "instances"):
        with pytest.raises(DataError, match=r"a\.png"):
            read_truth(record, dataset, task)
    with pytest.raises(UsageError, match="classify"):
        read_truth(record, dataset, "clasify")
    boxed = Record("a.png", (10, 12), things=[Thing(0, (0, 0, 1, 1), id=17)])
    with pytest.raises(DataError, match="annotation 17"):
        read_truth(boxed, dataset, "instances")


def test_class_maps_are_mapped(tmp_path: Path) -> None:
    values = np.array([[0, 10, 20], [255, 10, 0]], dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "m.png")
    record = Record("a.png", (2, 3), semantic="m.png")
    dataset = data_set(tmp_path, "segment", record, mask_values={0: 255, 10: 0, 20: 1, 255: 2})
    semantic = read_truth(record, dataset, "segment").semantic
    assert semantic is not None
    assert semantic.dtype == torch.uint8
    assert semantic.tolist() == [[255, 0, 1], [2, 0, 255]]
    with pytest.raises(DataError, match="mask is 2 x 3"):
        read_truth(Record("a.png", (3, 3), semantic="m.png"), dataset, "segment")
    dataset.mask_values = {0: 0, 10: 1, 255: 255}
    with pytest.raises(DataError, match=r"m\.png: value 20 at x=2, y=0 .* allowed: 0, 10, 255"):
        read_truth(record, dataset, "segment")


@pytest.mark.parametrize("known", [False, True])
def test_truth_follows_the_reduced_size(tmp_path: Path, known: bool) -> None:
    """A white rectangle on black: whatever the size it is decoded at, truth lies over it."""
    image = Image.new("RGB", (333, 203))
    ImageDraw.Draw(image).rectangle((96, 48, 191, 111), fill="white")  # pixels 96..191: the box 96 48 192 112
    image.save(tmp_path / "a.jpg", quality=95)
    values = np.zeros((203, 333), dtype=np.uint8)
    values[48:112, 96:192] = 1
    Image.fromarray(values).save(tmp_path / "m.png")
    corners = [96, 48, 192, 48, 192, 112, 96, 112]
    things = [
        Thing(0, (96, 48, 192, 112), polygons=[corners], keypoints=[(96, 48, 2)]),
        Thing(0, (96, 48, 192, 112), rle=encode_mask(values)),
        Thing(0, (96, 48, 192, 112), mask=("m.png", 1)),
    ]
    record = Record("a.jpg", (203, 333), things=things, semantic="m.png")
    dataset = data_set(tmp_path, "instances", record, joints=Joints(("corner",)))
    sample = read_sample(record, dataset, "instances", min_side=40)
    if known:
        sample = read_sample(record, dataset, "instances", min_side=40, known=Kept(sample.image, None, (4.0, 4.0)))
    assert sample.image.shape == (51, 84, 3)
    assert sample.truth.size == (51, 84)
    assert sample.original_size == (203, 333)
    assert np.array_equal(sample.to_original, np.diag([4, 4, 1]))
    objects = sample.truth.objects
    assert objects is not None
    assert objects.boxes[0].tolist() == [24, 12, 48, 28]
    assert objects.masks is not None
    assert objects.area is not None
    assert objects.area.tolist() == [24 * 16] * 3
    assert objects.keypoints is not None
    assert objects.keypoints[0].tolist() == [[24, 12, 2]]
    white = sample.image[..., 0] > 127
    for mask in objects.masks.numpy():
        assert np.array_equal(mask, white)
    semantic = read_sample(record, dataset, "segment", min_side=40).truth.semantic
    assert semantic is not None
    assert np.array_equal(semantic.numpy().astype(bool), white)


def test_an_image_that_changed_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "a.png")
    record = Record("a.png", (4, 6), label=0)
    with pytest.raises(DataError, match=r"a\.png: is 4 x 5 .* was 4 x 6"):
        read_sample(record, data_set(tmp_path, "classify", record), "classify")
