"""Spatial pyramid pooling: maxima over grids of several sizes, so that a region of any shape gives as many numbers.

Source: He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition", ECCV 2014, section
2.2 and appendix A. Letters: b images, c channels, H and W the map, n regions, k a grid's side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.ops.roi_pool import roi_pool


def map_windows(boxes: Tensor, stride: float, height: int, width: int) -> Tensor:
    """The map pixels that a region has for itself: [..., 4] boxes in image pixels -> first and last column and row
    [..., 4] float64, whole numbers inside a map of H x W, both ends included, at least one pixel.

    First: floor(x1 / S) + 1, last: ceil(x2 / S) - 1, where every layer is padded by half its kernel, so that map pixel
    i looks at image pixel i S. A region too thin for that has the pixel nearest to its middle.

    Source: He et al. 2014, appendix A.
    """
    scaled = boxes.double() / stride
    first, last = scaled[..., :2].floor() + 1, scaled[..., 2:].ceil() - 1
    middle = ((scaled[..., :2] + scaled[..., 2:]) / 2).round()
    thin = first > last
    window = torch.cat((torch.where(thin, middle, first), torch.where(thin, middle, last)), -1)
    limit = torch.tensor([width - 1, height - 1, width - 1, height - 1], dtype=torch.float64)
    return torch.minimum(window.clamp(min=0), limit.to(window.device, non_blocking=True))


def pyramid_pool(features: Tensor, windows: Tensor, grids: Sequence[int] = (6, 3, 2, 1)) -> Tensor:
    """Maxima of windows over k x k bins for every grid: of an h x w window bin i has rows floor(i h / k) up to
    ceil((i + 1) h / k), so that no bin is empty and neighbours may share a row.

    Args:
        features: [b, c, H, W].
        windows: [n, 5] image index, first column, first row, last column, last row (`map_windows`).

    Source: He et al. 2014, section 2.2.

    Returns:
        [n, c * sum(k * k)], grid by grid, each with its bins of channel 0 first; 50 bins for the default.
    """
    # Once, not at every grid: maxima are found among float32 pixels whose channels are neighbours.
    pixels = features.float() if features.is_cpu and features.dtype.itemsize < 4 else features
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return torch.cat([roi_pool(pixels, windows, k).flatten(1) for k in grids], 1).to(features.dtype)


def pyramid_pool_maps(features: Tensor, grids: Sequence[int] = (6, 3, 2, 1)) -> Tensor:
    """`pyramid_pool` of whole maps [b, c, H, W] of any size -> [b, c * sum(k * k)], in the same order (He et al. 2014,
    section 2.2).

    In slices, first of rows and then of columns: it exports at any grid, unlike adaptive pooling, and its gradients are
    the same every time on every device. Of equal maxima each has an equal share of the gradient.
    """
    pooled = []
    for k in grids:
        rows = torch.stack([part.amax(2) for part in _bins(features, 2, k)], 2)
        pooled.append(torch.stack([part.amax(3) for part in _bins(rows, 3, k)], 3).flatten(1))
    return torch.cat(pooled, 1)


def _bins(x: Tensor, dim: int, k: int) -> list[Tensor]:
    size = x.shape[dim]
    return [x.narrow(dim, i * size // k, -(-(i + 1) * size // k) - i * size // k) for i in range(k)]


def pyramid_pool_reference(features: Tensor, windows: Tensor, grids: Sequence[int] = (6, 3, 2, 1)) -> Tensor:
    """`pyramid_pool` in plain torch, a window at a time: [b, c, H, W] and windows [n, 5] -> [n, bins c].

    Source: He et al. 2014, section 2.2.
    """
    rows = []
    for image, x1, y1, x2, y2 in windows.long().tolist():
        window = features[image, :, y1 : y2 + 1, x1 : x2 + 1]
        rows.append(torch.cat([F.adaptive_max_pool2d(window, k).flatten() for k in grids]))
    return torch.stack(rows)
