"""What is measured beside a training, and that the training does not notice."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import saccade
from made_sets import write_noise_maps, write_squares
from saccade import checkpoint
from saccade.data.loader import Loader
from saccade.data.orders import InOrder
from saccade.data.views import inference_view
from saccade.training.measure import LEAST, fixed_part, images_of_curves, loss_loader, validation_losses
from saccade.training.plan import make_plan
from saccade.training.points import POINTS, add_to_point
from saccade.training.state import Progress

SMALL: dict[str, Any] = {"epochs": 2, "batch": 8, "workers": 0, "width": 4, "depths": [1, 1, 1], "precision": "fp32"}
RCNN: dict[str, Any] = {"trunk_width": 8, "channels": 16, "rpn_sample": 32, "head_sample": 32, "head_width": 32}


def _rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _weights(run: Path) -> str:
    return checkpoint.digest(checkpoint.load(run / "last.safetensors").weights)


@pytest.mark.parametrize("model", ["vgg11", "faster_rcnn_small"])
def test_weights_are_those_of_a_run_that_measures_nothing(model: str, colours: Path, tmp_path: Path) -> None:
    """Of a network with dropout and of one whose loss draws regions by chance."""
    data, settings = colours, SMALL | {"width": 4, "hidden": 16, "depths": [1, 1, 1, 1, 1], "size": 32}
    if model != "vgg11":
        data = write_squares(tmp_path / "data", {"train": 12, "val": 4})
        settings = {k: v for k, v in SMALL.items() if k not in ("width", "depths")} | RCNN | {"size": 64, "batch": 4}
    for images in (1000, 0):
        saccade.train(model, data, out=tmp_path / str(images), progress=False, **settings, curve_images=images)
    assert _weights(tmp_path / "1000") == _weights(tmp_path / "0")
    with_them, without = _rows(tmp_path / "1000"), _rows(tmp_path / "0")
    assert [row["metrics"] for row in with_them] == [row["metrics"] for row in without]
    for row in with_them:
        assert row["validation_losses"].keys() == row["losses"].keys()
        assert row["training_metrics"].keys() == row["metrics"].keys()
    assert not any({"validation_losses", "training_metrics"} & row.keys() for row in without)


def test_the_loss_is_that_of_the_network_as_it_answers(colours: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    saccade.train("resnet20", colours, out=run, progress=False, **SMALL)
    plan = make_plan("resnet20", colours, flags=SMALL)
    model = plan.module.Model(plan.config).eval()
    model.load_state_dict(checkpoint.load(run / "last.safetensors").weights)
    view = inference_view("classify", plan.preprocessing)
    batch = next(Loader(plan.dataset, plan.validation, "classify", view, InOrder(), 10).epoch(0))
    with torch.no_grad():
        wanted = float(model.loss(batch.to(torch.device("cpu")))["classification"])
    assert _rows(run)[-1]["validation_losses"]["classification"] == pytest.approx(wanted, rel=1e-4)


def test_a_segmenter_sees_the_same_crops_every_time(tmp_path: Path) -> None:
    write_noise_maps(tmp_path, {"train": 4, "val": 2}, (80, 90))
    plan = make_plan("unet", tmp_path, flags={"size": 32, "width": 4, "border": 10.0, "batch": 2, "workers": 0})
    first, again = (next(loss_loader(plan, plan.validation, torch.device("cpu")).epoch(0)) for _ in range(2))  # type: ignore[union-attr]
    assert first.images.shape[-2:] == (32, 32)
    assert torch.equal(first.images, again.images)
    assert first.truth is not None
    assert first.truth[0].weights is not None


def test_no_loss_where_it_names_identities_of_training(colours: Path) -> None:
    """Validation images show other people than the classes of a softmax; triplets compare any."""
    flags = {"trunk_width": 4, "batch": 4, "workers": 0, "size": 32}
    for loss, wanted in (("softmax", False), ("triplet", True)):
        plan = make_plan("facenet_small", colours, task="embed", flags=flags | {"loss": loss})
        model = plan.module.Model(plan.config)
        assert bool(validation_losses(plan, model, torch.device("cpu"), "fp32", 8)) is wanted


def test_a_fixed_part_is_the_same_each_time(colours: Path) -> None:
    plan = make_plan("resnet20", colours, flags=SMALL)
    part = fixed_part(plan, plan.training, 7)
    assert len(part) == 7
    assert part == fixed_part(plan, plan.training, 7)
    assert fixed_part(plan, plan.training, 1000) == plan.training


def test_images_are_bounded_by_what_is_trained_on(colours: Path) -> None:
    parts: Any = types.SimpleNamespace(plan=make_plan("resnet20", colours, flags=SMALL | {"batch": 64}))
    counters = Progress(step=1000, evaluated=0.0)
    assert images_of_curves(parts, counters, 0.5) == 1000  # of 4480, a setting bounds them
    assert counters.measured == 4480
    assert images_of_curves(parts, Progress(step=100), 0.1) == 448
    assert images_of_curves(parts, Progress(step=1), 0.1) == LEAST
    assert images_of_curves(parts, Progress(step=200, evaluated=0.5), 1.0) == 448  # of a log without, gone on with


def test_points_of_one_epoch() -> None:
    """Each is the mean since the last; however many steps there are, the log stays short."""
    counters = Progress()
    for step in range(1, 1001):
        counters.step = step
        add_to_point(counters, {"class": float(step)}, 0.1, step / 1000)
    assert len(counters.points) == POINTS
    assert [point["step"] for point in counters.points[:2]] == [10, 20]
    assert counters.points[1] == {"step": 20, "lr": 0.1, "losses": {"class": 15.5}}
    few = Progress()
    for few.step in range(1, 8):
        add_to_point(few, {"class": 1.0}, 0.1, few.step / 7)
    assert len(few.points) == 7
