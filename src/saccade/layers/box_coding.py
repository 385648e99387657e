"""Boxes as offsets from anchors, the regression targets of the R-CNN family, SSD and RetinaNet."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_RATIO = math.log(1000 / 16)  # a box grows to at most 62.5 times its anchor's side

Weights = tuple[float, float, float, float]


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The offsets that turn `anchors` into `boxes`.

    t = (w_x (x - x_a) / W_a, w_y (y - y_a) / H_a, w_w ln(W / W_a), w_h ln(H / H_a)) with centres x, y and sides W, H.

    Args:
        boxes: [..., 4] x1 y1 x2 y2 with positive sides.
        anchors: [..., 4] x1 y1 x2 y2 with positive sides, one for each box.
        weights: factor of each component. SSD's variances (0.1, 0.1, 0.2, 0.2) are weights (10, 10, 5, 5).

    Returns:
        [..., 4]; a box without width or height gives -inf there, so leave such boxes out.

    Source: Girshick et al., "Rich feature hierarchies" (R-CNN), CVPR 2014, appendix C, equations 6-9.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    anchor_sides = anchors[..., 2:] - anchors[..., :2]
    centers = boxes[..., :2] + sides / 2
    anchor_centers = anchors[..., :2] + anchor_sides / 2
    factors = torch.tensor(weights, dtype=boxes.dtype).to(boxes.device, non_blocking=True)
    return torch.cat(((centers - anchor_centers) / anchor_sides, (sides / anchor_sides).log()), dim=-1) * factors


def decode_boxes(
    deltas: Tensor, anchors: Tensor, weights: Weights = (1.0, 1.0, 1.0, 1.0), clamp: float = MAX_LOG_RATIO
) -> Tensor:
    """The boxes [..., 4] (x1 y1 x2 y2) that `deltas` [..., 4] make of `anchors` [..., 4]; inverse of `encode_boxes`.

    ln(W / W_a) and ln(H / H_a) are limited from above to `clamp`, so that no untrained output overflows exp.
    Leading dimensions broadcast. Computed in float32 at least: half floats cannot tell pixels apart beyond 2048.

    Source: Girshick et al., "Rich feature hierarchies" (R-CNN), CVPR 2014, appendix C, equations 1-4; the limit is that
    of Detectron's release.
    """
    dtype = torch.promote_types(deltas.dtype, torch.float32)
    anchors = anchors.to(dtype)
    offsets = deltas.to(dtype) / torch.tensor(weights, dtype=dtype).to(anchors.device, non_blocking=True)
    anchor_sides = anchors[..., 2:] - anchors[..., :2]
    centers = anchors[..., :2] + anchor_sides / 2 + offsets[..., :2] * anchor_sides
    half_sides = anchor_sides * offsets[..., 2:].clamp(max=clamp).exp() / 2
    return torch.cat((centers - half_sides, centers + half_sides), dim=-1)
