"""Position-sensitive RoI pooling: every bin of a region is read from maps of its own (Dai et al. 2016, section 2).

The map has k^2 channels for each output c: bin (i, j), row and column, is the mean of channel (c k + i) k + j over the
bin's pixels (equation 1 and the released code). A region's corners are rounded to whole pixels of the image, half away
from zero, and taken to the map; bin i of the height covers the rows floor(y1 + i s) .. ceil(y1 + (i + 1) s) with
s = height / k, so that neighbours share a row where s is not whole. A bin without pixels gives 0. Where the release
counts the last pixel as a part of a region, boxes end here at x2, y2: its region 0..15 is the box 0..16.

`ps_roi_pool_reference` is plain differentiable torch and the path of other devices; `_scan` and `_scatter` are the same
in numba for CPUs.
Letters: b images, C outputs, k bins a side, H and W the map, n regions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saccade.ops.allocation import empty
from saccade.ops.compiled import compiled
from saccade.ops.roi_align import check_values, to_rois
from saccade.ops.threads import in_threads

LEAST_SIDE = 0.1  # map pixels of a region's side, as released: a region of no size still has bins


def ps_roi_pool(maps: Tensor, boxes: Tensor | Sequence[Tensor], bins: int, spatial_scale: float = 1.0) -> Tensor:
    """Pool regions of position-sensitive maps; the mean over the bins of the answer is the region's vote.

    Args:
        maps: [b, C k^2, H, W]; half types are added in float32 and returned as they came.
        boxes: one [n_i, 4] x1 y1 x2 y2 an image, or rois [n, 5] with the image's index first; in image pixels, finite.
        bins: k.
        spatial_scale: map pixels per image pixel, such as 1/16.

    Returns:
        [n, C, k, k] in the order of the boxes.

    Raises:
        ValueError: shapes do not fit; on CPUs also where a box is not finite, or an image's index is outside 0..b-1
            (a GPU would have to wait for the look; its own checks end the program).

    Source: Dai et al., "R-FCN", NIPS 2016, section 2, equation 1.
    """
    rois = to_rois(boxes)
    if bins < 1 or maps.shape[1] % bins**2:
        raise ValueError(f"{maps.shape[1]} channels are no multiple of the {bins}x{bins} bins of a region")
    if maps.device.type != "cpu":
        return ps_roi_pool_reference(maps, rois, bins, spatial_scale)
    return _means(maps, rois, bins, spatial_scale)


def ps_roi_pool_reference(
    maps: Tensor, boxes: Tensor | Sequence[Tensor], bins: int, spatial_scale: float = 1.0
) -> Tensor:
    """`ps_roi_pool` in plain torch, [n, C, k, k], differentiated by autograd; how many steps follows from shapes alone.

    The sum over a bin is that of four corners in the map of sums over all that lies above and to the left (integral
    images: Viola & Jones, "Rapid object detection", CVPR 2001, section 2.1).
    """
    rois = to_rois(boxes)
    _, channels, height, width = maps.shape
    wide = torch.float32 if maps.device.type == "mps" else torch.float64
    down, across = (torch.ones(side, side, dtype=wide, device=maps.device).tril() for side in (height, width))
    sums = torch.nn.functional.pad(down @ maps.to(wide) @ across.T, (1, 0, 1, 0))  # [b, C k^2, H + 1, W + 1]
    edges_y, edges_x = _edges(rois, (height, width), bins, spatial_scale)
    plane = (height + 1) * (width + 1)
    own = torch.arange(channels, device=maps.device).view(1, -1, bins, bins)
    first = (rois[:, 0].detach().long()[:, None, None, None] * channels + own) * plane  # [n, C, k, k]

    def corner(y: Tensor, x: Tensor) -> Tensor:
        at = first + (y[:, :, None] * (width + 1) + x[:, None])[:, None]
        return sums.reshape(-1).gather(0, at.reshape(-1)).view(at.shape)

    (top, bottom), (left, right) = edges_y.unbind(-1), edges_x.unbind(-1)
    total = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)
    pixels = ((bottom - top)[:, :, None] * (right - left)[:, None])[:, None]
    return (total / pixels.clamp(min=1)).to(maps.dtype)


def _edges(rois: Tensor, size: tuple[int, int], bins: int, scale: float) -> tuple[Tensor, Tensor]:
    """First and past-the-last row of each bin [n, k, 2], and columns [n, k, 2], int64, inside the map; equal where a
    bin has none."""
    wide = torch.float32 if rois.device.type == "mps" else torch.float64
    corner = rois[:, 1:].detach().to(wide)
    corner = corner.sign() * (corner.abs() + 0.5).floor() * scale
    number = torch.arange(bins, device=rois.device)

    def axis(first: Tensor, last: Tensor, limit: int) -> Tensor:
        side = (last - first).clamp(min=LEAST_SIDE)[:, None]
        # One quotient at the end: it is whole where the edge is, as i * (side / k) is not.
        start = first[:, None] * bins
        low, high = ((start + number * side) / bins).floor(), ((start + (number + 1) * side) / bins).ceil()
        low = low.clamp(0, limit)
        return torch.stack((low, torch.maximum(high.clamp(0, limit), low)), -1).to(torch.int64)

    return axis(corner[:, 1], corner[:, 3], size[0]), axis(corner[:, 0], corner[:, 2], size[1])


@torch.library.custom_op("saccade::ps_roi_pool", mutates_args=())
def _means(maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    """`ps_roi_pool` for CPU tensors."""
    check_values(rois, len(maps))
    wide = maps.detach().to(_real(maps.dtype)).contiguous()
    edges_y, edges_x = _edges(rois, (maps.shape[2], maps.shape[3]), bins, spatial_scale)
    out = empty((len(rois), maps.shape[1] // bins**2, bins, bins), wide.dtype)
    arrays = wide.numpy(), rois[:, 0].detach().long().numpy(), edges_y.numpy(), edges_x.numpy(), out.numpy()

    def work(start: int, stop: int) -> None:
        _scan(*arrays, start, stop)

    in_threads(work, len(rois), 16 * out.numel())
    return out.to(maps.dtype)


@_means.register_fake
def _(maps: Tensor, rois: Tensor, bins: int, spatial_scale: float) -> Tensor:
    return maps.new_empty((rois.shape[0], maps.shape[1] // bins**2, bins, bins))


@torch.library.custom_op("saccade::ps_roi_pool_backward", mutates_args=())
def _spread(gradient: Tensor, rois: Tensor, b: int, height: int, width: int, spatial_scale: float) -> Tensor:
    """Gradient [b, C k^2, H, W] of the maps for a gradient [n, C, k, k] of the means, for CPU tensors."""
    wide = gradient.detach().to(_real(gradient.dtype)).contiguous()
    bins = gradient.shape[2]
    total = empty((b, gradient.shape[1] * bins**2, height, width), wide.dtype).zero_()
    edges_y, edges_x = _edges(rois, (height, width), bins, spatial_scale)
    arrays = wide.numpy(), rois[:, 0].detach().long().numpy(), edges_y.numpy(), edges_x.numpy(), total.numpy()

    def work(start: int, stop: int) -> None:  # regions overlap, channels do not: threads never write the same number
        _scatter(*arrays, start, stop)

    in_threads(work, gradient.shape[1], 16 * gradient.numel())
    return total.to(gradient.dtype)


@_spread.register_fake
def _(gradient: Tensor, rois: Tensor, b: int, height: int, width: int, spatial_scale: float) -> Tensor:
    return gradient.new_empty((b, gradient.shape[1] * gradient.shape[2] ** 2, height, width))


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    maps, rois, _, ctx.spatial_scale = inputs
    ctx.save_for_backward(rois)
    ctx.shape = maps.shape


def _differentiate(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    (rois,) = ctx.saved_tensors
    b, _, height, width = ctx.shape
    return _spread(gradient, rois, b, height, width, ctx.spatial_scale), None, None, None


_means.register_autograd(_differentiate, setup_context=_save)


def _real(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@compiled
def _scan(
    maps: np.ndarray,
    images: np.ndarray,
    edges_y: np.ndarray,
    edges_x: np.ndarray,
    out: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Regions start..stop of `out`."""
    outputs, bins = out.shape[1:3]
    zero = maps.dtype.type(0)
    for r in range(start, stop):
        for i in range(bins):
            for j in range(bins):
                pixels = (edges_y[r, i, 1] - edges_y[r, i, 0]) * (edges_x[r, j, 1] - edges_x[r, j, 0])
                for c in range(outputs):
                    plane = maps[images[r], (c * bins + i) * bins + j]
                    total = zero
                    for y in range(edges_y[r, i, 0], edges_y[r, i, 1]):
                        for x in range(edges_x[r, j, 0], edges_x[r, j, 1]):
                            total += plane[y, x]
                    out[r, c, i, j] = total / maps.dtype.type(max(pixels, 1))


@compiled
def _scatter(
    gradient: np.ndarray,
    images: np.ndarray,
    edges_y: np.ndarray,
    edges_x: np.ndarray,
    total: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """The maps of outputs start..stop in `total` from all regions."""
    bins = gradient.shape[2]
    for r in range(len(images)):
        for c in range(start, stop):
            for i in range(bins):
                for j in range(bins):
                    pixels = (edges_y[r, i, 1] - edges_y[r, i, 0]) * (edges_x[r, j, 1] - edges_x[r, j, 0])
                    share = gradient[r, c, i, j] / gradient.dtype.type(max(pixels, 1))
                    plane = total[images[r], (c * bins + i) * bins + j]
                    for y in range(edges_y[r, i, 0], edges_y[r, i, 1]):
                        for x in range(edges_x[r, j, 0], edges_x[r, j, 1]):
                            plane[y, x] += share
