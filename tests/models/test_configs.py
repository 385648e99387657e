"""What a user gives for a model's own fields: taken as it stands, or refused before any work."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import saccade
from saccade.errors import UsageError
from saccade.losses.classification import Objective
from saccade.models import catalogue, model_config, model_module
from saccade.models.configs import (
    OBJECTIVE,
    SHAPES,
    config_from_json,
    describe_fields,
    describe_settings,
    flat_values,
    free_fields,
    unknown_fields,
)
from saccade.training.plan import FITTED, make_plan

Shell = Callable[..., tuple[int, str, str]]  # the fixture `shell`
PRIORS = [[[0.1, 0.1]], [[0.2, 0.3]], [[0.4, 0.4]], [[0.8, 0.7]]]


@pytest.mark.parametrize(
    ("model", "field", "value", "found"),
    [
        ("atss_small", "priors", PRIORS, tuple(tuple(tuple(p) for p in level) for level in PRIORS)),
        ("atss_small", "box_weight", "1e-1", 0.1),
        ("atss_small", "fit_priors", False, False),
        ("atss_small", "trunk_width", "none", None),
        ("resnet20", "depths", [1, 2, 3], (1, 2, 3)),
        ("resnet20", "width", 8.0, 8),
        ("unet", "class_weights", None, None),
        ("unet", "class_weights", [1, 2], (1.0, 2.0)),
    ],
)
def test_a_value_is_taken_in_the_type_of_its_field(model: str, field: str, value: Any, found: Any) -> None:
    assert getattr(model_config(model, **{field: value}), field) == found


@pytest.mark.parametrize(
    ("model", "field", "value", "message"),
    [
        ("atss_small", "priors", [[0.1, 0.2]], "0.1 is no list; expected a list of lists of lists of 2 numbers"),
        ("atss_small", "priors", [[[0.1]]], r"\[0.1\] has 1 entries, not 2"),
        ("atss_small", "trunk_norm", "group", "allowed: batch, frozen"),
        ("yolo2_small", "priors", [[3, 4], [-1, 5]], "a side of -1; widths and heights of boxes are above 0"),
        ("faster_rcnn_c4_small", "anchors", [[0, 5]], "a side of 0; widths and heights"),
        ("yolo3_small", "priors", [[[3, 4]], []], "a list without boxes; expected a list of lists of lists"),
        ("sliding_window_small", "shapes", [[0, 5]], "a side of 0; widths and heights"),
        ("atss_small", "fit_priors", 1, "1 is not true or false"),
        ("resnet20", "width", 4.5, "4.5 is no whole number from 0 on"),
        ("resnet20", "width", -4, "-4 is no whole number from 0 on"),
        ("resnet20", "width", 0, "width of model resnet20 is 0: allowed: 1 or more; expected a whole number"),
        ("resnet20", "depths", 3, "3 is no list"),
        ("resnet20", "depths", [1, "a", 1], "'a' is no whole number"),
        ("resnet20", "norm_eps", float("inf"), "inf is no number"),
        ("resnet20", "objective", {"losss": "focal"}, "no field 'losss': did you mean 'loss'"),
        ("resnet20", "widht", 4, "did you mean 'width'"),
        ("resnet20", "focal_gama", 4, "did you mean 'focal_gamma'"),
        ("resnet20", "label_smoothing", 1.5, "allowed: 0 to 0.9"),
        ("yolo2_small", "background", -1, "background of model yolo2_small is -1: allowed: 0 or more"),
        ("atss_small", "nms_iou", 1.5, "allowed: 0 to 1"),
        ("faster_rcnn_small", "cascade", [0.6, 1.2], "allowed: 0 to 1; expected a list of numbers"),
        ("resnet20", "std", [0.2, 0, 0.2], "allowed: above 0; expected a list"),
        ("faster_rcnn_small", "trunk_width", -32, "allowed: above 0; expected a number or none"),
        ("ssd_small", "loss", "focal", "model ssd_small has no setting 'loss'"),
    ],
)
def test_a_value_of_another_shape_is_refused_with_what_is_allowed(
    model: str, field: str, value: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model_config(model, **{field: value})


def test_every_field_of_the_catalogue_is_described_and_accepts_what_it_has() -> None:
    for name in catalogue():
        config = model_module(name).VARIANTS[name]
        rows = describe_fields(config)
        assert {row["name"] for row in rows} == free_fields(config)
        assert all(row["type"] for row in rows), name
        assert model_config(name, **json.loads(json.dumps(dataclasses.asdict(config)))) == config, name


def test_every_number_of_the_catalogue_states_its_range() -> None:
    """A weight below 0 or an IoU above 1 trains a network without sense, and no error of torch's says so."""
    bare = {
        f"{model_module(name).__name__}: {field}"
        for name in catalogue()
        for part in (model_module(name).VARIANTS[name], getattr(model_module(name).VARIANTS[name], OBJECTIVE, None))
        if part is not None
        for field, hint in typing.get_type_hints(type(part), include_extras=True).items()
        if field not in SHAPES and plain_numbers(hint) & {int, float}
    }
    assert not bare


def plain_numbers(hint: Any) -> set[Any]:
    """The types that a hint consists of, what has a range left out."""
    if typing.get_origin(hint) is typing.Annotated:
        return set()
    parts = typing.get_args(hint)
    return {found for part in parts for found in plain_numbers(part)} if parts else {hint}


def test_another_trunk_leaves_the_fields_of_the_first() -> None:
    kept = model_config("atss_small", channels=32)
    assert (kept.trunk_width, kept.trunk_depths) == (32, (1, 2, 2, 2))
    changed = model_config("atss_small", trunk="densenet121", trunk_norm="frozen")
    assert (changed.trunk_width, changed.trunk_depths, changed.trunk_norm) == (None, None, "frozen")
    assert model_config("localizer_small", trunk="resnet50", trunk_width=16).trunk_width == 16
    assert model_config("unet", trunk="vgg16").trunk == "vgg16"


def test_the_fields_of_a_trunk_are_the_same_everywhere() -> None:
    usual = {row["name"]: row for row in describe_fields(model_config("atss_small")) if "trunk" in row["name"]}
    assert len(usual) == 4
    for name in ("unet", "localizer_small"):
        rows = {row["name"]: row for row in describe_fields(model_config(name))}
        for field in set(usual) - {"trunk"}:  # which a U-Net may go without
            assert rows[field] | {"value": None} == usual[field] | {"value": None}
        assert "classification network that gives feature maps" in rows["trunk"]["help"]


def test_configs_of_the_first_ssd_are_read() -> None:
    """The paper's SSD and our small detector were variants of one Config."""
    shared = {"classes": 3, "negatives": 3.0, "min_negatives": 0, "keep": 100, "nms_iou": 0.5}
    small = shared | {
        "trunk": "residual",
        "width": 16,
        "depths": [1, 1, 1, 1],
        "channels": 32,
        "steps": [8, 16, 32, 64],
    }
    small |= {"matching": "adaptive", "class_loss": "quality", "fit_priors": False, "side": 0, "box_loss": "diou"}
    small |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    room = model_module("ssd_small")
    config = config_from_json(room, "ssd_small", small)
    assert (config.trunk, config.trunk_width, config.trunk_depths) == ("resnet18", 16, (1, 1, 1, 1))
    assert (config.strides, config.fit_priors, config.box_loss, config.keep) == ((8, 16, 32, 64), False, "diou", 100)
    assert unknown_fields(room, "ssd_small", small) == []
    assert unknown_fields(room, "ssd_small", small | {"class_loss": "softmax"}) == ["class_loss"]
    paper = shared | {
        "trunk": "vgg512",
        "width": 32,
        "depths": [1, 2, 2, 2],
        "channels": 64,
        "steps": [8, 16],
        "side": 512,
    }
    paper |= {"matching": "overlap", "class_loss": "softmax", "fit_priors": False, "min_negatives": 2}
    room = model_module("ssd512")
    config = config_from_json(room, "ssd512", paper)
    assert (config.form, config.width, config.steps, config.min_negatives) == ("512", 64, (8, 16), 2)
    assert unknown_fields(room, "ssd512", paper) == []
    assert unknown_fields(room, "ssd512", paper | {"matching": "adaptive"}) == ["matching"]


def test_fields_of_the_objective_are_named_as_those_of_the_config() -> None:
    config = model_config("resnet20", loss="focal", focal_gamma=1, width=8)
    assert (config.width, config.objective) == (8, Objective("focal", focal_gamma=1.0))
    assert model_config("resnet20", objective={"loss": "hinge"}, label_smoothing=0.1).objective == Objective(
        "hinge", 0.1
    )
    flat = flat_values(config)
    assert (flat["loss"], flat["width"], "objective" in flat) == ("focal", 8, False)


def test_the_comment_of_a_field_is_its_help() -> None:
    rows = {row["name"]: row for row in describe_fields(model_config("atss_small"))}
    assert rows["priors"]["help"].startswith("Priors of every map: (width, height)")  # in the line above
    assert rows["box_weight"]["help"].startswith("of the box in the sum of the losses")  # behind it
    assert rows["strides"]["help"].endswith("than the trunk's are made by convolutions.")  # of several lines


def test_settings_of_a_model_name_what_its_recipe_sets() -> None:
    rows = {row["name"]: row for row in describe_settings("atss_small")}
    recipe = model_module("atss_small").RECIPES["default"]
    own = recipe.get("*", {}) | recipe.get("atss_small", {})
    assert {name for name, row in rows.items() if row["from"] == "recipe default"} == set(own)
    assert rows["lr"]["value"] == own["lr"]
    assert rows["priors"]["of"] == "atss_small"
    assert all(row["with_weights"] is None for row in rows.values())
    paper = {row["name"]: row["with_weights"] for row in describe_settings("fast_rcnn_vgg16", "paper")}
    assert {name: value for name, value in paper.items() if value is not None} == {"freeze": 4}
    with pytest.raises(UsageError, match="has no recipe 'papr'"):
        describe_settings("atss_small", "papr")


def test_the_command_line_lists_fields_and_layers(shell: Shell) -> None:
    assert "[4 with --weights]" in shell("settings", "fast_rcnn_vgg16", "--recipe", "paper")[1]
    code, out, _ = shell("settings", "resnet20")
    assert code == 0
    heads = [line for line in out.splitlines() if line.endswith(":")]
    assert heads == ["run:", "optimiser:", "numerics:", "data:", "augmentation:", "files:", "of resnet20:"]
    assert [line.split()[0] for line in out.split("of resnet20:")[1].split("\n") if "label_smoothing" in line]
    code, out, _ = shell("settings", "ssd_small", "--json")
    groups = {row["name"]: row["group"] for row in json.loads(out)}
    assert (groups["lr"], groups["flip"], groups["priors"]) == ("optimiser", "augmentation", "of ssd_small")
    assert "label_smoothing" not in groups
    code, out, _ = shell("models", "resnet20", "--size", "32", "--json")
    assert code == 0
    printed = json.loads(out)
    assert printed["parameters"] == catalogue()["resnet20"]["parameters"]
    assert printed["file"] == "saccade/models/backbones/resnet.py"
    assert printed["layers"][-1] == {"name": "fc", "kind": "Linear", "output": [[10]], "parameters": 650}
    code, out, _ = shell("models", "resnet20", "--set", "classes=3", "--size", "32x48")
    assert code == 0
    assert "resnet20 for images of 32x48" in out
    assert f"file: {Path(saccade.__file__).parent / 'models/backbones/resnet.py'}" in out
    assert "models/detectors/ssd.py" in shell("models", "--task", "detect")[1]
    code, _, err = shell("models", "alexnet", "--size", "8")
    assert code == 2
    assert "does not go through" in err


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from saccade.data.scenes import write_scenes

    folder = tmp_path_factory.mktemp("boxes") / "scenes"
    write_scenes(folder, "detect", 40, seed=0)
    return folder


def test_what_a_person_gives_is_not_fitted(boxes: Path) -> None:
    free = make_plan("atss_small", boxes)
    assert free.origins["priors"] == FITTED
    plan = make_plan("atss_small", boxes, flags={"priors": PRIORS})
    assert plan.config.priors == tuple(tuple(tuple(p) for p in level) for level in PRIORS)
    assert plan.origins["priors"] == "flag"
    anchors = [[[10, 10]], [[20, 20]], [[40, 40]], [[80, 80]]]
    plan = make_plan("faster_rcnn_small", boxes, flags={"anchors": anchors})
    assert json.loads(json.dumps(plan.config.anchors)) == anchors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"priors": [[0.1, 0.2]]}, "expected a list of lists of lists of 2 numbers"),
        ({"priors": PRIORS[:2]}, "4 strides, but priors for 2 maps"),
        ({"strides": [8, 16]}, "2 strides, but priors for 4 maps"),
    ],
)
def test_values_that_do_not_fit_end_before_any_work(boxes: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_plan("atss_small", boxes, flags=flags)


def test_the_run_says_what_was_fitted(boxes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tiny: dict[str, Any] = {"size": 64, "batch": 8, "trunk_width": 4, "channels": 8, "workers": 0, "precision": "fp32"}
    saccade.train("atss_small", boxes, out=tmp_path / "run", epochs=1, progress=True, **tiny)
    printed = capfd.readouterr()
    assert "priors fitted to the training images" in printed.out + printed.err
