"""Anchors against the tables of the released systems."""

from __future__ import annotations

import pytest
import torch

from saccade.layers.anchors import cell_anchors, fit_anchors, grid_anchors, prior_sizes, reference_anchors, shapes_of


def test_reference_table_of_faster_rcnn() -> None:
    released = torch.tensor(  # inclusive pixel indices, counted from 1
        [
            (-83, -39, 100, 56),
            (-175, -87, 192, 104),
            (-359, -183, 376, 200),
            (-55, -55, 72, 72),
            (-119, -119, 136, 136),
            (-247, -247, 264, 264),
            (-35, -79, 52, 96),
            (-79, -167, 96, 184),
            (-167, -343, 184, 360),
        ],
        dtype=torch.float32,
    )
    corners = released - torch.tensor([1.0, 1, 0, 0])
    assert torch.equal(reference_anchors(), corners)
    assert len(grid_anchors(corners, (37, 62), (16, 16))) == 20646
    assert len(grid_anchors(corners, (38, 63), (16, 16))) == 21546


def test_rounded_cells() -> None:
    cell = cell_anchors((32,), (0.5, 1.0, 2.0), rounded=True)
    assert cell.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    exact = cell_anchors((32, 64), (0.5, 1.0, 2.0))
    area = (exact[:, 2:] - exact[:, :2]).prod(1)
    torch.testing.assert_close(area, torch.tensor([1024.0, 4096] * 3))
    levels = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]  # 800 x 1344 with FPN
    assert sum(len(grid_anchors(cell, size, (1, 1))) for size in levels) == 268_569


def test_order_and_offset() -> None:
    cell = torch.tensor([[-1.0, -1, 1, 1], [-2, -2, 2, 2]])
    boxes = grid_anchors(cell, (2, 3), (10, 20), offset=0.5)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centers[::2].tolist() == [[10, 5], [30, 5], [50, 5], [10, 15], [30, 15], [50, 15]]
    assert torch.equal(centers[::2], centers[1::2])
    assert boxes[1].tolist() == [8, 3, 12, 7]
    assert grid_anchors(cell, (2, 3), (10, 20))[0].tolist() == [-1, -1, 1, 1]


def test_first_cell_of_ssd() -> None:
    shapes = shapes_of(prior_sizes(21, 45, (2,)))
    expected = torch.tensor(
        [
            [-6.5, -6.5, 14.5, 14.5],
            [-11.37043, -11.37043, 19.37043, 19.37043],
            [-10.84924, -3.42462, 18.84924, 11.42462],
            [-3.42462, -10.84924, 11.42462, 18.84924],
        ]
    )
    torch.testing.assert_close(grid_anchors(shapes, (38, 38), (8, 8), 0.5)[:4], expected, rtol=0, atol=1e-4)


def test_toy_ssd_has_21_boxes() -> None:
    one = shapes_of([(32.0, 32.0)])
    assert sum(len(grid_anchors(one, (side, side), (224 / side,) * 2, 0.5)) for side in (4, 2, 1)) == 21


def test_fitted_shapes_find_the_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.tensor([[10.0, 12.0], [40.0, 20.0], [90.0, 160.0]])
    sizes = (means[:, None] * (1 + 0.05 * torch.randn(3, 200, 2, generator=generator))).flatten(0, 1)
    fitted = fit_anchors(sizes, 3, seed=1)
    torch.testing.assert_close(fitted, means, rtol=0.02, atol=0)
    assert torch.equal(fitted, fit_anchors(sizes, 3, seed=1))


def test_fitting_with_fewer_sizes_than_shapes() -> None:
    assert fit_anchors(torch.tensor([[5.0, 6.0]]), 3).tolist() == [[5, 6]] * 3


@pytest.mark.parametrize("sizes", [torch.zeros(0, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, float("nan")]])])
def test_sizes_that_no_shape_fits_are_refused(sizes: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="positive"):
        fit_anchors(sizes, 2)
