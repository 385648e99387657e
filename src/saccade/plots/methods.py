"""Methods side by side: their scores with intervals, and how they grow with the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saccade.plots.figures import INK, new_figure, short_names, style
from saccade.plots.palette import class_colour


def plot_methods(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """The mean of each method with its 95 % interval and the single splits, best on top.

    Args:
        rows: {method, mean, low, high, values: {seed: value}} each; low and high None for one split.
    """
    ranked = sorted(rows, key=lambda row: row["mean"])
    figure = new_figure(5.6, 0.6 + 0.42 * max(2, len(ranked)))
    axes = figure.subplots()
    style(axes, "On images held back", metric.replace("_", " "), "")
    names = short_names([row["method"].replace("_", " ") for row in ranked])
    for place, row in enumerate(ranked):
        colour = _colour(row["method"], rows)
        values = list(row["values"].values())
        axes.plot(values, [place] * len(values), "|", color=colour, alpha=0.5, markersize=9)
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2)
        axes.plot([row["mean"]], [place], "o", color=colour, markersize=6)
    axes.set_yticks(range(len(ranked)), names)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    return figure


def plot_learning_curves(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """A line a method over the number of training images, with 95 % intervals where there are several splits.

    Args:
        rows: {method, curve: [{images, mean, low, high}]} each.
    """
    figure = new_figure(6.4, 3.8)
    axes = figure.subplots()
    style(axes, "Learning curves", "training images", metric.replace("_", " "))
    for row in rows:
        _plot_curve(axes, row, _colour(row["method"], rows))
    if rows:
        axes.legend(fontsize=8, frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left", labelcolor=INK)
    return figure


def _plot_curve(axes: Axes, row: Mapping[str, Any], colour: tuple[float, ...]) -> None:
    points = row["curve"]
    images = [point["images"] for point in points]
    name = row["method"].replace("_", " ")
    axes.plot(images, [point["mean"] for point in points], color=colour, marker="o", ms=3.5, linewidth=1.8, label=name)
    known = [point for point in points if point["low"] is not None]
    if len(known) > 1:
        low, high = [p["low"] for p in known], [p["high"] for p in known]
        axes.fill_between([p["images"] for p in known], low, high, color=colour, alpha=0.12, linewidth=0)


def _colour(method: str, rows: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """The same in both plots."""
    return tuple(v / 255 for v in class_colour([row["method"] for row in rows].index(method)))
