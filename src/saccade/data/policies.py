"""Augmentation by policy: operators drawn by chance from the list of RandAugment, with one strength or any.

The fourteen operators are those of AutoAugment that RandAugment kept. All work in 8 bits: a table look-up, one blend of
two images, or one warp. Turning and shearing is about the centre of the image (the authors' PIL calls shear about its
corner); the warp is linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from saccade.data.geometry import GRAY, Fill, shift
from saccade.data.photometric import tone
from saccade.data.resampling import warp
from saccade.data.types import Sample

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
PHOTOMETRIC = (
    "identity",
    "auto_contrast",
    "equalize",
    "solarize",
    "posterize",
    "color",
    "contrast",
    "brightness",
    "sharpness",
)
LEVELS = 30  # strengths run from 0 to this
SHADES = np.arange(256)
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # PIL's ImageFilter.SMOOTH


@dataclass(frozen=True)
class Ranges:
    """What each operator does at the largest strength; it does nothing, or next to nothing, at strength 0."""

    shear: float  # pixels sideways a pixel
    translate: float  # share of the side, or pixels where above 1
    rotate: float  # degrees
    enhance: float  # color, contrast, brightness, sharpness: factor 1 +- this
    posterize: int  # bits taken away of 8


PLAIN = Ranges(0.3, 150 / 331, 30.0, 0.9, 4)  # RandAugment
WIDE = Ranges(0.99, 32.0, 135.0, 0.99, 6)  # TrivialAugment (Wide)


@dataclass(frozen=True)
class RandAugment:
    """`number` operators, drawn evenly and with replacement, each at `magnitude` of 30, its sign by chance.

    Args:
        geometric: False leaves out the operators that move pixels, for truth that is loose when turned (boxes, maps).

    Source: Cubuk et al. 2020, RandAugment (section 3; 2 operators at 9 for ResNet-50 on ImageNet).
    """

    number: int = 2
    magnitude: float = 9.0
    geometric: bool = True
    fill: Fill = GRAY

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        names = PHOTOMETRIC + GEOMETRIC if self.geometric else PHOTOMETRIC
        for which, sign in zip(rng.integers(len(names), size=self.number), rng.random(self.number), strict=True):
            sample = operate(sample, names[which], self.magnitude, -1 if sign < 0.5 else 1, PLAIN, self.fill)
        return sample


@dataclass(frozen=True)
class TrivialAugment:
    """One operator, drawn evenly, at a strength drawn evenly from 0 to 30, over wide ranges: nothing to tune.

    Args:
        geometric: as in `RandAugment`.

    Source: Müller & Hutter 2021, TrivialAugment, "wide" (section 3 and table 8); their shifts are 32 pixels whatever
    the size of the image.
    """

    geometric: bool = True
    fill: Fill = GRAY

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        names = PHOTOMETRIC + GEOMETRIC if self.geometric else PHOTOMETRIC
        which, level = int(rng.integers(len(names))), int(rng.integers(LEVELS + 1))
        return operate(sample, names[which], level, -1 if rng.random() < 0.5 else 1, WIDE, self.fill)


def operate(sample: Sample, name: str, level: float, sign: int, ranges: Ranges, fill: Fill = GRAY) -> Sample:
    """The sample after one operator of `GEOMETRIC` or `PHOTOMETRIC`, strength `level` of 30; its truth goes along.

    Args:
        sign: -1 or 1, the direction of the operators that have two.
    """
    share = level / LEVELS
    if name in GEOMETRIC:
        if not level:
            return sample
        matrix = _matrix(name, sign * share, ranges, sample.truth.size)
        return warp(sample, matrix, sample.truth.size, fill)
    if name == "identity":
        return sample
    if name == "posterize":
        image = posterize(sample.image, 8 - round(ranges.posterize * share))
    elif name == "solarize":
        image = solarize(sample.image, 255 * (1 - share))
    elif name == "auto_contrast":
        image = auto_contrast(sample.image)
    elif name == "equalize":
        image = equalize(sample.image)
    else:
        image = enhance(sample.image, name, 1 + sign * ranges.enhance * share)
    return replace(sample, image=image)


def _matrix(name: str, share: float, ranges: Ranges, size: tuple[int, int]) -> np.ndarray:
    """[3, 3], old pixels to new pixels, of a geometric operator at a signed share of its range."""
    height, width = size
    if name in ("translate_x", "translate_y"):
        side = width if name == "translate_x" else height
        pixels = share * (ranges.translate if ranges.translate > 1 else ranges.translate * side)
        return shift(pixels, 0) if name == "translate_x" else shift(0, pixels)
    matrix = np.eye(3)
    if name == "rotate":
        cos, sin = math.cos(math.radians(share * ranges.rotate)), math.sin(math.radians(share * ranges.rotate))
        matrix[:2, :2] = [[cos, -sin], [sin, cos]]
    else:
        matrix[(0, 1) if name == "shear_x" else (1, 0)] = share * ranges.shear
    matrix[:2, 2] = np.array([width, height]) / 2 - matrix[:2, :2] @ (width / 2, height / 2)
    return matrix


def enhance(image: np.ndarray, name: str, factor: float) -> np.ndarray:
    """[H, W, 3] away from a plainer form of itself: 0 gives that form, 1 the image, 2 twice the difference.

    The form is black for "brightness", the mean luminance for "contrast", the luminance of each pixel for "color", the
    smoothed image for "sharpness".
    """
    if name == "brightness":
        return tone(image, factor, 0.0)
    if name == "contrast":
        mean = math.floor(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
        return tone(image, factor, mean * (1 - factor))
    if name == "color":
        plain = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    else:
        plain = image.copy()  # the border keeps its values
        if min(image.shape[:2]) > 2:
            plain[1:-1, 1:-1] = cv2.filter2D(image, -1, SMOOTH)[1:-1, 1:-1]
    return cv2.addWeighted(image, factor, plain, 1 - factor, 0)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Only the `bits` highest bits of every value."""
    return cv2.LUT(image, (SHADES & (0xFF00 >> bits)).astype(np.uint8))


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Values of at least `threshold` are inverted."""
    return cv2.LUT(image, np.where(np.less(SHADES, threshold), SHADES, 255 - SHADES).astype(np.uint8))


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Each channel stretched to 0..255; a channel of one value stays."""
    table = np.empty((1, 256, 3), np.uint8)
    for c, plane in enumerate(cv2.split(image)):
        low, high, _, _ = cv2.minMaxLoc(plane)
        scale = 255 / (high - low) if high > low else 1.0
        table[0, :, c] = np.clip((SHADES - low) * scale, 0, 255) if high > low else SHADES
    return cv2.LUT(image, table)


def equalize(image: np.ndarray) -> np.ndarray:
    """Each channel with as even a histogram as a table of values can make it, as PIL's ImageOps.equalize does it."""
    table = np.empty((1, 256, 3), np.uint8)
    for c in range(3):
        counts = cv2.calcHist([image], [c], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
        if step == 0:
            table[0, :, c] = SHADES
        else:
            table[0, :, c] = np.minimum((step // 2 + np.cumsum(counts) - counts) // step, 255)
    return cv2.LUT(image, table)
