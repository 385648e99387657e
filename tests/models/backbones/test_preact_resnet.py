from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from saccade.models import catalogue
from saccade.models.backbones.preact_resnet import VARIANTS, Block, Config, Model

SMALL = Config(classes=4, depths=(1, 2, 1, 1), width=8)


def parameters_by_formula(config: Config) -> int:
    """Every convolution of a block and the classifier has a norm over the channels that it reads; shortcuts have none.

    The norm that the network's first block lacks is that of the stem, over as many channels.
    """
    stem_side = 7 if config.stem == "imagenet" else 3
    total = 3 * config.width * stem_side**2
    channels = config.width
    for i, depth in enumerate(config.depths):
        width = config.width * 2**i
        for j in range(depth):
            if config.block == "basic":
                convolutions = [(channels, width, 3), (width, width, 3)]
            else:
                convolutions = [(channels, width, 1), (width, width, 3), (width, 4 * width, 1)]
            total += sum(a * b * side**2 + 2 * a for a, b, side in convolutions)
            out = convolutions[-1][1]
            if config.shortcut == "B" and (channels != out or (i > 0 and j == 0)):
                total += channels * out
            channels = out
    return total + 2 * channels + channels * config.classes + config.classes


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters(name: str):
    """`test_contract.py` counts those of the network itself."""
    assert catalogue()[name]["parameters"] == parameters_by_formula(VARIANTS[name])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [  # the paper rounds to 1.7, 1.7 and 10.2 million (table 4); 200 layers to 64.7
        ("preact_resnet110", 1_727_962),
        ("preact_resnet164", 1_703_258),
        ("preact_resnet1001", 10_327_706),
        ("preact_resnet200", 64_666_152),
    ],
)
def test_parameters_to_the_last_one(name: str, parameters: int):
    assert parameters_by_formula(VARIANTS[name]) == parameters


@pytest.mark.parametrize("name", VARIANTS)
def test_depth_is_in_the_name(name: str):
    config = VARIANTS[name]
    assert 2 + sum(config.depths) * (2 if config.block == "basic" else 3) == int(name.removeprefix("preact_resnet"))


@pytest.mark.parametrize("depth", [18, 50, 101, 152])
def test_multiply_adds_are_those_of_the_first_paper(depth: int):
    """The order of norm, ReLU and convolution changes; the convolutions do not. `test_contract.py` counts both."""
    mine, other = catalogue()[f"preact_resnet{depth}"], catalogue()[f"resnet{depth}"]
    assert mine["macs"] == other["macs"]
    assert mine["size"] == other["size"] == 224


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_block_with_a_zero_last_convolution_is_the_identity(block: str):
    """x[l+1] = x[l] exactly, for inputs of either sign: nothing stands on the path (equation 4)."""
    made = Block(Config(block=block), 16, 16 if block == "basic" else 4, 1, first=False)
    torch.nn.init.zeros_((made.conv2 if block == "basic" else made.conv3).weight)
    x = torch.randn(2, 16, 5, 6)
    assert torch.equal(made(x), x)


def test_gradient_passes_unchanged_beside_the_convolutions():
    """Equation 5: the 1 in front of the residual term, through eight blocks."""
    torch.manual_seed(0)
    blocks = [Block(Config(), 8, 8, 1, first=False) for _ in range(8)]
    for made in blocks:
        torch.nn.init.zeros_(made.conv2.weight)
    x = torch.randn(1, 8, 4, 4, requires_grad=True)
    upstream = torch.randn(1, 8, 4, 4)
    torch.nn.Sequential(*blocks)(x).backward(upstream)
    assert torch.equal(x.grad, upstream)


def test_bottleneck_by_hand():
    """Norm and ReLU before each convolution; the projection reads the activated input (appendix)."""
    torch.manual_seed(0)
    made = Block(Config(block="bottleneck"), 6, 4, 2, first=False).double()
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64)

    def activate(x: torch.Tensor) -> torch.Tensor:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        return ((x - mean) / (var + 1e-5).sqrt()).clamp(min=0)

    a = activate(x)
    y = F.conv2d(a, made.conv1.weight)
    y = F.conv2d(activate(y), made.conv2.weight, stride=2, padding=1)
    y = F.conv2d(activate(y), made.conv3.weight)
    torch.testing.assert_close(made(x), y + F.conv2d(a, made.downsample.weight, stride=2))


def test_features_are_those_of_the_stages_run_one_after_another():
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, classes=0)).eval()
    images = torch.rand(1, 3, 64, 64)
    x = F.max_pool2d(F.relu(model.bn1(model.conv1(model.normalize(images)))), 3, 2, 1)
    x = model.layer1(x)
    torch.testing.assert_close(model(images)[0], F.relu(model.layer2[0].bn1(x)))
    x = model.layer4(model.layer3(model.layer2(x)))
    torch.testing.assert_close(model(images)[3], F.relu(model.norm(x)))


def test_a_training_pass_counts_each_batch_once():
    model = Model(SMALL)
    model(torch.rand(2, 3, 64, 64))
    counters = [b for name, b in model.named_buffers() if name.endswith("num_batches_tracked")]
    assert len(counters) > 5
    assert all(int(b) == 1 for b in counters)
