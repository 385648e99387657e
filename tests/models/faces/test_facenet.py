"""FaceNet: the paper's two networks, public weights of Inception-ResNet, features as they are, collapse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from saccade.data.types import Batch
from saccade.errors import UsageError
from saccade.models import create, model_module
from saccade.models.faces import facenet
from saccade.models.faces.facenet import NN1, NN2, Inception, L2Pool, Module
from saccade.models.stage import Fit, Given, Solve
from saccade.models.weights import start_from


def sides(layers: nn.Sequential, x: torch.Tensor) -> list[tuple[int, int]]:
    """(channels, side) wherever one of both changes."""
    found: list[tuple[int, int]] = []
    for layer in layers:
        x = layer(x)
        if not found or found[-1] != (x.shape[1], x.shape[2]):
            found.append((x.shape[1], x.shape[2]))
    return found


def test_the_maps_of_nn1_are_those_of_table_1() -> None:
    with torch.device("meta"):
        network = NN1(facenet.VARIANTS["facenet_nn1"])
        found = sides(network.layers, torch.empty(1, 3, 220, 220))
    expected = [(64, 110), (64, 55), (192, 55), (192, 28), (384, 28), (384, 14), (256, 14), (256, 7)]
    assert found == expected
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in network.named_children()}
    assert parts == {"normalize": 0, "layers": 3_169_984, "fc1": 102_768_640, "fc2": 33_562_624}


def test_the_maps_of_nn2_are_those_of_table_2() -> None:
    with torch.device("meta"):
        found = sides(NN2(facenet.VARIANTS["facenet_nn2"]).layers, torch.empty(1, 3, 224, 224))
    modules = [(256, 28), (320, 28), (640, 14), (1024, 7)]
    assert found == [(64, 112), (64, 56), (192, 56), (192, 28), *modules]


def test_l2_pooling_sums_squares() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    found = L2Pool()(x)
    assert float(found[0, 0, 1, 1]) == pytest.approx(float(x.square().sum().sqrt()))
    assert float(found[0, 0, 0, 0]) == pytest.approx((0 + 1 + 9 + 16) ** 0.5)
    zeros = torch.zeros(1, 1, 3, 3, requires_grad=True)
    L2Pool()(zeros).sum().backward()
    assert zeros.grad is not None
    assert bool(zeros.grad.isfinite().all())


def test_a_shrinking_module_keeps_the_pooled_map() -> None:
    module = Inception(16, Module(0, 8, 24, 8, 8, 0, stride=2), 1.0)
    assert module(torch.rand(1, 16, 10, 10)).shape == (1, 24 + 8 + 16, 5, 5)


def test_published_face_weights_give_their_own_vectors(tmp_path: Path) -> None:
    """The layout of facenet-pytorch, as a file of random numbers: all of it but its classes loads, and the vectors are
    those of the network that it is of."""
    torch.manual_seed(0)
    source = create("inception_resnet_v1_face", classes=7).eval()
    names = {"repeat": "repeat_1", "repeat_1": "repeat_2", "repeat_2": "repeat_3", "classif": "logits"}
    state = {
        ".".join([names.get(key.split(".")[0], key.split(".")[0]), *key.split(".")[1:]]): value
        for key, value in source.state_dict().items()
    }
    torch.save(state, tmp_path / "faces.pt")
    model = create("facenet_inception_resnet", classes=3).eval()
    start = start_from(model, model_module("facenet_inception_resnet"), tmp_path / "faces.pt")
    assert start.network == "inception_resnet_v1_face"
    assert start.fresh == ["identities"]
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(model.embed(images), source.embed(images))
    assert facenet.standardise(given_of(model, images, frozenset(), tmp_path)) == {}


class Pictures:
    """Training images for a solve."""

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def __call__(self) -> Iterator[Batch]:
        for part in self.images.split(3):
            yield Batch(part, [(32, 32)] * len(part))


def given_of(network: nn.Module, images: torch.Tensor, fresh: frozenset[str], folder: Path) -> Given:
    return Given(network.eval(), fresh, ["a"], Pictures(images), torch.device("cpu"), 0, folder, lambda text: None)


def test_features_as_they_are_become_standardised_vectors(tmp_path: Path) -> None:
    model = create("facenet_small", trunk_width=8, embedding=0, norm=True, grid=1, classes=4).eval()
    images = torch.rand(8, 3, 32, 32)
    solved = facenet.standardise(given_of(model, images, frozenset(), tmp_path))
    model.load_state_dict(model.state_dict() | solved)
    with torch.no_grad():
        numbers = model.numbers(images)
    torch.testing.assert_close(numbers.mean(0), torch.zeros(numbers.shape[1]), atol=1e-3, rtol=0)
    assert facenet.stages("facenet_small", "frozen") == [Solve("standardise", facenet.standardise)]
    assert facenet.stages("facenet_small", "default") == [Fit("facenet_small", "facenet_small")]


def test_features_of_random_weights_are_refused(tmp_path: Path) -> None:
    model = create("facenet_small", trunk_width=8, embedding=0)
    fresh = frozenset(model.state_dict())
    with pytest.raises(UsageError, match="add --weights"):
        facenet.standardise(given_of(model, torch.rand(2, 3, 32, 32), fresh, tmp_path))


def test_the_head_of_each_loss() -> None:
    for loss, there in (("triplet", False), ("arcface", True), ("softmax", True)):
        model = create("facenet_small", trunk_width=8, loss=loss, classes=5)
        assert (model.identities is not None) == there
        assert not there or model.identities.shape == (5, 128)


def test_recipes_say_how_many_images_of_each_a_step_has() -> None:
    paper: dict[str, Any] = facenet.RECIPES["paper"]["*"]
    assert paper["batch"] == 45 * paper["per_identity"]
    assert json.loads(json.dumps(facenet.RECIPES["frozen"]["*"]))["embedding"] == 0
