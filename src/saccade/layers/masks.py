"""Masks of regions: a small network draws every object within its box; what it has to learn, and the way back.

Letters: n regions, s the side of what is pooled, M = 2 s the side of a mask, C classes, b images.

Source: He et al., "Mask R-CNN", ICCV 2017, section 3.
"""

from __future__ import annotations

import math
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
from saccade.ops.roi_align import roi_align

Layer = TypeVar("Layer", nn.Conv2d, nn.ConvTranspose2d)


class MaskHead(nn.Sequential):
    """Pooled regions [n, channels, s, s] -> [n, width, s, s] by 3x3 convolutions (figure 4, right; public keys `i.0`).

    Args:
        channels: of the pooled regions.
        width: channels of every convolution.
        depth: how many there are; 4 in the paper.
    """

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        for i in range(depth):
            convolution = nn.Conv2d(width if i else channels, width, 3, padding=1)
            self.append(nn.Sequential(_started(convolution), nn.ReLU(inplace=True)))


class MaskPredictor(nn.Module):
    """[n, channels, s, s] -> mask logits [n, maps, M, M] float32, one map a class, so that classes do not compete for
    pixels (section 3, "Mask Representation"). Public keys `conv5_mask`, `mask_fcn_logits`.

    Args:
        channels: of the input.
        width: channels between the two layers.
        maps: classes, the background of the public files included.
    """

    def __init__(self, channels: int, width: int, maps: int) -> None:
        super().__init__()
        self.conv5_mask = _started(nn.ConvTranspose2d(channels, width, 2, 2))
        self.mask_fcn_logits = _started(nn.Conv2d(width, maps, 1))
        # Every mask begins at one half, however few classes there are, as in Detectron.
        nn.init.normal_(self.mask_fcn_logits.weight, std=0.001)

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.mask_fcn_logits(F.relu(self.conv5_mask(hidden)))
        return logits.float()


@dataclass(slots=True)
class MaskTargets:
    """The regions that learn a mask, n of them in all images of a batch, on the device of the network."""

    rois: Tensor  # [n, 5] float32: image index, x1, y1, x2, y2
    classes: Tensor  # [n] int64: label + 1
    masks: Tensor  # [n, M, M] float32 in [0, 1]: the share of each cell that the object covers


def mask_targets(wanted: RegionTargets, truth: Sequence[Annotation], side: int, aligned: bool = False) -> MaskTargets:
    """What the positive ones of drawn regions must answer: the mask of their object, cut out by the region and
    resampled by RoIAlign (section 3.1, "the mask target is the intersection between an RoI and its associated ground-
    truth mask"); not made 0 or 1 again, as in torchvision.

    Masks stay on the CPU, where they are read: a GPU is waited for once, for the drawn regions, and then knows how many
    they are, so that none is computed in vain.

    Args:
        wanted: of `draw_regions`, m places an image; matches count the objects that are no crowd regions.
        truth: of each image, on the CPU.
        side: M.
        aligned: of `roi_align`; without it masks come out half a pixel to the upper left, as in torchvision.

    Raises:
        DataError: an image has objects without masks, or masks of another size than the image.
    """
    table = torch.cat((wanted.regions, wanted.matches[..., None], wanted.classes[..., None]), 2).cpu()
    found = [
        _cut_out(i, rows[rows[:, 4] >= 0], each, side, aligned)
        for i, (rows, each) in enumerate(zip(table, truth, strict=True))
    ]
    rows, masks = torch.cat([rows for rows, _ in found]), torch.cat([masks for _, masks in found])
    device = wanted.regions.device
    rows, masks = rows.to(device, non_blocking=True), masks.to(device, non_blocking=True)
    return MaskTargets(rows[:, :5], rows[:, 5].long(), masks)


def _cut_out(image: int, rows: Tensor, truth: Annotation, side: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Of the positive regions of one image [k, 6] (box, object, class): [k, 6] (image, box, class), masks [k, M, M]."""
    named = torch.cat((rows.new_full((len(rows), 1), image), rows[:, :4], rows[:, 5:]), 1)
    if not len(rows):
        return named, rows.new_zeros(0, side, side)
    objects = truth.objects
    if objects is None or objects.masks is None:
        raise DataError("objects without masks: the loss of a mask head needs Objects.masks")
    if tuple(objects.masks.shape[1:]) != truth.size:
        raise DataError(f"masks of {list(objects.masks.shape[1:])} (height, width) for an image of {list(truth.size)}")
    numbers, own = rows[:, 4].long().unique(return_inverse=True)
    masks = objects.masks if objects.crowd is None else objects.masks[~objects.crowd]
    regions = torch.cat((own[:, None].to(rows.dtype), rows[:, :4]), 1)
    return named, roi_align(masks[numbers][:, None].float(), regions, side, aligned=aligned)[:, 0]


def mask_loss(logits: Tensor, targets: MaskTargets) -> Tensor:
    """Mean over regions and pixels of the binary cross-entropy on the map of the true class; the others learn nothing
    (section 3, L_mask). A scalar, 0 without regions.

    Args:
        logits: [n, C + 1, M, M], the first map of the background, which never learns.
    """
    own = logits[torch.arange(len(logits), device=logits.device), targets.classes]
    loss = F.binary_cross_entropy_with_logits(own, targets.masks, reduction="sum")
    whole = mean_over_processes(torch.ones_like(loss) * len(logits)).clamp(min=1)
    return loss / (whole * own.shape[1] * own.shape[2])


def paste_masks(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5, aligned: bool = False
) -> Tensor:
    """Masks of regions laid over their image: [n, H, W] bool, True where the mask, resized linearly, is above the
    threshold. Beyond the mask stands a border of zeros, so that its edge fades out over one cell.

    Args:
        masks: [n, M, M] float32 in [0, 1], on the CPU.
        boxes: [n, 4] in pixels of the image, finite; what reaches outside of it is cut off.
        size: (H, W) of the image.
        aligned: the mask fills its box exactly, as in Detectron2. Otherwise, as in torchvision, the box with the border
            is cut down to whole pixels, and the last ones of both axes belong to it: up to a pixel more on that side.

    Source: He et al. 2017, section 3.1, "Inference"; the border of zeros is Detectron's.
    """
    out = torch.zeros(len(masks), *size, dtype=torch.bool)
    side = masks.shape[2]
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * ((side + 2) / side)
    low, high = centre - half, centre + half
    if not aligned:
        low, high = low.trunc(), high.trunc() + 1
    for drawn, mask, (x1, y1), (x2, y2) in zip(out, masks, low.tolist(), high.tolist(), strict=True):
        (top, rows), (left, columns) = _reads(y1, y2, size[0], side), _reads(x1, x2, size[1], side)
        drawn[top : top + len(rows), left : left + len(columns)] = rows @ mask @ columns.T > threshold
    return out


def _reads(low: float, high: float, limit: int, side: int) -> tuple[int, Tensor]:
    """The first of the pixels within low..high and 0..limit, and what each reads of the M cells: [pixels, M]."""
    first, last = max(math.floor(low), 0), min(math.ceil(high), limit)
    pixel = torch.arange(first, max(last, first)) + 0.5
    place = (pixel - low) * ((side + 2) / max(high - low, 1e-3)) - 1.5
    return min(first, limit), (1 - (place[:, None] - torch.arange(side)).abs()).clamp(min=0)


def _started(layer: Layer) -> Layer:
    """The layer with the weights of the release: by fan-out, no bias."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
