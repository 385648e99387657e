from __future__ import annotations

import dataclasses

import pytest
import torch

from saccade.models.backbones.bn_inception import MODULES, VARIANTS, Model, from_public


@pytest.mark.parametrize(
    ("name", "changes", "parameters"),
    [
        ("bn_inception", {}, 11_204_936),
        ("bn_inception", {"bias": False}, 11_194_984),
        ("bn_inception_caffe", {}, 11_295_240),
    ],
)
def test_parameters(name: str, changes: dict, parameters: int):
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS[name], **changes))
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(("name", "channels"), [("bn_inception", 576), ("bn_inception_caffe", 608)])
def test_output_channels_of_the_modules(name: str, channels: int):
    """Figure 5: 256, 320, 576, 576, 576, 576, 576, 1024, 1024, 1024."""
    with torch.device("meta"):
        model = Model(VARIANTS[name])
    found = [model.get_submodule(f"inception_{module}").channels for module in MODULES]
    assert found == [256, 320, 576, 576, 576, channels, channels, channels + 448, 1024, 1024]


def cadene_layout() -> dict[str, list[int]]:
    """Key -> shape of the PyTorch port of the Caffe release, from the table of its layers."""
    convolutions = [("conv1_7x7_s2", 3, 64, 7), ("conv2_3x3_reduce", 64, 64, 1), ("conv2_3x3", 64, 192, 3)]
    channels = 192
    for module, (one, reduce, three, double_reduce, double, pool) in MODULES.items():
        pool = 128 if module in ("4c", "4d") else pool
        rows = [
            ("1x1", channels, one, 1),
            ("3x3_reduce", channels, reduce, 1),
            ("3x3", reduce, three, 3),
            ("double_3x3_reduce", channels, double_reduce, 1),
            ("double_3x3_1", double_reduce, double, 3),
            ("double_3x3_2", double, double, 3),
            ("pool_proj", channels, pool, 1),
        ]
        convolutions += [(f"inception_{module}_{name}", i, o, k) for name, i, o, k in rows if o]
        channels = (one or channels) + three + double + pool
    layout: dict[str, list[int]] = {"last_linear.weight": [1000, 1024], "last_linear.bias": [1000]}
    for name, i, o, k in convolutions:
        layout |= {f"{name}.weight": [o, i, k, k], f"{name}.bias": [o]}
        layout |= {f"{name}_bn.{t}": [o] for t in ("weight", "bias", "running_mean", "running_var")}
        layout[f"{name}_bn.num_batches_tracked"] = []
    return layout


def test_public_state_dict_loads_strictly():
    with torch.device("meta"):
        model = Model(VARIANTS["bn_inception_caffe"])
        model.load_state_dict(from_public({key: torch.empty(shape) for key, shape in cadene_layout().items()}))


def test_public_images_are_bgr():
    weight = torch.arange(6.0).view(1, 3, 1, 2)
    repaired = from_public({"conv1_7x7_s2.weight": weight, "inception_3a_double_3x3_1_bn.bias": torch.zeros(1)})
    assert torch.equal(repaired["conv1.conv.weight"], weight[:, [2, 1, 0]])
    assert "inception_3a.double3x3_1.bn.bias" in repaired
    assert from_public(repaired).keys() == repaired.keys()
    assert torch.equal(from_public(repaired)["conv1.conv.weight"], repaired["conv1.conv.weight"])
