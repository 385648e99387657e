"""`saccade evaluate`: classes by name, splits, results files of other tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import saccade
from corpus import coco, coco_content, page, thing, voc
from saccade.data.dataset import DataSet
from saccade.data.split import split as assign_splits
from saccade.errors import DataError, ModelFileError, UsageError
from saccade.training.state import read_config, write_config

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`


def _top1(run: Path, data: Path, **more: Any) -> float:
    return saccade.evaluate(run, data, bootstrap=0, workers=0, precision="fp32", **more)["metrics"]["top1"]["value"]


def test_classes_go_by_name_whatever_their_order_and_number(run: Path, colours: Path, tmp_path: Path) -> None:
    assert _top1(run, colours) == 1.0
    table = "image,class,split\n" + "".join(
        f"val/{name}/{i}.png,{name},val\n" for i in range(5) for name in ("red", "blue")
    )
    shutil.copytree(colours, tmp_path / "table")
    (tmp_path / "table" / "labels.csv").write_text(table)
    assert _top1(run, Path(f"tags_csv:{tmp_path / 'table'}")) == 1.0
    shutil.copytree(colours, tmp_path / "one")
    for split in ("train", "val"):
        shutil.rmtree(tmp_path / "one" / split / "blue")  # red is now class 0 of the data, 1 of the model
    assert _top1(run, tmp_path / "one") == 1.0
    shutil.copytree(colours, tmp_path / "more")
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "more" / split / "red", tmp_path / "more" / split / "zebra")
    with pytest.raises(DataError, match=r"not trained on: zebra; the model knows blue, red"):
        _top1(run, tmp_path / "more")


def test_splits(run: Path, colours: Path, shell: Shell) -> None:
    counts = {split: saccade.evaluate(run, colours, split=split, bootstrap=0)["images"] for split in ("train", "all")}
    assert counts == {"train": 40, "all": 50}
    with pytest.raises(DataError, match=r"no split 'test'; it has train, val \(or use all\)"):
        saccade.evaluate(run, colours, split="test")
    code, out, err = shell("evaluate", run, colours, "--split", "validation")
    assert (code, out) == (3, "")
    assert "train, val" in err


def test_a_test_part_is_no_val(run: Path, colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours, tmp_path / "set")
    (tmp_path / "set" / "val").rename(tmp_path / "set" / "test")
    counts = {
        split: saccade.evaluate(run, tmp_path / "set", split=split, bootstrap=0)["images"]
        for split in ("train", "val", "test")
    }
    assert counts == {"train": 32, "val": 8, "test": 10}


def test_the_command_line_says_what_the_library_returns(run: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    code, out, err = shell("evaluate", run, colours, "--json", "--workers", 0, "--out", tmp_path / "scores")
    assert code == 0, err
    printed, kept = json.loads(out), json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert printed == kept
    assert {"data", "split", "images", "metrics", "per_class", "seconds"} <= printed.keys()
    assert set(printed["metrics"]["top1"]) == {"value", "low", "high"}
    returned = saccade.evaluate(run, colours, workers=0)
    assert returned["metrics"] == printed["metrics"]


def test_without_data_a_run_is_scored_on_its_own(run: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    code, out, err = shell("evaluate", run, "--workers", 0)
    assert (code, "10 images of val" in out) == (0, True)
    assert f"data: folder:{colours}, which the run was trained on" in err
    printed = json.loads(shell("evaluate", run / "best.safetensors", "--json", "--workers", 0)[1])
    assert printed["data"] == f"folder:{colours}"
    assert printed["metrics"] == saccade.evaluate(run, colours, workers=0)["metrics"]
    (tmp_path / "alone").mkdir()
    shutil.copy(run / "best.safetensors", tmp_path / "alone")
    (tmp_path / "results.json").write_text("[]")
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(run / "best.safetensors", moved)
    config = read_config(run) | {"data": str(tmp_path / "gone")}
    write_config(moved, config)
    for source, words in (
        (
            tmp_path / "alone",
            "what it was trained on (no config.json beside it); say it: saccade evaluate",
        ),
        (tmp_path / "results.json", "does not say which data it is of"),
        (moved, f"not there any more ({tmp_path / 'gone'}); say where they are: saccade evaluate {moved} DATA"),
    ):
        code, _, err = shell("evaluate", source)
        assert (code, words in err) == (2, True), err


def test_what_cannot_be_read_is_told(run: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    data = tmp_path / "set"
    shutil.copytree(colours, data)
    (data / "val" / "red" / "0.png").write_bytes(b"\x89PNG not really")
    cut = data / "val" / "blue" / "1.png"
    cut.write_bytes(cut.read_bytes()[:600])  # its header is whole
    code, out, err = shell("evaluate", run, data, "--workers", 0)
    assert code == 0, err
    assert "8 images of val" in out
    assert "refused: 2 images" in err
    assert "val/red/0.png" in err
    assert "val/blue/1.png" in err
    code, out, _ = shell("evaluate", run, data, "--workers", 0, "--json")
    result = json.loads(out)
    assert sorted(entry["where"] for entry in result["refused"]) == ["val/blue/1.png", "val/red/0.png"]
    assert all(entry["why"] for entry in result["refused"])


def test_a_split_that_training_drew_is_drawn_again(
    run: Path, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another seed the model would be scored on images that it was trained on."""
    drawn: list[tuple[int, float]] = []

    def noted(dataset: DataSet, seed: int, share: float, group: str) -> None:
        drawn.append((seed, share))
        assign_splits(dataset, seed, share, group)

    monkeypatch.setattr("saccade.inference.score.assign_splits", noted)
    copy, data = tmp_path / "run", colours / "train"  # without splits
    copy.mkdir()
    shutil.copy(run / "best.safetensors", copy)
    (warning,) = saccade.evaluate(copy, data, bootstrap=0, workers=0)["warnings"]
    assert "val is drawn by seed 0" in warning
    config = json.loads((run / "config.json").read_text())
    config["settings"] |= {"seed": 5, "holdout": 0.5}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match="checksum differs"):
        saccade.evaluate(copy, data, bootstrap=0, workers=0)
    write_config(copy, {name: value for name, value in config.items() if name != "sha256"})
    for path in (copy, copy / "best.safetensors"):
        assert saccade.evaluate(path, data, bootstrap=0, workers=0)["warnings"] == []
    saccade.evaluate(copy, data, bootstrap=0, workers=0, seed=7)
    assert drawn == [(0, 0.2), (5, 0.5), (5, 0.5), (7, 0.5)]


@pytest.mark.parametrize("verb", ["evaluate", "explain"])
def test_the_report_of_a_run_is_not_replaced(verb: str, run: Path, colours: Path, shell: Shell) -> None:
    before = (run / "report.html").read_bytes()
    source = colours if verb == "evaluate" else colours / "val" / "red" / "0.png"
    code, _, err = shell(verb, run, source, "--out", run)
    assert code == 2
    assert f"{run} is the folder of a run" in err
    assert (run / "report.html").read_bytes() == before


def test_a_leak_is_told(run: Path, colours: Path, tmp_path: Path) -> None:
    shutil.copytree(colours, tmp_path / "set")
    shutil.copy(colours / "train" / "red" / "3.png", tmp_path / "set" / "val" / "red" / "copy.png")
    (warning,) = saccade.evaluate(run, tmp_path / "set", bootstrap=0, workers=0)["warnings"]
    assert warning.startswith("leak: 1 of 11 pictures of val are also in train")


def _results(content: dict[str, Any], shift: float = 0.0) -> list[dict[str, Any]]:
    """The truth as another tool's predictions, each box moved by `shift` pixels."""
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": [a["bbox"][0] + shift, *a["bbox"][1:]],
            "score": 0.9 - 0.01 * a["id"],
        }
        for a in content["annotations"]
    ]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return coco()(tmp_path / "data")


def _score(tmp_path: Path, truth: Path, results: object) -> dict[str, Any]:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    return saccade.evaluate(path, truth, split="all", bootstrap=0)["metrics"]


def test_results_files_of_other_tools(tmp_path: Path, truth: Path) -> None:
    content = coco_content()
    perfect = _score(tmp_path, truth, _results(content))
    assert (perfect["ap"]["value"], perfect["ap50"]["value"]) == pytest.approx((1, 1))
    # 20 x 20 boxes moved by 4 px overlap by 16/24 = 0.667: found at 0.5, 0.55, 0.6 and 0.65 of ten thresholds
    moved = _score(tmp_path, truth, [r for r in _results(content, 4.0) if r["category_id"] == 1])
    assert moved["ap50"]["value"] == pytest.approx(0.5)  # of two classes one is found
    assert moved["ap"]["value"] == pytest.approx(0.2)
    assert _score(tmp_path, truth, [])["ap"]["value"] == 0


def test_a_detector_leaves_a_results_file_that_scores_the_same(tmp_path: Path, truth: Path) -> None:
    run = tmp_path / "run"
    small = {"trunk_width": 8, "channels": 16, "size": 64, "batch": 2, "workers": 0, "score_threshold": 0.001}
    saccade.train("atss_small", truth, out=run, epochs=1, **small)
    ours = saccade.evaluate(run, truth, split="all", bootstrap=0, out=tmp_path / "scored")["metrics"]
    rows = json.loads((tmp_path / "scored" / "coco_results.json").read_text())
    assert rows[0].keys() == {"image_id", "category_id", "bbox", "score"}
    theirs = _score(tmp_path, truth, rows)
    assert ours["ap"]["value"] == pytest.approx(theirs["ap"]["value"], abs=1e-9)
    assert {name: ours[name]["value"] for name in ("ap50", "ar_100")} == pytest.approx(
        {name: theirs[name]["value"] for name in ("ap50", "ar_100")}
    )


def test_results_in_vocs_own_corners_need_the_word(run: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    """A detector that was trained on VOC's numbers as they stand answers the numbers of the XML files."""
    root = voc(page(thing(), thing("30 10 50 35", "dog")))(tmp_path / "voc")
    rows = []
    for i in range(1, 5):
        for category, (x1, y1, x2, y2) in ((1, (5, 5, 25, 25)), (2, (30, 10, 50, 35))):
            row = {"image_id": f"{i}.png", "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            rows.append(row | {"score": 0.9})
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    code, out, err = shell("evaluate", path, root, "--split", "all", "--corners", "voc", "--json")
    assert code == 0, err
    assert json.loads(out)["metrics"]["ap"]["value"] == pytest.approx(1)
    assert saccade.evaluate(path, root, split="all")["metrics"]["ap"]["value"] < 0.95
    with pytest.raises(UsageError, match="corners=voc is how a results file counts"):
        saccade.evaluate(run, colours, corners="voc")


def test_labels_alone_can_be_scored(tmp_path: Path) -> None:
    """Scoring needs no pixels: the annotations say how large the images are."""
    path = tmp_path / "instances_val.json"
    path.write_text(json.dumps(coco_content()))
    assert _score(tmp_path, path, _results(coco_content()))["ap"]["value"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_id": 77}, "77"),
        ({"category_id": 77}, "77"),
        ({"score": float("nan")}, "score"),
        ({"bbox": [1, 2, 3]}, "bbox"),
        ({"bbox": None}, "bbox"),
        ({"bbox": [1, 2, float("inf"), 4]}, "bbox"),
    ],
)
def test_entries_that_cannot_be_right_are_named(tmp_path: Path, truth: Path, change: dict[str, Any], says: str) -> None:
    results = _results(coco_content())
    results[3].update(change)
    with pytest.raises(DataError, match=rf"results\.json.*{says}") as error:
        _score(tmp_path, truth, results)
    assert "3" in str(error.value)  # which entry


@pytest.mark.parametrize("text", ["", "{", "{}", "7", "[7]", "[" * 5000, '[{"image_id": 1}]'])
def test_files_that_are_no_results(tmp_path: Path, truth: Path, text: str, shell: Shell) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    code, out, err = shell("evaluate", path, truth, "--split", "all")
    assert (code, out) == (3, ""), err
    assert "results.json" in err


def test_results_of_another_task(tmp_path: Path, colours: Path) -> None:
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UsageError, match="holds boxes, masks or joints"):
        saccade.evaluate(tmp_path / "results.json", colours)


def test_nms_is_for_models_that_find_objects(run: Path, colours: Path, tmp_path: Path, shell: Shell) -> None:
    code, _, err = shell("evaluate", run, colours, "--nms", "soft")
    assert (code, "this one is to classify" in err) == (2, True)
    (tmp_path / "results.json").write_text("[]")
    code, _, err = shell("evaluate", tmp_path / "results.json", colours, "--agnostic-nms")
    assert (code, "boxes after suppression" in err) == (2, True)
