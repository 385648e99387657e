"""SSD's sampling of training images: zoom out onto a canvas, then crop with a minimum overlap.

Source: SSD (Liu et al. 2016), section 2.2 "data augmentation" and section 3.6 (expansion); the numbers that the paper
leaves open (aspect, trials, one draw of the expansion for two of images) are those of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saccade.data.geometry import Fill, Size, Window, areas, fitted
from saccade.data.resampling import zoom
from saccade.data.types import Sample

MEAN = (123, 117, 104)  # RGB, the mean of ImageNet that SSD's backbone subtracts
WHOLE = -1.0  # mode: the image as it is
MODES = (WHOLE, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)  # 0.0: any crop that keeps the centre of a box


@dataclass(frozen=True)
class MinOverlapCrop:
    """With `probability`: expand by chance, then take the whole, or a crop that overlaps an object enough.

    Expansion (probability `expand`): the image lies at a random place of a canvas up to `max_ratio` times as wide and
    high, filled with the mean. Crop: one of `modes` is drawn; scale is uniform in `min_scale` to 1 of the canvas,
    aspect (times that of the canvas) uniform in 1/2 to 2 as far as it fits; the first of `trials` crops is taken that
    keeps the centre of a box and whose IoU with one of the kept boxes is at least the mode; where none does, another
    mode is drawn (the whole ends the search). Boxes whose centre stays inside are kept, clipped. Images without
    objects are only expanded.

    With `size` the result is resized to it in the same step: stretched, or to fit inside if `keep_aspect`.
    """

    probability: float = 1.0
    expand: float = 0.5
    max_ratio: float = 4.0
    modes: tuple[float, ...] = MODES
    min_scale: float = 0.3
    trials: int = 50
    size: Size | None = None
    keep_aspect: bool = False
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
        seen = (window[3] - window[1], window[2] - window[0])
        target = self.size or seen
        if self.keep_aspect:
            target = fitted(seen, target)
        return zoom(sample, window, target, self.fill, keep="centre")

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
            windows = self._draw(canvas, rng)
            good = np.flatnonzero(overlap(boxes, windows, mode))
            if len(good):
                x1, y1, x2, y2 = windows[good[0]].tolist()
                return x1, y1, x2, y2
        return canvas

    def _draw(self, canvas: Window, rng: np.random.Generator) -> np.ndarray:
        """[trials, 4] windows in whole pixels inside the canvas."""
        x1, y1, x2, y2 = canvas
        width, height = x2 - x1, y2 - y1
        scale = rng.uniform(self.min_scale, 1, self.trials)
        low, high = np.maximum(0.5, scale**2), np.minimum(2.0, scale**-2)
        root = np.sqrt(low + (high - low) * rng.random(self.trials))
        w = np.clip(np.rint(width * scale * root), 1, width).astype(np.int64)
        h = np.clip(np.rint(height * scale / root), 1, height).astype(np.int64)
        x, y = x1 + rng.integers(width - w + 1), y1 + rng.integers(height - h + 1)
        return np.stack([x, y, x + w, y + h], axis=1)


def expanded(height: int, width: int, ratio: float, rng: np.random.Generator) -> Window:
    """A canvas `ratio` times as large in which the image lies at a random place, in pixels of the image."""
    right, down = round(width * ratio) - width, round(height * ratio) - height
    x, y = int(rng.integers(right + 1)), int(rng.integers(down + 1))
    return -x, -y, right - x + width, down - y + height


def overlap(boxes: np.ndarray, windows: np.ndarray, least: float) -> np.ndarray:
    """[t] bool: which of [t, 4] windows keep the centre of a box that they overlap with IoU >= `least`.

    Args:
        boxes: [n, 4]
    """
    inner = np.maximum(boxes[None, :, :2], windows[:, None, :2]), np.minimum(boxes[None, :, 2:], windows[:, None, 2:])
    shared = np.maximum(inner[1] - inner[0], 0).prod(axis=2)
    union = areas(windows)[:, None] + areas(boxes)[None] - shared
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2)[None]
    kept = ((centres > windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(axis=2)
    return (kept & (shared >= least * union)).any(axis=1)
