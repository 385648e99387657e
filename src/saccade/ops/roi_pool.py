"""RoIPool: the maximum of every bin of a region on whole pixels (Girshick, ICCV 2015, section 2.1).

Two rules of division exist. "overlapping" is the released Caffe code: corners are rounded half away from zero and
belong to the region, bin i of h covers floor(i s) .. ceil((i + 1) s) with s = side / h, so that neighbours share a
pixel where the side is not a multiple. "disjoint" is the tutorials': floor(i s) .. floor((i + 1) s). A bin without
pixels gives 0.

`roi_pool_reference` is plain differentiable torch and the path of other devices; `_scan` and `_scatter` are the same in
numba for CPUs.
Letters: b images, c channels, H and W the map, n regions, h and w the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from saccade.ops.allocation import empty
from saccade.ops.compiled import compiled
from saccade.ops.roi_align import check_values, to_rois
from saccade.ops.threads import in_threads

Rule = Literal["overlapping", "disjoint"]


def roi_pool(
    features: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    rule: Rule = "overlapping",
) -> Tensor:
    """Pool regions of one map. The gradient goes to the first maximum of each bin (row by row).

    Args:
        features: [b, c, H, W]; half types are compared in float32 and returned as they came.
        boxes: one [n_i, 4] x1 y1 x2 y2 an image, or rois [n, 5] with the image's index first; in image pixels, finite.
        output_size: side or (h, w) of the result.
        spatial_scale: map pixels per image pixel, such as 1/16.
        rule: how a region is divided, see above.

    Returns:
        [n, c, h, w] in the order of the boxes.

    Raises:
        ValueError: shapes do not fit; on CPUs also where a box is not finite, or an image's index is outside 0..b-1
            (a GPU would have to wait for the look; its own checks end the program).

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.1; its gradient: section 2.3, equation 4.
    """
    rois = to_rois(boxes)
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    if features.is_meta:  # of shapes alone, which the reference would work out in hundreds of steps
        return features.new_empty(len(rois), features.shape[1], height, width)
    if features.device.type != "cpu":
        return roi_pool_reference(features, rois, (height, width), spatial_scale, rule)
    differentiated = torch.is_grad_enabled() and features.requires_grad
    return _best(features, rois, height, width, spatial_scale, rule == "overlapping", differentiated)[0]


def roi_pool_reference(
    features: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    rule: Rule = "overlapping",
) -> Tensor:
    """`roi_pool` in plain torch, [n, c, h, w], differentiated by autograd (Girshick 2015, section 2.1); how many
    steps follows from shapes."""
    rois = to_rois(boxes)
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    edges_y, edges_x = bin_edges(rois, features.shape, height, width, spatial_scale, rule == "overlapping")
    channels, plane = features.shape[1], features.shape[2] * features.shape[3]
    first = rois[:, 0].detach().long()[:, None] * channels + torch.arange(channels, device=rois.device)
    first = first[:, :, None, None] * plane  # [n, c, 1, 1] of each region and channel the first pixel of its plane
    place = _places(features.detach(), first, edges_y, edges_x)
    highest = features.reshape(-1).gather(0, (first + place.clamp(min=0)).reshape(-1)).view(place.shape)
    return highest.where(place >= 0, 0)


def _places(features: Tensor, first: Tensor, edges_y: Tensor, edges_x: Tensor) -> Tensor:
    """Where in its plane the first maximum of each bin lies: [n, c, h, w] int64, y W + x, or -1 for an empty bin.

    A bin is covered by four windows whose sides are the largest powers of two that fit, one in each corner; the maxima
    of all windows of a size follow from those of half its size.

    Args:
        features: [b, c, H, W].
        first: [n, c, 1, 1] number of the first pixel of a plane in the features laid flat.
        edges_y, edges_x: see `bin_edges`.
    """
    height, width = features.shape[2:]
    heights, widths = (edges[..., 1] - edges[..., 0] for edges in (edges_y, edges_x))
    shape = (*first.shape[:2], heights.shape[1], widths.shape[1])
    best = Maxima(features.new_zeros(shape), torch.full(shape, -1, device=features.device))
    pixels = torch.arange(height * width, device=features.device).view(height, width)
    rows = Maxima(features, pixels.expand(features.shape))
    for high in _powers(height):
        rows = rows if high == 1 else rows.highest(rows.shifted(-high // 2, dim=2))
        level = rows
        for wide in _powers(width):
            level = level if wide == 1 else level.highest(level.shifted(-wide // 2, dim=3))
            own = (heights // high == 1)[:, :, None] & (widths // wide == 1)[:, None]  # [n, h, w]: of this size
            found: Maxima | None = None
            for y in (edges_y[..., 0], edges_y[..., 1] - high):
                for x in (edges_x[..., 0], edges_x[..., 1] - wide):
                    corner = (y[:, :, None] * width + x[:, None]).where(own, 0)[:, None]
                    at = level.take(first + corner)
                    found = at if found is None else found.highest(at)
            assert found is not None
            best = found.where(own[:, None], best)
    return best.places


def _powers(side: int) -> list[int]:
    """1, 2, 4, ... up to `side`."""
    return [2**i for i in range(side.bit_length())]


@dataclass(slots=True)
class Maxima:
    """Highest values of some windows and where in its plane each lies; tensors of one shape."""

    values: Tensor
    places: Tensor  # int64

    def highest(self, other: Maxima) -> Maxima:
        """The higher of two at each place; of equal ones the first in its plane."""
        mine = (self.values > other.values) | ((self.values == other.values) & (self.places <= other.places))
        return self.where(mine, other)

    def where(self, mine: Tensor, other: Maxima) -> Maxima:
        """These where `mine` [...] holds, else those of `other`."""
        return Maxima(self.values.where(mine, other.values), self.places.where(mine, other.places))

    def shifted(self, steps: int, dim: int) -> Maxima:
        """Moved along one dimension; what leaves at one end comes in at the other."""
        return Maxima(self.values.roll(steps, dim), self.places.roll(steps, dim))

    def take(self, numbers: Tensor) -> Maxima:
        """Those at `numbers` [...] of the tensors laid flat."""
        flat = numbers.reshape(-1)
        return Maxima(*(t.reshape(-1).gather(0, flat).view(numbers.shape) for t in (self.values, self.places)))


def bin_edges(
    rois: Tensor, shape: Sequence[int], height: int, width: int, scale: float, overlapping: bool
) -> tuple[Tensor, Tensor]:
    """First and past-the-last row of each bin [n, h, 2], and columns [n, w, 2], int64, inside the map, for rois [n, 5]
    (Girshick 2015, section 2.1, as the released code rounds)."""
    real = torch.float64 if rois.dtype == torch.float64 else torch.float32
    scaled = (rois[:, 1:].detach().to(real) * scale).to(torch.float32 if rois.device.type == "mps" else torch.float64)
    corner = scaled.sign() * (scaled.abs() + 0.5).floor()
    sides = (corner[:, 2:] - corner[:, :2] + 1).clamp(min=1)

    def axis(first: Tensor, side: Tensor, bins: int, limit: int) -> Tensor:
        number = torch.arange(bins, device=rois.device)
        if overlapping:
            # The rounding of the released code: 6 / 7 in float32 times 7 is above 6, and a seventh row is read.
            step = (side.to(real) / bins)[:, None]
            low, high = (number * step).floor(), ((number + 1) * step).ceil()
        else:
            # Products before quotients: i * side / bins is exact where it is whole, i * (side / bins) is not.
            low, high = (number * side[:, None] / bins).floor(), ((number + 1) * side[:, None] / bins).floor()
        return (torch.stack((low, high), -1) + first[:, None, None]).clamp(0, limit).to(torch.int64)

    return axis(corner[:, 1], sides[:, 1], height, shape[2]), axis(corner[:, 0], sides[:, 0], width, shape[3])


@torch.library.custom_op("saccade::roi_pool", mutates_args=())
def _best(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    overlapping: bool,
    places: bool,
) -> tuple[Tensor, Tensor]:
    """For CPU tensors the maxima [n, c, h, w] and, if `places`, where they lie: y W + x in the map, -1: empty bin."""
    check_values(rois, len(features))
    wide = features.detach().permute(0, 2, 3, 1).to(_real(features.dtype))
    wide = wide if wide.is_contiguous() else empty(wide.shape, wide.dtype).copy_(wide)
    edges_y, edges_x = bin_edges(rois, features.shape, height, width, spatial_scale, overlapping)
    shape = (len(rois), features.shape[1], height, width)
    out, place = empty(shape, wide.dtype), empty(shape if places else (0, *shape[1:]), torch.int32)
    images = rois[:, 0].detach().long().contiguous()
    arrays = wide.numpy(), images.numpy(), edges_y.numpy(), edges_x.numpy(), out.numpy(), place.numpy()

    def work(start: int, stop: int) -> None:
        _scan(*arrays, start, stop)

    in_threads(work, len(rois), 8 * out.numel())
    return out.to(features.dtype), place


@_best.register_fake
def _(
    features: Tensor,
    rois: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    overlapping: bool,
    places: bool,
) -> tuple[Tensor, Tensor]:
    shape = (rois.shape[0], features.shape[1], height, width)
    return features.new_empty(shape), features.new_empty(shape if places else (0, *shape[1:]), dtype=torch.int32)


@torch.library.custom_op("saccade::roi_pool_backward", mutates_args=())
def _spread(gradient: Tensor, rois: Tensor, place: Tensor, b: int, map_height: int, map_width: int) -> Tensor:
    """Gradient [b, c, H, W] of the map for a gradient [n, c, h, w] of the maxima, for CPU tensors."""
    wide = gradient.detach().to(_real(gradient.dtype)).contiguous()
    total = empty((b, gradient.shape[1], map_height, map_width), wide.dtype).zero_()
    images = rois[:, 0].detach().long().contiguous()
    arrays = wide.numpy(), images.numpy(), place.numpy(), total.numpy()

    def work(start: int, stop: int) -> None:  # regions overlap, channels do not: threads never write the same number
        _scatter(*arrays, start, stop)

    in_threads(work, gradient.shape[1], 8 * gradient.numel())
    return total.to(gradient.dtype)


@_spread.register_fake
def _(gradient: Tensor, rois: Tensor, place: Tensor, b: int, map_height: int, map_width: int) -> Tensor:
    return gradient.new_empty((b, gradient.shape[1], map_height, map_width))


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[1], output[1])
    ctx.shape = inputs[0].shape
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, gradient: Tensor, _: Tensor | None):  # type: ignore[no-untyped-def]
    rois, place = ctx.saved_tensors
    b, _c, map_height, map_width = ctx.shape
    return _spread(gradient, rois, place, b, map_height, map_width), None, None, None, None, None, None


_best.register_autograd(_differentiate, setup_context=_save)


def _real(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


@compiled
def _replace_smaller(value: np.ndarray, where: np.ndarray, pixel: np.ndarray, number: np.int32) -> None:
    """Take the pixel of this number in the channels in which it is above the value; a choice, not a branch: SIMD."""
    for k in range(len(value)):
        v, x, w = value[k], pixel[k], where[k]
        above = x > v
        value[k] = x if above else v
        where[k] = number if above else w


@compiled
def _keep_larger(value: np.ndarray, pixel: np.ndarray) -> None:
    """`_replace_smaller` where nobody asks for places: half the work."""
    for k in range(len(value)):
        v, x = value[k], pixel[k]
        value[k] = x if x > v else v


@compiled
def _turn(rows: np.ndarray, out: np.ndarray) -> None:
    """[P, c and more] -> [c, P]."""
    for k in range(out.shape[0]):
        for p in range(out.shape[1]):
            out[k, p] = rows[p, k]


@compiled
def _scan(
    last: np.ndarray,
    images: np.ndarray,
    edges_y: np.ndarray,
    edges_x: np.ndarray,
    out: np.ndarray,
    place: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Regions start..stop of a map [b, H, W, c]; the inner loops run over neighbouring channels."""
    channels, height, width = out.shape[1:]
    # 16 numbers between the rows: at powers of two they would share few sets of the cache when the layout is turned.
    best = np.empty((height * width, channels + 16), last.dtype)
    found = np.empty((height * width, channels + 16), np.int32)
    for i in range(start, stop):
        for p in range(height):
            for q in range(width):
                value, where = best[p * width + q, :channels], found[p * width + q, :channels]
                rows, columns = edges_y[i, p], edges_x[i, q]
                if rows[0] >= rows[1] or columns[0] >= columns[1]:
                    for k in range(channels):
                        value[k] = 0
                        where[k] = -1
                    continue
                number = np.int32(rows[0] * last.shape[2] + columns[0])
                pixel = last[images[i], rows[0], columns[0]]
                for k in range(channels):
                    value[k] = pixel[k]
                    where[k] = number
                for y in range(rows[0], rows[1]):
                    for x in range(columns[0], columns[1]):
                        if len(place):
                            _replace_smaller(value, where, last[images[i], y, x], np.int32(y * last.shape[2] + x))
                        else:
                            _keep_larger(value, last[images[i], y, x])
        _turn(best, out[i].reshape(channels, -1))
        if len(place):
            _turn(found, place[i].reshape(channels, -1))


@compiled
def _scatter(
    gradient: np.ndarray, images: np.ndarray, place: np.ndarray, total: np.ndarray, start: int, stop: int
) -> None:
    """Channels start..stop of total [b, c, H, W] from all regions."""
    channels = total.shape[1]
    for i in range(len(images)):
        values, places = gradient[i].reshape(channels, -1), place[i].reshape(channels, -1)
        for k in range(start, stop):
            plane = total[images[i], k].reshape(-1)
            for p in range(values.shape[1]):
                if places[k, p] >= 0:
                    plane[places[k, p]] += values[k, p]
