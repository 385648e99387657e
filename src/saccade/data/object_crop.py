"""Training crops around single things of a class map, as DeconvNet's first stage sees the world.

Source: Noh et al. 2015, "Learning deconvolution network for semantic segmentation", section 5.1 (two-stage training).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from saccade.data.geometry import GRAY, Fill, Size, Window
from saccade.data.resampling import zoom
from saccade.data.types import IGNORE, Sample

LEAST = 0.001  # share of the image that a thing must have, so that a few stray pixels are not blown up
MOVED = 0.05  # of its sides a window is moved by at most, for variety (the paper: 224 of 250 pixels)


@dataclass(frozen=True)
class ObjectCrop:
    """A window of the shape of `size` (height, width) around one thing, resized to `size`.

    A thing is a connected part of one class with at least LEAST of the pixels; of the classes that have one each is as
    likely, then each of its things. The window has its box in the middle, `context` times as large, but for up to MOVED
    of its sides. Outside the image it shows `fill`, and "ignore" in the class map. Where there is no thing the window
    is the whole image.
    """

    size: Size
    context: float = 1.2
    fill: Fill = GRAY

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        box = self.choose(sample, rng)
        return zoom(sample, self.window(box, rng), self.size, self.fill)

    def window(self, box: Window, rng: np.random.Generator) -> Window:
        """The window around a box, in whole pixels."""
        x1, y1, x2, y2 = box
        per_row = self.size[1] / self.size[0]
        height = self.context * max(y2 - y1, (x2 - x1) / per_row)
        moves = rng.uniform(-MOVED, MOVED, 2) * (height * per_row, height)
        left, top = (x1 + x2 - height * per_row) / 2 + moves[0], (y1 + y2 - height) / 2 + moves[1]
        sides = max(1, round(height * per_row)), max(1, round(height))
        return round(left), round(top), round(left) + sides[0], round(top) + sides[1]

    def choose(self, sample: Sample, rng: np.random.Generator) -> Window:
        """The box of a thing by chance, in whole pixels; the whole image where there is none."""
        height, width = sample.truth.size
        semantic = sample.truth.semantic
        plane = np.full((height, width), IGNORE, np.uint8) if semantic is None else semantic.numpy()
        for label in rng.permutation(np.unique(plane[plane != IGNORE])):
            _, _, found, _ = cv2.connectedComponentsWithStats((plane == label).astype(np.uint8), connectivity=8)
            large = found[1:][found[1:, cv2.CC_STAT_AREA] >= LEAST * height * width]
            if len(large):
                x, y, w, h = large[rng.integers(len(large))][:4].tolist()
                return x, y, x + w, y + h
        return 0, 0, width, height
