"""The predictor: what it answers with, and that the model it was made from stays as it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade import checkpoint
from saccade.checkpoint import Checkpoint, save
from saccade.data.pipelines import Preprocessing
from saccade.errors import ModelFileError, UsageError
from saccade.inference.predictor import Predictor, build, fit_weights, load
from saccade.losses.classification import Objective
from saccade.models import create, model_config
from saccade.ops.fused_conv import FusedConv2d

PREPROCESSING = Preprocessing(size=(32, 32), resize="stretch", scale=1.0, stride=1)
SMALL = {"width": 4, "depths": (1, 1, 1), "classes": 3}


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def types(predictor: Predictor) -> set[torch.dtype]:
    return {part.weight.tensor.dtype for part in predictor.network.modules() if isinstance(part, FusedConv2d)}


def test_a_model_in_training_is_not_disturbed() -> None:
    torch.manual_seed(0)
    model = create("resnet20", **SMALL).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predictor = Predictor(model, "classify", ["a", "b", "c"], PREPROCESSING, "cpu", "bf16")
    predictor.predict(image())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    loss = model(torch.rand(2, 3, 32, 32)).sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_both_precisions_answer_alike() -> None:
    torch.manual_seed(0)
    model = create("resnet20", **SMALL)
    exact = Predictor(model, "classify", ["a", "b", "c"], PREPROCESSING, "cpu", "fp32")
    rough = Predictor(model, "classify", ["a", "b", "c"], PREPROCESSING, "cpu", "bf16")
    assert (types(exact), types(rough)) == ({torch.float32}, {torch.bfloat16})
    for _ in range(3):  # plain, packing, packed
        a, b = exact.predict(image()), rough.predict(image())
        assert a.scores is not None
        assert b.scores is not None
        assert a.scores.dtype == b.scores.dtype == torch.float32
        torch.testing.assert_close(b.scores, a.scores, atol=0.02, rtol=0)


def test_a_precision_that_it_does_not_have() -> None:
    with pytest.raises(UsageError, match="allowed: auto, fp32, bf16"):
        Predictor(create("resnet20", **SMALL), "classify", ["a", "b", "c"], PREPROCESSING, "cpu", "fp16")


def _saved(path: Path, **config: object) -> Path:
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
    path = _saved(tmp_path / "a.safetensors", objective=None, label_smoothing=0.25)
    found = build(checkpoint.load(path), path)
    assert found.config.objective == Objective(label_smoothing=0.25)


def test_settings_of_a_later_version_are_named(tmp_path: Path) -> None:
    path = _saved(tmp_path / "a.safetensors", label_smoothing=0.25, gears=4)
    says = r"made by Saccade 9\.9, whose resnet20 has settings that Saccade .* does not know: gears, label_smoothing\."
    with pytest.raises(ModelFileError, match=says):
        load(path, "cpu")


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
        load(tmp_path / "a.safetensors")
    assert devices <= {"meta"}
