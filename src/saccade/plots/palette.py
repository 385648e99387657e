"""Colours of classes: the same index has the same colour in every picture and plot."""

from __future__ import annotations

import colorsys

import numpy as np

# Okabe & Ito 2008, "Color universal design": told apart by people with any colour vision; without black
_FIRST = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
    (240, 228, 66),
)
_GOLDEN = 0.6180339887498949  # of the colour circle: neighbours in the list lie far apart on it
_TONES = ((0.75, 0.90), (0.95, 0.60), (0.45, 1.0))  # (saturation, value), one after the other


def class_colour(index: int) -> tuple[int, int, int]:
    """RGB of a class, 0..255: seven colours safe for the colour-blind, then hues by the golden angle."""
    if index < len(_FIRST):
        return _FIRST[index]
    step = index - len(_FIRST)
    red, green, blue = colorsys.hsv_to_rgb((0.97 + step * _GOLDEN) % 1, *_TONES[step % len(_TONES)])
    return round(255 * red), round(255 * green), round(255 * blue)


def class_colours(count: int) -> np.ndarray:
    """[count, 3] uint8: `class_colour` of 0..count-1."""
    return np.array([class_colour(i) for i in range(count)], dtype=np.uint8).reshape(-1, 3)


def ink_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever has the higher contrast on `colour` (relative luminance of WCAG 2)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour))
    return (0, 0, 0) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179 else (255, 255, 255)
