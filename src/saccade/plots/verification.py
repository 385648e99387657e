"""How well similarities tell pairs of one identity from pairs of different ones: rates, histograms, ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saccade.plots.figures import ACCENT, INK, new_figure, style

_OTHER = "#b3541e"  # of what is shown beside `ACCENT`


def _rates(axes: Axes, least: float) -> None:
    """A logarithmic axis of shares from `least` to 1, and shares on the other."""
    axes.set_xscale("log")
    axes.set_xlim(least, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_ylim(0, 1.02)


def plot_roc(roc: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> Figure:
    """True accepts against false accepts, these on a logarithmic scale.

    Args:
        roc: {far, tar}, shares that rise together.
        chosen: {threshold, far, tar} of the threshold that is marked.
    """
    figure = new_figure(5.4, 4.2)
    axes = figure.subplots()
    style(axes, "ROC", "false accepts: share of the pairs of different identities", "true accepts: of the pairs of one")
    far, tar = np.array(roc["far"], dtype=float), np.array(roc["tar"], dtype=float)
    least = far[far > 0].min(initial=1.0) / 2
    axes.step(np.maximum(far, least), tar, where="post", color=ACCENT, linewidth=1.8)
    grid = np.geomspace(least, 1, 50)
    axes.plot(grid, grid, color="#9aa3ad", linewidth=1, linestyle="--", label="by chance")
    if chosen is not None and chosen["far"] is not None and chosen["tar"] is not None:
        label = f"threshold {chosen['threshold']:.3f}"
        axes.plot([max(chosen["far"], least)], [chosen["tar"]], "o", color=_OTHER, label=label)
    _rates(axes, least)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def plot_similarities(scores: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> Figure:
    """How many pairs have which similarity, as shares of each kind.

    Args:
        scores: {edges [n + 1], same [n], different [n]: pairs}.
        chosen: {threshold, ...} of the threshold that is marked.
    """
    figure = new_figure(5.4, 4.2)
    axes = figure.subplots()
    style(axes, "Similarities of pairs", "similarity", "share of the pairs of its kind")
    edges = np.array(scores["edges"])
    for name, kind, colour in (("different identities", "different", _OTHER), ("one identity", "same", ACCENT)):
        counts = np.array(scores[kind], dtype=float)
        if counts.sum():
            axes.stairs(counts / counts.sum(), edges, fill=True, color=colour, alpha=0.45, label=name)
    if chosen is not None:
        axes.axvline(chosen["threshold"], color=INK, linewidth=1.2, label=f"threshold {chosen['threshold']:.3f}")
    filled = np.flatnonzero(np.array(scores["same"]) + np.array(scores["different"]))
    if len(filled):
        axes.set_xlim(edges[max(0, filled[0] - 1)], edges[min(len(edges) - 1, filled[-1] + 2)])
    axes.legend(fontsize=8, frameon=False)
    return figure


def plot_ranks(ranks: Mapping[str, Any], open_set: Mapping[str, Any]) -> Figure:
    """Share of the pictures whose identity is among the first so many of a database, and of those that are found
    while strangers are refused.

    Args:
        ranks: {rank, share}.
        open_set: {far, dir}: strangers let in, pictures found first and let in.
    """
    figure = new_figure(8.6, 3.6)
    left, right = figure.subplots(1, 2)
    style(left, "Identification: everyone is enrolled", "rank", "share found by this rank")
    left.plot(ranks["rank"], ranks["share"], color=ACCENT, linewidth=1.8, marker="o", ms=3)
    style(right, "Identification with strangers", "share of strangers taken for someone", "share found first, let in")
    far, found = np.array(open_set["far"], dtype=float), np.array(open_set["dir"], dtype=float)
    least = far[far > 0].min(initial=1.0) / 2
    right.step(np.maximum(far, least), found, where="post", color=ACCENT, linewidth=1.8)
    _rates(right, least)
    left.set_ylim(0, 1.02)
    left.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    return figure
