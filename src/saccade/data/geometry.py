"""What all geometric transforms share: moving an image and everything that is said of it by one matrix.

A matrix is [3, 3] and takes homogeneous pixel coordinates of the image as it stands to those of the new image, in the
continuous convention of `data/types.py` (pixel (0, 0) covers the square from (0, 0) to (1, 1)). OpenCV's warps count
from pixel centres instead, hence the half-pixel shifts here.

Boxes after a crop or warp: clipped; rows that keep less than `min_visible` of their area, or less than a pixel of width
or height, are dropped with all their fields. A turned box becomes the upright hull of its corners, and where masks are
there, a turned or cut box becomes the (tighter) hull of its mask. Resizing and mirroring drop nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data.types import IGNORE, Annotation, Objects, Sample

GRAY = 114  # value of the padding: close to the mean of natural photos, used by YOLO's letterbox
MIN_VISIBLE = 0.25  # share of a box that has to stay inside
MIN_SIDE = 1.0  # pixels

Size = tuple[int, int]  # (height, width)
Window = tuple[int, int, int, int]  # x1 y1 x2 y2, whole pixels, may reach outside the image
Fill = int | tuple[int, int, int]


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


def map_boxes(boxes: Tensor, matrix: np.ndarray) -> np.ndarray:
    """[n, 4] boxes -> [n, 4] float64 upright hulls of the mapped corners, not clipped."""
    corners = boxes.numpy().astype(np.float64)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    corners = map_points(corners, matrix)
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


def move_keypoints(keypoints: Tensor, matrix: np.ndarray, size: Size) -> Tensor:
    """[n, k, 3] -> the same through `matrix`; points that leave the image, and absent ones, become (0, 0, 0)."""
    array = keypoints.numpy().astype(np.float64)
    points = map_points(array[..., :2], matrix)
    inside = ((points >= 0) & (points <= [size[1], size[0]])).all(axis=-1) & (array[..., 2] > 0)
    moved = np.concatenate([points, array[..., 2:]], axis=-1) * inside[..., None]
    return torch.from_numpy(moved.astype(np.float32))


def move_objects(
    objects: Objects,
    matrix: np.ndarray,
    size: Size,
    masks: Tensor | None,
    min_visible: float | None = MIN_VISIBLE,
    drop: bool = True,
) -> Objects:
    """Objects in the coordinates of a new image of `size`, under the box policy above.

    Args:
        matrix: [3, 3], old pixels to new pixels.
        masks: [n, H, W], the masks already moved; None where there are none.
        min_visible: share of the box that must stay; None asks that the centre of the box stays (SSD's rule).
        drop: False keeps every row, for mappings under which nothing can leave the image.
    """
    whole = map_boxes(objects.boxes, matrix)
    centres = (whole[:, :2] + whole[:, 2:]) / 2
    share = finish_boxes(objects, whole, size, masks, hull=bool(matrix[0, 1] or matrix[1, 0]) and drop)
    boxes, visible, shown = share
    keypoints = None if objects.keypoints is None else move_keypoints(objects.keypoints, matrix, size)
    area = None
    if objects.area is not None:
        factor = abs(np.linalg.det(matrix)) * visible
        area = objects.area * torch.from_numpy(factor.astype(np.float32))
    moved = replace(
        objects,
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        masks=masks,
        keypoints=keypoints,
        area=area,
    )
    if not drop:
        return moved
    if min_visible is None:
        keep = ((centres > 0) & (centres < [size[1], size[0]])).all(axis=1)
    else:
        keep = visible >= min_visible
    keep &= shown & ((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(axis=1)
    return moved if keep.all() else moved[torch.from_numpy(keep)]


def finish_boxes(
    objects: Objects, whole: np.ndarray, size: Size, masks: Tensor | None, hull: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clip moved boxes and tighten them by their masks.

    Args:
        whole: [n, 4] boxes in new pixels, not clipped.
        masks: [n, H, W] moved masks or None.
        hull: whether `whole` are loose hulls (of turned or bent boxes), so that every box takes its mask's hull.

    Returns:
        ([n, 4] boxes, [n] share of the area inside the image, [n] bool False where a mask lost its last pixel).
    """
    boxes = clip_boxes(whole, size)
    full = areas(whole)
    visible = np.divide(areas(boxes), full, out=np.zeros_like(full), where=full > 0)
    shown = np.ones(len(boxes), bool)
    if masks is None or objects.masks is None or not len(boxes):
        return boxes, visible, shown
    loose = np.full(len(boxes), hull) | (boxes != whole).any(axis=1)
    if loose.any():
        rows = np.flatnonzero(loose)
        tight, some = mask_hulls(masks[torch.from_numpy(rows)])
        boxes[rows[some]] = tight[some]
        gone = rows[~some]  # a mask that was empty from the start says nothing of the object
        shown[gone] = ~objects.masks[torch.from_numpy(gone)].flatten(1).any(dim=1).numpy()
    return boxes, visible, shown


def moved(sample: Sample, matrix: np.ndarray, image: np.ndarray, truth: Annotation) -> Sample:
    """The sample after a geometric step, with `to_original` brought along."""
    return replace(sample, image=image, truth=truth, to_original=sample.to_original @ inverse(matrix))


def resize_plane(plane: np.ndarray, size: Size) -> np.ndarray:
    """[H, W] or [H, W, 3] uint8 -> `size`, linear; where it shrinks the filter grows with what a new pixel covers.

    This is Pillow's bilinear filter, which published classifiers were trained and scored with, by torch: the same
    values within 1, several times faster than Pillow or OpenCV's averages over areas.
    """
    if plane.shape[:2] == size:
        return plane
    flat = np.ascontiguousarray(plane).reshape(-1)  # torch's kernel goes by strides that mean nothing where a side is 1
    rows = torch.from_numpy(flat).reshape(1, *plane.shape[:2], -1)
    out = F.interpolate(rows.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(out.permute(0, 2, 3, 1).reshape(*size, *plane.shape[2:]).numpy())


def resize_masks(masks: Tensor, size: Size) -> Tensor:
    """[n, H, W] bool -> [n, *size]; a new pixel is set where at least about half of it is covered."""
    out = np.zeros((len(masks), *size), np.uint8)
    for row, mask in enumerate(masks.numpy().view(np.uint8)):
        out[row] = resize_plane(mask, size)  # 0 and 1 are rounded to the nearest: a threshold at one half
    return torch.from_numpy(out.view(bool))


def resize_semantic(semantic: Tensor, size: Size) -> Tensor:
    """[H, W] uint8 -> `size`, each new pixel takes the class under its centre."""
    height, width = semantic.shape
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.int64)
    return torch.from_numpy(semantic.numpy()[np.ix_(rows, columns)])


def resize(sample: Sample, size: Size) -> Sample:
    """The sample at another size; nothing is dropped, and the same size gives the same sample."""
    height, width = sample.image.shape[:2]
    if (height, width) == size:
        return sample
    matrix = scaling(size[1] / width, size[0] / height)
    truth, objects = sample.truth, sample.truth.objects
    if objects is not None:
        masks = None if objects.masks is None else resize_masks(objects.masks, size)
        objects = move_objects(objects, matrix, size, masks, drop=False)
    semantic = None if truth.semantic is None else resize_semantic(truth.semantic, size)
    truth = replace(truth, size=size, objects=objects, semantic=semantic)
    return moved(sample, matrix, resize_plane(sample.image, size), truth)


def cut(plane: np.ndarray, window: Window, fill: Fill) -> np.ndarray:
    """The window of a [H, W] or [H, W, 3] array as a new array, `fill` outside of the array."""
    height, width = plane.shape[:2]
    x1, y1, x2, y2 = window
    inner = plane[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
        return inner.copy()
    out = np.empty((y2 - y1, x2 - x1, *plane.shape[2:]), plane.dtype)
    out[...] = fill
    if inner.size:
        top, left = max(-y1, 0), max(-x1, 0)
        out[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return out


def cut_masks(masks: Tensor, window: Window) -> Tensor:
    """[n, H, W] bool -> [n, h, w] of the window, False outside."""
    x1, y1, x2, y2 = window
    out = torch.zeros(len(masks), y2 - y1, x2 - x1, dtype=torch.bool)
    inner = masks[:, max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
    top, left = max(-y1, 0), max(-x1, 0)
    if inner.numel():
        out[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return out


def crop(sample: Sample, window: Window, fill: Fill = GRAY, min_visible: float | None = MIN_VISIBLE) -> Sample:
    """The window of the sample; outside of the image the picture is `fill`, the class map "ignore"."""
    height, width = sample.image.shape[:2]
    x1, y1, x2, y2 = window
    if window == (0, 0, width, height):
        return sample
    size = (y2 - y1, x2 - x1)
    matrix = shift(-x1, -y1)
    truth, objects = sample.truth, sample.truth.objects
    if objects is not None:
        masks = None if objects.masks is None else cut_masks(objects.masks, window)
        objects = move_objects(objects, matrix, size, masks, min_visible)
    semantic = truth.semantic
    if semantic is not None:
        semantic = torch.from_numpy(cut(semantic.numpy(), window, IGNORE))
    truth = replace(truth, size=size, objects=objects, semantic=semantic)
    return moved(sample, matrix, cut(sample.image, window, fill), truth)


def zoom(sample: Sample, window: Window, size: Size, fill: Fill, min_visible: float | None = MIN_VISIBLE) -> Sample:
    """Crop, then resize, at the cost of the smaller of the two pictures where the window reaches outside the image."""
    x1, y1, x2, y2 = window
    factor = (size[1] / (x2 - x1), size[0] / (y2 - y1))
    if max(factor) >= 1:
        return resize(crop(sample, window, fill, min_visible), size)
    height, width = sample.image.shape[:2]
    inner = (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height))
    small = crop(sample, inner, fill, min_visible)
    small = resize(
        small, (_at_least_one(small.truth.size[0] * factor[1]), _at_least_one(small.truth.size[1] * factor[0]))
    )
    left, top = round((inner[0] - x1) * factor[0]), round((inner[1] - y1) * factor[1])
    return crop(small, (-left, -top, size[1] - left, size[0] - top), fill, min_visible)


def _at_least_one(side: float) -> int:
    return max(1, round(side))


def fitted(size: Size, frame: Size) -> Size:
    """The largest (height, width) of the aspect of `size` that fits in `frame`, at least one pixel each."""
    height, width = scaled(size, min(frame[0] / size[0], frame[1] / size[1]))
    return min(height, frame[0]), min(width, frame[1])


def scaled(size: Size, factor: float) -> Size:
    """(height, width) times a factor, rounded, at least one pixel each."""
    return _at_least_one(size[0] * factor), _at_least_one(size[1] * factor)


def warp_plane(plane: np.ndarray, matrix: np.ndarray, size: Size, fill: Fill, nearest: bool = False) -> np.ndarray:
    """[H, W] or [H, W, 3] uint8 through `matrix` to `size`, linear or nearest, `fill` outside."""
    centred = shift(-0.5, -0.5) @ matrix @ shift(0.5, 0.5)
    value = fill if isinstance(fill, tuple) else (fill, fill, fill)
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(
        plane, centred[:2], (size[1], size[0]), flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=value
    )


def warp_image(image: np.ndarray, matrix: np.ndarray, size: Size, fill: Fill) -> np.ndarray:
    """As `warp_plane`; an image that shrinks to less than half is halved first, against aliasing."""
    height, width = image.shape[:2]
    scale = abs(np.linalg.det(matrix[:2, :2])) ** 0.5
    halvings = int(-math.log2(scale))  # what is left to the linear warp shrinks to half at most
    if halvings > 0:
        image = resize_plane(image, scaled((height, width), 0.5**halvings))
        matrix = matrix @ scaling(width / image.shape[1], height / image.shape[0])
    return warp_plane(image, matrix, size, fill)


def warp_masks(masks: Tensor, matrix: np.ndarray, size: Size) -> Tensor:
    """[n, H, W] bool through `matrix` -> [n, *size]; outside is False."""
    out = np.zeros((len(masks), *size), np.uint8)
    for row, mask in enumerate(masks.numpy().view(np.uint8)):
        out[row] = warp_plane(mask, matrix, size, 0)
    return torch.from_numpy(out.view(bool))


def warp(
    sample: Sample, matrix: np.ndarray, size: Size, fill: Fill = GRAY, min_visible: float | None = MIN_VISIBLE
) -> Sample:
    """The sample through any affine matrix, seen in a frame of `size`."""
    truth, objects = sample.truth, sample.truth.objects
    if objects is not None:
        masks = None if objects.masks is None else warp_masks(objects.masks, matrix, size)
        objects = move_objects(objects, matrix, size, masks, min_visible)
    semantic = truth.semantic
    if semantic is not None:
        semantic = torch.from_numpy(warp_plane(semantic.numpy(), matrix, size, IGNORE, nearest=True))
    truth = replace(truth, size=size, objects=objects, semantic=semantic)
    return moved(sample, matrix, warp_image(sample.image, matrix, size, fill), truth)
