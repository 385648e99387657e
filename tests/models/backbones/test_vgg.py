from __future__ import annotations

import dataclasses

import pytest
import torch

from saccade.models.backbones.vgg import VARIANTS, Config, Model


@pytest.mark.parametrize(
    ("name", "parameters", "buffers"),
    [
        ("vgg11", 132_863_336, 0),
        ("vgg13", 133_047_848, 0),
        ("vgg16", 138_357_544, 0),
        ("vgg19", 143_667_240, 0),
        ("vgg11_bn", 132_868_840, 5_512),
        ("vgg13_bn", 133_053_736, 5_898),
        ("vgg16_bn", 138_365_992, 8_461),
        ("vgg19_bn", 143_678_248, 11_024),
    ],
)
def test_parameters(name: str, parameters: int, buffers: int):
    with torch.device("meta"):
        model = Model(VARIANTS[name])
    state = model.state_dict()
    trained = {key for key, _ in model.named_parameters()}
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(value.numel() for key, value in state.items() if key not in trained) == buffers


def test_trunk_parameters():
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS["vgg16"], classes=0))
    assert sum(p.numel() for p in model.parameters()) == 14_714_688


def test_fourth_map_is_conv4_3_after_its_relu():
    """The flat public numbering: conv4_3 is layer 21, its ReLU 22 and pool4 23 of vgg16."""
    torch.manual_seed(0)
    model = Model(Config(classes=0, width=4)).eval()
    images = torch.rand(1, 3, 48, 48)
    x = model.features.normalize(images)
    for i in range(23):
        x = getattr(model.features, str(i))(x)
    torch.testing.assert_close(model.features(images)[3], x)
    assert isinstance(getattr(model.features, "23"), torch.nn.MaxPool2d)
