from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.errors import ModelFileError, SaccadeError, UsageError
from saccade.models.darknet_weights import Layer, cfg_layers, cfg_shapes, read_cfg, read_weights, write_weights

LAYERS = [Layer("a.conv", (2, 3, 1, 1), "a.bn"), Layer("b", (3, 2, 1, 1))]


def file_of(numbers: np.ndarray, path: Path, version: tuple[int, int] = (0, 2)) -> Path:
    seen = struct.pack("<q", 64) if 10 * version[0] + version[1] >= 2 else struct.pack("<i", 64)
    path.write_bytes(struct.pack("<iii", *version, 0) + seen + numbers.astype("<f4").tobytes())
    return path


@pytest.mark.parametrize("version", [(0, 1), (0, 2), (1, 0)])
def test_order_of_the_numbers(version: tuple[int, int], tmp_path: Path):
    """14 numbers with batch norm (beta, gamma, mean, var, weights), 9 without (bias, weights)."""
    state = read_weights(file_of(np.arange(23), tmp_path / "x.weights", version), LAYERS)
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


def test_round_trip(tmp_path: Path):
    path = file_of(np.random.default_rng(0).normal(size=23), tmp_path / "x.weights")
    state = read_weights(path, LAYERS)
    write_weights(tmp_path / "y.weights", LAYERS, state, seen=64)
    assert (tmp_path / "y.weights").read_bytes() == path.read_bytes()


def test_writing_needs_every_tensor(tmp_path: Path):
    with pytest.raises(ValueError, match=r"b.bias: expected a tensor of shape \[3\], found \[4\]"):
        write_weights(tmp_path / "x", LAYERS[1:], {"b.bias": torch.zeros(4), "b.weight": torch.zeros(3, 2, 1, 1)})
    with pytest.raises(ValueError, match=r"b.bias: .* found nothing"):
        write_weights(tmp_path / "x", LAYERS[1:], {})
    assert list(tmp_path.iterdir()) == []


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
        read_weights(file_of(np.zeros(count), tmp_path / "x.weights"), LAYERS)


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
        read_weights(path, LAYERS)


def test_missing_and_not_finite(tmp_path: Path):
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_weights(tmp_path / "none.weights", LAYERS)
    numbers = np.zeros(23)
    numbers[20] = np.nan
    with pytest.raises(ModelFileError, match=r"b.weight holds values that are not finite"):
        read_weights(file_of(numbers, tmp_path / "x.weights"), LAYERS)


CFG = """
# a comment
[net]
width=17
height=13
channels=3

[convolutional]   ; 0: 8 x 13 x 17
batch_normalize=1
filters=8
size=3
pad=1
[maxpool]         ; 1: 8 x 7 x 9
size=2
stride=2
[convolutional]   ; 2: 8 x 7 x 9
groups=8
filters = 8
size=3
pad=1
[dropout]
probability=.5
[shortcut]        ; 4
from=-3
[upsample]        ; 5: 8 x 14 x 18
stride=2
[route]           ; 6: 16 x 14 x 18
layers=-1, 5
[reorg]           ; 7: 64 x 7 x 9
stride=2
[avgpool]         ; 8
[connected]       ; 9
output=5
[softmax]
"""


def cfg_file(text: str, folder: Path) -> Path:
    path = folder / "net.cfg"
    path.write_text("\n".join(line.split(";")[0].rstrip() for line in text.splitlines()))
    return path


def test_cfg_by_hand(tmp_path: Path):
    sections = read_cfg(cfg_file(CFG, tmp_path))
    assert [s.kind for s in sections[:3]] == ["net", "convolutional", "maxpool"]
    assert (sections[1].line, sections[1].options["filters"]) == (8, "8")
    assert cfg_shapes(sections) == [
        (8, 13, 17),
        (8, 7, 9),
        (8, 7, 9),
        (8, 7, 9),
        (8, 7, 9),
        (8, 14, 18),
        (16, 14, 18),
        (64, 7, 9),
        (64, 1, 1),
        (5, 1, 1),
        (5, 1, 1),
    ]
    assert cfg_layers(sections) == [
        Layer("0.conv", (8, 3, 3, 3), "0.bn"),
        Layer("2.conv", (8, 1, 3, 3)),
        Layer("9.conv", (5, 64)),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[convolutional]\nfilters=3", r"starts with \[net\]"),
        ("", r"starts with \[net\]"),
        ("[net]\nwidth", "line 2: 'width' is neither"),
        ("[net]\nwidth=3\nheight=x\n[maxpool]", r"line 1, \[net\]: height is 'x', expected a whole number"),
        ("[net]\nwidth=3\nheight=3\n[lstm]", r"line 4, \[lstm\]: not a known section"),
        ("[net]\nwidth=3\nheight=3\n[route]\nlayers=-1", r"refers to layer -1, but only 0 stand before it"),
        ("[net]\nwidth=3\nheight=3\n[route]\nlayers=a", "expected whole numbers and commas"),
        ("[net]\nwidth=3\nheight=3\n[maxpool]\nstride=0", "stride is 0, allowed: at least 1"),
        ("[net]\nwidth=9\nheight=9\n[maxpool]\nstride=2\n[maxpool]\nstride=2\n[route]\nlayers=0,1", "different sides"),
        ("[net]\nwidth=9\nheight=9\n[maxpool]\nstride=1\n[maxpool]\nstride=2\n[shortcut]\nfrom=0", "cannot be added"),
        ("[net]\nwidth=9\nheight=9\n[convolutional]\nfilters=4\ngroups=2", "2 groups do not divide 3 and 4 channels"),
    ],
)
def test_cfg_faults_name_file_line_and_section(text: str, says: str, tmp_path: Path):
    path = tmp_path / "net.cfg"
    path.write_text(text)
    with pytest.raises(ModelFileError, match=says):
        cfg_layers(read_cfg(path))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("files", "head"),
    [
        ("yolo_lite_voc/tiny-yolov2-trial3", (125, 7, 7)),
        ("yolo_fastest_1.1_coco/yolo-fastest-1.1", (255, 20, 20)),
    ],
)
def test_published_files_are_used_up_exactly(files: str, head: tuple[int, int, int], shared_data: Path):
    base = shared_data / "weights" / files
    sections = read_cfg(base.with_name(base.name + ".cfg"))
    layers = cfg_layers(sections)
    state = read_weights(base.with_name(base.name + ".weights"), layers)
    assert cfg_shapes(sections)[-1] == head
    assert all((value >= 0).all() for name, value in state.items() if name.endswith("running_var"))
