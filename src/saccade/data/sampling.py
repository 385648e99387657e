"""SSD's sampling of training images: zoom out onto a canvas, then crop with a minimum overlap.

Source: SSD (Liu et al. 2016), section 2.2 "data augmentation" and section 3.6 (expansion); the numbers that the paper
leaves open (aspect, trials, one draw of the expansion for two of images) are those of the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from saccade.data.geometry import Fill, Window, areas, clip_boxes, zoom
from saccade.data.types import Sample

MEAN = (123, 117, 104)  # RGB, the mean of ImageNet that SSD's backbone subtracts
WHOLE = -1.0  # mode: the image as it is
MODES = (WHOLE, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)  # 0.0: any crop that keeps the centre of a box


@dataclass(frozen=True)
class MinOverlapCrop:
    """With `probability`: expand by chance, then take the whole, or a crop that overlaps an object enough.

    Expansion (probability `expand`): the image lies at a random place of a canvas up to `max_ratio` times as wide and
    high, filled with the mean. Crop: one of `modes` is drawn; sides are uniform in `min_scale` to 1 of the canvas with an
    aspect in 1/2 to 2; the first of `trials` crops is taken that keeps the centre of a box and whose IoU with some object
    is at least the mode; where none does, another mode is drawn (the whole ends the search). Boxes whose centre stays
    inside are kept, clipped. Images without objects are only expanded.

    The result is scaled down where it would exceed both `longest` pixels (the network's side) and the longer side of
    the image, so that no time goes into canvases that are shrunk right after.
    """

    probability: float = 1.0
    expand: float = 0.5
    max_ratio: float = 4.0
    modes: tuple[float, ...] = MODES
    min_scale: float = 0.3
    trials: int = 50
    longest: int = 0
    fill: Fill = MEAN

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.probability:
            return sample
        height, width = sample.truth.size
        window = (0, 0, width, height)
        if rng.random() < self.expand:
            window = expanded(height, width, rng.uniform(1, self.max_ratio), rng)
        objects = sample.truth.objects
        if objects is not None and len(objects):
            window = self.crop_window(objects.boxes.numpy().astype(np.float64), window, rng)
        if window == (0, 0, width, height):
            return sample
        size = (window[3] - window[1], window[2] - window[0])
        allowed = max(self.longest, height, width) if self.longest else max(size)
        factor = min(1.0, allowed / max(size))
        target = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
        return zoom(sample, window, target, self.fill, min_visible=None)

    def crop_window(self, boxes: np.ndarray, canvas: Window, rng: np.random.Generator) -> Window:
        """The window of `canvas` to keep.

        Args:
            boxes: [n, 4], n > 0, in the coordinates of `canvas`.
        """
        modes = list(self.modes)
        while modes:  # each mode is tried once; the authors' code may draw the same one again
            mode = modes.pop(int(rng.integers(len(modes))))
            if mode == WHOLE:
                return canvas
            for _ in range(self.trials):
                window = self._draw(canvas, rng)
                if window is not None and overlaps(boxes, window, mode):
                    return window
        return canvas

    def _draw(self, canvas: Window, rng: np.random.Generator) -> Window | None:
        x1, y1, x2, y2 = canvas
        width, height = x2 - x1, y2 - y1
        scale = rng.uniform(self.min_scale, 1)
        aspect = rng.uniform(max(0.5, scale**2), min(2.0, 1 / scale**2))
        w, h = round(width * scale * math.sqrt(aspect)), round(height * scale / math.sqrt(aspect))
        if not (0 < w <= width and 0 < h <= height):
            return None
        x, y = x1 + int(rng.integers(width - w + 1)), y1 + int(rng.integers(height - h + 1))
        return x, y, x + w, y + h


def expanded(height: int, width: int, ratio: float, rng: np.random.Generator) -> Window:
    """A canvas `ratio` times as large in which the image lies at a random place, in pixels of the image."""
    right, down = round(width * ratio) - width, round(height * ratio) - height
    x, y = int(rng.integers(right + 1)), int(rng.integers(down + 1))
    return -x, -y, right - x + width, down - y + height


def overlaps(boxes: np.ndarray, window: Window, least: float) -> bool:
    """Whether the window keeps the centre of a box and has IoU >= `least` with one of those that it keeps."""
    x1, y1, x2, y2 = window
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - (x1, y1)
    kept = ((centres > 0) & (centres < (x2 - x1, y2 - y1))).all(axis=1)
    if not kept.any():
        return False
    rows = boxes[kept]
    shared = areas(clip_boxes(rows - (x1, y1, x1, y1), (y2 - y1, x2 - x1)))
    union = (x2 - x1) * (y2 - y1) + areas(rows) - shared
    return bool((shared >= least * union).any())
