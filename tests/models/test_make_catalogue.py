from __future__ import annotations

import pytest
import torch
from torch import nn

from saccade.models import CATALOGUE, catalogue, create
from saccade.models.make_catalogue import PAGE, build, model_modules, multiply_adds, page, state, text


def test_the_file_states_every_model():
    entries = {name: state(module, name) for module in model_modules() for name in module.VARIANTS}
    stored = {name: {k: v for k, v in entry.items() if k != "macs"} for name, entry in catalogue().items()}
    assert stored == entries, "run: python -m saccade.models.make_catalogue"


def test_the_page_states_what_the_file_states():
    assert PAGE.read_text(encoding="utf-8") == page(catalogue()), "run: python -m saccade.models.make_catalogue"


@pytest.mark.slow
def test_the_file_is_fresh():
    assert CATALOGUE.read_text(encoding="utf-8") == text(build()), "run: python -m saccade.models.make_catalogue"


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("resnet18", 1_814_073_344),
        ("resnet34", 3_663_761_408),
        ("resnet50", 4_089_184_256),
        ("resnet101", 7_801_405_440),
        ("resnet152", 11_513_626_624),
        ("vgg11", 7_609_090_048),
        ("vgg16", 15_470_264_320),
        ("vgg19", 19_632_062_464),
    ],
)
def test_multiply_adds_of_the_public_models(name: str, macs: int):
    assert catalogue()[name]["macs"] == macs


def test_multiply_adds_by_hand():
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, groups=2),  # 3x3 out: 9 * 6 * 2 * 9
        nn.ConvTranspose2d(6, 5, 2, stride=2),  # 3x3 in: 9 * 6 * 5 * 4
        nn.Flatten(),
        nn.Linear(180, 7),
    )
    assert multiply_adds(model, torch.zeros(1, 4, 7, 7)) == 9 * 6 * 2 * 9 + 9 * 6 * 5 * 4 + 180 * 7


def test_create_makes_what_the_catalogue_states():
    model = create("resnet20")
    assert sum(p.numel() for p in model.parameters()) == catalogue()["resnet20"]["parameters"]
    assert create("resnet20", classes=3).fc.out_features == 3
