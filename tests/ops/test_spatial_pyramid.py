"""Spatial pyramid pooling beside torch's adaptive pooling, and which map pixels a region has."""

from __future__ import annotations

import pytest
import torch

from saccade.ops.spatial_pyramid import map_windows, pyramid_pool, pyramid_pool_maps, pyramid_pool_reference


def test_every_side_is_divided_as_the_formula_says() -> None:
    """Exactly: 6 bins of 7 pixels are no place for a seventh of rounding."""
    position = torch.arange(70.0)
    features = (1000 * position[:, None] + position)[None, None]
    for side in range(1, 68):
        windows = torch.tensor([[0, 2, 1, side + 1, side]]).double()
        assert torch.equal(pyramid_pool(features, windows), pyramid_pool_reference(features, windows)), side


def test_fifty_bins_of_every_channel_and_their_gradients() -> None:
    torch.manual_seed(0)
    low = torch.rand(30, 2) * torch.tensor([200.0, 120])
    boxes = torch.cat((low, low + torch.rand(30, 2) * 150), 1)
    windows = torch.cat((torch.arange(30.0)[:, None] % 2, map_windows(boxes, 16, 12, 20)), 1)
    one, other = (torch.rand(2, 7, 12, 20, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    found, expected = (
        pyramid_pool(one.requires_grad_(), windows),
        pyramid_pool_reference(other.requires_grad_(), windows),
    )
    assert found.shape == (30, 350)
    assert torch.equal(found, expected)
    weight = torch.rand(30, 350)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(("height", "width"), [(14, 14), (13, 9), (4, 7), (1, 2)])
def test_whole_maps_by_slices(height: int, width: int) -> None:
    torch.manual_seed(0)
    one, other = (torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    windows = torch.tensor([[i, 0.0, 0, width - 1, height - 1] for i in range(2)])
    found = pyramid_pool_maps(one.requires_grad_(), (7, 3, 2, 1))
    expected = pyramid_pool_reference(other.requires_grad_(), windows, (7, 3, 2, 1))
    assert found.shape == (2, 63 * 3)
    assert torch.equal(found, expected)
    assert torch.equal(found, pyramid_pool(other, windows, (7, 3, 2, 1)))
    weight = torch.rand(2, 63 * 3)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((16, 32, 96, 80), (2, 3, 5, 4)),  # appendix A: floor(16 / 16) + 1 to ceil(96 / 16) - 1
        ((15, 31, 97, 81), (1, 2, 6, 5)),
        ((20, 20, 28, 28), (2, 2, 2, 2)),  # thinner than a pixel
        ((-50, -50, 9000, 9000), (0, 0, 19, 11)),
        ((0, 0, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_windows(box: tuple[float, ...], window: tuple[float, ...]) -> None:
    assert map_windows(torch.tensor([box]).float(), 16, 12, 20).tolist() == [list(window)]
