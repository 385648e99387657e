"""Regions cut out of images and warped to one size, whatever their shape (R-CNN, Girshick et al. 2014, section 2.1).

Letters: b images, H and W their sides, r regions an image, s the side of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def warp_regions(
    images: Tensor, boxes: Tensor, side: int, context: int = 0, samples: int = 1, colour: Tensor | float = 0.0
) -> Tensor:
    """Every region with some of what surrounds it, stretched to a square. Differentiable in the images.

    A box is grown about its centre by s / (s - 2 context), so that `context` pixels of the result lie on each side of
    it (appendix A, "warp" with p = 16). Pixel (i, j) of the result is the mean over a grid of `samples` x `samples`
    points of its square, read by bilinear interpolation between pixel centres; at the border of the image the last
    pixel counts for its whole square, and points outside have `colour`.

    Args:
        images: [b, 3, H, W].
        boxes: [b, r, 4] x1 y1 x2 y2 in pixels, finite. One without area gives a region of one colour.
        side: s, above 2 context.
        context: pixels of the result.
        samples: along each side of a pixel; 1 is what R-CNN's release does, more lessen the noise of large regions.
        colour: broadcasts with [b, 3, 1, 1]; the mean of the network's images, which is 0 after normalisation.

    Returns:
        [b, r, 3, s, s].

    Raises:
        ValueError: shapes do not fit, or no room between the contexts.
    """
    if images.ndim != 4 or boxes.ndim != 3 or boxes.shape[2] != 4 or boxes.shape[0] != images.shape[0]:
        raise ValueError(
            f"images {list(images.shape)} and boxes {list(boxes.shape)}: [b, 3, H, W] and [b, r, 4] needed"
        )
    if side <= 2 * context or context < 0 or samples < 1:
        raise ValueError(
            f"side {side}, context {context}, samples {samples}: side > 2 context >= 0 and samples > 0 needed"
        )
    height, width = images.shape[2:]
    points = side * samples
    grown = grow(boxes, side, context)
    centres, sides = (grown[..., :2] + grown[..., 2:]) / 2, grown[..., 2:] - grown[..., :2]
    steps = (torch.arange(points, device=boxes.device) + 0.5) / points - 0.5
    x = centres[..., :1] + sides[..., :1] * steps  # [b, r, points], pixels
    y = centres[..., 1:] + sides[..., 1:] * steps
    shape = (*x.shape, points)
    across, down = x[:, :, None].expand(shape) * (2 / width) - 1, y[..., None].expand(shape) * (2 / height) - 1
    grid = torch.stack((across, down), -1).flatten(1, 2)  # [b, r points, points, 2]
    seen = F.grid_sample(images, grid.to(images.dtype), padding_mode="border", align_corners=False)
    seen = seen.unflatten(2, (x.shape[1], points)).transpose(1, 2)  # [b, r, 3, points, points]
    inside_x, inside_y = (x >= 0) & (x <= width), (y >= 0) & (y <= height)
    inside = (inside_x[:, :, None] & inside_y[..., None])[:, :, None]
    if isinstance(colour, Tensor):
        colour = colour.to(seen.dtype)[:, None]
    seen = torch.where(inside, seen, colour)
    return F.avg_pool2d(seen.flatten(0, 1), samples).unflatten(0, x.shape[:2]) if samples > 1 else seen


def grow(boxes: Tensor, side: int, context: int) -> Tensor:
    """Boxes [..., 4] grown about their centres by s / (s - 2 context): what `warp_regions` warps to s x s pixels, of
    which `context` on each side surround the box (Girshick et al. 2014, appendix A)."""
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) * (side / (side - 2 * context)) / 2
    return torch.cat((centres - half, centres + half), -1)
