"""The vocabulary that every part of Saccade shares: truth and prediction have one type.

Coordinates are pixels of the image as it stands, x to the right and y down; a box is x1 y1 x2 y2 with
width = x2 - x1 (corners, not pixel indices); pixel (0, 0) covers the square from (0, 0) to (1, 1).
Labels run from 0 to classes - 1; there is no background entry, ever. 255 in a semantic map is "ignore".
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.data.joints import Joints

IGNORE = 255  # the value of a semantic map that takes no part in loss or score (VOC's border, CamVid's void)


def _moved(value: Tensor, device: torch.device | str) -> Tensor:
    """On `device`, where what is asked next comes after the copy; on the CPU it has arrived."""
    return value.to(device, non_blocking=torch.device(device).type != "cpu")


@dataclass(slots=True)
class Objects:
    """Things in one image, one row each. Fields other than boxes and labels are None where the task has no use of them.

    Raises:
        ValueError: the fields have unequal lengths or wrong shapes.
    """

    boxes: Tensor  # [n, 4] float32, x1 y1 x2 y2
    labels: Tensor  # [n] int64
    scores: Tensor | None = None  # [n] float32 in [0, 1]; None in ground truth
    masks: Tensor | None = None  # [n, H, W] bool, at the size of the annotation
    keypoints: Tensor | None = None  # [n, k, 3] float32: x, y, visibility (0 absent, 1 hidden, 2 visible; or a score)
    crowd: Tensor | None = None  # [n] bool: a region of many objects (COCO iscrowd); never a training target
    difficult: Tensor | None = None  # [n] bool: VOC's flag; trained on, not counted by VOC's metric
    area: Tensor | None = (
        None  # [n] float32, pixels^2 of the segment where the file states it (COCO's size bands use it)
    )
    # [n, 7] float32: height width length in metres, x y z of the middle of the lower face in metres of the camera
    # (right, down, ahead), rotation_y in radians (ops/cuboids.py); NaN where an object's is not known
    cuboids: Tensor | None = None
    # [n, 2] float32: share of the object that lies outside of the image in [0, 1], and KITTI's level of occlusion
    # (0 none, 1 partly, 2 largely, 3 unknown)
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.boxes.shape[0]
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"boxes must be [n, 4], got {list(self.boxes.shape)}")
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value.shape[0] != n:
                raise ValueError(f"{f.name} has {value.shape[0]} rows, boxes have {n}")

    @classmethod
    def empty(cls, scored: bool = False) -> Objects:
        """No objects; with a `scores` column if `scored`."""
        return cls(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0) if scored else None)

    def __len__(self) -> int:
        return self.boxes.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Objects:
        """The rows chosen by a boolean mask, an index tensor or a slice, in that order."""
        return Objects(*(None if v is None else v[rows] for v in self._values()))  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> Objects:
        moved = (None if v is None else _moved(v, device) for v in self._values())
        return Objects(*moved)  # type: ignore[arg-type]

    def _values(self) -> list[Tensor | None]:
        return [getattr(self, f.name) for f in fields(self)]


@dataclass(slots=True)
class Annotation:
    """What is said of one image, by a person or by a model; the task decides which fields are filled."""

    size: tuple[int, int]  # (height, width) in pixels
    label: int | None = None  # classify, localize; embed: who or what it is, in truth alone
    tags: Tensor | None = None  # [classes] bool: tag
    probabilities: Tensor | None = None  # [classes] float32, of a classifier or tagger; None in truth
    thresholds: Tensor | None = None  # [classes] float32: from which each tag is given, where known
    semantic: Tensor | None = None  # [H, W] uint8 class per pixel, 255 = ignore: segment
    objects: Objects | None = None  # localize, detect, instances, pose
    joints: Joints | None = None  # what the keypoints of the objects are
    camera: np.ndarray | None = None  # [3, 4] float64: takes x y z 1 in metres to pixels times depth (boxes3d)
    mixed: tuple[Annotation, float] | None = None  # in training: truth of the image blended in, its weight in [0, 1]
    weights: Tensor | None = None  # [H, W] float32 of each pixel in the loss; in training, where a model wants them
    embedding: Tensor | None = None  # [d] float32 of length 1, near that of pictures of the same thing: embed

    def to(self, device: torch.device | str) -> Annotation:
        move = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in move.items():
            if isinstance(value, Tensor):
                move[name] = _moved(value, device)
            elif isinstance(value, Objects):
                move[name] = value.to(device)
        if self.mixed is not None:
            move["mixed"] = (self.mixed[0].to(device), self.mixed[1])
        return replace(self, **move)


@dataclass(slots=True)
class Sample:
    """One image on its way from the file to the network; what the transforms take and give.

    `to_original` maps homogeneous pixel coordinates of `image` to the upright original: every geometric
    transform multiplies it, so that predictions return to the pixels that the user knows.
    """

    image: np.ndarray  # [H, W, 3] uint8 RGB
    truth: Annotation  # of the size of `image`, or its upper left part (padding); for prediction only a size
    id: str = ""  # the record's id: path relative to the data set
    original_size: tuple[int, int] = (0, 0)  # (height, width) of the upright original
    to_original: np.ndarray = field(default_factory=lambda: np.eye(3))  # [3, 3] float64
    given: Objects | None = None  # boxes that the model is given with the image (proposals); see `Batch.given`


@dataclass(slots=True)
class Batch:
    """Images of one step, padded right and below to one size; what models take.

    The loader makes uint8; `to` gives floats in [0, 1] on the device. Models normalise by themselves (buffers).

    `given` holds, for models that take them, the boxes of each image that something else proposed (labels 0, or their
    classes for models that answer for objects found before; scores if they have some), in pixels of `sizes`.
    Transforms move and clip them and never drop or reorder them: row i stays row i, and one that has left the image is
    an empty box at its border.
    """

    images: Tensor  # [b, 3, H, W] RGB
    sizes: list[tuple[int, int]]  # (height, width) of each image inside the padding
    truth: list[Annotation] | None = None  # in pixels of `sizes`
    ids: list[str] = field(default_factory=list)
    original_sizes: list[tuple[int, int]] = field(default_factory=list)
    to_original: list[np.ndarray] = field(default_factory=list)  # [3, 3] each
    given: list[Objects] | None = None
    cameras: list[np.ndarray | None] = field(default_factory=list)  # of each image, in pixels of `sizes`

    def __len__(self) -> int:
        return self.images.shape[0]

    def __getitem__(self, rows: slice) -> Batch:
        """Some of the images, in that order."""
        chosen: dict[str, Any] = {}
        for f in fields(self):
            column = getattr(self, f.name)
            chosen[f.name] = None if column is None else column[rows]
        return Batch(**chosen)

    def to(self, device: torch.device | str) -> Batch:
        """Move to `device` without waiting for it; uint8 images become float32 in [0, 1], channels last in memory.

        Of the truth only class maps move, as large as images. What is a few numbers an image (labels, tags, objects,
        given boxes) stays where it is: a loss can look at it there without a wait, and moves what it needs of all
        images as one tensor (`layers/targets.py`).
        """
        images = self.images.to(device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
        truth = None if self.truth is None else [_with_maps_on(t, device) for t in self.truth]
        return replace(self, images=images, truth=truth)


def _with_maps_on(truth: Annotation, device: torch.device | str) -> Annotation:
    moved = replace(truth, tags=None, objects=None).to(device)
    return replace(moved, tags=truth.tags, objects=truth.objects)
