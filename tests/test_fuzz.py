"""Damaged files of every kind that is read: the documented errors, or a sound answer; never anything else."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from corpus import NAMES, TAGS, coco, coco_content, encoded, folders, masks, page, pixels, put, table, thing, voc, yolo
from darknet_files import write_weights
from saccade import checkpoint
from saccade.checkpoint import Checkpoint
from saccade.config import read_settings_file
from saccade.data.dataset import DataSet
from saccade.data.formats import read
from saccade.data.image import decode, probe
from saccade.data.truth import read_truth
from saccade.errors import DataError, ModelFileError, SaccadeError, UsageError
from saccade.metrics.coco_results import read_results
from saccade.models import create
from saccade.models.darknet_weights import read_for_model

EXAMPLES = 40
few = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
many = settings(few, max_examples=2000)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with a few bytes replaced, a piece cut out, doubled or put in, or its end lost."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["replace", "flip", "cut", "double", "insert", "end"]))
        length = draw(st.integers(1, 12))
        if kind == "replace":
            data[at : at + 1] = draw(
                st.sampled_from([b"0", b"9", b"-", b'"', b"{", b"[", b"]", b",", b"\n", b"\0", b"\xff"])
            )
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = data[at : at + length]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=length))
        elif kind == "end":
            del data[at:]
    return bytes(data)


def _checkpoint() -> Checkpoint:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0, 4)}
    return Checkpoint("resnet18", {"classes": 2}, ["cat", "dog"], "classify", {"size": [8, 8]}, weights, {"top1": 0.5})


def _whole_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        checkpoint.save(_checkpoint(), path)
        return path.read_bytes()


def _read_checkpoint(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "a.safetensors", content)
        try:
            loaded = checkpoint.load(path)
        except ModelFileError:
            return
        whole = _checkpoint()
        assert replace(loaded, weights={}) == replace(whole, weights={})
        assert loaded.weights.keys() == whole.weights.keys()
        assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in whole.weights.items())


WHOLE = _whole_checkpoint()


@few
@given(damaged(WHOLE))
def test_a_checkpoint_is_refused_or_has_the_same_weights(content: bytes) -> None:
    _read_checkpoint(content)


@pytest.mark.slow
@many
@given(damaged(WHOLE))
def test_many_checkpoints(content: bytes) -> None:
    _read_checkpoint(content)


def _polygons_and_runs() -> dict[str, Any]:
    """COCO content with outlines, one of them as run lengths."""
    content = coco_content()
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
    content["annotations"][1] |= {"iscrowd": 1, "segmentation": {"size": [40, 60], "counts": [100, 30, 2270]}}
    content["annotations"][3]["segmentation"] = {"size": [40, 60], "counts": "T3Z1N2O1N2O1"}
    return content


def _map() -> bytes:
    plane = np.zeros((40, 60), np.uint8)
    plane[10:20], plane[25:30] = 1, 2
    return encoded(plane)


PICTURE = "train/cat/0.png"
_SHAPES = [
    {"label": "cat", "points": [[3, 4], [30, 4], [30, 20]], "shape_type": "polygon", "group_id": 1},
    {"label": "dog", "points": [[20, 20], [20, 30]], "shape_type": "circle", "group_id": None},
]
LABELME = json.dumps(
    {"flags": {}, "shapes": _SHAPES, "imagePath": PICTURE, "imageHeight": 40, "imageWidth": 60}
).encode()
CVAT = (
    f'<annotations><version>1.1</version><image id="0" name="{PICTURE}" width="60" height="40">'
    '<box label="cat" xtl="3" ytl="4" xbr="30" ybr="20" rotation="30"/><polygon label="dog" points="3,4;30,4;30,20"/>'
    '<mask label="dog" rle="2, 2, 2, 2" left="5" top="6" width="4" height="2"/></image></annotations>'
).encode()
_VALUES = [
    {"x": 5, "y": 10, "width": 40, "height": 30, "rotation": 30, "rectanglelabels": ["cat"]},
    {"points": [[5, 10], [50, 10], [50, 60]], "polygonlabels": ["dog"]},
    {"format": "rle", "rle": [0, 0, 37, 128, 58, 37, 236, 0, 9, 95, 248], "brushlabels": ["dog"]},
]
_RESULTS = [
    {"from_name": "a", "to_name": "b", "original_width": 60, "original_height": 40, "value": value} for value in _VALUES
]
STUDIO = json.dumps([{"id": 1, "data": {"image": f"/data/{PICTURE}"}, "annotations": [{"result": _RESULTS}]}]).encode()
_REGIONS = [
    {"shape_attributes": {"name": "rect", "x": 3, "y": 4, "width": 20, "height": 9}, "region_attributes": {"a": "cat"}},
    {"shape_attributes": {"name": "circle", "cx": 20, "cy": 20, "r": 9}, "region_attributes": {"a": {"dog": True}}},
]
VIA = json.dumps({"0.png1": {"filename": PICTURE, "size": 1, "regions": _REGIONS}}).encode()
TABLE = b"image,class,x1,y1,x2,y2\ntrain/cat/0.png,cat,3,4,30,20\ntrain/dog/1.png,dog,1,2,9,9\n"

# what is damaged, its place in a sound set, and the set
READERS: dict[str, tuple[bytes, str, Callable[[Path], Path]]] = {
    "coco": (json.dumps(coco_content()).encode(), "annotations.json", coco()),
    "coco outlines": (json.dumps(_polygons_and_runs()).encode(), "annotations.json", coco()),
    "class map": (_map(), "masks/2.png", masks(lambda plane: plane)),
    "class names": (b"soil\nplant\nweed\n", "classes.txt", masks(lambda plane: plane)),
    "voc": (page(thing(), thing("30 10 50 35", "dog")).encode(), "annotations/2.xml", voc(page())),
    "yolo rows": (b"0 .3 .3 .2 .2\n1 .7 .6 .2 .4\n", "labels/train/2.txt", yolo()),
    "yolo yaml": (NAMES.encode(), "data.yaml", yolo()),
    "tags": (TAGS.encode(), "labels.csv", table(TAGS)),
    "classes": (
        b"image,class,split\n1.png,a,train\n2.png,b,train\n3.png,b,val\n4.png,a,val\n",
        "labels.csv",
        table(""),
    ),
    "labelme": (LABELME, "2.json", folders()),
    "cvat": (CVAT, "annotations.xml", folders()),
    "label studio": (STUDIO, "tasks.json", folders()),
    "via": (VIA, "via.json", folders()),
    "table of boxes": (TABLE, "boxes.csv", folders()),
    "table of runs": (b"ImageId,EncodedPixels\ntrain/cat/0.png,5 20 60 9\ntrain/dog/1.png,\n", "runs.csv", folders()),
    "foreign yaml": (b"path: .\ntrain: {images: a, masks: b}\n", "data.yaml", folders()),
}


@pytest.fixture(scope="module", params=READERS)
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path, Path]:
    """A file as it should be, its place, and the data set that it belongs to."""
    whole, name, build = READERS[request.param]
    root = tmp_path_factory.mktemp("set")
    return whole, root / name, build(root)


def _read_damaged(sound: tuple[bytes, Path, Path], data: st.DataObject) -> None:
    whole, place, root = sound
    place.write_bytes(data.draw(damaged(whole)))
    with contextlib.suppress(SaccadeError):
        dataset = read(root)
        assert dataset.records
        for record in dataset.records:
            for one in record.things or ():
                x1, y1, x2, y2 = one.box
                assert 0 <= x1 < x2 <= record.size[1]
                assert 0 <= y1 < y2 <= record.size[0]
                assert 0 <= one.label < len(dataset.classes)
            truth = read_truth(record, dataset, dataset.task)
            assert truth.size == record.size
            if truth.semantic is not None:
                assert set(truth.semantic.unique().tolist()) <= {*range(len(dataset.classes)), 255}


@few
@given(data=st.data())
def test_labels_are_refused_or_sound(sound: tuple[bytes, Path, Path], data: st.DataObject) -> None:
    _read_damaged(sound, data)


@pytest.mark.slow
@many
@given(data=st.data())
def test_many_labels(sound: tuple[bytes, Path, Path], data: st.DataObject) -> None:
    _read_damaged(sound, data)


RED = Image.fromarray(pixels(0))
IMAGES = {
    "jpg": encoded(RED, "JPEG"),
    "png": encoded(RED),
    "gif": encoded(RED, "GIF"),
    "webp": encoded(RED, "WEBP"),
    "bmp": encoded(RED, "BMP"),
    "tif": encoded(RED, "TIFF", compression="tiff_lzw"),
}


def _decode_damaged(data: st.DataObject, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(DataError):
        path = put(Path(folder) / f"a.{kind}", data.draw(damaged(IMAGES[kind])))
        size = probe(path).size
        image = decode(path)
        assert image.dtype == np.uint8
        assert image.shape == (*size, 3)


@few
@given(data=st.data(), kind=st.sampled_from(sorted(IMAGES)))
def test_pictures_are_refused_or_decoded(data: st.DataObject, kind: str) -> None:
    _decode_damaged(data, kind)


@pytest.mark.slow
@many
@given(data=st.data(), kind=st.sampled_from(sorted(IMAGES)))
def test_many_pictures(data: st.DataObject, kind: str) -> None:
    _decode_damaged(data, kind)


def _public_weights() -> dict[str, bytes]:
    """A sound file of each kind that `--weights` takes."""
    tensors = _checkpoint().weights
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": tensors}, Path(folder) / "a.pth")
        np.savez(Path(folder) / "a.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})
        write_weights(Path(folder) / "a.weights", DARKNET)
        return {suffix: (Path(folder) / f"a.{suffix}").read_bytes() for suffix in ("pth", "npz", "weights")}


DARKNET = create("darknet19", classes=2, stages=((2,), (2,), (2,), (2,), (2,), (2,)))
PUBLIC = _public_weights()


def _read_damaged_weights(data: st.DataObject, kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ModelFileError, UsageError):
        path = put(Path(folder) / f"a.{kind}", data.draw(damaged(PUBLIC[kind])))
        weights = read_for_model(path, DARKNET) if kind == "weights" else checkpoint.read_public(path)
        assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())


@few
@given(data=st.data(), kind=st.sampled_from(sorted(PUBLIC)))
def test_public_weights_are_refused_or_plain_tensors(data: st.DataObject, kind: str) -> None:
    _read_damaged_weights(data, kind)


@pytest.mark.slow
@many
@given(data=st.data(), kind=st.sampled_from(sorted(PUBLIC)))
def test_many_public_weights(data: st.DataObject, kind: str) -> None:
    _read_damaged_weights(data, kind)


RESULTS = json.dumps([{"image_id": i, "category_id": 7, "bbox": [1, 2, 30, 20], "score": 0.5} for i in (1, 2)]).encode()


@few
@given(data=st.data())
def test_results_of_other_tools_are_refused_or_sound(truth: DataSet, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(SaccadeError):
        read_results(put(Path(folder) / "results.json", data.draw(damaged(RESULTS))), truth)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return read(coco()(tmp_path_factory.mktemp("truth")))


@few
@given(damaged(b"lr: 0.1\nepochs: 3\nmilestones: [0.5, 0.9]\nschedule: step\n"))
def test_settings_files(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UsageError):
        assert isinstance(read_settings_file(put(Path(folder) / "settings.yaml", content)), dict)
