"""Changes of colour and light; the geometry and the truth stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from saccade.data.types import Sample

LEVELS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each changed with probability 1/2.

    At `strength` 1 the ranges are SSD's (section 2.2 after Howard 2013; numbers of the authors' code): brightness +-32
    levels, contrast and saturation 0.5 to 1.5, hue +-18 degrees; other strengths scale them. Contrast comes before or
    after saturation and hue by chance. All in 8 bits: two table look-ups and, where colours change, one turn through
    HSV. A gray image stays gray.
    """

    strength: float = 1.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        chosen = rng.random(5) < 0.5
        draws = rng.uniform(-1, 1, 4) * self.strength
        light, contrast, saturation, hue = np.where(chosen[:4], draws, 0.0)
        if not (light or contrast or saturation or hue):
            return sample
        gain = float(max(0.05, 1 + 0.5 * contrast))
        first, last = (gain, 1.0) if chosen[4] else (1.0, gain)
        image = tone(sample.image, first, float(32 * light) * first)
        if saturation or hue:
            image = recolor(image, float(max(0.0, 1 + 0.5 * saturation)), float(18 * hue))
        return replace(sample, image=tone(image, last, 0.0))


def tone(image: np.ndarray, gain: float, offset: float) -> np.ndarray:
    """image * gain + offset, rounded and clipped to 0..255."""
    if gain == 1 and offset == 0:
        return image
    return cv2.LUT(image, np.clip(np.rint(LEVELS * gain + offset), 0, 255).astype(np.uint8))


def recolor(image: np.ndarray, saturation: float, hue: float) -> np.ndarray:
    """[H, W, 3] RGB with its saturation multiplied and its hue turned by `hue` degrees."""
    table = np.empty((1, 256, 3), np.uint8)
    turned = (LEVELS / 256 + hue / 360) % 1  # OpenCV writes hue in 256ths of the circle and reads it in 255ths
    table[0, :, 0] = np.rint(turned * 255)
    table[0, :, 1] = np.clip(np.rint(LEVELS * saturation), 0, 255)
    table[0, :, 2] = LEVELS
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), table)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


# RGB in [0, 1] over ImageNet's pixels: the roots of the covariance's eigenvalues, and its eigenvectors (columns), as
# training scripts of AlexNet's kind hand them on
DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])
DIRECTIONS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclass(frozen=True)
class Lighting:
    """Add the principal components of ImageNet's colours, each times its deviation and a draw from N(0, `sigma`).

    One offset a channel for the whole image. Source: AlexNet (Krizhevsky et al. 2012), section 4.1, where `sigma` is
    0.1. The paper says "eigenvalue" for the factor; the numbers in use are the roots, as deviations of pixel values.
    """

    sigma: float = 0.1

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        offsets = 255 * DIRECTIONS @ (rng.normal(0, self.sigma, 3) * DEVIATIONS)
        table = np.clip(np.rint(LEVELS[:, None] + offsets), 0, 255).astype(np.uint8)
        return replace(sample, image=cv2.LUT(sample.image, table[None]))
