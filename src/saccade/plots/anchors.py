"""The boxes of a data set by width and height, the anchors among them, and what more anchors would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from saccade.plots.figures import ACCENT, INK, new_figure, style
from saccade.plots.palette import class_colour

DRAWN = 5000  # boxes


def plot_anchors(sides: np.ndarray, shapes: np.ndarray) -> Figure:
    """A point a box, in the colour of the anchor that overlaps it most, and the anchors as crosses.

    Args:
        sides: [n, 2] width and height in pixels of the input.
        shapes: [k, 2] likewise.
    """
    figure = new_figure(5.6, 5.2)
    axes = figure.subplots()
    style(axes, f"{len(sides):,} boxes and {len(shapes)} anchors", "width in pixels", "height in pixels")
    sides = sides[:: -(-len(sides) // DRAWN)]
    shared = np.minimum(sides[:, None], shapes[None]).prod(2)
    nearest = (shared / (sides.prod(1)[:, None] + shapes.prod(1)[None] - shared)).argmax(1)
    for number, (width, height) in enumerate(shapes):
        colour = tuple(part / 255 for part in class_colour(number))
        own = sides[nearest == number]
        axes.plot(own[:, 0], own[:, 1], ".", color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
        axes.plot([width], [height], "P", color=colour, markersize=11, markeredgecolor=INK)
        axes.annotate(f"{width:.0f} x {height:.0f}", (width, height), (7, 5), textcoords="offset points", fontsize=8)
    axes.set_xlim(0)
    axes.set_ylim(0)
    return figure


def plot_anchor_curve(curve: Sequence[Mapping[str, Any]], chosen: int) -> Figure:
    """Average IoU and the share of boxes above 0.5 over the number of anchors, with a line at the chosen one.

    Args:
        curve: {k, average_iou, good} each.
    """
    figure = new_figure(5.6, 3.6)
    axes = figure.subplots()
    style(axes, "What more anchors give", "anchors", "")
    numbers = [row["k"] for row in curve]
    axes.plot(numbers, [row["average_iou"] for row in curve], "o-", color=ACCENT, label="average IoU with the best")
    axes.plot(numbers, [row["good"] for row in curve], "s--", color=INK, label="boxes with an IoU above 0.5")
    axes.axvline(chosen, color="#9aa3ad", linewidth=1)
    axes.set_ylim(0, 1.02)
    axes.set_xticks(numbers[:: -(-len(numbers) // 15)])
    axes.legend(fontsize=8, frameon=False, loc="lower right", labelcolor=INK)
    return figure
