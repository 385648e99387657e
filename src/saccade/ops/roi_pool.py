"""RoIPool: the maximum of every bin of a region on whole pixels (Girshick, ICCV 2015, section 2.1).

Two rules of division exist. "overlapping" is the released Caffe code: corners are rounded half away from zero and
belong to the region, bin i of h covers floor(i s) .. ceil((i + 1) s) with s = side / h, so that neighbours share a
pixel where the side is not a multiple. "disjoint" is the tutorials': floor(i s) .. floor((i + 1) s). A bin without
pixels gives 0.

`roi_pool_reference` is plain differentiable torch and the path of the GPU; `_scan` is the same in numba for CPUs.
Letters: b images, c channels, H and W the map, n regions, h and w the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numba
import numpy as np
import torch
from torch import Tensor

from saccade.ops.roi_align import to_rois

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
        ValueError: shapes do not fit, a box is not finite, or an image's index is outside 0..b-1.
    """
    rois = to_rois(boxes)
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    if len(rois) and not bool(rois.isfinite().all()):
        raise ValueError("a region is not finite (NaN or infinite corner)")
    if len(rois) and not bool(((rois[:, 0] >= 0) & (rois[:, 0] < len(features))).all()):
        raise ValueError(f"a region's image index is outside 0..{len(features) - 1}")
    if features.device.type != "cpu":
        return roi_pool_reference(features, rois, (height, width), spatial_scale, rule)
    return _best(features, rois, height, width, spatial_scale, rule == "overlapping")[0]


def roi_pool_reference(
    features: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    rule: Rule = "overlapping",
) -> Tensor:
    """`roi_pool` in plain torch, differentiated by autograd."""
    rois = to_rois(boxes)
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    edges_y, edges_x = _edges(rois, features.shape, height, width, spatial_scale, rule == "overlapping")
    nothing = features[:0].sum((0, 2, 3))  # zeros that autograd knows
    pooled = []
    for image, ys, xs in zip(rois[:, 0].long().tolist(), edges_y.tolist(), edges_x.tolist(), strict=True):
        for y0, y1 in ys:
            for x0, x1 in xs:
                bin = features[image, :, y0:y1, x0:x1].flatten(1)
                pooled.append(bin.max(1).values if bin.shape[1] else nothing)
    if not pooled:
        return features.new_zeros(0, features.shape[1], height, width) + nothing.sum()
    return torch.stack(pooled).view(len(rois), height, width, -1).permute(0, 3, 1, 2)


def _edges(
    rois: Tensor, shape: Sequence[int], height: int, width: int, scale: float, overlapping: bool
) -> tuple[Tensor, Tensor]:
    """First and past-the-last row of each bin [n, h, 2], and columns [n, w, 2], int64, inside the map."""
    scaled = rois[:, 1:].detach().double() * scale
    corner = scaled.sign() * (scaled.abs() + 0.5).floor()
    sides = (corner[:, 2:] - corner[:, :2] + 1).clamp(min=1)

    def axis(first: Tensor, side: Tensor, bins: int, limit: int) -> Tensor:
        number = torch.arange(bins, device=rois.device)
        # Products before quotients: i * side / bins is exact where it is whole, i * (side / bins) is not.
        low = (number * side[:, None] / bins).floor()
        high = (number + 1) * side[:, None] / bins
        high = high.ceil() if overlapping else high.floor()
        return (torch.stack((low, high), -1) + first[:, None, None]).clamp(0, limit).to(torch.int64)

    return axis(corner[:, 1], sides[:, 1], height, shape[2]), axis(corner[:, 0], sides[:, 0], width, shape[3])


@torch.library.custom_op("saccade::roi_pool", mutates_args=())
def _best(
    features: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float, overlapping: bool
) -> tuple[Tensor, Tensor]:
    """Maxima [n, c, h, w] and their flat places y W + x in the map (-1: empty bin), for CPU tensors."""
    wide = features.detach().to(torch.float64 if features.dtype == torch.float64 else torch.float32).contiguous()
    edges_y, edges_x = _edges(rois, features.shape, height, width, spatial_scale, overlapping)
    out = wide.new_zeros(len(rois), wide.shape[1], height, width)
    place = torch.full(out.shape, -1, dtype=torch.int64)
    images = rois[:, 0].detach().long().contiguous()
    _scan(wide.numpy(), images.numpy(), edges_y.numpy(), edges_x.numpy(), out.numpy(), place.numpy())
    return out.to(features.dtype), place


@_best.register_fake
def _(
    features: Tensor, rois: Tensor, height: int, width: int, spatial_scale: float, overlapping: bool
) -> tuple[Tensor, Tensor]:
    shape = (rois.shape[0], features.shape[1], height, width)
    return features.new_empty(shape), features.new_empty(shape, dtype=torch.int64)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(inputs[1], output[1])
    ctx.shape = inputs[0].shape
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, gradient: Tensor, _: Tensor | None):  # type: ignore[no-untyped-def]
    rois, place = ctx.saved_tensors
    b, c, map_height, map_width = ctx.shape
    plane = rois[:, 0].long()[:, None] * c + torch.arange(c, device=rois.device)  # [n, c]
    flat = plane[:, :, None, None] * (map_height * map_width) + place
    total = gradient.new_zeros(b * c * map_height * map_width)
    # An empty bin adds 0 somewhere: no shape depends on the data.
    total = total.index_add(0, flat.clamp(min=0).flatten(), (gradient * (place >= 0)).flatten())
    return total.view(b, c, map_height, map_width), None, None, None, None, None


_best.register_autograd(_differentiate, setup_context=_save)


@numba.njit(cache=True, nogil=True)
def _scan(
    features: np.ndarray,
    images: np.ndarray,
    edges_y: np.ndarray,
    edges_x: np.ndarray,
    out: np.ndarray,
    place: np.ndarray,
) -> None:
    for i in range(len(images)):
        for k in range(features.shape[1]):
            plane = features[images[i], k]
            for p in range(out.shape[2]):
                for q in range(out.shape[3]):
                    found = -1
                    best = plane[0, 0]
                    for y in range(edges_y[i, p, 0], edges_y[i, p, 1]):
                        for x in range(edges_x[i, q, 0], edges_x[i, q, 1]):
                            if found < 0 or plane[y, x] > best:
                                best = plane[y, x]
                                found = y * features.shape[3] + x
                    if found >= 0:
                        out[i, k, p, q] = best
                        place[i, k, p, q] = found
