"""Heat maps over images, with colour bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from saccade.plots.figures import INK, new_figure, short_names

_UNSEEN = 0.35  # brightness left of what the network did not see
_WIDTH = 2.9  # inches of a picture
_WIDE = 5.2  # of one that is twice as wide as high, beside one map alone


@dataclass(slots=True)
class HeatPanel:
    """One heat map of an image."""

    title: str
    heat: np.ndarray  # [H, W] float, of the image's size; NaN where the network saw nothing
    unit: str  # what the colour bar says
    signed: bool = False  # values below 0 mean something: red above 0, blue below
    end: float = 1.0  # share of the values that lie within the scale; below 1 the strongest few share its end


def overlay(image: np.ndarray, heat: np.ndarray, signed: bool = False, end: float = 1.0) -> np.ndarray:
    """The image in gray under the colours of the map, the denser the stronger: [H, W, 3] uint8.

    A map without any heat leaves the gray image; what is NaN is darkened.

    Args:
        image: [H, W, 3] uint8 RGB.
        heat: [H, W] float.
        signed, end: see `HeatPanel`.

    Raises:
        ValueError: image and map differ in size.
    """
    if image.shape[:2] != heat.shape:
        raise ValueError(f"the map is of size {list(heat.shape)}, the image {list(image.shape[:2])}")
    norm, name = _scale(heat, signed, end)
    gray = image.astype(np.float32).mean(axis=2, keepdims=True).repeat(3, axis=2)
    values = np.nan_to_num(heat.astype(np.float32), nan=0.0)
    strength = np.abs(values) / max(float(norm.vmax or 0.0), 1e-30)
    colours = 255 * matplotlib.colormaps[name](norm(values).clip(0, 1))[..., :3]
    share = (0.8 * np.clip(strength, 0, 1) ** 0.7)[..., None]
    mixed = (1 - share) * gray + share * colours
    mixed[np.isnan(heat)] *= _UNSEEN
    return mixed.clip(0, 255).astype(np.uint8)


def plot_heat_maps(
    image: np.ndarray, panels: Sequence[HeatPanel], title: str, box: Sequence[float] | None = None
) -> Figure:
    """The image and its heat maps side by side, each map with its colour bar.

    Args:
        image: [H, W, 3] uint8 RGB.
        box: x1 y1 x2 y2 in pixels of the image, drawn into every picture.
    """
    width = _WIDE if len(panels) == 1 and image.shape[1] >= 2 * image.shape[0] else _WIDTH
    height = float(np.clip(width * image.shape[0] / image.shape[1], 0.6, 2 * _WIDTH))
    figure = new_figure(width * (1 + 1.12 * len(panels)), height + 0.75)
    places = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    figure.suptitle(short_names([title], 110)[0], x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=INK)
    _show(places[0], image, "image", box)
    for axes, panel in zip(places[1:], panels, strict=True):
        cold = bool((panel.heat == 0).any()) and not np.nan_to_num(panel.heat).any()
        title = f"{panel.title}: nothing, everywhere 0" if cold else panel.title
        _show(axes, overlay(image, panel.heat, panel.signed, panel.end), title, box)
        if cold:  # a scale would only be one of zeros
            continue
        norm, name = _scale(panel.heat, panel.signed, panel.end)
        more = "neither" if panel.end == 1 else "both" if panel.signed else "max"
        bar = figure.colorbar(ScalarMappable(norm, name), ax=axes, fraction=0.05, pad=0.02, extend=more)
        bar.ax.tick_params(labelsize=6.5)
        bar.outline.set_visible(False)
        bar.set_label(panel.unit, fontsize=7)
    return figure


def _show(axes: Axes, picture: np.ndarray, title: str, box: Sequence[float] | None) -> None:
    small = max(picture.shape[:2]) < 200  # hard pixels, so that one sees what there is
    axes.imshow(picture, interpolation="nearest" if small else "antialiased")
    axes.set_title(title, loc="left", fontsize=8.5, color=INK)
    axes.set_axis_off()
    if box is not None:
        right, low = picture.shape[1], picture.shape[0]  # what a network sees may reach beyond the picture
        inside = np.clip(box, 0, [right, low, right, low])
        x1, y1, x2, y2 = (float(value) - 0.5 for value in inside)  # matplotlib counts from the centre of a pixel
        axes.plot([x1, x2, x2, x1, x1], [y1, y1, y2, y2, y1], color="#56b4e9", linewidth=1.4)


def _scale(heat: np.ndarray, signed: bool, end: float) -> tuple[Normalize, str]:
    """From 0, or evenly around 0, to the strongest value within `end`; and the name of the colours."""
    finite = np.abs(heat[np.isfinite(heat)])
    largest = float(np.quantile(finite, end) or finite.max()) if finite.size else 0.0
    largest = largest if largest > 0 else 1e-6
    return (Normalize(-largest, largest), "RdBu_r") if signed else (Normalize(0, largest), "inferno")
