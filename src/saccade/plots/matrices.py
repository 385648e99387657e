"""Confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from saccade.plots.figures import INK, new_figure, short_names

NUMBERS = 16  # classes up to which the counts are written into the cells
NAMES = 60  # classes up to which the axes carry names


def plot_confusion(classes: Sequence[str], counts: Sequence[Sequence[int]], title: str) -> Figure:
    """True classes down, predicted classes across; the shade is the share of the true class.

    Args:
        classes: names of rows and columns.
        counts: [truth][predicted].
    """
    table = np.asarray(counts, dtype=np.float64).reshape(len(classes), len(classes))
    total = table.sum(1, keepdims=True)
    share = np.divide(table, total, out=np.zeros_like(table), where=total > 0)
    side = float(np.clip(2.6 + 0.42 * len(classes), 4.2, 9))
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    axes.set_xlabel("predicted", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    if len(classes) <= NAMES:
        names, places = short_names(classes, 18), np.arange(len(classes))
        letters = float(np.clip(160 / max(1, len(classes)), 4.5, 8))
        axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=letters)
        axes.set_yticks(places, names, fontsize=letters)
    axes.tick_params(length=0)
    if len(classes) <= NUMBERS:
        for row, column in zip(*np.nonzero(table), strict=True):
            colour = "white" if share[row, column] > 0.55 else INK
            text = _short_count(int(table[row, column]))
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", fontsize=8)
    return figure


def _short_count(count: int) -> str:
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1_000_000:.1f}M"
