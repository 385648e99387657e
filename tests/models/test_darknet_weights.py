from __future__ import annotations

import json
import struct
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import nn

from darknet_files import CfgNetwork
from saccade.data.image import decode
from saccade.errors import ModelFileError, SaccadeError, UsageError
from saccade.models.darknet_weights import read_for_model


def two_layers() -> nn.Module:
    """14 numbers with batch norm (beta, gamma, mean, var, weights), 9 without (bias, weights)."""
    first = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 2, 1, bias=False), bn=nn.BatchNorm2d(2)))
    return nn.Sequential(OrderedDict(a=first, b=nn.Conv2d(2, 3, 1)))


def file_of(numbers: np.ndarray, path: Path, version: tuple[int, int] = (0, 2)) -> Path:
    seen = struct.pack("<q", 64) if 10 * version[0] + version[1] >= 2 else struct.pack("<i", 64)
    path.write_bytes(struct.pack("<iii", *version, 0) + seen + numbers.astype("<f4").tobytes())
    return path


@pytest.mark.parametrize("version", [(0, 1), (0, 2), (1, 0)])
def test_order_of_the_numbers(version: tuple[int, int], tmp_path: Path):
    state = read_for_model(file_of(np.arange(23), tmp_path / "x.weights", version), two_layers())
    assert {name: value.flatten().tolist() for name, value in state.items()} == {
        "a.bn.bias": [0, 1],
        "a.bn.weight": [2, 3],
        "a.bn.running_mean": [4, 5],
        "a.bn.running_var": [6, 7],
        "a.conv.weight": [8, 9, 10, 11, 12, 13],
        "b.bias": [14, 15, 16],
        "b.weight": [17, 18, 19, 20, 21, 22],
    }
    assert state["a.conv.weight"].shape == (2, 3, 1, 1)


@pytest.mark.parametrize(
    ("count", "kind", "says"),
    [
        (22, ModelFileError, r"22 numbers, where the 2 layers of the network need 23: it ends in layer b; truncated"),
        (13, ModelFileError, r"it ends in layer a.conv"),
        (24, UsageError, r"24 numbers, .* need 23: weights of another network"),
    ],
)
def test_length_is_checked(count: int, kind: type[SaccadeError], says: str, tmp_path: Path):
    with pytest.raises(kind, match=says):
        read_for_model(file_of(np.zeros(count), tmp_path / "x.weights"), two_layers())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html>", "not a Darknet .weights file"),
        (struct.pack("<iiiq", 0, 2, 0, 0)[:17], "not a head of 20"),
        (struct.pack("<iiiq", 0, 2, 0, 0) + b"abc", "whole float32 numbers"),
    ],
)
def test_files_that_are_none(content: bytes, says: str, tmp_path: Path):
    path = tmp_path / "x.weights"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=says):
        read_for_model(path, two_layers())


def test_missing_and_not_finite(tmp_path: Path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_for_model(tmp_path / "none.weights", two_layers())
    numbers = np.zeros(23)
    numbers[20] = np.nan
    with pytest.raises(ModelFileError, match=r"b.weight holds values that are not finite"):
        read_for_model(file_of(numbers, tmp_path / "x.weights"), two_layers())


@pytest.mark.shared
@pytest.mark.parametrize(
    ("files", "names", "overlap"),
    [
        ("yolo_lite_voc/tiny-yolov2-trial3", "voc.names", 0.4),  # of OpenCV's own NMS in a [region]
        ("yolo_fastest_1.1_coco/yolo-fastest-1.1", "coco.names", 0.45),
    ],
)
def test_published_detectors_find_what_opencv_finds(files: str, names: str, overlap: float, shared_data: Path):
    """Each number of the files is in its place: one out of order, and nothing is found."""
    base = shared_data / "weights" / files
    model = CfgNetwork(base.with_name(base.name + ".cfg")).eval()
    model.load_state_dict(read_for_model(base.with_name(base.name + ".weights"), model), strict=False)
    classes = (base.parent / names).read_text().split("\n")
    reference = json.loads((base.parent / "reference_detections.json").read_text())
    for name, expected in reference["photos"].items():
        photo = decode(shared_data / "photos" / name)
        height, width = photo.shape[:2]
        small = cv2.resize(photo, (model.side, model.side), interpolation=cv2.INTER_LINEAR)  # as the reference
        found = model.detect(small, reference["score_threshold"], overlap)
        assert [classes[label] for label, _, _ in found] == [row["class"] for row in expected]
        assert np.allclose([score for _, score, _ in found], [row["score"] for row in expected], atol=0.002)
        boxes = np.array([box for _, _, box in found]) * [width, height, width, height]
        assert np.allclose(boxes, [row["box"] for row in expected], atol=0.5)
