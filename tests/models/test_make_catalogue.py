from __future__ import annotations

import torch
from torch import nn

from saccade.models import CATALOGUE, catalogue, create
from saccade.models.make_catalogue import PAGE, model_modules, multiply_adds, page, text


def test_the_page_states_what_the_file_states():
    assert PAGE.read_text(encoding="utf-8") == page(catalogue()), "run: python -m saccade.models.make_catalogue"


def test_the_file_is_written_from_its_entries():
    """Each entry is compared with its model file in test_contract.py."""
    assert CATALOGUE.read_text(encoding="utf-8") == text(catalogue()), "run: python -m saccade.models.make_catalogue"
    assert list(catalogue()) == sorted(name for module in model_modules() for name in module.VARIANTS)


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
