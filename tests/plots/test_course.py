"""Curves of training runs: of old and new logs, of one epoch and many."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figure_pixels import pixels_of
from saccade.plots.course import Course, plot_runs, plot_training

pytestmark = pytest.mark.usefixtures("drawn_figures")


def _row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "lr": 0.1, "losses": {"class": 2.0 / step, "box": 1.0 / step}, **more}


def _new(epoch: int, **more: Any) -> dict[str, Any]:
    """A row with two points, of epochs of ten steps."""
    end = 10 * epoch
    points = [
        {"step": end - 5, "lr": 0.2, "losses": {"class": 1.0}},
        {"step": end, "lr": 0.1, "losses": {"class": 3.0}},
    ]
    row = {"epoch": epoch, "step": end, "lr": 0.1, "losses": {"class": 2.0}, "minutes": 4.0 * epoch}
    return row | {"steps_an_epoch": 10, "points": points} | more


def _titled(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_curves_of_an_older_log(count: int) -> None:
    rows = [_row(i + 1, metrics={"ap": i / 60, "ap50": None}) if i % 2 == 0 else _row(i + 1) for i in range(count)]
    figure = plot_training(rows, "ap")
    assert pixels_of(figure).std() > 5
    assert [len(drawn.get_xdata()) for drawn in _titled(figure, "Loss").lines] == ([count] if count else [])
    assert [len(drawn.get_xdata()) for drawn in _titled(figure, "Score").lines] == ([(count + 1) // 2] if count else [])
    assert len(_titled(figure, "Learning rate").lines) == min(1, count)
    if count:
        assert len(_titled(figure, "box").lines) == 1


def test_one_epoch_shows_a_line_and_both_losses_share_an_axis() -> None:
    row = _new(1, validation_losses={"class": 2.5}, training_metrics={"ap": 0.5}, metrics={"ap": 0.25})
    figure = plot_training([row], "ap")
    training, validation = _titled(figure, "Loss").lines
    assert list(training.get_xdata()) == [0.25, 0.75]  # the middle of the steps that each is the mean of
    assert list(training.get_ydata()) == [1.0, 3.0]
    assert (list(validation.get_xdata()), list(validation.get_ydata())) == ([1.0], [2.5])
    scores = {str(drawn.get_label()): list(drawn.get_ydata()) for drawn in _titled(figure, "Score").lines}
    assert scores == {"ap, training images": [0.5], "ap, validation": [0.25]}
    above = [axes for axes in figure.axes if axes.get_title(loc="right") == "minutes"]
    assert len(above) == 2
    pixels_of(figure)


def test_points_go_on_behind_rows_that_have_none() -> None:
    course = Course([{k: v for k, v in _new(1).items() if k not in ("points", "steps_an_epoch")}, _new(2), _new(3)])
    assert [point.at for point in course.points()] == [0.5, 1.25, 1.75, 2.25, 2.75]
    assert course.minutes([1.5]).tolist() == [6.0]
    assert [point.at for point in Course([_new(1) | {"points": []}, _new(2)]).points()] == [0.5, 1.5]


def test_an_epoch_that_the_clock_cut_off_is_a_part_of_one() -> None:
    assert Course([_new(1) | {"step": 4}]).epochs(4) == 0.4


def test_losses_over_decades_are_labelled_in_plain_numbers() -> None:
    figure = plot_training([{"step": i, "lr": 0.1, "losses": {"joints": 10.0**-i}} for i in range(1, 5)], "ap")
    pixels_of(figure)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert {"0.1", "0.001"} <= set(labels)
    assert not any("$" in label for label in labels)


def test_training_without_validation_says_so() -> None:
    figure = plot_training([_row(1), _row(2)], "ap")
    assert "no validation" in [text.get_text() for text in figure.axes[1].texts]
    pixels_of(figure)


def test_runs_lie_over_each_other_in_epochs_and_minutes() -> None:
    rows = [_new(i, validation_losses={"class": 4.0 / i}, metrics={"ap": i / 10}) for i in range(1, 7)]
    slower = [row | {"minutes": 2 * row["minutes"]} for row in rows[:2]]
    figure = plot_runs({"$first_": rows, "_second": slower}, "ap")
    pixels_of(figure)
    by_epoch, by_minute = _titled(figure, "ap by epoch"), _titled(figure, "ap by minute")
    solid = [[drawn for drawn in axes.lines if drawn.get_linestyle() == "-"] for axes in (by_epoch, by_minute)]
    assert [list(drawn.get_xdata()) for drawn in solid[0]] == [[1, 2, 3, 4, 5, 6], [1, 2]]
    assert [list(drawn.get_xdata()) for drawn in solid[1]] == [[4, 8, 12, 16, 20, 24], [8, 16]]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["$first_", " _second", "validation", "training"]
    alike = [f"{'a_long_name' * 6}-seed{i}" for i in range(2)]
    long = plot_runs(dict.fromkeys(alike, rows), "ap")
    assert [text.get_text() for text in long.legends[0].get_texts()][:2] == alike  # what tells them apart is at the end
    pixels_of(long)
    top = _titled(figure, "Loss by epoch").get_ylim()[1]
    assert top > 4.0  # the highest point lies below the edge
    losses = [drawn for drawn in _titled(figure, "Loss by epoch").lines if drawn.get_linestyle() == "-"]
    assert list(losses[1].get_ydata()) == [4, 2]
    pixels_of(plot_runs({"empty": []}, "ap"))
