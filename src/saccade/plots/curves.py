"""Lines and bars: precision against recall, reliability, values by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saccade.plots.figures import ACCENT, FAINT, INK, new_figure, short_names, style
from saccade.plots.palette import class_colour

NAMED = 10  # classes with a colour and a name of their own in a plot; the others are gray
BARS = 40  # classes shown as bars: the weakest and the best


def _line(axes: Axes, points: Sequence[tuple[float, float]], name: str, width: float, colour: Any) -> None:
    if points:
        mark = "o" if len(points) < 25 else None
        axes.plot(*zip(*points, strict=True), label=name or " ", linewidth=width, color=colour, marker=mark, ms=3)


def plot_precision_recall(
    curves: Sequence[Mapping[str, Any]], values: Sequence[float | None], title: str, value_name: str
) -> Figure:
    """One line a class, the best and the weakest named; their mean in black.

    Args:
        curves: {class, recall, precision} each, lists of equal length, empty where a class has no truth.
        values: the average precision of each class, for the legend.
        value_name: what `values` are.
    """
    figure = new_figure(7.2, 4.6)
    axes = figure.subplots()
    style(axes, title, "recall: share of the true ones that is found", "precision: share of the found that is true")
    worth = {k: values[k] or 0.0 for k, curve in enumerate(curves) if curve["recall"]}
    ranked = sorted(worth, key=lambda k: -worth[k])
    named = set(ranked if len(ranked) <= NAMED else ranked[: NAMED // 2] + ranked[-NAMED // 2 :])
    labels = short_names([c["class"] for c in curves])
    for k in sorted(ranked, key=lambda k: (k not in named, -worth[k])):
        recall, precision = curves[k]["recall"], curves[k]["precision"]
        shown = k in named
        colour = tuple(v / 255 for v in class_colour(k)) if shown else FAINT
        (line,) = axes.plot([0, *recall], [precision[0], *precision], color=colour, linewidth=1.6, zorder=2 + shown)
        if shown:
            line.set_label(f"{labels[k]}  {worth[k]:.2f}")
    if len(ranked) > 1:
        grid = np.linspace(0, 1, 101)
        mean = np.mean([_at(curves[k]["recall"], curves[k]["precision"], grid) for k in ranked], axis=0)
        average = sum(worth.values()) / len(worth)
        axes.plot(grid, mean, color=INK, linewidth=2.2, label=f"mean of {len(ranked)}  {average:.2f}", zorder=5)
    if ranked:
        axes.legend(fontsize=8, frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left", title=value_name)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.03)
    return figure


def _at(recall: Sequence[float], precision: Sequence[float], grid: np.ndarray) -> np.ndarray:
    """Highest precision at each recall of `grid` or beyond; 0 past the last."""
    r, p = np.asarray(recall), np.asarray(precision)
    best = np.append(np.maximum.accumulate(p[::-1])[::-1], 0.0)
    return np.asarray(best[np.searchsorted(r, grid - 1e-9)])


def plot_operating(points: Mapping[str, Any]) -> Figure:
    """F1 over the confidence from which objects are given, and where it is highest.

    Args:
        points: {confidence, curve: lists of equal length, threshold, f1}.
    """
    figure = new_figure(5.4, 3.6)
    axes = figure.subplots()
    style(axes, "F1 of all objects, IoU 0.5", "smallest score of an object that is given", "F1")
    axes.plot(points["confidence"], points["curve"], color=ACCENT, linewidth=2.0)
    axes.plot([points["threshold"]], [points["f1"]], "o", color=INK, ms=5)
    axes.annotate(
        f"{points['f1']:.2f} from {points['threshold']:.2f} on",
        (points["threshold"], points["f1"]),
        (6, 6),
        textcoords="offset points",
        fontsize=9,
        color=INK,
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.08)
    return figure


def plot_calibration(calibration: Mapping[str, Any]) -> Figure:
    """Accuracy against confidence, with the number of images in each bin below.

    Args:
        calibration: {confidence, accuracy, images: one a bin (NaN or None where empty), error}.
    """
    figure = new_figure(4.6, 4.6)
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    error = calibration["error"]
    gap = "" if error is None else f" (expected error {error:.3f})"
    style(axes, f"Calibration{gap}", "", "share that is right")
    axes.plot([0, 1], [0, 1], color="#9aa3ad", linewidth=1, linestyle="--")
    images = calibration["images"]
    rows = zip(calibration["confidence"], calibration["accuracy"], images, strict=True)
    known = [(c, a) for c, a, n in rows if n]
    _line(axes, known, "", 1.8, ACCENT)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    style(counts, "", "confidence of the answer", "images")
    edges = np.linspace(0, 1, len(images) + 1)
    counts.bar((edges[:-1] + edges[1:]) / 2, images, width=0.9 / len(images), color=ACCENT, alpha=0.6)
    return figure


def plot_class_bars(names: Sequence[str], values: Sequence[float | None], title: str) -> Figure:
    """A bar a class, best on top; of more than `BARS` classes the best and the weakest halves of that number."""
    known = [(name, value) for name, value in zip(short_names(names), values, strict=True) if value is not None]
    known.sort(key=lambda item: item[1])
    if len(known) > BARS:
        known = known[: BARS // 2] + known[-BARS // 2 :]
        title += f", the {BARS // 2} best and weakest"
    figure = new_figure(7.2, 1.1 + 0.24 * max(3, len(known)))
    axes = figure.subplots()
    style(axes, title, "", "")
    places = np.arange(len(known))
    axes.barh(places, [value for _, value in known], color=ACCENT, alpha=0.8, height=0.7)
    axes.set_yticks(places, [name for name, _ in known])
    for place, (_, value) in enumerate(known):
        axes.text(value + 0.008, place, f"{value:.3f}", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, 1.08)
    axes.grid(axis="y", visible=False)
    return figure
