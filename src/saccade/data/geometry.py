"""What all geometric transforms share: moving an image and everything that is said of it by one matrix.

A matrix is [3, 3] and takes homogeneous pixel coordinates of the image as it stands to those of the new image, in the
continuous convention of `data/types.py` (pixel (0, 0) covers the square from (0, 0) to (1, 1)). OpenCV's warps count
from pixel centres instead, hence the half-pixel shifts here.

Boxes after a crop or warp: clipped; rows that keep less than `min_visible` of their area, or less than a pixel of width
or height, are dropped with all their fields. A turned box becomes the upright hull of its corners, and where masks are
there, a turned or cut box becomes the (tighter) hull of its mask. Resizing and mirroring drop nothing.

`move_objects` is the one mover: `RULES` says what a step does to each column of `Objects`. What resamples pixels is in
`data/resampling.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from saccade.data.types import Objects, Sample
from saccade.ops.cuboids import mirrored, moved_camera, turns_over

GRAY = 114  # value of the padding: close to the mean of natural photos, used by YOLO's letterbox
MIN_VISIBLE = 0.25  # share of a box that has to stay inside
MIN_SIDE = 1.0  # pixels

Size = tuple[int, int]  # (height, width)
Window = tuple[int, int, int, int]  # x1 y1 x2 y2, whole pixels, may reach outside the image
Fill = int | tuple[int, int, int]
Pairs = tuple[tuple[int, int], ...]  # keypoints that trade places in a mirror image
Keep = float | Literal["centre", "all"]
"""Which objects stay: those of whose box at least this share is left, those whose box's centre is inside, or all."""


def scaling(x: float, y: float) -> np.ndarray:
    """[3, 3] matrix that multiplies x and y."""
    return np.array([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def shift(x: float, y: float) -> np.ndarray:
    """[3, 3] matrix that adds to x and y."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def inverse(matrix: np.ndarray) -> np.ndarray:
    """[3, 3] inverse of an affine matrix, by its formula: a third of the time of numpy's general one."""
    (a, b, x), (c, d, y), _ = matrix.tolist()
    area = a * d - b * c
    return np.array(
        [[d / area, -b / area, (b * y - d * x) / area], [-c / area, a / area, (c * x - a * y) / area], [0.0, 0.0, 1.0]]
    )


def map_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[..., 2] points through an affine matrix."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def map_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[n, 4] boxes -> [n, 4] float64 upright hulls of the mapped corners, not clipped."""
    (a, b, x), (c, d, y), _ = matrix.tolist()
    if not b and not c:  # nothing turns: the corners stay corners, but that a mirror makes left right
        columns = [2 if a < 0 else 0, 3 if d < 0 else 1, 0 if a < 0 else 2, 1 if d < 0 else 3]
        return boxes.astype(np.float64)[:, columns] * [a, d, a, d] + [x, y, x, y]
    corners = map_points(boxes.astype(np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2), matrix)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def clip_boxes(boxes: np.ndarray, size: Size) -> np.ndarray:
    """[n, 4] boxes cut at the borders of an image of `size`."""
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])


def areas(boxes: np.ndarray) -> np.ndarray:
    """[n] areas of [n, 4] boxes."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def mask_hulls(masks: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """[n, H, W] bool -> ([n, 4] float64 hulls, [n] bool: which masks hold a pixel; others have a zero hull)."""
    array: np.ndarray = masks.numpy()
    n, height, width = array.shape
    if not array.size:
        return np.zeros((n, 4)), np.zeros(n, bool)
    columns, rows = np.asarray(array.any(axis=1)), np.asarray(array.any(axis=2))
    some = np.asarray(columns.any(axis=1))
    right, down = width - columns[:, ::-1].argmax(axis=1), height - rows[:, ::-1].argmax(axis=1)
    hulls = np.stack([columns.argmax(axis=1), rows.argmax(axis=1), right, down], axis=1)
    return hulls * some[:, None].astype(np.float64), some


def _at_least_one(side: float) -> int:
    return max(1, round(side))


def fitted(size: Size, frame: Size) -> Size:
    """The largest (height, width) of the aspect of `size` that fits in `frame`, at least one pixel each."""
    height, width = scaled(size, min(frame[0] / size[0], frame[1] / size[1]))
    return min(height, frame[0]), min(width, frame[1])


def scaled(size: Size, factor: float) -> Size:
    """(height, width) times a factor, rounded, at least one pixel each."""
    return _at_least_one(size[0] * factor), _at_least_one(size[1] * factor)


@dataclass(frozen=True)
class Move:
    """A geometric step, as far as objects need to know it: where points, boxes and masks go.

    `affine` makes one of a matrix. A bend that no matrix describes (`data/elastic.py`) brings its own functions; it is
    taken to keep areas.
    """

    size: Size  # of the new image
    points: Callable[[np.ndarray], np.ndarray]  # [..., 2] float64 old pixels -> new pixels
    hulls: Callable[[np.ndarray], np.ndarray]  # [n, 4] old boxes -> [n, 4] float64 upright hulls, not clipped
    masks: Callable[[Tensor], Tensor]  # [n, H, W] bool -> [n, *size]
    matrix: np.ndarray | None = None  # [3, 3] old pixels -> new pixels
    pairs: Pairs = ()

    @property
    def growth(self) -> float:
        """How many new pixels an old one becomes."""
        if self.matrix is None:
            return 1.0
        (a, b, _), (c, d, _), _ = self.matrix.tolist()
        return abs(a * d - b * c)

    @property
    def loose(self) -> bool:
        """Whether hulls may be larger than what they hold, as those of turned and bent boxes are."""
        return self.matrix is None or bool(self.matrix[0, 1] or self.matrix[1, 0])


def affine(matrix: np.ndarray, size: Size, masks: Callable[[Tensor], Tensor], pairs: Pairs = ()) -> Move:
    """The step of a matrix [3, 3], old pixels to pixels of a new image of `size`; `masks` resamples masks alike."""
    return Move(size, partial(map_points, matrix=matrix), partial(map_boxes, matrix=matrix), masks, matrix, pairs)


@dataclass(frozen=True)
class Outcome:
    """What a step leaves of the boxes and masks of some objects, which the rules of the other columns ask for."""

    boxes: np.ndarray  # [n, 4] float64 in new pixels, clipped, tightened by their masks
    share: np.ndarray  # [n] of each box's area that is inside the new image, 0 without area; 1 where all are kept
    shown: np.ndarray  # [n] bool, False where a mask lost its last pixel
    masks: Tensor | None  # [n, *size]
    predicted: bool  # the objects have scores


def _as_it_is(column: Tensor, move: Move, outcome: Outcome) -> Tensor:
    return column


def _new_boxes(column: Tensor, move: Move, outcome: Outcome) -> Tensor:
    return torch.from_numpy(outcome.boxes.astype(np.float32))


def _new_masks(column: Tensor, move: Move, outcome: Outcome) -> Tensor:
    return column if outcome.masks is None else outcome.masks


def _new_keypoints(column: Tensor, move: Move, outcome: Outcome) -> Tensor:
    """[n, k, 3]; absent points, and of a truth those that leave the image, become (0, 0, 0). A predicted point may lie
    outside of the image."""
    array = column.detach().numpy().astype(np.float64)
    points = move.points(array[..., :2])
    there = array[..., 2] > 0
    if not outcome.predicted:
        there &= ((points >= 0) & (points <= [move.size[1], move.size[0]])).all(axis=-1)
    array = np.concatenate([points, array[..., 2:]], axis=-1) * there[..., None]
    if move.pairs:
        order = list(range(array.shape[1]))
        for a, b in move.pairs:
            order[a], order[b] = b, a
        array = array[:, order]
    return torch.from_numpy(array.astype(np.float32))


def _new_areas(column: Tensor, move: Move, outcome: Outcome) -> Tensor:
    """[n]: what is seen of an area is taken to be what is seen of the box."""
    return column.detach() * torch.from_numpy((move.growth * outcome.share).astype(np.float32))


def _new_cuboids(column: Tensor, move: Move, outcome: Outcome) -> Tensor:
    """[n, 7]: what moves is the camera (`move_camera`); a mirror image shows the world behind the mirror."""
    if move.matrix is None:
        raise ValueError("cuboids cannot follow a bend of the image")
    if not turns_over(move.matrix):
        return column
    return torch.from_numpy(mirrored(column.detach().numpy().astype(np.float64)).astype(np.float32))


RULES: dict[str, Callable[[Tensor, Move, Outcome], Tensor]] = {
    "boxes": _new_boxes,
    "labels": _as_it_is,
    "scores": _as_it_is,
    "masks": _new_masks,
    "keypoints": _new_keypoints,
    "crowd": _as_it_is,
    "difficult": _as_it_is,
    "area": _new_areas,
    "cuboids": _new_cuboids,
    "hidden": _as_it_is,
}
"""What a geometric step does to each column of `Objects`: (column, step, outcome) -> column."""


def move_objects(objects: Objects, move: Move, keep: Keep) -> Objects:
    """Objects in the pixels of the new image, their boxes clipped to it, under the policy above.

    Args:
        objects: on the CPU.
        keep: which rows stay. "all" is for steps under which nothing leaves, and for boxes that are given (proposals):
            areas count whole, boxes are not made tighter by their masks, and one outside of the new image becomes an
            empty one at its border.
    """
    whole = move.hulls(objects.boxes.detach().numpy())
    outcome = _outcome(objects, move, whole, keep)
    columns = {field.name: getattr(objects, field.name) for field in fields(Objects)}
    result = replace(objects, **{n: RULES[n](c, move, outcome) for n, c in columns.items() if c is not None})
    if keep == "all":
        return result
    if keep == "centre":
        centres = (whole[:, :2] + whole[:, 2:]) / 2
        stay = ((centres > 0) & (centres < [move.size[1], move.size[0]])).all(axis=1)
    else:
        stay = outcome.share >= keep
    stay &= outcome.shown & ((outcome.boxes[:, 2:] - outcome.boxes[:, :2]) >= MIN_SIDE).all(axis=1)
    return result if stay.all() else result[torch.from_numpy(stay)]


def move_camera(camera: np.ndarray | None, move: Move) -> np.ndarray | None:
    """The camera [3, 4] of the new image (`ops.cuboids.moved_camera`). Raises ValueError for a bend."""
    if camera is None:
        return None
    if move.matrix is None:
        raise ValueError("no camera sees a bent image")
    return moved_camera(camera, move.matrix)


def _outcome(objects: Objects, move: Move, whole: np.ndarray, keep: Keep) -> Outcome:
    """Clip moved boxes [n, 4]; where not all are kept, give those that are loose or cut the hulls of their masks."""
    boxes = clip_boxes(whole, move.size)
    masks = None if objects.masks is None else move.masks(objects.masks)
    share, shown = np.ones(len(boxes)), np.ones(len(boxes), bool)
    outcome = Outcome(boxes, share, shown, masks, objects.scores is not None)
    if keep == "all":
        return outcome
    full = areas(whole)
    np.divide(areas(boxes), full, out=share, where=full > 0)
    share[full <= 0] = 0
    if masks is not None and objects.masks is not None and len(boxes):
        rows = np.flatnonzero(np.full(len(boxes), move.loose) | (boxes != whole).any(axis=1))
        if len(rows):
            tight, some = mask_hulls(masks[torch.from_numpy(rows)])
            boxes[rows[some]] = tight[some]
            gone = rows[~some]  # a mask that was empty from the start says nothing of the object
            shown[gone] = ~objects.masks[torch.from_numpy(gone)].flatten(1).any(dim=1).numpy()
    return outcome


def moved(
    sample: Sample, move: Move, image: np.ndarray, semantic: Callable[[Tensor], Tensor], keep: Keep = "all"
) -> Sample:
    """The sample after a geometric step: its image replaced, truth, given boxes and `to_original` brought along.

    Args:
        image: the sample's image after the step.
        semantic: does the step to a class map [H, W].
        keep: which objects stay.
    """
    truth = sample.truth
    truth = replace(
        truth,
        size=move.size,
        objects=None if truth.objects is None else move_objects(truth.objects, move, keep),
        semantic=None if truth.semantic is None else semantic(truth.semantic),
        camera=move_camera(truth.camera, move),
    )
    given = None if sample.given is None else move_objects(sample.given, move, "all")
    back = sample.to_original if move.matrix is None else sample.to_original @ inverse(move.matrix)
    return replace(sample, image=image, truth=truth, to_original=back, given=given)
