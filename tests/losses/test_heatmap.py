"""Heat maps of joints: worked cells, and the way there and back."""

from __future__ import annotations

import math

import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.losses.heatmap import gaussians, heatmap_loss, highest_cells, stack_joints


def test_a_joint_is_a_bell_of_height_one_around_its_place() -> None:
    joints = torch.tensor([[[[10.0, 6.0, 2.0], [10.0, 6.0, 0.0], [40.0, 6.0, 1.0]]]])  # seen, absent, outside
    maps = gaussians(joints, 6, 8, stride=4)
    assert maps.shape == (1, 3, 6, 8)
    assert float(maps[0, 0, 1, 2]) == pytest.approx(1)  # (10, 6) is the middle of cell (2, 1)
    assert float(maps[0, 0, 1, 3]) == pytest.approx(math.exp(-0.5))
    assert float(maps[0, 0, 3, 3]) == pytest.approx(math.exp(-2.5))
    assert not maps[0, 1:].any()
    wide = gaussians(joints, 6, 8, stride=4, sigma=2)
    assert float(wide[0, 0, 3, 3]) == pytest.approx(math.exp(-2.5 / 4))


def test_of_several_objects_the_higher_value_counts() -> None:
    joints = torch.tensor([[[[2.0, 2.0, 1.0]], [[14.0, 2.0, 1.0]], [[0.0, 0.0, 0.0]]]])
    one, other = (gaussians(joints[:, i : i + 1], 4, 4, 4) for i in (0, 1))
    torch.testing.assert_close(gaussians(joints, 4, 4, 4), torch.maximum(one, other))


def test_the_highest_cell_moves_a_quarter_towards_its_higher_neighbour() -> None:
    maps = torch.zeros(1, 5, 5, 5)
    maps[0, 0, 2, 3], maps[0, 0, 2, 2], maps[0, 0, 3, 3] = 0.8, 0.3, 0.2  # left is higher, and below
    maps[0, 1, 0, 0], maps[0, 1, 0, 1] = 1.5, 0.4  # at the border: it stays; heights end at 1
    maps[0, 2] = -0.5  # all equal: the first; no height below 0
    maps[0, 3, 2, 2] = maps[0, 3, 2, 1] = 0.5  # of two the first, drawn towards the other
    maps[0, 4, 4, 2], maps[0, 4, 4, 3] = 0.6, 0.1
    wanted = [[3.25, 2.75, 0.8], [0.5, 0.5, 1.0], [0.5, 0.5, 0.0], [1.75, 2.5, 0.5], [2.75, 4.5, 0.6]]
    torch.testing.assert_close(highest_cells(maps)[0], torch.tensor(wanted))


def test_places_come_back_from_their_own_maps_to_a_third_of_a_cell() -> None:
    places = torch.rand(1, 1, 200, 2, generator=torch.Generator().manual_seed(0)) * 56 + 4
    joints = torch.cat([places, torch.ones(1, 1, 200, 1)], -1)
    found = highest_cells(gaussians(joints, 16, 16, 4))[0]
    assert float((4 * found[:, :2] - places[0, 0]).abs().max()) <= 4 * 0.25 + 1e-4


def test_the_error_of_every_stack_counts() -> None:
    target = torch.zeros(1, 2, 4, 4)
    assert float(heatmap_loss([target + 1, target + 2], target)) == pytest.approx(1 + 4)


def test_objects_of_a_batch_as_one_table() -> None:
    points = torch.rand(2, 3, 3) + 1
    two = Objects(
        torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), keypoints=points, crowd=torch.tensor([0, 1]) > 0
    )
    table = stack_joints([Annotation((8, 8), objects=two), Annotation((8, 8), objects=Objects.empty())], 3)
    assert table.shape == (2, 2, 3, 3)
    torch.testing.assert_close(table[0, 0], points[0])
    assert not table[0, 1].any()  # a crowd is learnt from by nobody
    assert not table[1].any()
    with pytest.raises(DataError, match="objects of 3 joints for a network of 4"):
        stack_joints([Annotation((8, 8), objects=two)], 4)
    bare = Objects(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(DataError, match="1 objects without joints"):
        stack_joints([Annotation((8, 8), objects=bare)], 3)
