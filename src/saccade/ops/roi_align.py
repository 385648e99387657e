"""RoIAlign: a map of fixed size for every region, by bilinear sampling without rounding (He et al., ICCV 2017, sec. 3).

Each region is divided into output_size bins; in each bin a regular grid of points is read from the map by bilinear
interpolation and averaged. Pixel centres lie at whole numbers of the map; `aligned` shifts the regions by half a pixel
to fit. A point up to one pixel outside the map reads the border, farther out it reads 0.

`roi_align_reference` is plain differentiable torch; the module `roi_align_cpu` has the same sums in numba for CPUs.
Letters: b images, c channels, H and W the map, n regions, h and w the output, P = h w bins, T taps (pixels read) a bin.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.ops import roi_align_cpu
from saccade.ops.allocation import empty


def roi_align(
    features: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = False,
) -> Tensor:
    """Sample regions of one map. Differentiable in the features, not in the boxes.

    Args:
        features: [b, c, H, W]; float32 or float64, or a half type (computed in float32, returned as it came).
        boxes: one [n_i, 4] x1 y1 x2 y2 an image, or rois [n, 5] with the image's index first; in image pixels, finite.
        output_size: side or (h, w) of the result.
        spatial_scale: map pixels per image pixel, such as 1/16.
        sampling_ratio: points a bin along each side; 0 or below takes ceil(bin side).
        aligned: subtract half a map pixel from the scaled corners. Without it (the original code) a region is at
            least one map pixel wide and high.

    Returns:
        [n, c, h, w] in the order of the boxes.

    Raises:
        ValueError: shapes do not fit, a box is not finite, or an image's index is outside 0..b-1.

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3, "RoIAlign".
    """
    rois = to_rois(boxes)
    levels = torch.zeros(rois.shape[0], dtype=torch.int64, device=rois.device)
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    return roi_align_levels([features], rois, levels, [spatial_scale], height, width, sampling_ratio, aligned)


def to_rois(boxes: Tensor | Sequence[Tensor]) -> Tensor:
    """Boxes [n_i, 4] of each image, or [b, r, 4] of all -> rois [n, 5] with the image's index first; rois pass through.

    Raises:
        ValueError: neither form.
    """
    if isinstance(boxes, Tensor) and boxes.ndim == 3:
        number = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)[:, None, None]
        return torch.cat((number.expand(-1, boxes.shape[1], 1), boxes), -1).flatten(0, 1)
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(f"rois must be [n, 5]: image index, x1, y1, x2, y2; got {list(boxes.shape)}")
        return boxes
    for i, each in enumerate(boxes):
        if each.ndim != 2 or each.shape[1] != 4:
            raise ValueError(f"boxes of image {i} must be [n, 4], got {list(each.shape)}")
    return torch.cat([F.pad(each, (1, 0), value=i) for i, each in enumerate(boxes)])


def roi_align_levels(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    spatial_scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align` from the maps of a pyramid; one answer of fixed shape, whichever map a region is read from.

    Args:
        features: maps [b, c, H_l, W_l] of equal type and channels.
        rois: [n, 5] image index, x1, y1, x2, y2 in image pixels.
        levels: [n] int64, the map of each region.
        spatial_scales: map pixels per image pixel of each map.
        height: h.
        width: w.
        sampling_ratio: as in `roi_align`.
        aligned: as in `roi_align`.

    Returns:
        [n, c, h, w].

    Raises:
        ValueError: shapes do not fit; on CPUs also where a box is not finite, or an image's index is outside 0..b-1
            (a GPU would have to wait for the look; its own checks end the program).

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3, "RoIAlign"; of several maps: Lin et al., "Feature Pyramid
    Networks", CVPR 2017, section 4.2.
    """
    arguments = (list(features), rois, levels, list(spatial_scales), height, width, sampling_ratio, aligned)
    _check(features, rois, levels, spatial_scales)
    return roi_align_compiled(*arguments) if rois.device.type == "cpu" else roi_align_reference(*arguments)


def roi_align_reference(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    spatial_scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align_levels` in plain torch, [n, c, h, w], differentiated by autograd: one weighted sum over the
    pixels of all maps (He et al. 2017, section 3)."""
    wide = _wide(features[0].dtype)
    pixels = torch.cat([each.permute(0, 2, 3, 1).reshape(-1, each.shape[1]).to(wide) for each in features])
    maps, start = [], 0
    for each in features:
        maps.append((start, *each.shape[2:]))
        start += each.shape[0] * each.shape[2] * each.shape[3]
    chosen = torch.tensor(maps).to(rois.device, non_blocking=True)[levels]
    scales = torch.tensor(spatial_scales, dtype=_exact(rois).dtype).to(rois.device, non_blocking=True)[levels]
    index, weight = _taps(_regions(rois, scales[:, None], aligned), chosen, height, width, sampling_ratio)
    out = F.embedding_bag(index, pixels, mode="sum", per_sample_weights=weight.to(wide))
    return out.view(-1, height, width, pixels.shape[1]).permute(0, 3, 1, 2).to(features[0].dtype)


@torch.library.custom_op("saccade::roi_align_levels", mutates_args=())
def roi_align_compiled(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    spatial_scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """`roi_align_levels` (He et al. 2017, section 3) for CPU tensors; the result [n, c, h, w] is contiguous."""
    check_values(rois, len(features[0]))
    wide = _wide(features[0].dtype)
    out = empty((len(rois), features[0].shape[1], height, width), wide)
    for level, scale in enumerate(spatial_scales):
        rows = (levels == level).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        last = features[level].detach().permute(0, 2, 3, 1).to(wide)
        # Free of copies where the map is channels last in memory already.
        last = last if last.is_contiguous() else empty(last.shape, wide).copy_(last)
        roi_align_cpu.forward(last, _regions(rois[rows], scale, aligned), rows, out, sampling_ratio)
    return out.to(features[0].dtype)


@roi_align_compiled.register_fake
def _(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    spatial_scales: Sequence[float],
    height: int,
    width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    first = features[0]
    return first.new_empty((rois.shape[0], first.shape[1], height, width))


@torch.library.custom_op("saccade::roi_align_levels_backward", mutates_args=())
def roi_align_levels_backward(
    gradient: Tensor,
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    """Gradients [b, c, H_l, W_l] of the maps for a gradient [n, c, h, w]; of the features only the
    shapes are used (He et al. 2017, section 3)."""
    wide = gradient.detach().to(_wide(gradient.dtype)).contiguous()
    results = []
    for level, scale in enumerate(spatial_scales):
        b, c, map_height, map_width = features[level].shape
        total = empty((b, map_height, map_width, c), wide.dtype).zero_()
        rows = (levels == level).nonzero()[:, 0]
        if len(rows):
            roi_align_cpu.backward(wide, _regions(rois[rows], scale, aligned), rows, total, sampling_ratio)
        results.append(total.permute(0, 3, 1, 2).to(features[level].dtype))
    return results


@roi_align_levels_backward.register_fake
def _(
    gradient: Tensor,
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> list[Tensor]:
    return [torch.empty_like(each, memory_format=torch.channels_last) for each in features]


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    features, rois, levels, scales, _, _, sampling_ratio, aligned = inputs
    ctx.save_for_backward(rois, levels, *features)
    ctx.settings = (scales, sampling_ratio, aligned)


def _differentiate(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    rois, levels, *features = ctx.saved_tensors
    gradients = roi_align_levels_backward(gradient, features, rois, levels, *ctx.settings)
    return gradients, None, None, None, None, None, None, None


roi_align_compiled.register_autograd(_differentiate, setup_context=_save)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _exact(rois: Tensor) -> Tensor:
    """Rois in float64 (where the device has it), so that both paths round alike."""
    return rois.detach().to(torch.float32 if rois.device.type == "mps" else torch.float64)


def _check(features: Sequence[Tensor], rois: Tensor, levels: Tensor, spatial_scales: Sequence[float]) -> None:
    if len(features) != len(spatial_scales):
        raise ValueError(f"{len(features)} maps but {len(spatial_scales)} scales")
    if rois.ndim != 2 or rois.shape[1] != 5 or levels.shape != rois.shape[:1]:
        raise ValueError(f"rois must be [n, 5] and levels [n], got {list(rois.shape)} and {list(levels.shape)}")


def check_values(rois: Tensor, images: int) -> None:
    """Look at rois [n, 5] on the CPU. Raises ValueError: a corner is not finite, or an index outside 0..images-1."""
    if len(rois) and not bool(rois.isfinite().all()):
        raise ValueError("a region is not finite (NaN or infinite corner)")
    if len(rois) and not bool(((rois[:, 0] >= 0) & (rois[:, 0] < images)).all()):
        raise ValueError(f"a region's image index is outside 0..{images - 1}")


def _regions(rois: Tensor, scale: float | Tensor, aligned: bool) -> Tensor:
    """Rois [n, 5] -> [n, 5] image index, x, y, width, height in map pixels; `scale` is one number or [n, 1]."""
    exact = _exact(rois)
    start = exact[:, 1:3] * scale - (0.5 if aligned else 0.0)
    side = exact[:, 3:5] * scale - (0.5 if aligned else 0.0) - start
    return torch.cat((exact[:, :1], start, side if aligned else side.clamp(min=1)), 1)


def _taps(regions: Tensor, maps: Tensor, height: int, width: int, sampling_ratio: int) -> tuple[Tensor, Tensor]:
    """Rows [n P, T] of the pixels of all maps that each bin reads, and their weights, the mean over points included.

    Args:
        regions: [n, 5] as `_regions`.
        maps: [n, 3] int64 of the map of each region: its first row among the pixels, its height, its width.
    """
    image, x, y, w, h = regions.unbind(1)
    first, map_height, map_width = maps.unbind(1)
    y_index, y_weight = _axis_taps(y, h, height, map_height, sampling_ratio)  # [n, h, Ty]
    x_index, x_weight = _axis_taps(x, w, width, map_width, sampling_ratio)
    base = (first + image.to(torch.int64) * map_height * map_width).view(-1, 1, 1, 1, 1)
    row = y_index[:, :, None, :, None] * map_width.view(-1, 1, 1, 1, 1)
    index = base + row + x_index[:, None, :, None, :]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    taps = y_index.shape[2] * x_index.shape[2]
    return index.reshape(-1, taps), weight.reshape(-1, taps)


def _axis_taps(start: Tensor, side: Tensor, bins: int, limit: Tensor, sampling_ratio: int) -> tuple[Tensor, Tensor]:
    """Pixels read along one axis: start, side, pixels there are, [n] each -> index and weight [n, bins, 2 points]; 0
    for absent points."""
    step, limit = (side / bins)[:, None, None], limit[:, None, None]
    points = torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else step.ceil()
    most = sampling_ratio if sampling_ratio > 0 else max(int(points.max()) if len(points) else 0, 1)
    bin_number = torch.arange(bins, device=start.device)
    point = torch.arange(most, device=start.device)
    count = points.clamp(min=1)
    place = start[:, None, None] + bin_number[:, None] * step + (point + 0.5) * step / count
    present = (point < points) & (place >= -1) & (place <= limit)
    place = torch.minimum(place.clamp(min=0), limit - 1)
    low = place.floor()
    part = place - low
    index = torch.stack((low, torch.minimum(low + 1, limit - 1)), -1).to(torch.int64)
    weight = torch.stack((1 - part, part), -1) * (present / count)[..., None]
    return index.flatten(2), weight.flatten(2)
