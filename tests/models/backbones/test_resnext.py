from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from saccade.models.backbones import create_trunk, resnet
from saccade.models.backbones.resnext import VARIANTS, Block, Config, Model

SMALL = Config(classes=4, depths=(1, 2, 1, 1), groups=4, group_width=2, width=4)


@pytest.mark.parametrize(
    ("name", "parameters", "tensors", "buffers"),
    [
        ("resnext50_32x4d", 25_028_904, 320, 68_277),
        ("resnext101_32x4d", 44_177_704, 626, None),
        ("resnext101_64x4d", 83_455_272, 626, 202_984),
        ("resnext101_32x8d", 88_791_336, 626, 202_984),
    ],
)
def test_parameters(name: str, parameters: int, tensors: int, buffers: int | None):
    with torch.device("meta"):
        model = Model(VARIANTS[name])
    state = model.state_dict()
    trained = {key for key, _ in model.named_parameters()}
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(state) == tensors
    if buffers is not None:
        assert sum(value.numel() for key, value in state.items() if key not in trained) == buffers


@pytest.mark.parametrize(("groups", "millions"), [(8, 34.4), (16, 68.1)])
def test_parameters_of_the_cifar_forms(groups: int, millions: float):
    """Table 7 states 34.4 and 68.1 million; the formula of section 5.3 gives them to the last one."""
    d = 64
    total = 3 * 64 * 9 + 2 * 64 + 1024 * 10 + 10
    channels = 64
    for i in range(3):
        inner, out = groups * d * 2**i, 256 * 2**i
        for j in range(3):
            total += channels * inner + 9 * inner * d * 2**i + inner * out + 2 * (2 * inner + out)
            total += (channels * out + 2 * out) if j == 0 else 0
            channels = out
    with torch.device("meta"):
        model = Model(VARIANTS[f"resnext29_{groups}x64d"])
    assert sum(p.numel() for p in model.parameters()) == total
    assert abs(total / 1e6 - millions) < 0.06
    assert sum(isinstance(m, Block) for m in model.modules()) * 3 + 2 == 29


def test_one_group_of_the_same_width_is_resnet():
    """Cardinality 1 with 64 channels: table 1, left column."""
    torch.manual_seed(0)
    mine = Model(Config(classes=5, depths=(1, 1, 1, 1), groups=1, group_width=8, width=8)).eval()
    other = resnet.Model(resnet.Config(classes=5, block="bottleneck", depths=(1, 1, 1, 1), width=8)).eval()
    other.load_state_dict(mine.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(mine(images), other(images))


def test_grouped_convolution_is_the_sum_of_paths():
    """Figure 3: (a) the paths summed one by one is (c) the block with a grouped convolution."""
    torch.manual_seed(0)
    groups, width = 4, 3
    block = Block(resnet.Config(norm="frozen"), 8, groups * width, groups, 8, 1).eval()
    for norm in (block.bn1, block.bn2):
        norm.weight.uniform_(0.5, 2)
        norm.running_mean.normal_()
    x = torch.rand(2, 8, 5, 6)
    total = torch.zeros_like(x)
    for i in range(groups):
        mine = slice(i * width, (i + 1) * width)
        y = F.relu(_norm(block.bn1, F.conv2d(x, block.conv1.weight[mine]), mine))
        y = F.relu(_norm(block.bn2, F.conv2d(y, block.conv2.weight[mine], padding=1), mine))
        total = total + F.conv2d(y, block.conv3.weight[:, mine])
    torch.testing.assert_close(block(x), F.relu(x + _norm(block.bn3, total, slice(None))))


def _norm(norm: torch.nn.Module, x: torch.Tensor, rows: slice) -> torch.Tensor:
    scale = norm.weight[rows] / (norm.running_var[rows] + 1e-5).sqrt()
    return (x - norm.running_mean[rows].view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias[rows].view(-1, 1, 1)


def test_zero_init_makes_every_unchanging_block_the_identity():
    model = Model(dataclasses.replace(SMALL, classes=0, zero_init=True))
    x = torch.rand(2, 32, 5, 6)
    assert torch.equal(model.layer2[1](x), x)


def test_serves_as_a_frozen_trunk():
    with torch.device("meta"):
        trunk = create_trunk("resnext101_64x4d", norm="frozen")
    assert trunk.channels == [256, 512, 1024, 2048]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in trunk.modules())
