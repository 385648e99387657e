from __future__ import annotations

import torch

from saccade.models.backbones.mobilenet3 import VARIANTS, Block, Config, Gate, Model, Row


def test_keys_and_shapes_of_the_public_checkpoints():
    with torch.device("meta"):
        state = Model(VARIANTS["mobilenet_v3_small"]).state_dict()
        large = Model(VARIANTS["mobilenet_v3_large"])
    landmarks = {
        "features.0.0.weight": (16, 3, 3, 3),
        "features.1.block.0.0.weight": (16, 1, 3, 3),
        "features.1.block.1.fc1.weight": (8, 16, 1, 1),
        "features.1.block.1.fc2.bias": (16,),
        "features.1.block.2.0.weight": (16, 16, 1, 1),
        "features.2.block.0.0.weight": (72, 16, 1, 1),
        "features.4.block.1.0.weight": (96, 1, 5, 5),
        "features.4.block.2.fc1.weight": (24, 96, 1, 1),
        "features.11.block.3.1.running_mean": (96,),
        "features.12.0.weight": (576, 96, 1, 1),
        "classifier.0.weight": (1024, 576),
        "classifier.3.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in landmarks} == landmarks
    assert large.classifier[0].weight.shape == (1280, 960)
    assert (large.channels, Model(Config(classes=0)).channels) == ([24, 40, 112, 160], [16, 24, 48, 96])


def test_gate_multiplies_each_channel_by_a_hard_sigmoid():
    gate = Gate(8)
    torch.nn.init.zeros_(gate.fc2.weight)
    with torch.no_grad():
        gate.fc2.bias.copy_(torch.tensor([-4.0, -3, -1.5, 0, 1.5, 3, 4, 0]))
    factors = gate(torch.ones(1, 8, 2, 2))[0, :, 0, 0]
    torch.testing.assert_close(factors, torch.tensor([0.0, 0, 0.25, 0.5, 0.75, 1, 1, 0.5]))


def test_block_whose_last_scale_is_zero_is_the_identity():
    block = Block(16, Row(3, 64, 16, True, True, 1), 1.0).eval()
    torch.nn.init.zeros_(block.block[-1][1].weight)
    x = torch.randn(1, 16, 5, 5)
    assert torch.equal(block(x), x)
