"""Stacked hourglass: the counts of the paper's network, and what its flip test does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saccade.data.types import Batch
from saccade.models import create
from saccade.models.pose.hourglass import VARIANTS, Config, Model, Residual

TINY = Config(joints=4, pairs=((0, 2),), stacks=2, width=16, depth=2)


@pytest.mark.parametrize(("stacks", "count"), [(1, 3_426_448), (2, 6_570_400), (4, 12_858_304), (8, 25_434_112)])
def test_parameters_of_the_released_network(stacks: int, count: int) -> None:
    with torch.device("meta"):
        model = Model(Config(stacks=stacks))
        maps = model(torch.empty(1, 3, 256, 256))
    assert sum(p.numel() for p in model.parameters()) == count
    assert [tuple(each.shape) for each in maps] == [(1, 16, 64, 64)] * stacks
    hourglass = model.stacks[0].hourglass
    assert sum(isinstance(module, Residual) for module in hourglass.modules()) == 13


def test_what_a_stack_found_goes_on_to_the_next() -> None:
    torch.manual_seed(0)
    model, images = Model(TINY).eval(), torch.rand(1, 3, 64, 64)
    first, second = model(images)
    with torch.no_grad():
        model.stacks[0].heat.bias += 1
    changed = model(images)
    torch.testing.assert_close(changed[0], first + 1)
    assert not torch.allclose(changed[1], second)
    assert model.stacks[1].from_heat is None


def test_the_mirror_image_of_the_flip_test_changes_left_and_right() -> None:
    """With it, the answer for a mirrored image is the mirrored answer, left and right exchanged."""
    torch.manual_seed(0)
    model, images = Model(TINY).eval(), torch.rand(3, 3, 64, 64)
    sizes = [(64, 64)] * 3

    def joints(batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([answer.objects.keypoints for answer in model.predict(Batch(batch, sizes)) if answer.objects])

    straight, mirrored = joints(images), joints(images.flip(-1))
    back = mirrored[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1.0, 1.0]) + torch.tensor([64.0, 0.0, 0.0])
    torch.testing.assert_close(back, straight, atol=1e-4, rtol=0)
    model.config = replace(TINY, flip_test=False)
    assert not torch.allclose(joints(images), straight)


def test_a_pair_is_of_joints_that_there_are() -> None:
    with pytest.raises(ValueError, match="are not all pairs of 3 joints"):
        create("hourglass_small", joints=3)
    assert VARIANTS["hourglass8"].stacks == 8
