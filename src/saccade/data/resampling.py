"""Pixels that move: images, masks and class maps resized, cut and warped, and whole samples with all that is in them.

What becomes of boxes, points and the other columns of the objects is said in `data/geometry.py`.
"""

from __future__ import annotations

import math
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data.geometry import (
    GRAY,
    MIN_VISIBLE,
    Fill,
    Keep,
    Move,
    Size,
    Window,
    affine,
    map_boxes,
    mask_hulls,
    moved,
    scaled,
    scaling,
    shift,
)
from saccade.data.types import IGNORE, Sample


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


def cut_semantic(semantic: Tensor, window: Window) -> Tensor:
    """[H, W] uint8 -> [h, w] of the window, "ignore" outside."""
    return torch.from_numpy(cut(semantic.numpy(), window, IGNORE))


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
    """[n, H, W] bool through `matrix` -> [n, *size]; outside is False.

    Of every mask only the part around its pixels is warped: hundreds of small objects cost no more than their areas.
    """
    if masks.shape[1:] == size and np.array_equal(matrix, np.eye(3)):
        return masks
    height, width = masks.shape[1:]
    out = np.zeros((len(masks), *size), np.uint8)
    hulls, some = mask_hulls(masks)
    wider = np.array([-1, -1, 1, 1])  # linear weights reach one pixel farther
    sources = hulls + wider
    targets = map_boxes(sources, matrix) + wider
    starts, ends = np.floor(targets[:, :2]), np.ceil(targets[:, 2:])
    windows = np.clip(np.concatenate((starts, ends), 1), 0, [size[1], size[0]] * 2).astype(np.int64)
    cuts = np.clip(sources, 0, [width, height] * 2).astype(np.int64)
    for i in np.flatnonzero(some & (windows[:, 2:] > windows[:, :2]).all(axis=1)):
        (left, top, right, bottom), (x1, y1, x2, y2) = windows[i], cuts[i]
        part = masks[i, y1:y2, x1:x2].numpy().view(np.uint8)
        own = shift(-left, -top) @ matrix @ shift(x1, y1)
        out[i, top:bottom, left:right] = warp_plane(part, own, (bottom - top, right - left), 0)
    return torch.from_numpy(out.view(bool))


def warp_semantic(semantic: Tensor, matrix: np.ndarray, size: Size) -> Tensor:
    """[H, W] uint8 through `matrix` -> `size`, the nearest class; outside is "ignore"."""
    return torch.from_numpy(warp_plane(semantic.numpy(), matrix, size, IGNORE, nearest=True))


def resizing(x: float, y: float, size: Size) -> Move:
    """The step of objects when an image is resized by factors x and y to `size`."""
    return affine(scaling(x, y), size, partial(resize_masks, size=size))


def resize(sample: Sample, size: Size) -> Sample:
    """The sample at another size; nothing is dropped, and the same size gives the same sample."""
    height, width = sample.image.shape[:2]
    if (height, width) == size:
        return sample
    move = resizing(size[1] / width, size[0] / height, size)
    return moved(sample, move, resize_plane(sample.image, size), partial(resize_semantic, size=size))


def crop(sample: Sample, window: Window, fill: Fill = GRAY, keep: Keep = MIN_VISIBLE) -> Sample:
    """The window of the sample; outside of the image the picture is `fill`, the class map "ignore"."""
    height, width = sample.image.shape[:2]
    x1, y1, x2, y2 = window
    if window == (0, 0, width, height):
        return sample
    move = affine(shift(-x1, -y1), (y2 - y1, x2 - x1), partial(cut_masks, window=window))
    return moved(sample, move, cut(sample.image, window, fill), partial(cut_semantic, window=window), keep)


def zoom(sample: Sample, window: Window, size: Size, fill: Fill, keep: Keep = MIN_VISIBLE) -> Sample:
    """Crop, then resize, at the cost of the smaller of the two pictures where the window reaches outside the image."""
    x1, y1, x2, y2 = window
    factor = (size[1] / (x2 - x1), size[0] / (y2 - y1))
    if max(factor) >= 1:
        return resize(crop(sample, window, fill, keep), size)
    height, width = sample.image.shape[:2]
    inner = (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height))
    small = crop(sample, inner, fill, keep)
    height, width = small.truth.size
    small = resize(small, (max(1, round(height * factor[1])), max(1, round(width * factor[0]))))
    left, top = round((inner[0] - x1) * factor[0]), round((inner[1] - y1) * factor[1])
    return crop(small, (-left, -top, size[1] - left, size[0] - top), fill, keep)


def warp(sample: Sample, matrix: np.ndarray, size: Size, fill: Fill = GRAY, keep: Keep = MIN_VISIBLE) -> Sample:
    """The sample through any affine matrix, seen in a frame of `size`."""
    move = affine(matrix, size, partial(warp_masks, matrix=matrix, size=size))
    image = warp_image(sample.image, matrix, size, fill)
    return moved(sample, move, image, partial(warp_semantic, matrix=matrix, size=size), keep)
