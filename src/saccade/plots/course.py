"""The course of a training run: its losses and scores over epochs and minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from saccade.plots.figures import ACCENT, INK, new_figure, short_names, style
from saccade.plots.palette import class_colour

TRAINING, VALIDATION = ACCENT, "#c8501e"  # blue and orange: told apart by every kind of eye
GRAYS = ("#8a939d", "#b5bcc4")  # further metrics
DARK = (5, 3, 2, 0, 4, 1)  # of the palette, dark ones first
PARTS = 5  # parts of the loss that have a panel of their own
TIMES = "#68727c"
CLOSE = 0.05  # of the axis: times nearer to each other are not written
LETTERS = 130  # of a legend across a figure
SMOOTH = 5  # epochs from which on their means are drawn over the points

Row = Mapping[str, Any]
"""A line of log.jsonl: {epoch, step, lr, losses: {name: value}, minutes}, of newer runs {steps_an_epoch, points}; in
some {metrics, validation_losses, training_metrics}, each {name: value or None}, and {training_images}, their number."""


@dataclass(frozen=True, slots=True)
class Point:
    """Mean losses over some steps; `at` is the middle of these, in epochs."""

    at: float
    losses: Mapping[str, float]

    @property
    def total(self) -> float:
        """The sum of the losses, which is what is minimised."""
        return sum(self.losses.values())


@dataclass(frozen=True)
class Course:
    """The rows of one run, with epochs for their steps."""

    rows: Sequence[Row]

    @property
    def steps_an_epoch(self) -> float:
        """As the rows state it, of an older run the longest epoch that they show."""
        stated = [row["steps_an_epoch"] for row in self.rows if "steps_an_epoch" in row]
        ends = [0, *(row["step"] for row in self.rows)]
        longest = max((after - before for before, after in pairwise(ends)), default=1)
        return float(max(1, stated[-1] if stated else longest))

    def epochs(self, step: float) -> float:
        """How many epochs so many steps are."""
        return step / self.steps_an_epoch

    def means(self) -> list[Point]:
        """The training losses of each epoch."""
        return self._between([(row["step"], row["losses"]) for row in self.rows])

    def points(self) -> list[Point]:
        """The training losses inside epochs, where the log has more of them than of epochs; else those of epochs."""
        inside = [(point["step"], point["losses"]) for row in self.rows for point in row.get("points", ())]
        if len(inside) <= len(self.rows):
            return self.means()
        first = next(i for i, row in enumerate(self.rows) if row.get("points"))  # what an older version wrote
        return self._between([(row["step"], row["losses"]) for row in self.rows[:first]] + inside)

    def _between(self, ends: Sequence[tuple[int, Mapping[str, float]]]) -> list[Point]:
        found, before = [], 0
        for step, losses in ends:
            found.append(Point(self.epochs((before + step) / 2), losses))
            before = step
        return found

    def held_out(self) -> list[Point]:
        """The losses on validation images, where they were measured."""
        rows = [row for row in self.rows if row.get("validation_losses")]
        return [Point(self.epochs(row["step"]), row["validation_losses"]) for row in rows]

    def scores(self, metric: str, of: str = "metrics") -> list[tuple[float, float]]:
        """(epochs, value) wherever a metric has one; `of` is "metrics" or "training_metrics"."""
        found = [(self.epochs(row["step"]), row.get(of, {}).get(metric)) for row in self.rows]
        return [(x, y) for x, y in found if y is not None]

    def rates(self) -> list[tuple[float, float]]:
        """(epochs, learning rate) of points and rows."""
        known = [each for row in self.rows for each in (*row.get("points", ()), row)]
        return sorted({(self.epochs(each["step"]), each["lr"]) for each in known})

    def minutes(self, epochs: Sequence[float]) -> np.ndarray:
        """Minutes of training after so many epochs, evenly between rows."""
        known = [(0.0, 0.0), *((self.epochs(row["step"]), row["minutes"]) for row in self.rows if "minutes" in row)]
        return np.interp(epochs, [x for x, _ in known], [y for _, y in known])


def plot_training(rows: Sequence[Row], metric: str) -> Figure:
    """Loss of training and validation images, score of both, each part of the loss where there are several, and the
    learning rate, over epochs and minutes; also for a single row.

    Args:
        rows: lines of log.jsonl (`Row`), also of older versions.
        metric: the name of the metric that ranks checkpoints, drawn bold.
    """
    course = Course(rows)
    names = list(dict.fromkeys(name for row in rows for name in row["losses"]))
    parts = names[:PARTS] if len(names) > 1 else []
    heights = [3.3, *([1.7] if parts else []), 1.2]
    figure = new_figure(11, sum(heights) + 0.6)
    grid = figure.add_gridspec(len(heights), 2 * max(1, len(parts)), height_ratios=heights)
    half = max(1, len(parts))
    losses, scores = figure.add_subplot(grid[0, :half]), figure.add_subplot(grid[0, half:])
    _plot_loss(losses, course)
    _plot_scores(scores, course, metric)
    panels = [losses, scores]
    for i, name in enumerate(parts):
        panels.append(figure.add_subplot(grid[1, 2 * i : 2 * i + 2]))
        _plot_part(panels[-1], course, name)
    panels.append(figure.add_subplot(grid[-1, :]))
    style(panels[-1], "Learning rate", "epoch", "")
    line(panels[-1], course.rates(), "", 1.6, INK, marked=False)
    end = max((course.epochs(row["step"]) for row in rows), default=1.0)
    for axes in panels:
        axes.set_xlim(0, end * 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(5 if axes in panels[2:-1] else 8, steps=[1, 2, 5, 10]))
    for axes in (losses, scores):
        add_minutes(axes, course, end)
    return figure


def plot_runs(runs: Mapping[str, Sequence[Row]], metric: str) -> Figure:
    """The losses and the score of several runs over each other, on the left over epochs, on the right over minutes.

    Args:
        runs: rows of log.jsonl by the name of the run.
        metric: as in `plot_training`.
    """
    figure = new_figure(11, 6.6)
    panels = figure.subplots(2, 2)
    handles, names = [], short_names(list(runs), 90)
    for i, (name, rows) in enumerate(zip(names, runs.values(), strict=True)):
        course = Course(rows)
        colour: Any = tuple(v / 255 for v in class_colour(DARK[i] if i < len(DARK) else i))
        points = course.means() if len(rows) >= SMOOTH else course.points()
        curves = [(0, [(p.at, p.total) for p in points], "--", 1.0), (1, course.scores(metric), "-", 2.0)]
        curves += [(0, [(p.at, p.total) for p in course.held_out()], "-", 2.0)]
        curves += [(1, course.scores(metric, "training_metrics"), "--", 1.0)]
        for row, known, pattern, width in curves:
            x, y = [x for x, _ in known], [y for _, y in known]
            look: dict[str, Any] = {"color": colour, "linestyle": pattern, "linewidth": width}
            mark = len(x) == 1 or (pattern == "-" and 0 < len(x) < 25)
            if mark:  # one at 0 is shown whole
                look |= {"marker": "o", "ms": 3, "clip_on": False, "fillstyle": "full" if pattern == "-" else "none"}
            panels[row, 0].plot(x, y, **look)
            panels[row, 1].plot(course.minutes(x), y, **look)
        handles.append(Line2D([], [], color=colour, linewidth=2.0, label=name))
    for row, title in ((0, "Loss"), (1, metric)):
        for column, unit in ((0, "epoch"), (1, "minute")):
            axes = panels[row, column]
            style(axes, f"{title} by {unit}", f"{unit}s", "")
            if row:
                set_score_scale(axes)
            else:
                set_loss_scale(axes, [float(y) for drawn in axes.lines for y in np.asarray(drawn.get_ydata())])
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    handles.append(Line2D([], [], color=TIMES, linewidth=2.0, label="validation"))
    handles.append(Line2D([], [], color=TIMES, linestyle="--", linewidth=1.0, label="training"))
    columns = max(1, min(4, LETTERS // (6 + max(map(len, [*names, "validation"])))))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=9, frameon=False)
    return figure


def _plot_loss(axes: Axes, course: Course) -> None:
    style(axes, "Loss", "epoch", "")
    points, means, held_out = course.points(), course.means(), course.held_out()
    if len(points) > len(means) >= SMOOTH:
        axes.plot([p.at for p in points], [p.total for p in points], color=TRAINING, linewidth=0.8, alpha=0.35)
        points = means
    line(axes, [(p.at, p.total) for p in points], "training, mean of the steps", 2.0, TRAINING, marked=len(points) < 12)
    line(axes, [(p.at, p.total) for p in held_out], "validation", 2.0, VALIDATION)
    if len(held_out) > 2:
        lowest = min(held_out, key=lambda p: p.total)
        axes.plot([lowest.at], [lowest.total], "o", ms=9, fillstyle="none", color=VALIDATION, label="lowest")
    set_loss_scale(axes, [p.total for p in (*course.points(), *held_out)])
    if points:
        axes.legend(fontsize=8, frameon=False)


def _plot_part(axes: Axes, course: Course, name: str) -> None:
    style(axes, name.replace("_", " "), "epoch", "")
    points = course.points()
    known = [(p.at, p.losses[name]) for p in (points if len(course.means()) < SMOOTH else course.means())]
    held_out = [(p.at, p.losses[name]) for p in course.held_out() if name in p.losses]
    line(axes, known, "training", 1.3, TRAINING, marked=False)
    line(axes, held_out, "validation", 1.3, VALIDATION, marked=len(held_out) < 3)
    set_loss_scale(axes, [y for _, y in (*known, *held_out)])


def _plot_scores(axes: Axes, course: Course, metric: str) -> None:
    style(axes, "Score", "epoch", "")
    prefix = "mask_" if metric.startswith("mask_") else ""
    listed = dict.fromkeys(
        name for row in course.rows for name in row.get("metrics", {}) if name.startswith(prefix) and name != metric
    )
    others = [name for name in listed if course.scores(name)][: len(GRAYS)]  # the log has them in order of importance
    for name, gray in zip(others, GRAYS, strict=False):
        line(axes, course.scores(name), f"{name}, validation", 1.0, gray, marked=False)
    counts = [f"{row['training_images']:,} " for row in course.rows if row.get("training_images")]
    name = f"{metric}, {counts[-1] if counts else ''}training images"
    line(axes, course.scores(metric, "training_metrics"), name, 1.6, TRAINING)
    line(axes, course.scores(metric), f"{metric}, validation", 2.2, VALIDATION)
    if axes.lines:
        axes.legend(fontsize=8, frameon=False)
        set_score_scale(axes)
    else:
        axes.text(0.5, 0.5, "no validation", ha="center", va="center", transform=axes.transAxes, color=INK)


def line(
    axes: Axes, points: Sequence[tuple[float, float]], name: str, width: float, colour: Any, marked: bool = True
) -> None:
    """A line through (x, y), with a mark at each of a few points; nothing where there is none."""
    if points:
        mark = "o" if (marked and len(points) < 25) or len(points) == 1 else None
        x, y = zip(*points, strict=True)
        look: dict[str, Any] = {"marker": mark, "ms": 3, "clip_on": False} if mark else {}  # a mark at 0 is shown whole
        axes.plot(x, y, label=name or None, linewidth=width, color=colour, **look)


def set_loss_scale(axes: Axes, values: Sequence[float]) -> None:
    """Decades where the values span more than fifty times, else from zero up."""
    if values and min(values) > 0 and max(values) / min(values) > 50:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")  # powers of ten would be written as mathematics, which is not parsed
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif values and min(values) >= 0:
        axes.set_ylim(0, 1.06 * max(values) or 1.0)


def set_score_scale(axes: Axes) -> None:
    """From zero to a little above the highest of the lines, at most to 1."""
    highest = max((float(y) for drawn in axes.lines for y in np.asarray(drawn.get_ydata())), default=0.0)
    axes.set_ylim(0, min(1.02, 1.2 * highest) or 1.02)


def add_minutes(axes: Axes, course: Course, end: float) -> None:
    """A second axis above, with minutes (seconds of a short run) at the places of the epochs after which they were."""
    grid = np.linspace(0, end, 201)
    times = course.minutes(list(grid))
    if times[-1] <= 0:
        return
    unit, factor = ("minutes", 1.0) if times[-1] >= 2 else ("seconds", 60.0)
    shown: list[tuple[float, float]] = []  # place, time
    for time in MaxNLocator(6).tick_values(0, factor * times[-1]):
        place = float(np.interp(time, factor * times, grid))
        if time <= factor * times[-1] and (not shown or place - shown[-1][0] > CLOSE * end):
            shown.append((place, time))
    above = axes.twiny()
    above.set_xlim(axes.get_xlim())
    above.set_xticks([place for place, _ in shown], [f"{time:g}" for _, time in shown])
    above.tick_params(labelsize=8, colors=TIMES, length=3)
    axes.set_title(unit, loc="right", fontsize=8, color=TIMES)
    for side in ("right", "left", "bottom"):
        above.spines[side].set_visible(False)
    above.spines["top"].set_color("#9aa3ad")
