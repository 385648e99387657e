"""Cells that draw boxes from priors: what YOLO's heads state, and which of their boxes answers for which object.

Letters: b images, T the most objects of an image, C classes; A boxes of an image over all maps, in the order map, row,
column, prior; k priors of a map. All boxes are x1 y1 x2 y2 in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.data.types import Annotation
from saccade.layers.detections import detections
from saccade.layers.targets import Targets
from saccade.ops.boxes import iou
from saccade.ops.suppression import enough


@dataclass(slots=True)
class CellOutputs:
    """What the cells of all maps state, with the cell and the prior that each box belongs to."""

    values: Tensor  # [b, A, 5 + C] float32: t_x, t_y, t_w, t_h, t_o, and the numbers of the classes
    corners: Tensor  # [A, 2] float32: column and row of the cell
    steps: Tensor  # [A, 2] float32: width and height of a cell in pixels
    priors: Tensor  # [A, 2] float32: width and height in pixels
    starts: list[int]  # of each map: the number of its first box
    sides: list[tuple[int, int]]  # of each map: rows and columns
    direct: bool  # centres within their cell, b_x = (sigmoid(t_x) + c_x) step; else they move as an anchor's do

    def boxes(self) -> Tensor:
        """[b, A, 4] in pixels (Redmon & Farhadi, "YOLO9000", CVPR 2017, section 2, "Direct location prediction")."""
        moves = self.values[..., :2]
        if self.direct:
            centres = (moves.sigmoid() + self.corners) * self.steps
        else:  # the form of the region proposal network
            centres = (self.corners + 0.5) * self.steps + moves * self.priors
        halves = self.values[..., 2:4].clamp(max=MOST).exp() * self.priors / 2
        return torch.cat((centres - halves, centres + halves), dim=-1)

    def confident(self, threshold: float) -> list[CellOutputs]:
        """What an answer can come from: on a CPU of each image alone the boxes whose confidence is `enough`, which no
        score exceeds, so that the classes of the others are not computed; elsewhere all of it, as a GPU would have to
        be waited for. Parts have no maps.

        Args:
            threshold: the least score of the detector's answers.

        Source: Redmon et al. 2016, section 2: a score is confidence times the class's probability.
        """
        if self.values.device.type != "cpu":
            return [self]
        parts = []
        for values, sure in zip(self.values, self.values[..., 4].sigmoid(), strict=True):
            rows = enough(sure, threshold).nonzero()[:, 0]
            given = self.corners[rows], self.steps[rows], self.priors[rows]
            parts.append(CellOutputs(values[rows][None], *given, [], [], self.direct))
        return parts

    def anchors(self) -> Tensor:
        """[A, 4] in pixels: the priors, each in the middle of its cell."""
        centres = (self.corners + 0.5) * self.steps
        return torch.cat((centres - self.priors / 2, centres + self.priors / 2), dim=-1)

    def wanted(self, boxes: Tensor, places: Tensor) -> Tensor:
        """What the boxes numbered `places` [b, T] state where they are equal to `boxes` [b, T, 4]: [b, T, 4].

        Direct centres are given behind the sigmoid, in [0, 1]; all else as the network states it.
        """
        priors, steps, corners = self.priors[places], self.steps[places], self.corners[places]
        centres, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
        moves = centres / steps - corners if self.direct else (centres - (corners + 0.5) * steps) / priors
        return torch.cat((moves, (sides / priors).log()), dim=-1)

    def small_box_weight(self, boxes: Tensor) -> Tensor:
        """2 - w h of boxes [b, T, 4], w and h in shares of the image: [b, T]. The numbers of a small box count more
        (Darknet's release of Redmon & Farhadi 2017)."""
        image = self.steps[0] * torch.tensor(self.sides[0][::-1]).to(boxes.device, non_blocking=True)
        return 2 - ((boxes[..., 2:] - boxes[..., :2]) / image).prod(-1)


MOST = 4.135  # of t_w and t_h: ln(1000 / 16), as in the released Faster R-CNN; exp would overflow before training


def read_cells(maps: Sequence[Tensor], priors: Sequence[Tensor], image: tuple[int, int], direct: bool) -> CellOutputs:
    """What the maps of a head state.

    Args:
        maps: [b, k (5 + C), h, w] each; the values of a prior follow each other, as in Darknet's `[region]` and
            `[yolo]`.
        priors: [k, 2] of each map, width and height in pixels.
        image: (height, width) of the network's input.
        direct: see `CellOutputs`.

    Source: Redmon & Farhadi, "YOLO9000", CVPR 2017, section 2; "YOLOv3", 2018, section 2.1.
    """
    values, corners, steps, shapes, starts, sides, start = [], [], [], [], [], [], 0
    for x, own in zip(maps, priors, strict=True):
        rows, columns, k = x.shape[-2], x.shape[-1], len(own)
        values.append(x.float().unflatten(1, (k, -1)).permute(0, 3, 4, 1, 2).flatten(1, 3))
        row, column = torch.meshgrid(
            torch.arange(rows, device=x.device), torch.arange(columns, device=x.device), indexing="ij"
        )
        corners.append(torch.stack((column, row), dim=-1).float().repeat_interleave(k, dim=1).reshape(-1, 2))
        step = torch.tensor([image[1] / columns, image[0] / rows]).to(x.device, non_blocking=True)
        steps.append(step.expand(rows * columns * k, 2))
        shapes.append(own.to(x.device).repeat(rows * columns, 1))
        starts.append(start)
        sides.append((rows, columns))
        start += rows * columns * k
    return CellOutputs(
        torch.cat(values, dim=1), torch.cat(corners), torch.cat(steps), torch.cat(shapes), starts, sides, direct
    )


def confident_detections(
    cells: CellOutputs,
    scored: Callable[[CellOutputs], tuple[Tensor, Tensor]],
    sizes: Sequence[tuple[int, int]],
    config: Any,
) -> list[Annotation]:
    """The objects of each image, on the CPU (`layers/detections.py`); scores are computed where they can count.

    Args:
        scored: scores [b, A, C] in [0, 1] and boxes [b, A, 4] in pixels of what cells state.
        sizes: (height, width) of each image.
        config: with `score_threshold`, `candidates`, `nms_iou` and `keep` of a detector's Config.

    Source: Redmon et al. 2016, section 2.
    """
    found, parts = [], cells.confident(config.score_threshold)
    for i, part in enumerate(parts):
        own = sizes if len(parts) == 1 else sizes[i : i + 1]
        limits = config.score_threshold, config.candidates, config.nms_iou, config.keep
        found += detections(*scored(part), own, *limits)
    return found


@torch.no_grad()
def responsible(targets: Targets, cells: CellOutputs, priors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The box that answers for each object: of the prior whose shape overlaps it most, in the cell of its centre.

    Returns:
        places: [b, T] int64, numbers of boxes in 0..A - 1; 0 where there is no object.
        counts: [b, T] bool, which objects count: the first of those that share a box.

    Source: Redmon & Farhadi, "YOLO9000", CVPR 2017, section 2, and Darknet's release (one prior an object, whatever the
    map).
    """
    device = targets.boxes.device
    shapes = torch.cat(list(priors)).to(device)
    sides = (targets.boxes[..., 2:] - targets.boxes[..., :2]).clamp(min=0)
    zeros = torch.zeros_like
    overlaps = iou(
        torch.cat((zeros(sides), sides), dim=-1)[..., None, :], torch.cat((zeros(shapes), shapes), dim=-1)
    )  # [b, T, all priors]
    best = overlaps.argmax(-1)
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    places, first = torch.zeros_like(best), 0
    for start, (rows, columns), own in zip(cells.starts, cells.sides, priors, strict=True):
        column, row = (centres / cells.steps[start]).floor().long().unbind(-1)
        cell = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
        mine = (best >= first) & (best < first + len(own))
        places = torch.where(mine, start + cell * len(own) + best - first, places)
        first += len(own)
    return places, first_of_each(places, targets)


def at_places(values: Tensor, places: Tensor) -> Tensor:
    """Values [b, A, n] at places [b, T] -> [b, T, n]."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))


def first_of_each(places: Tensor, targets: Targets) -> Tensor:
    """[b, T] bool: real objects whose place [b, T] no earlier object of the image has.

    Source: Darknet's release, which skips an object whose cell has one (Redmon et al. 2016).
    """
    number = torch.arange(places.shape[1], device=places.device)
    real = number < torch.tensor(targets.counts).to(places.device, non_blocking=True)[:, None]
    return real & ~((places[:, :, None] == places[:, None]) & (number < number[:, None])).any(-1)


@torch.no_grad()
def unassigned(
    targets: Targets, found: Tensor, places: Tensor, counts: Tensor, ignore: float | None, crowded: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Boxes that answer for no object, and those of them that must say so.

    Args:
        targets: the objects of the batch.
        found: [b, A, 4] the boxes as predicted.
        places, counts: of `responsible`.
        ignore: boxes that overlap an object by a larger IoU say nothing; None: all that answer for no object do.
        crowded: nor do boxes more of which than this share lies in one crowd region.

    Returns:
        idle: [b, A] bool, responsible for nothing.
        empty: [b, A] bool, idle and to be punished for their confidence.

    Source: Redmon & Farhadi, "YOLOv3", 2018, section 2.1, and Darknet's release (thresh, ignore_thresh).
    """
    b, a = found.shape[:2]
    idle = torch.ones(b, a + 1, dtype=torch.bool, device=found.device)
    idle.scatter_(1, torch.where(counts, places, a), False)
    idle = idle[:, :a]
    empty = idle
    if ignore is not None:
        best = torch.stack([each.amax(0) if len(each) else found.new_zeros(a) for each in targets.overlaps(found)])
        empty = idle & (best <= ignore)
    cover = targets.crowd_cover(found)
    return idle, empty if cover is None else empty & (cover <= crowded)
