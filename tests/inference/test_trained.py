"""A run, opened: what it gives, and that a file which is not of the network is refused before it takes memory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade import checkpoint
from saccade.checkpoint import Checkpoint, save
from saccade.data.pipelines import Preprocessing
from saccade.errors import ModelFileError, UsageError
from saccade.inference.trained import build, fit_weights, open_run
from saccade.losses.classification import Objective
from saccade.models import create, model_config

PREPROCESSING = Preprocessing(size=(32, 32), resize="stretch", scale=1.0)
SMALL = {"width": 4, "depths": (1, 1, 1), "classes": 3}


def saved(path: Path, **config: object) -> Path:
    """A checkpoint of a tiny network, with these changes to its configuration; None leaves a field out."""
    model = create("resnet20", **SMALL)
    state = json.loads(json.dumps(dataclasses.asdict(model_config("resnet20", **SMALL)))) | config
    state = {name: value for name, value in state.items() if value is not None}
    versions = {"saccade": "9.9"}
    kept = Checkpoint(
        "resnet20", state, ["a", "b", "c"], "classify", PREPROCESSING.to_json(), model.state_dict(), {}, versions
    )
    save(kept, path)
    return path


def test_a_checkpoint_from_before_objectives_loads(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", objective=None, label_smoothing=0.25)
    found = build(checkpoint.load(path), path)
    assert found.config.objective == Objective(label_smoothing=0.25)


def test_settings_of_a_later_version_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.safetensors", label_smoothing=0.25, gears=4)
    says = r"made by Saccade 9\.9, whose resnet20 has settings that Saccade .* does not know: gears, label_smoothing\."
    with pytest.raises(ModelFileError, match=says):
        open_run(path)


def test_weights_become_the_parameters_in_the_models_own_type() -> None:
    model = create("resnet20", **SMALL)
    weights = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    weights["fc.weight"] = weights["fc.weight"].half()
    fit_weights(model, weights, Path("run"))
    assert model.conv1.weight.data_ptr() == weights["conv1.weight"].data_ptr()
    assert model.fc.weight.dtype == torch.float32
    assert model.fc.weight.requires_grad
    with pytest.raises(UsageError, match=r"fc\.weight"):
        fit_weights(model, {**weights, "fc.weight": torch.zeros(1)}, Path("run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10**7}, "weights of another architecture.*of another shape"),
        ({"width": 10**15}, "configuration of resnet20 does not fit"),
        ({"width": -4}, "configuration of resnet20 does not fit"),
        ({"width": "wide"}, "configuration of resnet20 does not fit"),
        ({"depths": [10**9, 1, 1]}, "does not fit .a network of more than"),
        ({"depths": 3}, "configuration of resnet20 does not fit"),
        ({"mean": "gray"}, "configuration of resnet20 does not fit"),
        ({"mean": [0.5, 0.5]}, "does not fit .mean .0.5, 0.5. and std"),
        ({"mean": [0.5, None, 0.5]}, "configuration of resnet20 does not fit"),
    ],
)
def test_a_configuration_that_is_not_that_of_the_weights_takes_no_memory(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is compared in shapes alone: it is never made of numbers."""
    model, config = create("resnet20", **SMALL), dataclasses.asdict(model_config("resnet20", **SMALL))
    state = Checkpoint(
        "resnet20", config | changes, ["a", "b", "c"], "classify", PREPROCESSING.to_json(), model.state_dict()
    )
    save(state, tmp_path / "a.safetensors")
    make, devices = torch.nn.Conv2d.__init__, set()

    def watched(self: torch.nn.Conv2d, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        devices.add(self.weight.device.type)

    monkeypatch.setattr(torch.nn.Conv2d, "__init__", watched)
    with pytest.raises(ModelFileError, match=message):
        open_run(tmp_path / "a.safetensors")
    assert devices <= {"meta"}


def test_a_run_folder_and_its_checkpoint_open_alike(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.safetensors")
    for found in (open_run(tmp_path), open_run(path)):
        assert (found.path, found.model, found.task, found.classes) == (path, "resnet20", "classify", ["a", "b", "c"])
        assert found.preprocessing == PREPROCESSING
        assert found.device == torch.device("cpu")
        assert not found.network.training
        assert all(parameter.requires_grad for parameter in found.network.parameters())
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(ModelFileError, match=r"is this a run folder\?|no such run folder or checkpoint"):
            open_run(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"thresholds": [0.5]}, "1 thresholds for 3 classes"),
        ({"preprocessing": {}}, r"a\.safetensors: .*size"),
    ],
)
def test_what_cannot_predict_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    state = checkpoint.load(saved(tmp_path / "a.safetensors"))
    save(dataclasses.replace(state, **changes), tmp_path / "a.safetensors")
    with pytest.raises(ModelFileError, match=message):
        open_run(tmp_path / "a.safetensors")
