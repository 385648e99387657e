"""What all plots share: a plain light style, text as it is written, PNG bytes. No pyplot, so no global state."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from saccade.plots.text import one_line

INK, FAINT, ACCENT = "#222222", "#d9dde3", "#0b62a4"
DPI = 150  # of the files; `SHOWN` is how large they are meant to be seen
SHOWN = 84


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style(axes: Axes, title: str, x: str, y: str) -> None:
    """Title at the left, faint grid, no box."""
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9aa3ad")


def short_names(names: Sequence[str], longest: int = 22) -> list[str]:
    """Class names for axes and legends. A leading underscore, which matplotlib would hide, gets a space before it."""
    lines = [one_line(name) or "(no name)" for name in names]
    lines = [line if len(line) <= longest else line[: longest - 1] + "…" for line in lines]
    return [f" {line}" if line.startswith("_") else line for line in lines]


def shown_size(png: bytes) -> tuple[int, int]:
    """Width and height in pixels at which a PNG of `to_png` is meant to be seen."""
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        return round(picture.width * SHOWN / DPI), round(picture.height * SHOWN / DPI)


def to_png(figure: Figure) -> bytes:
    """The figure as PNG. Dollar signs in names are dollar signs; letters that the font lacks show as boxes."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*missing from font")
        figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.04)
    return buffer.getvalue()
