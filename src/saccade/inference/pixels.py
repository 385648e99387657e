"""What is made of a segmenter's scores: a class for every pixel, or the objects that are in it.

Two steps, so that large pictures are read in tiles (`inference/tiles.py`): `planes` reads each pixel by itself and
keeps a few bytes of it, `answer` looks at the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saccade.data.types import Annotation, Objects
from saccade.errors import ResourceError, UsageError
from saccade.ops.distance import distance_inside
from saccade.plots.draw import is_background

SMALLEST = 8  # pixels of a part that is taken for an object
DEPTH = 1.0  # pixels by which two summits of the distance to the edge must rise above their pass to be two objects
MOST = 8 << 30  # bytes of masks of one image


class Pixels(Protocol):
    """A way to read the scores of pixels."""

    def planes(self, scores: Tensor) -> Tensor:
        """Scores [b, C, h, w] before softmax -> [b, k, h, w] uint8, what is kept of each pixel."""

    def answer(self, planes: Tensor) -> Annotation:
        """The answer for one image of its planes [k, h, w] on the CPU, in their pixels."""


class ClassMaps:
    """The most probable class of every pixel."""

    def planes(self, scores: Tensor) -> Tensor:
        """As `Pixels`, k = 1."""
        return scores.argmax(1, keepdim=True).to(torch.uint8)

    def answer(self, planes: Tensor) -> Annotation:
        """The class map."""
        return Annotation((planes.shape[1], planes.shape[2]), semantic=planes[0])


class PixelObjects:
    """The objects in a class map, told apart by watershed (Beucher & Lantuejoul 1979; Meyer 1994, as scikit-image).

    Of a network that knows the border class (`data/borders.py`) each part that it calls inside is the seed of one
    object, and grows over the pixels of objects by falling probability to be inside. A part of objects without a seed
    is one by itself. Of another network the seeds are the summits of the distance to the edge of a class, which rise by
    DEPTH above the pass to a higher one; they grow down. Parts of less than SMALLEST pixels are none.

    The score of an object is the mean probability of its pixels not to be background.

    Args:
        classes: of the network; "background" is no object, "border" the border of any.
        border: whether the last one is a border that was drawn in training.

    Raises:
        UsageError: no class is left whose objects could be found.
    """

    def __init__(self, classes: Sequence[str], border: bool) -> None:
        self.border = len(classes) - 1 if border else None
        self.things = [k for k, name in enumerate(classes) if k != self.border and not is_background(name)]
        self.names = [classes[k] for k in self.things]
        if not self.things:
            raise UsageError(f"instances: none of the classes {', '.join(classes)} has objects")

    def planes(self, scores: Tensor) -> Tensor:
        """As `Pixels`, k = 4: 0 background, 1 border, 2 inside; the most probable class of objects; the probabilities
        of inside, and of inside or border, over 255."""
        p = scores.softmax(1)
        best, inside = scores.argmax(1), p[:, self.things]
        kind = torch.zeros_like(best)
        for k in self.things:
            kind[best == k] = 2
        inner = inside.sum(1)
        outer = inner
        if self.border is not None:
            kind[best == self.border] = 1
            outer = inner + p[:, self.border]
        shares = [(255 * share).round().clamp(0, 255) for share in (inner, outer)]
        return torch.stack([kind, inside.argmax(1), *shares], 1).to(torch.uint8)

    def answer(self, planes: Tensor) -> Annotation:
        """The objects by falling score. Raises ResourceError where their masks would take more memory than MOST."""
        from skimage.measure import label

        kind, labels, inner, outer = planes.numpy()
        size = (planes.shape[1], planes.shape[2])
        if self.border is None:
            numbers = self._by_distance(kind, labels)
        else:
            seeds = label(np.where(kind == 2, labels.astype(np.int32) + 1, 0), connectivity=1)
            numbers = _grown(_large(seeds), 255 - inner, kind > 0)
        return Annotation(size, objects=objects_of(numbers, labels, outer / np.float32(255)))

    def _by_distance(self, kind: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """[h, w] int32 numbers of objects by the distance to the edge of their class."""
        from skimage.measure import label
        from skimage.morphology import h_maxima

        numbers = np.zeros(kind.shape, np.int32)
        for k in range(len(self.things)):
            region = (kind > 0) & (labels == k)
            if not region.any():
                continue
            framed = np.pad(region, 1, mode="edge")  # the edge of the image is none of the class
            distance = distance_inside(framed)[1:-1, 1:-1]
            seeds = label(h_maxima(distance, DEPTH), connectivity=2)
            found = _grown(seeds, -distance, region)
            numbers[region] = np.where(found > 0, found + numbers.max(), 0)[region]
        return _large(numbers)


def _grown(seeds: np.ndarray, height: np.ndarray, region: np.ndarray) -> np.ndarray:
    """[h, w] int32: the seeds [h, w] grown over a region by watershed, rising from low to high; connected parts of the
    region without a seed, of SMALLEST pixels, are numbered too."""
    from skimage.measure import label
    from skimage.segmentation import watershed

    parts = label(region, connectivity=1)
    seeded = np.zeros(parts.max() + 1, bool)
    seeded[parts[seeds > 0]] = True
    others = _large(np.where(seeded[parts], 0, parts))
    markers = np.where(others > 0, others + seeds.max(), seeds)
    found: np.ndarray = watershed(height, markers, mask=region).astype(np.int32)
    return found


def _large(numbers: np.ndarray) -> np.ndarray:
    """Numbers [h, w] without those of fewer than SMALLEST pixels."""
    small = np.bincount(numbers.ravel()) < SMALLEST
    return np.where(small[numbers], 0, numbers)


def objects_of(numbers: np.ndarray, labels: np.ndarray, likely: np.ndarray) -> Objects:
    """Objects by falling score of a map of their numbers.

    Args:
        numbers: [h, w] int32 from 1; 0 for none. Numbers may be missing.
        labels: [h, w] class at each pixel; an object has that of most of its pixels.
        likely: [h, w] in [0, 1]; an object's score is the mean over its pixels.
    """
    from scipy import ndimage

    places = [(i + 1, place) for i, place in enumerate(ndimage.find_objects(numbers)) if place is not None]
    if len(places) * numbers.size > MOST:
        raise ResourceError(
            f"{len(places):,} objects in {numbers.shape[1]} x {numbers.shape[0]} pixels: their masks need "
            f"{len(places) * numbers.size / 1e9:.0f} GB, allowed are {MOST / 1e9:.0f}; cut the picture into parts"
        )
    if not places:
        return Objects.empty(scored=True)
    masks = np.zeros((len(places), *numbers.shape), bool)
    boxes, classes, scores = [], [], []
    for mask, (number, (rows, columns)) in zip(masks, places, strict=True):
        own = numbers[rows, columns] == number
        mask[rows, columns] = own
        boxes.append([float(v) for v in (columns.start, rows.start, columns.stop, rows.stop)])
        classes.append(int(np.bincount(labels[rows, columns][own]).argmax()))
        scores.append(float(likely[rows, columns][own].mean()))
    order = torch.tensor(scores).argsort(descending=True, stable=True)
    return Objects(torch.tensor(boxes), torch.tensor(classes), torch.tensor(scores), torch.from_numpy(masks))[order]
