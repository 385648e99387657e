"""Anchors (prior boxes): shapes around a cell's centre, the grid that repeats them, and shapes fitted to data.

All boxes are x1 y1 x2 y2 in pixels of the network's input, width = x2 - x1. A grid's order is row, column, shape:
the order in which a convolution's output [b, k * values, h, w] is read after moving its channels last.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saccade.data.types import Annotation
from saccade.ops.boxes import valid_boxes


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float], rounded: bool = False) -> Tensor:
    """Shapes [k, 4] centred on (0, 0), k = ratios x sizes with sizes varying fastest.

    A shape of size s and ratio r (height / width) has area s^2. `rounded` rounds the corners to whole pixels, half to
    even, as the public Faster R-CNN and RetinaNet weights were trained with: 32 gives +-(23, 11), (16, 16), (11, 23).

    Source: Ren et al., "Faster R-CNN", TPAMI 2017, section 3.1.1.
    """
    scale = torch.tensor(sizes, dtype=torch.float32)
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()
    widths = (scale / root[:, None]).flatten()
    heights = (scale * root[:, None]).flatten()
    boxes = _centered(widths, heights)
    return boxes.round() if rounded else boxes


def reference_anchors(
    base: int = 16, ratios: Sequence[float] = (0.5, 1.0, 2.0), scales: Sequence[float] = (8.0, 16.0, 32.0)
) -> Tensor:
    """The shapes [k, 4] of the released Faster R-CNN, k = ratios x scales, centred on (base / 2, base / 2).

    The sides are rounded at the base size before scaling (23x12, 16x16 and 11x22 at base 16), so that areas are only
    nearly equal. The release states inclusive pixel indices from 1, (-83, -39, 100, 56) for the first; as corners
    that is (-84, -40, 100, 56). Use with `grid_anchors(..., offset=0.0)`.

    Source: Ren et al., "Faster R-CNN", TPAMI 2017, section 3.1.1, and its release (`generate_anchors`).
    """
    widths = np.round(np.sqrt(base * base / np.asarray(ratios, dtype=np.float64)))
    heights = np.round(widths * np.asarray(ratios))
    factors = np.asarray(scales)
    sides = [torch.tensor(np.outer(side, factors).ravel(), dtype=torch.float32) for side in (widths, heights)]
    return _centered(*sides) + base / 2


def prior_sizes(smallest: float, following: float, ratios: Sequence[float]) -> list[tuple[float, float]]:
    """SSD's (width, height) of one map, a list [2 + 2 len(ratios)] of pairs in the unit of the arguments.

    In order: a square of `smallest`, a square of sqrt(smallest * following), where `following` is the smallest size of
    the next map, and for each ratio r > 1 a wide box (smallest sqrt(r), smallest / sqrt(r)) and the tall one.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2, "Choosing scales and aspect ratios for default boxes".
    """
    between = (smallest * following) ** 0.5
    sizes = [(smallest, smallest), (between, between)]
    for ratio in ratios:
        wide, narrow = smallest * ratio**0.5, smallest / ratio**0.5
        sizes += [(wide, narrow), (narrow, wide)]
    return sizes


def shapes_of(sizes: Sequence[Sequence[float]]) -> Tensor:
    """Boxes [k, 4] centred on (0, 0) of the given sizes [k, 2], (width, height) in pixels."""
    sides = torch.tensor(sizes, dtype=torch.float32).view(-1, 2)
    return _centered(sides[:, 0], sides[:, 1])


def grid_anchors(cell: Tensor, map_size: tuple[int, int], stride: tuple[float, float], offset: float = 0.0) -> Tensor:
    """`cell` [k, 4] repeated at every cell of a map: [h * w * k, 4], in the order row, column, shape.

    Args:
        cell: shapes around (0, 0), in pixels.
        map_size: (h, w) of the feature map.
        stride: (vertical, horizontal) distance of cells in pixels.
        offset: where in its cell a shape's origin lies, in strides: 0.0 (Faster R-CNN, RetinaNet) or 0.5 (SSD).

    Source: Ren et al., "Faster R-CNN", TPAMI 2017, section 3.1.1; Liu et al., "SSD", ECCV 2016, section 2.2.
    """
    rows = (torch.arange(map_size[0], dtype=cell.dtype, device=cell.device) + offset) * stride[0]
    columns = (torch.arange(map_size[1], dtype=cell.dtype, device=cell.device) + offset) * stride[1]
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (shifts + cell).reshape(-1, 4)


def cell_step(side: int, cells: int, stride: int) -> float:
    """Pixels from cell to cell of a map along one side of the image.

    That is the stride where the map has side / stride cells, rounded up or down. Where unpadded convolutions took its
    border off, the cells that are left lie evenly over the side.

    Args:
        side: of the image, in pixels.
        cells: of the map along that side.
        stride: of the map, as its trunk states it.
    """
    return float(stride) if cells in (side // stride, -(-side // stride)) else side / cells


def fit_anchors(sizes: Tensor, k: int, seed: int = 0) -> Tensor:
    """The k (width, height) that stand best for `sizes`: k-means under the distance 1 - IoU of centred boxes.

    Args:
        sizes: [n, 2] widths and heights in any one unit, n >= 1, all positive.
        k: number of shapes.
        seed: of the k-means++ start; equal arguments give equal shapes.

    Returns:
        [k, 2] float32 by rising area. Where there are fewer than k distinct sizes, some shapes come twice.

    Raises:
        ValueError: no sizes, a size that is not positive and finite, or k < 1.

    Source: Redmon & Farhadi, "YOLO9000", CVPR 2017, section 2, "Dimension clusters".
    """
    points = sizes.detach().cpu().numpy().astype(np.float64).reshape(-1, 2)
    if k < 1 or len(points) == 0 or not np.isfinite(points).all() or (points <= 0).any():
        raise ValueError(f"fit_anchors needs k >= 1 and positive finite sizes [n >= 1, 2], got k={k}, {points.shape}")
    centers = _spread_start(points, k, np.random.default_rng(seed))
    nearest = np.full(len(points), -1)
    for _ in range(300):  # k-means ends by itself, mostly within 30 rounds; a mean is not the optimum of this distance
        closest = _iou_of_sizes(points, centers).argmax(axis=1)
        if (closest == nearest).all():
            break
        nearest = closest
        for j in range(k):
            if (nearest == j).any():
                centers[j] = points[nearest == j].mean(axis=0)
    order = np.lexsort((centers[:, 0], centers.prod(axis=1)))
    return torch.tensor(centers[order], dtype=torch.float32)


def best_overlaps(sizes: Tensor, shapes: Tensor) -> Tensor:
    """Of each size [n, 2] the largest IoU [n] with one of the shapes [k, 2], all centred on one point.

    Source: Redmon & Farhadi, "YOLO9000", CVPR 2017, table 1 ("Avg IOU").
    """
    overlaps = _iou_of_sizes(sizes.double().numpy().reshape(-1, 2), shapes.double().numpy().reshape(-1, 2))
    return torch.from_numpy(overlaps.max(axis=1)).float()


def sides_of_boxes(examples: Sequence[Annotation], least: float = 1.0) -> Tensor:
    """Width and height [n, 2] float32 of all boxes of some images, for `fit_anchors`; those with a side below `least`
    pixels are left out."""
    boxes = [example.objects.boxes for example in examples if example.objects is not None]
    every = torch.cat(boxes) if boxes else torch.zeros(0, 4)
    every = every[valid_boxes(every, least)]
    return (every[:, 2:] - every[:, :2]).float()


def _spread_start(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k rows of `points`, each drawn with a chance that grows with the squared distance to those drawn (k-means++)."""
    chosen = [points[rng.integers(len(points))]]
    while len(chosen) < k:
        distance = (1 - _iou_of_sizes(points, np.asarray(chosen)).max(axis=1)).clip(min=0) ** 2
        total = distance.sum()
        chance = distance / total if total > 1e-12 else np.full(len(points), 1 / len(points))
        chosen.append(points[rng.choice(len(points), p=chance)])
    return np.asarray(chosen)


def _iou_of_sizes(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU [n, k] of boxes of sizes [n, 2] and [k, 2] that share their centre."""
    overlap = np.minimum(a[:, None], b[None]).prod(axis=2)
    union: np.ndarray = a.prod(axis=1)[:, None] + b.prod(axis=1)[None] - overlap
    return overlap / union


def _centered(widths: Tensor, heights: Tensor) -> Tensor:
    return torch.stack((-widths, -heights, widths, heights), dim=1) / 2
