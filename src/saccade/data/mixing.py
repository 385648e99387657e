"""Transforms that compose several images, or take a part of one away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.data.geometry import GRAY, MIN_VISIBLE, Fill, Size, affine, areas, move_objects, scaled, shift
from saccade.data.resampling import crop, resize
from saccade.data.types import Annotation, Objects, Sample


@dataclass(frozen=True)
class Mosaic:
    """With `probability`, four images about a random point of one frame of `size`, each cut by its quarter.

    Each image is resized (aspect kept) to fit in `size` times a factor uniform in `low` to `high` and touches the
    point. The loader calls it with `fetch`, which gives another sample of the training set. For truth that consists
    of objects, and boxes that are given; tags and class map are not composed, and an image with a label stays alone.
    `id`, `original_size` and `to_original` are those of the first image (upper left), as no matrix maps four images
    back. Source: YOLOv4 (Bochkovskiy et al. 2020), section 3.4.
    """

    size: Size
    probability: float = 1.0
    low: float = 0.5
    high: float = 1.0
    fill: Fill = GRAY
    min_visible: float = MIN_VISIBLE
    needs_others: ClassVar[bool] = True

    def __call__(self, sample: Sample, rng: np.random.Generator, fetch: Callable[[], Sample]) -> Sample:
        if rng.random() >= self.probability or sample.truth.label is not None:
            return sample
        height, width = self.size
        x, y = max(1, round(width * rng.uniform(0.3, 0.7))), max(1, round(height * rng.uniform(0.3, 0.7)))
        x, y = min(x, width - 1), min(y, height - 1)
        image = np.empty((height, width, 3), np.uint8)
        corners = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
        tiles = [self._tile(sample if k == 0 else fetch(), k, q, rng) for k, q in enumerate(corners)]
        for tile, (x1, y1, x2, y2) in zip(tiles, corners, strict=True):
            image[y1:y2, x1:x2] = tile.image
        places = [(x1, y1) for x1, y1, _, _ in corners]
        objects = compose([tile.truth.objects or Objects.empty() for tile in tiles], places, self.size)
        given = [tile.given for tile in tiles if tile.given is not None]
        return replace(
            tiles[0],
            image=image,
            truth=Annotation(self.size, objects=objects),
            given=compose(given, places, self.size) if given else None,
        )

    def _tile(
        self, sample: Sample, corner: int, quarter: tuple[int, int, int, int], rng: np.random.Generator
    ) -> Sample:
        height, width = sample.truth.size
        factor = min(self.size[0] / height, self.size[1] / width) * rng.uniform(self.low, self.high)
        small = resize(sample, scaled((height, width), factor))
        h, w = quarter[3] - quarter[1], quarter[2] - quarter[0]
        x = small.truth.size[1] - w if corner in (0, 2) else 0  # the image's inner corner lies on the common point
        y = small.truth.size[0] - h if corner in (0, 1) else 0
        return crop(small, (x, y, x + w, y + h), self.fill, self.min_visible)


def compose(parts: Sequence[Objects], places: Sequence[tuple[int, int]], size: Size) -> Objects:
    """The objects of several images in one of `size`, in order, masks with it; the corner of each image lies at its
    place (x, y). Raises ValueError as `join`."""
    return join([_placed(part, place, size) for part, place in zip(parts, places, strict=True)])


def _placed(objects: Objects, place: tuple[int, int], size: Size) -> Objects:
    """Objects of a tile in the coordinates of the frame of `size` in which its corner lies at `place` (x, y)."""
    x, y = place

    def padded(masks: Tensor) -> Tensor:
        h, w = masks.shape[1:]
        return F.pad(masks, (x, size[1] - x - w, y, size[0] - y - h), value=False)

    return move_objects(objects, affine(shift(x, y), size, padded), "all")


def join(parts: Sequence[Objects]) -> Objects:
    """The rows of all parts, in order.

    A part without rows says nothing. What some parts lack is filled by `MISSING` where that has a rule for the column.

    Raises:
        ValueError: some parts have masks, keypoints or scores and others do not.
    """
    parts = [p for p in parts if len(p)] or list(parts[:1])

    def column(name: str) -> Tensor | None:
        values = [getattr(p, name) for p in parts]
        if all(v is None for v in values):
            return None
        if name not in MISSING and any(v is None for v in values):
            raise ValueError(f"some images have {name} and others do not: they cannot be composed into one")
        return torch.cat([MISSING[name](p) if v is None else v for p, v in zip(parts, values, strict=True)])

    return Objects(**{field.name: column(field.name) for field in fields(Objects)})  # type: ignore[arg-type]


def _unset(part: Objects) -> Tensor:
    return torch.zeros(len(part), dtype=torch.bool)


MISSING: dict[str, Callable[[Objects], Tensor]] = {
    "crowd": _unset,
    "difficult": _unset,
    "area": lambda part: torch.from_numpy(areas(part.boxes.numpy())),
}
"""What a column of `Objects` holds for those that do not state it, where that can be told."""


@dataclass(frozen=True)
class Cutout:
    """With `probability`, a square of half the shorter side at a random centre becomes gray; it may reach outside.

    The truth stays. Source: DeVries & Taylor 2017 (16 of 32 pixels on CIFAR-10; they fill with the mean).
    """

    probability: float = 0.5
    share: float = 0.5
    fill: Fill = GRAY

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        height, width = sample.image.shape[:2]
        side = max(1, round(self.share * min(height, width)))
        y, x = int(rng.integers(height)) - side // 2, int(rng.integers(width)) - side // 2
        image = sample.image.copy()
        image[max(y, 0) : y + side, max(x, 0) : x + side] = self.fill
        return replace(sample, image=image)
