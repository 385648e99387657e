"""Joints of regions: a small network points at each joint of an object within its box; what it learns; the way back.

Letters: n regions, K joints, s the side of what is pooled, M = 4 s the side of a heat map.

Source: He et al., "Mask R-CNN", ICCV 2017, section 5, "Mask R-CNN for Human Pose Estimation".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.layers.targets import RegionTargets
from saccade.losses.across import mean_over_processes

NOWHERE = -1  # the cell of a joint that is not labelled or lies outside of the region
NEAR = 3  # cells around the likeliest one, on each side, whose probability is the joint's confidence

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d)


class KeypointHead(nn.Sequential):
    """Pooled regions [n, channels, s, s] -> [n, width, s, s] by 3x3 convolutions (section 5).

    Public keys `0`, `2`, ...

    Args:
        channels: of the pooled regions.
        width: channels of every convolution; 512 in the paper.
        depth: how many there are; 8 in the paper.
    """

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        for i in range(depth):
            self.append(_started(nn.Conv2d(width if i else channels, width, 3, padding=1)))
            self.append(nn.ReLU(inplace=True))


class KeypointPredictor(nn.Module):
    """[n, channels, s, s] -> logits of each joint's place [n, K, M, M] float32: a transposed convolution doubles the
    sides, linear resampling does so again (section 5). Public key `kps_score_lowres`."""

    def __init__(self, channels: int, joints: int) -> None:
        super().__init__()
        self.kps_score_lowres = _started(nn.ConvTranspose2d(channels, joints, 4, stride=2, padding=1))

    def forward(self, hidden: Tensor) -> Tensor:
        maps: Tensor = self.kps_score_lowres(hidden)
        return F.interpolate(maps.float(), scale_factor=2.0, mode="bilinear", align_corners=False)


@dataclass(slots=True)
class KeypointTargets:
    """The regions that learn joints, n of them in all images of a batch, on the device of the network (section 5)."""

    rois: Tensor  # [n, 5] float32: image index, x1, y1, x2, y2
    cells: Tensor  # [n, K] int64: y * M + x of each joint's cell, or NOWHERE


def keypoint_targets(wanted: RegionTargets, truth: Sequence[Annotation], joints: int, side: int) -> KeypointTargets:
    """What the positive ones of drawn regions must answer: of each joint the one cell of M x M that it lies in; a joint
    hidden by something counts as one that is seen (section 5). Positive regions without a
    labelled joint are left out.

    As masks, joints stay on the CPU, where they are read: a GPU is waited for once, for the drawn regions.

    Args:
        wanted: of `draw_regions`, m places an image; matches count the objects that are no crowd regions.
        truth: of each image, on the CPU.
        joints: K.
        side: M.

    Raises:
        DataError: an image has objects without keypoints, or another number of them.
    """
    table = torch.cat((wanted.regions, wanted.matches[..., None]), 2).cpu()
    found = []
    for i, (rows, each) in enumerate(zip(table, truth, strict=True)):
        rows = rows[rows[:, 4] >= 0]
        if not len(rows):
            continue
        cells = _cells(rows[:, :4], _points(each, rows[:, 4].long(), joints), side)
        some = (cells != NOWHERE).any(1)
        image = rows.new_full((int(some.sum()), 1), i)
        found.append(torch.cat((image, rows[some, :4], cells[some].to(rows.dtype)), 1))
    whole = torch.cat(found) if found else table.new_zeros(0, 5 + joints)
    whole = whole.to(wanted.regions.device, non_blocking=True)
    return KeypointTargets(whole[:, :5], whole[:, 5:].long())


def _points(truth: Annotation, rows: Tensor, joints: int) -> Tensor:
    """Keypoints [k, K, 3] of the objects of these numbers."""
    objects = truth.objects
    if objects is None or objects.keypoints is None or objects.keypoints.shape[1:] != (joints, 3):
        found = None if objects is None or objects.keypoints is None else list(objects.keypoints.shape)
        raise DataError(f"the loss of a keypoint head needs Objects.keypoints [n, {joints}, 3], found {found}")
    return (objects.keypoints if objects.crowd is None else objects.keypoints[~objects.crowd])[rows]


def _cells(boxes: Tensor, points: Tensor, side: int) -> Tensor:
    """The cell of each joint [k, K]; a joint on the right or lower border of its box belongs to the last one."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    place = ((points[..., :2] - low) * (side / (high - low))).floor()
    place = torch.where(points[..., :2] == high, side - 1, place)
    there = (points[..., 2] > 0) & ((place >= 0) & (place < side)).all(2)
    return (place[..., 1] * side + place[..., 0]).long().where(there, NOWHERE)


def keypoint_loss(logits: Tensor, targets: KeypointTargets) -> Tensor:
    """Softmax loss over the M * M cells of each labelled joint, mean over these joints (section 5). A scalar, 0 without
    any.

    Args:
        logits: [n, K, M, M].
    """
    cells = targets.cells.flatten()
    loss = F.cross_entropy(logits.flatten(0, 1).flatten(1), cells, ignore_index=NOWHERE, reduction="sum")
    return loss / mean_over_processes((cells != NOWHERE).sum().to(loss.dtype)).clamp(min=1)


def peaks(logits: Tensor, boxes: Tensor) -> Tensor:
    """The likeliest place of each joint in fixed shapes, to a cell (section 5): [n, K, 3] of x, y and
    confidence.

    The confidence is the probability of the cells around it, at most `NEAR` away on each side.

    Args:
        logits: [n, K, M, M]; boxes: [n, 4], empty ones allowed.
    """
    side = logits.shape[3]
    cell = logits.flatten(2).argmax(2)
    place = torch.stack((cell % side, torch.div(cell, side, rounding_mode="floor")), 2).to(boxes.dtype) + 0.5
    points = boxes[:, None, :2] + place * ((boxes[:, None, 2:] - boxes[:, None, :2]) / side)
    return torch.cat((points, confidence(logits, cell)[..., None]), 2)


def confidence(logits: Tensor, cell: Tensor) -> Tensor:
    """The probability of the cells around those of `cell` [n, K], from the softmax of section 5: [n, K] in [0, 1]."""
    window = 2 * NEAR + 1
    likely = logits.flatten(2).softmax(2).view(logits.shape)
    around = F.avg_pool2d(likely, window, stride=1, padding=NEAR) * window**2
    return around.flatten(2).gather(2, cell[..., None])[..., 0].clamp(max=1)


def read_keypoints(logits: Tensor, boxes: Tensor) -> Tensor:
    """The likeliest place of each joint, to a pixel of the image: [n, K, 3] of x, y and confidence.

    Each heat map is enlarged to the whole pixels of its box by cubic resampling, and its highest value is taken, at the
    centre of a pixel; as in the release of Detectron (2018) and in torchvision.

    Args:
        logits: [n, K, M, M]; boxes: [n, 4] in pixels of the image; both on the CPU.
    """
    side = logits.shape[3]
    out = logits.new_zeros(*logits.shape[:2], 3)
    for points, maps, (x1, y1, x2, y2) in zip(out, logits, boxes, strict=True):
        extent = torch.stack((x2 - x1, y2 - y1)).clamp(min=1)
        width, height = (int(v) for v in extent.ceil().tolist())
        large = F.interpolate(maps[:, None], size=(height, width), mode="bicubic", align_corners=False)[:, 0]
        best = large.flatten(1).argmax(1)
        place = torch.stack((best % width, torch.div(best, width, rounding_mode="floor")), 1) + 0.5
        share = place / place.new_tensor([width, height])
        points[:, :2] = torch.stack((x1, y1)) + share * extent
        cell = (share * side).long().clamp(max=side - 1)
        points[:, 2] = confidence(maps[None], (cell[:, 1] * side + cell[:, 0])[None])[0]
    return out


def _started(layer: Layer) -> Layer:
    """The layer with the weights of the release: by fan-out, no bias."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
