"""Figures as the pixels of their pictures."""

from __future__ import annotations

import io
import warnings

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from saccade.plots.figures import shown_size, to_png


def pixels_of(figure: Figure) -> np.ndarray:
    """[H, W, 3] uint8 of a figure that is drawn without a warning and of a size for a page."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = to_png(figure)
    width, height = shown_size(png)
    assert 100 < width < 1100
    assert height > 50
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
