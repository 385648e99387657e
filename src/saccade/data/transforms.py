"""Geometric transforms, joint over image, boxes, masks, keypoints, class map and `to_original`.

Each is a frozen dataclass called as `transform(sample, rng) -> Sample`. The input is never changed; a transform that
has nothing to do returns it. What cannot be seen any more is dropped by the policy written in `data/geometry.py`.

`PadTo`, and `Letterbox` which ends in it, pad to the right and below and leave `truth` as it is: `truth.size` is then
the part of the image that holds the picture, which the loader writes to `Batch.sizes`. They come last in a pipeline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from torch import Tensor

from saccade.data.geometry import (
    GRAY,
    MIN_VISIBLE,
    Fill,
    Pairs,
    Size,
    affine,
    fitted,
    moved,
    scaled,
    scaling,
    shift,
)
from saccade.data.resampling import crop, resize, warp
from saccade.data.types import Sample


@dataclass(frozen=True)
class Resize:
    """Stretch to `size` (height, width), whatever the aspect."""

    size: Size

    def fixed_size(self, size: Size) -> Size:
        """What an image of `size` becomes, always: the loader may keep images behind this transform."""
        return self.size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return resize(sample, self.size)


@dataclass(frozen=True)
class Scale:
    """Multiply both sides by `factor` (rounded, at least a pixel)."""

    factor: float

    def fixed_size(self, size: Size) -> Size:
        """As `Resize.fixed_size`."""
        return scaled(size, self.factor)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return resize(sample, scaled(sample.truth.size, self.factor))


@dataclass(frozen=True)
class FitInside:
    """Resize, keeping the aspect, to the largest size that fits in `size` (height, width)."""

    size: Size

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return resize(sample, fitted(sample.truth.size, self.size))


@dataclass(frozen=True)
class ScaleJitter:
    """Resize by one factor for both sides, log-uniform in `low` to `high`."""

    low: float
    high: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        factor = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return resize(sample, scaled(sample.truth.size, factor))


@dataclass(frozen=True)
class PadTo:
    """Pad to `size` (height, width) with `fill`: right and below, or on all sides if `centred`.

    Right and below, `truth.size` stays the size of the picture; centred (YOLO's letterbox), the padding counts as
    picture.

    Raises:
        ValueError: the image is larger than `size`.
    """

    size: Size
    fill: Fill = GRAY
    centred: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.image.shape[:2]
        down, right = self.size[0] - height, self.size[1] - width
        if down < 0 or right < 0:
            raise ValueError(f"{sample.id}: an image of {height}x{width} does not fit in {self.size[0]}x{self.size[1]}")
        if not down and not right:
            return sample
        if self.centred:
            x, y = right // 2, down // 2
            return crop(sample, (-x, -y, self.size[1] - x, self.size[0] - y), self.fill)
        image = np.empty((*self.size, 3), np.uint8)
        image[...] = self.fill
        image[:height, :width] = sample.image
        return replace(sample, image=image)


@dataclass(frozen=True)
class Letterbox:
    """`FitInside`, then `PadTo`: the whole image in a frame of fixed size with its aspect kept.

    Padding goes right and below, unlike YOLO's (`centred`), so that `Batch.sizes` can say where the picture ends.
    """

    size: Size
    fill: Fill = GRAY
    centred: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return PadTo(self.size, self.fill, self.centred)(FitInside(self.size)(sample, rng), rng)


@dataclass(frozen=True)
class CenterCrop:
    """The centre that is left when the image is resized to just cover `cover` and cut to `size` (height, width).

    `CenterCrop((224, 224), (256, 256))` is the usual test view: shorter side 256, centre 224. It is cut first and
    resized after (whole source pixels, so up to half a pixel off), as an image of 1 x 2000 would else grow to 256 x
    512000.
    """

    size: Size
    cover: Size
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.truth.size
        factor = max(self.cover[0] / height, self.cover[1] / width)
        h = max(1, min(height, round(self.size[0] / factor)))
        w = max(1, min(width, round(self.size[1] / factor)))
        x, y = (width - w) // 2, (height - h) // 2
        return resize(crop(sample, (x, y, x + w, y + h), keep=self.min_visible), self.size)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, stretched to `size` (height, width).

    The part has a share of the area uniform in `min_area` to 1 and an aspect log-uniform in 3/4 to 4/3 (times that of
    `size`); after ten misses, the largest centred part within these aspects.
    Source: GoogLeNet (Szegedy et al. 2015), section 6.
    """

    size: Size
    min_area: float = 0.35
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.truth.size
        x, y, w, h = self._window(height, width, rng)
        return resize(crop(sample, (x, y, x + w, y + h), keep=self.min_visible), self.size)

    def shorter_side(self, size: Size, rng: np.random.Generator) -> int:
        """The shorter side that an image of `size` needs, for the part that `rng` is about to draw not to be enlarged
        beyond its own pixels: what a large JPEG may be decoded to."""
        _, _, w, h = self._window(*size, rng)
        return math.ceil(min(size) * max(self.size[0] / h, self.size[1] / w))

    def _window(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        base = self.size[1] / self.size[0]
        for _ in range(10):
            area = height * width * rng.uniform(self.min_area, 1)
            aspect = base * math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
        aspect = min(max(width / height, base * 3 / 4), base * 4 / 3)
        w = min(width, max(1, round(height * aspect)))
        h = min(height, max(1, round(width / aspect)))
        return (width - w) // 2, (height - h) // 2, w, h


@dataclass(frozen=True)
class RandomCrop:
    """A window of `size` (height, width) at a random place, not resized.

    Where the image is smaller than the window it lies at a random place in it; what surrounds it is `fill` in the image
    and "ignore" in the class map, and counts as image.
    """

    size: Size
    fill: Fill = GRAY
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        room = [have - want for have, want in zip(sample.truth.size, self.size, strict=True)]
        y, x = (int(rng.integers(min(r, 0), max(r, 0) + 1)) for r in room)
        return crop(sample, (x, y, x + self.size[1], y + self.size[0]), self.fill, self.min_visible)


@dataclass(frozen=True)
class PadCrop:
    """Pad all sides by `pad` pixels and crop back to the old size at a random place.

    Source: deep residual learning (He et al. 2016), section 4.2, with 4 pixels on CIFAR-10. They pad with the mean.
    """

    pad: int
    fill: Fill = GRAY
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        height, width = sample.truth.size
        x, y = (int(v) for v in rng.integers(-self.pad, self.pad + 1, 2))
        x, y = max(1 - width, min(x, width - 1)), max(1 - height, min(y, height - 1))  # tiny images stay in view
        return crop(sample, (x, y, x + width, y + height), self.fill, self.min_visible)


@dataclass(frozen=True)
class Flip:
    """Mirror left-right (or upside-down if `vertical`) with a `probability`.

    `pairs` are the keypoints that trade places when a left-right mirror turns left into right.
    """

    probability: float = 0.5
    vertical: bool = False
    pairs: Pairs = ()

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self._mirror(sample) if rng.random() < self.probability else sample

    def _mirror(self, sample: Sample) -> Sample:
        height, width = sample.truth.size
        matrix = shift(0, height) @ scaling(1, -1) if self.vertical else shift(width, 0) @ scaling(-1, 1)
        move = affine(matrix, (height, width), self._mirror_plane, () if self.vertical else self.pairs)
        return moved(sample, move, cv2.flip(sample.image, 0 if self.vertical else 1), self._mirror_plane)

    def _mirror_plane(self, planes: Tensor) -> Tensor:
        """[..., H, W]"""
        return planes.flip(-2 if self.vertical else -1)


@dataclass(frozen=True)
class Transpose:
    """Swap rows and columns with a `probability`; after it both mirrors make all eight orientations alike likely.

    `pairs` as for `Flip`: this too turns left into right.
    """

    probability: float = 0.5
    pairs: Pairs = ()

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        matrix = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        move = affine(matrix, sample.truth.size[::-1], _transpose, self.pairs)
        return moved(sample, move, cv2.transpose(sample.image), _transpose)


def _transpose(planes: Tensor) -> Tensor:
    """[..., H, W] -> [..., W, H]"""
    return planes.mT.contiguous()


@dataclass(frozen=True)
class Affine:
    """Turn, zoom and move about the centre of the image, in one warp.

    Angle uniform in +-`rotate` degrees, zoom uniform in 1 +- `scale`, shift uniform in +- `translate` of each side.
    With `size` the warp also resizes to that frame: stretched, or with its aspect kept and centred if `keep_aspect`.
    """

    rotate: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    size: Size | None = None
    keep_aspect: bool = False
    fill: Fill = GRAY
    min_visible: float = MIN_VISIBLE

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        angle, zoom, x, y = rng.uniform(-1, 1, 4) * (self.rotate, self.scale, self.translate, self.translate)
        height, width = sample.truth.size
        new_height, new_width = self.size or (height, width)
        fit_x, fit_y = new_width / width, new_height / height
        if self.keep_aspect:
            fit_x = fit_y = min(fit_x, fit_y)
        if (fit_x, fit_y, angle, zoom, x, y) == (1, 1, 0, 0, 0, 0) and (height, width) == (new_height, new_width):
            return sample
        cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        centre = shift((0.5 + x) * new_width, (0.5 + y) * new_height)
        about = scaling((1 + zoom) * fit_x, (1 + zoom) * fit_y) @ shift(-width / 2, -height / 2)
        return warp(sample, centre @ turn @ about, (new_height, new_width), self.fill, self.min_visible)
