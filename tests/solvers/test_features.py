"""Features of many networks: a linear classifier on them, put into the output layer, is what the network then says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from saccade.errors import UsageError
from saccade.inference.fuse import prepare_for_inference
from saccade.models import create, model_config, model_module
from saccade.solvers.features import output_layer, without_output_layer
from saccade.solvers.linear import Probe

INCEPTION = {"width": 0.125, "dropout": 0.0}


@pytest.mark.parametrize(
    ("name", "changes", "side"),
    [
        ("squeezenet1_1", {"width": 0.25, "last_relu": False}, 32),
        ("squeezenet1_0_caffe", {"width": 0.25, "last_relu": False}, 32),
        ("nin_cifar10", {"widths": ((8, 8, 8), (8, 8, 8), (8, 8)), "last_relu": False}, 32),
        ("googlenet", INCEPTION, 32),
        ("mobilenet_v3_small", {"width": 0.25}, 32),
        ("vgg16_bn", {"width": 4, "hidden": 16}, 48),
        ("darknet19", {"stages": ((4,), (8,), (12, 8, 12), (16,), (20,), (24, 8, 24))}, 64),
        ("shufflenet_v2_x1_0", {"width": 16, "last": 64}, 32),
        ("resnet18", {"depths": (1, 1, 1, 1), "width": 8}, 32),
        ("preact_resnet18", {"depths": (1, 1, 1, 1), "width": 8}, 32),
    ],
)
@pytest.mark.parametrize("task", ["classify", "tag"])
def test_the_network_says_what_the_probe_says(name: str, changes: dict[str, Any], side: int, task: str) -> None:
    torch.manual_seed(0)
    config = model_config(name, classes=3, task=task, **changes)
    model = create(name, classes=3, task=task, **changes).eval()
    head = output_layer(model_module(name), config, model)
    images = torch.rand(2, 3, side, side)
    with torch.inference_mode():
        features = prepare_for_inference(without_output_layer(model, head))(images).numpy()
    rng = np.random.default_rng(0)
    probe = Probe(rng.normal(size=(3, features.shape[1])), rng.normal(size=3), 1.0)
    probe.put_into(model.get_submodule(head))
    with torch.inference_mode():
        logits = model(images).numpy()
    wanted = probe.scores(features)
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-3 * float(np.abs(wanted).max()))


def test_a_network_without_a_linear_end_is_refused() -> None:
    module, config = model_module("lenet5"), model_config("lenet5")
    with pytest.raises(UsageError, match="does not end in a linear layer"):
        output_layer(module, config, module.Model(config))
