from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data.types import Batch
from saccade.models import model_module
from saccade.models.backbones.resnet import VARIANTS, BasicBlock, Bottleneck, Config, Model, from_public
from saccade.models.dry_run import model_of_shapes

LAYOUTS = Path(__file__).parents[2] / "data" / "layouts"


def count(config: Config) -> int:
    return sum(p.numel() for p in model_of_shapes(model_module("resnet18"), config).parameters())


@pytest.mark.parametrize(
    ("name", "changes", "parameters"),
    [
        ("resnet18", {"classes": 10}, 11_181_642),
        ("resnet18", {"classes": 10, "stem": "cifar"}, 11_173_962),
        ("resnet18", {"classes": 100, "stem": "cifar"}, 11_220_132),
        ("resnet18", {"classes": 0}, 11_176_512),
        ("resnet18", {"shortcut": "A"}, 11_515_688),
        ("resnet18", {"shortcut": "C"}, 12_043_816),
        ("resnet34", {"classes": 10}, 21_289_802),
        ("resnet34", {"classes": 10, "stem": "cifar"}, 21_282_122),
        ("resnet34", {"classes": 100, "stem": "cifar"}, 21_328_292),
        ("resnet34", {"classes": 0}, 21_284_672),
        ("resnet34", {"shortcut": "A"}, 21_623_848),
        ("resnet34", {"shortcut": "C"}, 22_716_840),
        ("resnet50", {"classes": 10}, 23_528_522),
        ("resnet50", {"classes": 10, "stem": "cifar"}, 23_520_842),
        ("resnet50", {"classes": 100, "stem": "cifar"}, 23_705_252),
        ("resnet50", {"classes": 0}, 23_508_032),
        ("resnet50", {"shortcut": "C"}, 40_128_552),
        ("resnet101", {"classes": 10}, 42_520_650),
        ("resnet101", {"classes": 10, "stem": "cifar"}, 42_512_970),
        ("resnet101", {"classes": 100, "stem": "cifar"}, 42_697_380),
        ("resnet101", {"classes": 0}, 42_500_160),
        ("resnet101", {"shortcut": "C"}, 76_981_288),
        ("resnet152", {"classes": 10}, 58_164_298),
        ("resnet152", {"classes": 10, "stem": "cifar"}, 58_156_618),
        ("resnet152", {"classes": 100, "stem": "cifar"}, 58_341_028),
        ("resnet152", {"classes": 0}, 58_143_808),
        ("resnet152", {"shortcut": "C"}, 107_335_720),
        ("resnet20", {"shortcut": "B"}, 272_474),
        ("resnet32", {"shortcut": "B"}, 466_906),
        ("resnet44", {"shortcut": "B"}, 661_338),
        ("resnet56", {"shortcut": "B"}, 855_770),
        ("resnet110", {"shortcut": "B"}, 1_730_714),
        ("resnet110", {"depths": (200, 200, 200)}, 19_421_274),  # resnet1202
    ],
)
def test_parameters_of_other_forms(name: str, changes: dict, parameters: int):
    assert count(dataclasses.replace(VARIANTS[name], **changes)) == parameters


def test_frozen_norm_layout_has_no_counters_and_takes_a_public_state_dict():
    layout = json.loads((LAYOUTS / "resnet18.json").read_text())
    model = Model(Config(norm="frozen", norm_eps=0.0))
    model.load_state_dict({key: torch.zeros(shape) for key, shape in layout.items()})
    assert set(model.state_dict()) == {key for key in layout if not key.endswith("num_batches_tracked")}
    assert model.bn1.eps == 0


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_block_with_a_zero_last_scale_is_the_identity(block: str):
    """a[l+2] = g(a[l]) = a[l] for non-negative a[l]."""
    config = Config(block=block, zero_init=True)
    made = BasicBlock(config, 16, 16, 1) if block == "basic" else Bottleneck(config, 16, 4, 1)
    torch.nn.init.zeros_((made.bn2 if block == "basic" else made.bn3).weight)
    x = torch.rand(2, 16, 5, 6)
    assert torch.equal(made(x), x)


def test_zero_init_makes_every_unchanging_block_the_identity():
    model = Model(Config(classes=0, width=8, depths=(3, 1, 1, 1), zero_init=True))
    x = torch.rand(2, 8, 5, 6)
    assert torch.equal(model.layer1(x), x)


def test_plain_block_with_zero_scale_loses_its_input():
    block = BasicBlock(Config(shortcut="none"), 16, 16, 1)
    torch.nn.init.zeros_(block.bn2.weight)
    assert torch.equal(block(torch.rand(2, 16, 5, 6)), torch.zeros(2, 16, 5, 6))


def test_option_a_shortcut_by_hand():
    block = BasicBlock(Config(shortcut="A"), 2, 4, 2)
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.arange(18.0).view(1, 2, 3, 3)
    wanted = torch.zeros(1, 4, 2, 2)
    wanted[0, 1] = torch.tensor([[0.0, 2], [6, 8]])
    wanted[0, 2] = torch.tensor([[9.0, 11], [15, 17]])
    assert torch.equal(block(x), wanted)


@pytest.mark.shared
def test_public_resnet20_scores_what_its_readme_states(shared_data: Path):
    public = torch.load(
        shared_data / "weights/cifar10_resnet20/resnet20-12fca82f.th", map_location="cpu", weights_only=True
    )
    model = Model(VARIANTS["resnet20"]).eval()
    model.load_state_dict(from_public(public["state_dict"]))
    folders = sorted(p for p in (shared_data / "cifar10_images/test").iterdir() if p.is_dir())
    files = [(file, i) for i, folder in enumerate(folders) for file in sorted(folder.iterdir())]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file, _ in files])
    images = torch.from_numpy(pixels).movedim(-1, 1).float() / 255
    with torch.no_grad():
        answers = model.predict(Batch(images, [(32, 32)] * len(files)))
    assert len(files) == 500
    assert sum(s.label == label for s, (_, label) in zip(answers, files, strict=True)) == 399


@pytest.mark.parametrize(
    "changes",
    [
        {"block": "basic", "depths": (1, 1, 2, 2)},
        {"block": "bottleneck", "depths": (1, 1, 1, 3)},
        {"block": "basic", "stem": "cifar", "depths": (1, 1, 2), "shortcut": "A"},
    ],
)
def test_every_other_pixel_of_the_dilated_map_is_the_usual_one(changes: dict) -> None:
    torch.manual_seed(0)
    usual = Model(Config(classes=0, width=4, **changes)).eval()
    dilated = Model(Config(classes=0, width=4, dilated=True, **changes)).eval()
    dilated.load_state_dict(usual.state_dict())
    assert dilated.strides == [*usual.strides[:-1], usual.strides[-2]]
    images = torch.rand(1, 3, 70, 90)
    expected, found = usual(images)[-1], dilated(images)[-1]
    assert found.shape[2:] == dilated(images)[-2].shape[2:]
    torch.testing.assert_close(found[:, :, ::2, ::2], expected)
