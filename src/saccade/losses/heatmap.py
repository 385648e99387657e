"""Heat maps of joints: what a network learns to draw, and how places are read from them.

Letters: b images, K joints, h x w the cells of a heat map. Cell (0, 0) covers the square from (0, 0) to (1, 1) of the
map, so that its middle is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError

QUARTER = 0.25  # of a cell, from the highest one towards its higher neighbour


def stack_joints(truth: Sequence[Annotation] | None, joints: int) -> Tensor:
    """The joints of a batch as [b, n, K, 3] of x, y in pixels and visibility, n the most objects of an image, at least
    one; objects that an image has not, and crowds, have joints of visibility 0. On the CPU, where the truth is.

    Raises:
        DataError: no truth, or objects with another number of joints.
    """
    if truth is None:
        raise DataError("a loss needs a batch with truth")
    objects = [Objects.empty() if each.objects is None else each.objects for each in truth]
    table = torch.zeros(len(truth), max(1, *map(len, objects)), joints, 3)
    for row, each in zip(table, objects, strict=True):
        if each.keypoints is None:
            if len(each):
                raise DataError(f"an image has {len(each)} objects without joints; {joints} are learnt of each")
            continue
        if each.keypoints.shape[1] != joints:
            raise DataError(f"objects of {each.keypoints.shape[1]} joints for a network of {joints}")
        points = each.keypoints if each.crowd is None else each.keypoints * ~each.crowd[:, None, None]
        row[: len(each)] = points
    return table


def gaussians(joints: Tensor, height: int, width: int, stride: float, sigma: float = 1.0) -> Tensor:
    """Target maps [b, K, h, w] of joints [b, n, K, 3] (Newell et al. 2016, section 3.1).

    A Gaussian of height 1 about the place of the joint, a bell and no probability; where several objects are drawn the
    higher value counts. A joint that is absent, or lies outside of the map, has a map of zeros.

    Args:
        stride: pixels a cell.
        sigma: standard deviation in cells.
    """
    x, y, seen = joints[..., 0] / stride, joints[..., 1] / stride, joints[..., 2]
    there = (seen > 0) & (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
    across, down = (
        torch.exp(-((torch.arange(n, device=joints.device) + 0.5 - at[..., None]) ** 2) / (2 * sigma**2))
        for n, at in ((width, x), (height, y))
    )
    return (down[..., :, None] * across[..., None, :] * there[..., None, None]).amax(dim=1)


def heatmap_loss(maps: Sequence[Tensor], target: Tensor) -> Tensor:
    """Sum over the maps [b, K, h, w] of all stacks of the mean squared error: each learns the same target (Newell
    et al. 2016, section 3.1)."""
    return torch.stack([(each.float() - target).square().mean() for each in maps]).sum()


def highest_cells(maps: Tensor) -> Tensor:
    """Maps [b, K, h, w] -> [b, K, 3]: x and y in cells, and the height of the map there, clamped to [0, 1].

    The place is the middle of the highest cell (of equal ones the first), moved a quarter of a cell towards the higher
    of its neighbours, along each axis by itself (Newell et al. 2016, section 3.1); it is not moved where both are
    equal, or one is missing.
    """
    maps = maps.float()
    width = maps.shape[-1]
    heights, best = maps.flatten(2).max(dim=2)
    x, y = best % width, best // width
    places = [at + 0.5 + QUARTER * _towards(maps, x, y, axis).to(maps.dtype) for axis, at in ((-1, x), (-2, y))]
    return torch.stack([*places, heights.clamp(0, 1)], dim=-1)


def _towards(maps: Tensor, x: Tensor, y: Tensor, axis: int) -> Tensor:
    """[b, K] in {-1, 0, 1}: on which side along an axis the neighbour of a cell is higher."""
    height, width = maps.shape[-2:]
    at, most = (x, width - 1) if axis == -1 else (y, height - 1)

    def neighbour(step: int) -> Tensor:
        moved = (at + step).clamp(0, most)
        place = y * width + moved if axis == -1 else moved * width + x
        return maps.flatten(2).gather(2, place[..., None])[..., 0]

    inside = (at > 0) & (at < most)
    return torch.sign(neighbour(1) - neighbour(-1)) * inside
