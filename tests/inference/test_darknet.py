"""A `.cfg` with `.weights` and `.names` opens as a run does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import saccade
from darknet_files import cfg_text, write_weights
from saccade.cli import app
from saccade.data.image import decode
from saccade.errors import ModelFileError, SaccadeError, UsageError
from saccade.inference.trained import open_run
from saccade.models.detectors import darknet_cfg

YOLO = cfg_text(32, "c 3 4 2", "h 14", "yolo classes=2 num=2 anchors=6,6,12,12")
SQUARES = cfg_text(
    32, "c 3 4 8", "connected output=192 activation=linear", "detection classes=2 side=4 num=2 sqrt=1 coords=4"
)


def files(folder: Path, cfg: str = YOLO, names: str = "cat\ndog\n") -> Path:
    """The three files in a folder, of random numbers."""
    torch.manual_seed(0)
    (folder / "net.cfg").write_text(cfg)
    write_weights(folder / "net.weights", darknet_cfg.Model(darknet_cfg.Config(classes=2, cfg=cfg)).network)
    (folder / "net.names").write_text(names)
    return folder / "net.cfg"


def test_opens_with_what_lies_beside_it(tmp_path: Path) -> None:
    found = open_run(files(tmp_path))
    assert (found.model, found.task, found.classes) == ("darknet_cfg", "detect", ["cat", "dog"])
    assert (found.preprocessing.size, found.preprocessing.resize) == ((32, 32), "letterbox")
    (tmp_path / "one").mkdir()
    assert open_run(files(tmp_path / "one", SQUARES)).preprocessing.resize == "stretch"
    (tmp_path / "net.names").unlink()
    assert open_run(tmp_path / "net.cfg").classes == ["0", "1"]


def test_files_that_a_person_names(tmp_path: Path) -> None:
    """And a checkpoint of them answers the same."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    cfg = files(tmp_path / "a").rename(tmp_path / "b" / "net.cfg")
    weights, names = tmp_path / "a" / "net.weights", tmp_path / "a" / "net.names"
    with pytest.raises(UsageError, match=r"net.cfg: no .weights of this name beside it, nor a single one"):
        saccade.load(cfg, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    answer = saccade.load(cfg, "cpu", "fp32", weights=weights, names=names).answer(image)
    done = saccade.weights(str(cfg), weights, classes=names, out=tmp_path / "net.safetensors", progress=False)
    assert (done["model"], done["classes"]) == ("darknet_cfg", 2)
    again = saccade.load(tmp_path / "net.safetensors", "cpu", "fp32")
    assert again.classes == ["cat", "dog"]
    assert answer.objects is not None
    assert torch.equal(again.answer(image).objects.boxes, answer.objects.boxes)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"weights and names are for a Darknet .cfg"):
        saccade.load(tmp_path / "net.safetensors", "cpu", weights=weights)


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"net.names": "cat\n"}, UsageError, r"net.names: 1 names of classes, the network has 2"),
        ({"net.names": "cat\ncat\n"}, UsageError, r"names of classes that repeat: 'cat'"),
        ({"net.cfg": YOLO.replace("filters=14", "filters=15")}, UsageError, r"net.cfg: line 13, .* needs 14"),
        ({"net.cfg": YOLO.replace("[yolo]", "[yolov9]")}, UsageError, r"net.cfg: line 18, \[yolov9\]: unknown layer"),
        ({"net.cfg": YOLO.replace("size=3", "size=5")}, UsageError, r"net.weights: .* ends in layer layers.0.conv"),
        ({"net.cfg": YOLO.replace("size=3", "size=1")}, UsageError, r"net.weights: .* weights of another network"),
        ({"net.weights": "short"}, ModelFileError, r"net.weights: 5 bytes"),
    ],
)
def test_files_that_do_not_fit(change: dict[str, str], kind: type[SaccadeError], says: str, tmp_path: Path) -> None:
    path = files(tmp_path)
    for name, text in change.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(kind, match=says):
        open_run(path)


@pytest.mark.shared
def test_command_line(tmp_path: Path, shared_data: Path) -> None:
    """YOLO-Fastest finds the dog from the command line; exit codes are those of the manual."""
    folder = shared_data / "weights" / "yolo_fastest_1.1_coco"
    words = ["--weights", str(folder / "yolo-fastest-1.1.weights"), "--names", str(folder / "coco.names")]
    (tmp_path / "x.cfg").write_text((folder / "yolo-fastest-1.1.cfg").read_text())
    photo = str(shared_data / "photos" / "dog.jpg")
    run = CliRunner().invoke
    done = run(app, ["predict", str(tmp_path / "x.cfg"), photo, *words, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)[0]
    assert {"dog", "bicycle"} <= set(answer["objects"]["names"])
    names = (folder / "coco.names").read_text().replace("motorbike", "motorcycle").replace("aeroplane", "airplane")
    for before, now in (("sofa", "couch"), ("pottedplant", "potted plant"), ("diningtable", "dining table")):
        names = names.replace(before, now)
    (tmp_path / "now.names").write_text(names.replace("tvmonitor", "tv"))
    words[-1] = str(tmp_path / "now.names")  # without them the data has classes that the network does not know
    evaluated = ["evaluate", str(tmp_path / "x.cfg"), str(shared_data / "coco128"), "--split", "all", *words]
    done = run(app, [*evaluated, "--device", "cpu", "--precision", "fp32", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metrics"]["ap50"]["value"] > 0.25
    assert decode(Path(photo)).shape[:2] == tuple(answer["size"])
