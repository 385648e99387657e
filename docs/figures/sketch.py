"""What the drawings of the lessons share: a sheet in inches, boxes, arrows, and an SVG whose text stays text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

BLUE, ORANGE, GREEN, GRAY = "#dcebf7", "#fde8d3", "#dff2e1", "#e9ecef"
INK, LINE, FAINT, STRONG, OTHER = "#222222", "#5b6672", "#d9dde3", "#0b62a4", "#c4500a"
Point = tuple[float, float]


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty sheet on which a unit is an inch, (0, 0) the lower left corner."""
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, at: Point, size: Point, text: str = "", colour: str = BLUE, letters: float = 9) -> None:
    """A rounded box with its middle at a point, and lines of text in it."""
    corner = (at[0] - size[0] / 2, at[1] - size[1] / 2)
    shape = FancyBboxPatch(corner, *size, boxstyle="round,pad=0,rounding_size=0.06")
    shape.set(facecolor=colour, edgecolor=LINE, linewidth=1)
    axes.add_patch(shape)
    write(axes, at, text, letters)


def frame(axes: Axes, corners: Sequence[float], colour: str = STRONG, dashed: bool = False, width: float = 1.6) -> None:
    """The outline of a box x1 y1 x2 y2."""
    x1, y1, x2, y2 = corners
    shape = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False)
    shape.set(edgecolor=colour, linestyle="--" if dashed else "-", linewidth=width)
    axes.add_patch(shape)


def write(
    axes: Axes, at: Point, text: str, letters: float = 9, bold: bool = False, colour: str = INK, side: str = "center"
) -> None:
    """Lines of text around a point."""
    lines = text.split("\n") if text else []
    step = letters * 1.3 / 72
    for i, line in enumerate(lines):
        y = at[1] + step * ((len(lines) - 1) / 2 - i)
        weight = "bold" if bold else "normal"
        axes.text(at[0], y, line, ha=side, va="center", fontsize=letters, weight=weight, color=colour)


def arrow(axes: Axes, tail: Point, head: Point, bend: float = 0, colour: str = LINE) -> None:
    """From one point to another; a bend makes it an arc."""
    style = f"arc3,rad={bend}"
    line = FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=10, connectionstyle=style, shrinkA=0, shrinkB=0)
    line.set(color=colour, linewidth=1.3)
    axes.add_patch(line)


def save(figure: Figure, script: str) -> None:
    """Write the SVG beside the script that draws it; the same drawing, the same file."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "saccade"}):
        figure.savefig(Path(script).with_suffix(".svg"), metadata={"Date": None, "Creator": None})
