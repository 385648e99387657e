"""Darknet's `.cfg`: what is read, and where what cannot be is said to stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from saccade.errors import UsageError
from saccade.models.darknet_sections import read_cfg, read_sections

YOLO = "\n[yolo]\nclasses=2\nanchors=1,2\n"


def test_sections_with_their_lines() -> None:
    """Blanks anywhere, remarks, short names; of an option that comes twice the first counts."""
    net, layer, head = read_sections(
        "# remark\n[net]\nwidth = 32\n width=64\n\n[ conv ]\n ; remark\nfilters=7 # seven\n"
        "[yolo]\nanchors = 10, 13,  16,30\nmask=0 ,1\nignore_thresh = .7\nclasses=2"
    )
    assert [(each.kind, each.line) for each in (net, layer, head)] == [("net", 2), ("convolutional", 6), ("yolo", 9)]
    assert (net.whole("width"), layer.whole("filters"), layer.whole("size", 1)) == (32, 7, 1)
    assert (head.numbers("anchors"), head.wholes("mask"), head.number("ignore_thresh", 0.5)) == (
        (10, 13, 16, 30),
        (0, 1),
        0.7,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"line 1: a Darknet .cfg begins with \[net\]"),
        ("[yolo]\nclasses=1", r"begins with \[net\]"),
        ("[net]\nwidth=32", r"line 1: no layers follow"),
        ("[net]\nwidth=32\n[conv]\nfilters=3", r"no layer that detects \(\[detection\], \[region\], \[yolo\]\)"),
        ("[net]\nwidth 32", r"line 2: 'width 32' is neither \[section\] nor option=value"),
        ("[net]\n[lstm]" + YOLO, r"line 2, \[lstm\]: unknown layer; allowed: convolutional, local"),
        ("[net]\n[softmax]\ngroups=1", r"line 2, \[softmax\]: a layer of classification networks.*darknet19"),
        (
            "[net]\n[conv]\nfilter=3" + YOLO,
            r"line 3, \[convolutional\]: unknown option 'filter': did you mean",
        ),
        ("[net]\n[conv]\nbinary=1" + YOLO, r"line 3, .*binary=1 is not known here; allowed: binary=0"),
        ("[net]\n[conv]" + YOLO + "scale_x_y=1.05", r"line 6, \[yolo\]: scale_x_y=1.05 is not known here"),
        ("[net]\n[region]\nclasses=2", r"line 2, \[region\]: softmax=0, as it is left out, is not known"),
        ("[net]\n[region]\nsoftmax=1\ntree=x", r"line 4, \[region\]: a tree of classes: that is the model yolo9000"),
    ],
)
def test_what_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_sections(text)


@pytest.mark.parametrize("value", ["3.5", "x", "0", "-1", "1,2", "1e9", "inf", "nan", ""])
def test_numbers_that_are_none(value: str) -> None:
    layer = read_sections(f"[net]\n[conv]\nfilters={value}" + YOLO)[1]
    with pytest.raises(UsageError, match=r"line 3, \[convolutional\]: filters="):
        layer.whole("filters")


def test_words_and_what_is_missing() -> None:
    layer = read_sections("[net]\n[conv]\nactivation=ramp" + YOLO)[1]
    with pytest.raises(UsageError, match=r"line 3, .*activation=ramp; allowed: linear, leaky"):
        layer.word("activation", "linear", ("linear", "leaky"))
    with pytest.raises(UsageError, match=r"line 2, .*filters= is missing"):
        layer.whole("filters")


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_bytes(b"[net]\n\xff\xfe")
    with pytest.raises(UsageError, match=r"x.cfg: cannot be read as a Darknet .cfg"):
        read_cfg(path)
    path.write_text("[net]\n" + "#" * 2**20)
    with pytest.raises(UsageError, match=r"x.cfg: longer than 1,048,576 characters"):
        read_cfg(path)
