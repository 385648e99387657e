from __future__ import annotations

import dataclasses

import pytest
import torch

from saccade.data.types import Annotation, Batch
from saccade.models.backbones.googlenet import MODULES, VARIANTS, Inception, Model

NARROW = {name: dataclasses.replace(config, classes=4, width=0.125) for name, config in VARIANTS.items()}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "changes", "parameters"),
    [
        ("googlenet", {}, 13_004_888),
        ("googlenet", {"auxiliary": False}, 6_624_904),
        ("googlenet", {"auxiliary": False, "kernel": 5}, 7_005_832),
        ("googlenet_paper", {}, 13_378_280),
        ("googlenet_paper", {"auxiliary": False}, 6_998_552),
    ],
)
def test_parameters(name: str, changes: dict, parameters: int):
    with torch.device("meta"):
        assert count(Model(dataclasses.replace(VARIANTS[name], **changes))) == parameters


def test_parameters_of_the_auxiliary_classifiers():
    with torch.device("meta"):
        model = Model(VARIANTS["googlenet_paper"])
    assert model.aux1 is not None
    assert model.aux2 is not None
    assert (count(model.aux1), count(model.aux2)) == (3_188_840, 3_190_888)


@pytest.mark.parametrize(
    ("name", "channels_in", "channels_out", "reduced", "naive"),
    [
        ("3a", 192, 256, 163_696, 387_296),
        ("3b", 256, 480, 388_736, 1_089_952),
        ("4a", 480, 512, 376_176, 1_567_168),
        ("4b", 512, 512, 449_160, 1_933_760),
        ("4c", 512, 512, 510_104, 2_064_832),
        ("4d", 512, 528, 605_376, 2_204_112),
        ("4e", 528, 832, 868_352, 3_346_112),
        ("5a", 832, 832, 1_043_456, 5_272_256),
        ("5b", 832, 1024, 1_444_080, 5_858_176),
    ],
)
def test_what_the_reductions_save(name: str, channels_in: int, channels_out: int, reduced: int, naive: int):
    with torch.device("meta"):
        made = Inception(VARIANTS["googlenet_paper"], channels_in, MODULES[name])
        dear = Inception(VARIANTS["googlenet_naive"], channels_in, MODULES[name])
    assert (count(made), made.channels) == (reduced, channels_out)
    assert count(dear) == naive
    assert dear.channels == channels_out - MODULES[name][-1] + channels_in


def test_normalisation_is_the_public_transform_of_imagenet_pixels():
    images = torch.rand(1, 3, 2, 2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    usual = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    public = usual * (std / 0.5).view(1, 3, 1, 1) + ((mean - 0.5) / 0.5).view(1, 3, 1, 1)
    torch.testing.assert_close(Model(NARROW["googlenet"]).normalize(images), public)


@pytest.mark.parametrize("name", VARIANTS)
def test_features_have_the_channels_and_strides_that_the_model_states(name: str):
    with torch.device("meta"):
        model = Model(dataclasses.replace(VARIANTS[name], classes=0))
        maps = model(torch.empty(2, 3, 224, 96))
    wanted = [(2, c, 224 // s, 96 // s) for c, s in zip(model.channels, model.strides, strict=True)]
    assert [tuple(m.shape) for m in maps] == wanted
    assert model.aux1 is None


def test_auxiliary_losses_have_their_weight_and_leave_the_logits_alone():
    torch.manual_seed(0)
    model = Model(NARROW["googlenet"]).eval()
    images = torch.rand(2, 3, 32, 32)
    batch = Batch(images, [(32, 32)] * 2, [Annotation((32, 32), label=1)] * 2)
    losses, logits = model.loss(batch), model(images)
    assert model.aux1 is not None
    for parameter in model.aux1.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(model(images), logits)
    changed = model.loss(batch)
    assert changed["auxiliary1"].item() == pytest.approx(0.3 * torch.tensor(4.0).log().item())
    assert torch.equal(changed["classification"], losses["classification"])
    assert torch.equal(changed["auxiliary2"], losses["auxiliary2"])


def test_paper_auxiliary_averages_5x5_with_stride_3():
    model = Model(dataclasses.replace(NARROW["googlenet_paper"], auxiliary_dropout=0.0))
    head = model.aux1
    assert head is not None
    x = torch.rand(1, 64, 14, 14)
    windows = torch.stack([x[0, :, i : i + 5, j : j + 5].mean((1, 2)) for i in (0, 3, 6, 9) for j in (0, 3, 6, 9)], 1)
    averaged = windows.view(1, 64, 4, 4)
    wanted = head.fc2(torch.relu(head.fc1(head.conv(averaged).flatten(1))))
    torch.testing.assert_close(head(x), wanted)
