"""Warped regions: where every pixel is read, beside RoIAlign, at the border and outside."""

from __future__ import annotations

import pytest
import torch

from saccade.ops.region_warp import warp_regions
from saccade.ops.roi_align import roi_align


def ramp(height: int = 40, width: int = 60) -> torch.Tensor:
    """[1, 3, H, W]: the x of a pixel's centre, its y, and 1."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack((x, y, torch.ones_like(x)))[None]


def test_context_is_so_many_pixels_of_the_result() -> None:
    """227 with 16 around: the box lies on pixels 16 to 211, whatever its shape (R-CNN, appendix A)."""
    box = torch.tensor([[[20.0, 15, 40, 23]]])
    seen = warp_regions(ramp(), box, 227, 16)[0, 0]
    inner = torch.arange(195) + 0.5
    torch.testing.assert_close(seen[0, 100, 16:211], 20 + inner * 20 / 195, atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[1, 16:211, 100], 15 + inner * 8 / 195, atol=1e-3, rtol=0)
    assert float(seen[0, 0, 0]) == pytest.approx(30 - 20 * 227 / 195 / 2 + 0.5 * 20 / 195, abs=1e-3)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_without_context_it_is_roi_align(samples: int) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 30, 50)
    low = torch.rand(2, 6, 2) * torch.tensor([25.0, 12]) + 1
    boxes = torch.cat((low, low + 2 + torch.rand(2, 6, 2) * torch.tensor([20.0, 14])), 2)
    expected = roi_align(images, list(boxes), 8, sampling_ratio=samples, aligned=True)
    torch.testing.assert_close(warp_regions(images, boxes, 8, samples=samples).flatten(0, 1), expected)


def test_outside_is_the_colour_and_the_border_is_sharp() -> None:
    colour = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    boxes = torch.tensor([[[-10.0, 0, 10, 20], [100, 100, 110, 110]]])
    seen = warp_regions(torch.ones(1, 3, 20, 20), boxes, 8, colour=colour)[0]
    assert torch.equal(seen[0, :, :, 4:], torch.ones(3, 8, 4))
    assert torch.equal(seen[0, :, :, :4], colour[0].expand(3, 8, 4))
    assert torch.equal(seen[1], colour[0].expand(3, 8, 8))


def test_boxes_without_area_and_without_number() -> None:
    assert warp_regions(ramp(), torch.zeros(1, 2, 4), 8, 1, 2).isfinite().all()
    assert warp_regions(ramp(), torch.zeros(1, 0, 4), 8).shape == (1, 0, 3, 8, 8)
    with pytest.raises(ValueError, match=r"\[b, r, 4\] needed"):
        warp_regions(ramp(), torch.zeros(2, 1, 4), 8)
    with pytest.raises(ValueError, match="side > 2 context"):
        warp_regions(ramp(), torch.zeros(1, 1, 4), 32, 16)
