"""`saccade anchors`: k-means over boxes as the network sees them, what it prints, and what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import saccade
from saccade.cli import app
from saccade.config import parse_assignments
from saccade.errors import DataError, UsageError
from saccade.models import model_config
from saccade.training.plan import make_plan

pytestmark = pytest.mark.usefixtures("drawn_figures")

BOXES = {"a": [(20, 40), (22, 44)], "b": [(60, 60), (150, 50)], "c": []}


def data(folder: Path, boxes: dict[str, list[tuple[int, int]]] = BOXES) -> Path:
    """COCO boxes of these widths and heights in pictures of 200 x 100."""
    images, rows = [], []
    for number, (name, sides) in enumerate(boxes.items(), 1):
        Image.new("RGB", (200, 100)).save(folder / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png", "width": 200, "height": 100})
        for width, height in sides:
            row = {"image_id": number, "category_id": 1, "bbox": [1, 2, width, height], "iscrowd": 0}
            rows.append(row | {"id": len(rows) + 1, "area": width * height})
    categories = [{"id": 1, "name": "thing"}]
    (folder / "annotations.json").write_text(
        json.dumps({"images": images, "annotations": rows, "categories": categories})
    )
    return folder


def test_anchors_in_three_units(tmp_path: Path) -> None:
    """At 400 the letterbox doubles every side; two groups of boxes have these means."""
    found = saccade.anchors(data(tmp_path), k=3, size="400", out=tmp_path / "out")
    assert found["pixels"] == [[42, 84], [120, 120], [300, 100]]
    assert found["shares"] == [[0.105, 0.21], [0.3, 0.3], [0.75, 0.25]]
    assert found["cells"][1] == [3.75, 3.75]
    expected = (40 * 80 / (42 * 84) + 42 * 84 / (44 * 88) + 2) / 4
    assert found["average_iou"] == pytest.approx(expected, abs=1e-4)
    assert (found["boxes"], found["images"], found["good"]) == (4, 3, 1.0)
    assert [row["k"] for row in found["curve"]] == [1, 2, 3, 4]
    assert found["curve"][-1]["average_iou"] == 1
    for file in found["files"]:
        assert min(Image.open(file).size) > 200
    for model in ("yolo2", "yolo3"):  # can be given to it as it is printed
        config = model_config(model, **parse_assignments([found["settings"][model]]))
        flat = config.priors if model == "yolo2" else [level[0] for level in reversed(config.priors)]
        assert list(map(list, flat)) == found["pixels"]


def test_command_line(tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(app, ["anchors", str(data(tmp_path)), "--k", "2", "--size", "100x200", "--json"])
    assert json.loads(done.stdout)["size"] == [100, 200]
    done = run(app, ["anchors", str(tmp_path), "--k", "2", "--size", "100x200"])
    assert "for yolo2: --set 'priors=[[" in done.stdout
    assert run(app, ["anchors", str(tmp_path), "--k", "0"]).exception.exit_code == 2  # type: ignore[union-attr]


def test_what_cannot_be_fitted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"4 boxes cannot have 5 anchors; use --k 4 or fewer"):
        saccade.anchors(data(tmp_path), k=5)
    with pytest.raises(DataError, match=r"no boxes of at least 1 pixel at 1x2"):
        saccade.anchors(tmp_path, k=1, size="1x2")
    with pytest.raises(UsageError, match="k is 0, allowed: at least 1"):
        saccade.anchors(tmp_path, k=0)
    with pytest.raises(UsageError, match="allowed: at least 1 pixel"):
        saccade.anchors(tmp_path, k=1, size=0)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is the folder of a run"):
        saccade.anchors(tmp_path, k=2, out=tmp_path)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        ("yolo2_small", {"priors": [[400, 400]], "fit_priors": False}),
        ("faster_rcnn_c4_small", {"anchors": [[400, 400]]}),
        ("retinanet_small", {"anchors": [[[400, 400]]] * 3, "fit_anchors": False}),
        ("sliding_window_small", {"shapes": [[400, 400]]}),
    ],
)
def test_priors_that_a_person_gives_and_that_fit_no_object_are_refused(model: str, given: Any, tmp_path: Path) -> None:
    data(tmp_path, {name: [(20, 40), (22, 44)] for name in "abcdefgh"})
    with pytest.raises(UsageError, match=r"overlap only 0.0% .* --k \d --size 416x416` finds some that do"):
        make_plan(model, tmp_path, task="detect", flags={"size": 416} | given)


def test_a_run_whose_priors_fit_few_objects_warns(tmp_path: Path) -> None:
    data(tmp_path, {name: [(2, 4), (3, 4)] for name in "abcdefgh"})
    for priors, warned in (({}, True), ({"priors": [[4, 8]]}, False)):
        flags = {"size": 416, "fit_priors": False} | priors
        plan = make_plan("yolo2_small", tmp_path, task="detect", flags=flags)
        found = [line for line in plan.dataset.ledger.warnings if "the priors overlap only 0.0%" in line]
        assert bool(found) is warned


def test_anchors_that_stand_in_the_text_of_a_cfg_are_held_against_the_boxes(tmp_path: Path) -> None:
    """The network's own: those of the file as long as its Config has none, at whatever size it trains."""
    data(tmp_path, {name: [(2, 4), (3, 4)] for name in "abcdefgh"})
    fitting = [[[2 + i, 5 + i] for i in row] for row in ((0, 1, 2), (3, 4, 5))]
    for given, warned in (({"fit_priors": False}, True), ({}, True), ({"priors": fitting}, False)):
        plan = make_plan("darknet_cfg", tmp_path, task="detect", flags={"size": 320} | given)
        found = [line for line in plan.dataset.ledger.warnings if "the priors overlap only 0.0%" in line]
        assert bool(found) is warned
    assert "--k 6 --size 320x320" in make_plan("darknet_cfg", tmp_path, task="detect").dataset.ledger.warnings[-1]


def test_priors_as_shares_of_the_side_are_held_against_the_boxes_in_pixels(tmp_path: Path) -> None:
    data(tmp_path, {name: [(20, 40), (22, 44)] for name in "abcdefgh"})  # 42 x 84 of 416: 0.1 x 0.2
    rest = {"fit_priors": False, "size": 416}
    others = [[[0.6, 0.6]], [[0.8, 0.8]], [[1.0, 1.0]]]
    with pytest.raises(UsageError, match="in pixels; those of this model are shares of 416"):
        make_plan("atss_small", tmp_path, task="detect", flags=rest | {"priors": [[[0.9, 0.9]], *others]})
    plan = make_plan("atss_small", tmp_path, task="detect", flags=rest | {"priors": [[[0.1, 0.2]], *others]})
    assert not [line for line in plan.dataset.ledger.warnings if "the priors overlap" in line]
