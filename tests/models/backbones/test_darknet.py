from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from darknet_files import write_weights
from saccade.errors import ModelFileError
from saccade.models.backbones.darknet import VARIANTS, Config, Model, Residual
from saccade.models.darknet_weights import file_layers, read_for_model
from saccade.models.weights import start_from

RESIDUAL = Config(classes=4, stages=(), blocks=(1, 1, 2, 1, 1), width=4, scores="mean")
SMALL = Config(classes=4, stages=((4,), (8,), (12, 8, 12), (16,), (20,), (24, 8, 24)))


@pytest.mark.parametrize(
    ("name", "convolutions", "statistics"),
    [("darknet_reference", 8, 4_064), ("extraction", 21, 18_176), ("darknet19", 19, 14_400), ("darknet53", 53, 35_712)],
)
def test_layers_and_running_statistics(name: str, convolutions: int, statistics: int):
    with torch.device("meta"):
        model = Model(VARIANTS[name])
    layers = file_layers(model)
    assert len(layers) == convolutions
    assert sum(2 * layer.shape[0] for layer in layers if layer.norm) == statistics
    assert sum(layer.numbers for layer in layers) == sum(p.numel() for p in model.parameters()) + statistics


@pytest.mark.parametrize("name", ["darknet19", "extraction"])
def test_trunks_of_the_published_networks(name: str):
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS[name], classes=0)).eval()
        maps = model(torch.empty(1, 3, 224, 224))
    channels = {"darknet19": (128, 256, 512, 1024), "extraction": (192, 512, 1024, 1024)}[name]
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 224 // s, 224 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]


def test_kernels_alternate_and_end_with_three():
    kernels = [layer.shape[-1] for layer in file_layers(Model(SMALL))]
    assert kernels == [3, 3, 3, 1, 3, 3, 3, 3, 1, 3, 1]


def test_residual_block_adds_without_activation():
    block = Residual(8, 0.1).eval()
    torch.nn.init.zeros_(block.conv2.bn.weight)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x), x)


def test_scores_by_hand():
    """A class map of 1 and -1: mean 0 as it is, (1 - 0.1) / 2 through a leaky ReLU."""
    for scores, wanted in (("maps", 0.0), ("leaky maps", 0.45)):
        model = Model(Config(classes=1, stages=((1,),), scores=scores))
        torch.nn.init.ones_(model.head[0].weight)
        torch.nn.init.zeros_(model.head[0].bias)
        model.features = lambda images: [images[:, :1]]  # type: ignore[method-assign]
        images = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
        torch.testing.assert_close(model(images), torch.tensor([[wanted]]))


@pytest.mark.parametrize("config", [SMALL, RESIDUAL], ids=["plain", "residual"])
def test_binary_weights_start_a_model_of_other_classes(config: Config, tmp_path: Path):
    torch.manual_seed(0)
    room = sys.modules[Model.__module__]
    public = Model(dataclasses.replace(config, classes=7)).eval()
    with torch.no_grad():
        for name, value in public.state_dict().items():
            if name.endswith(("running_mean", "running_var")):
                value.uniform_(0.5, 1.5)
    path = tmp_path / "some.weights"
    write_weights(path, public)
    same = Model(dataclasses.replace(config, classes=7)).eval()
    assert [k for k in start_from(same, room, path).fresh if not k.endswith("num_batches_tracked")] == []
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(same(images), public(images))
    other = Model(config)
    left = [k for k in start_from(other, room, path).fresh if not k.endswith("num_batches_tracked")]
    assert left == [name for name, _ in sorted(other.named_parameters()) if name.startswith("head.")]
    with pytest.raises(ModelFileError, match="weights of another network"):
        start_from(Model(VARIANTS["darknet19"]), room, path)


def test_a_file_without_classifier_starts_a_model_with_one(tmp_path: Path):
    trunk = Model(dataclasses.replace(RESIDUAL, classes=0))
    path = tmp_path / "trunk.conv"
    write_weights(path, trunk)
    found = read_for_model(path, Model(RESIDUAL))
    assert {name for name, _ in trunk.named_parameters()} <= set(found)
    assert not any(name.startswith("head.") for name in found)
