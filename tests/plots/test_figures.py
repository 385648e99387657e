"""Plots of ordinary, empty and hostile results."""

from __future__ import annotations

import numpy as np
import pytest

from figure_pixels import pixels_of
from saccade.plots.curves import plot_calibration, plot_class_bars, plot_precision_recall
from saccade.plots.figures import short_names
from saccade.plots.matrices import plot_confusion

pytestmark = pytest.mark.usefixtures("drawn_figures")

NAMES = ["$\\frac{", "_hidden", "日本", "<b>", "a\nb", "long " * 50, ""]


def test_precision_recall_names_every_class_of_a_few() -> None:
    curves = [{"class": n, "recall": [0.5, 1.0], "precision": [1.0, 0.6]} for n in NAMES]
    curves[2] = {"class": NAMES[2], "recall": [], "precision": []}
    figure = plot_precision_recall(curves, [0.8, 0.7, None, 0.6, 0.5, 0.4, 0.3], "t", "ap50")
    pixels_of(figure)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == 7
    assert labels[-1] == "mean of 6  0.55"
    assert "_hidden  0.70" in labels[1]


def test_precision_recall_of_many_classes_and_of_none() -> None:
    curves = [{"class": str(i), "recall": [1.0], "precision": [i / 30]} for i in range(30)]
    figure = plot_precision_recall(curves, [i / 30 for i in range(30)], "t", "ap")
    assert len(figure.axes[0].get_legend().get_texts()) == 11
    pixels_of(figure)
    pixels_of(plot_precision_recall([], [], "t", "ap"))


def test_mean_curve_is_the_highest_precision_at_that_recall_or_beyond() -> None:
    curves = [
        {"class": "a", "recall": [0.5, 1.0], "precision": [0.4, 0.8]},
        {"class": "b", "recall": [0.5], "precision": [1.0]},
    ]
    mean = plot_precision_recall(curves, [0.8, 0.5], "t", "ap").axes[0].lines[-1]
    assert mean.get_ydata()[0] == pytest.approx(0.9)
    assert mean.get_ydata()[50] == pytest.approx(0.9)
    assert mean.get_ydata()[51] == pytest.approx(0.4)


@pytest.mark.parametrize("count", [1, 3, 40, 200])
def test_confusion(count: int) -> None:
    names = (NAMES * 30)[:count]
    counts = np.random.default_rng(0).integers(0, 3_000_000, (count, count)).tolist()
    counts[0] = [0] * count
    assert pixels_of(plot_confusion(names, counts, "t")).std() > 5


def test_bars_and_calibration() -> None:
    values: list[float | None] = [0.1, None, 0.9, 0.5, 0.2, 0.0, 1.0]
    figure = plot_class_bars(NAMES, values, "t")
    pixels_of(figure)
    assert [patch.get_width() for patch in figure.axes[0].patches] == [0.0, 0.1, 0.2, 0.5, 0.9, 1.0]
    many = plot_class_bars([str(i) for i in range(100)], [i / 100 for i in range(100)], "t")
    assert len(many.axes[0].patches) == 40
    pixels_of(plot_class_bars([], [], "t"))
    bins = {"confidence": [None, 0.7], "accuracy": [None, 0.6], "images": [0, 5], "error": 0.1}
    pixels_of(plot_calibration(bins))
    pixels_of(plot_calibration({"confidence": [None], "accuracy": [None], "images": [0], "error": None}))


def test_short_names() -> None:
    assert short_names(["_a", "", "b\nc", "x" * 30]) == [" _a", "(no name)", "b c", "x" * 21 + "…"]
