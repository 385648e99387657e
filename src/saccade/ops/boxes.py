"""Geometry of boxes: areas, overlaps, clipping.

Boxes are x1 y1 x2 y2 in pixels with width = x2 - x1. Letters: n and m count boxes, ... are any leading dimensions.
The elementwise forms broadcast and are differentiable, so that `1 - generalized_iou(a, b)` and its siblings are losses;
the pairwise forms give a matrix. A box without area overlaps nothing: its IoU is 0, never NaN.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from saccade.ops.allocation import empty
from saccade.ops.compiled import compiled_as_numpy
from saccade.ops.threads import in_threads


def box_area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...] in pixels^2; 0 for a box whose corners are swapped."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def intersection_area(a: Tensor, b: Tensor) -> Tensor:
    """Area shared by a [..., 4] and b [..., 4], which broadcast, in pixels^2."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    side = (high - low).clamp(min=0)
    return side[..., 0] * side[..., 1]


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of a [..., 4] and b [..., 4], which broadcast; in [0, 1], 0 where the union is empty.

    Source: Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010, section 4.2.
    """
    shared = intersection_area(a, b)
    union = box_area(a) + box_area(b) - shared
    return _ratio(shared, union)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every pair: a [n, 4], b [m, 4] -> [n, m] in [0, 1].

    Source: as of `iou`, Everingham et al., IJCV 2010, section 4.2.
    """
    differentiated = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    real = a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64)
    # Subclasses are the tensors without numbers that exporters and compilers pass through.
    plain = type(a) is Tensor and type(b) is Tensor and a.device.type == b.device.type == "cpu"
    if differentiated or not real or not plain or torch.compiler.is_compiling():
        return iou(a[:, None], b[None])
    return _iou_of_pairs(a.detach(), b.detach())


def _iou_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    """`iou(a[:, None], b[None])` on CPUs: in one pass, where plain torch writes and reads ten matrices."""
    out = empty((len(a), len(b)), a.dtype)
    arrays = a.contiguous().numpy(), b.t().contiguous().numpy(), box_area(b).numpy()

    def work(start: int, stop: int) -> None:
        _pairs(*arrays, out.numpy(), start, stop)

    in_threads(work, len(a), 8 * out.numel())
    return out


@compiled_as_numpy
def _pairs(a: np.ndarray, b: np.ndarray, areas: np.ndarray, out: np.ndarray, start: int, stop: int) -> None:
    """Rows start..stop of out [n, m] from a [n, 4], b [4, m] and the areas of b [m]; the inner loop has no branches."""
    zero = a.dtype.type(0)
    for i in range(start, stop):
        left, top, right, bottom = a[i, 0], a[i, 1], a[i, 2], a[i, 3]
        area = max(right - left, zero) * max(bottom - top, zero)
        row = out[i]
        for j in range(len(areas)):
            width = max(min(right, b[2, j]) - max(left, b[0, j]), zero)
            height = max(min(bottom, b[3, j]) - max(top, b[1, j]), zero)
            shared = width * height
            union = area + areas[j] - shared
            ratio = shared / union
            row[j] = ratio if union > 0 else zero


def box_iof(a: Tensor, b: Tensor) -> Tensor:
    """Share of each box of a that lies in each of b: a [n, 4], b [m, 4] -> [n, m] in [0, 1].

    The measure against crowd regions: a region of many objects is far larger than any of them, so that the union says
    nothing. 0 for a box without area.

    Source: Lin et al., "Microsoft COCO", ECCV 2014, its released evaluation code.
    """
    return _ratio(intersection_area(a[:, None], b[None]), box_area(a)[:, None])


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU - (hull - union) / hull, in (-1, 1]: a [..., 4], b [..., 4] -> [...], broadcast like `iou`.

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019, algorithm 1.
    """
    shared = intersection_area(a, b)
    union = box_area(a) + box_area(b) - shared
    hull = _hull(a, b)
    enclosing = hull[..., 0] * hull[..., 1]
    return _ratio(shared, union) - _ratio(enclosing - union, enclosing)


def distance_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU - squared distance of the centres / squared diagonal of the hull: [..., 4], [..., 4] -> [...].

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, equation 7.
    """
    centres = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    return iou(a, b) - _ratio(centres.square().sum(-1), _hull(a, b).square().sum(-1))


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """Distance IoU - alpha v, v the difference of the aspect angles: [..., 4], [..., 4] -> [...].

    alpha = v / (1 - IoU + v) is a weight: no gradient flows through it.

    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, equations 8 to 11.
    """
    side_a = (a[..., 2:] - a[..., :2]).clamp(min=1e-7)
    side_b = (b[..., 2:] - b[..., :2]).clamp(min=1e-7)
    angle = torch.atan(side_b[..., 0] / side_b[..., 1]) - torch.atan(side_a[..., 0] / side_a[..., 1])
    v = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        alpha = _ratio(v, 1 - iou(a, b) + v)
    return distance_iou(a, b) - alpha * v


def clip_boxes(boxes: Tensor, size: tuple[int, int] | Tensor) -> Tensor:
    """Corners moved into the image: x to [0, width], y to [0, height].

    Args:
        boxes: [..., 4].
        size: (height, width) in pixels, or a tensor [..., 2] of them that broadcasts with the boxes.
    """
    if isinstance(size, Tensor):
        corner = size.flip(-1).to(boxes.dtype)
        return torch.minimum(boxes.clamp(min=0), torch.cat((corner, corner), -1))
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), -1)


def valid_boxes(boxes: Tensor, min_side: float = 0.0) -> Tensor:
    """[..., 4] -> [...] bool: finite, both sides above 0 and at least `min_side` pixels."""
    side = boxes[..., 2:] - boxes[..., :2]
    return boxes.isfinite().all(-1) & (side > 0).all(-1) & (side >= min_side).all(-1)


def _hull(a: Tensor, b: Tensor) -> Tensor:
    """Width and height [..., 2] of the smallest box around both."""
    return torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where the whole is not above 0; the gradient stays finite there too."""
    positive = whole > 0
    return torch.where(positive, part / torch.where(positive, whole, 1), 0)
