"""What is recommended, on results made by hand."""

from __future__ import annotations

import math

import pytest

from saccade.cli_options import METHODS as ON_THE_COMMAND_LINE
from saccade.experiments.trials import METHODS, Trial, interval, recommend, summarise


def _trials(method: str, values: list[float], seconds: float, run: str | None = "r", share: float = 1) -> list[Trial]:
    images = round(80 * share)
    return [
        Trial(method, seed, images, share, v, {"top1": v}, seconds, "", run if seed == 0 else None)
        for seed, v in enumerate(values)
    ]


def test_the_command_line_names_the_methods() -> None:
    assert ON_THE_COMMAND_LINE.split(",") == list(METHODS)


def test_interval_by_hand() -> None:
    low, high = interval([0.8, 0.9], 0.25)
    assert (low, high) == (
        pytest.approx(0.85 - 12.7062 * 0.0707107 * math.sqrt(0.75), rel=1e-4),
        pytest.approx(0.85 + 12.7062 * 0.0707107 * math.sqrt(0.75), rel=1e-4),
    )
    assert interval([0.8], 0.25) == (None, None)


def test_a_summary_holds_mean_deviation_and_curve() -> None:
    trials = _trials("svm", [0.8, 0.9], 2.0) + _trials("svm", [0.6, 0.8], 1.0, None, 0.5)
    (summary,) = summarise(trials, 0.25)
    assert (summary.mean, summary.seeds, summary.seconds) == (pytest.approx(0.85), 2, 2.0)
    assert summary.deviation == pytest.approx(0.0707107)
    assert [(p["images"], p["mean"]) for p in summary.curve] == [(40, pytest.approx(0.7)), (80, pytest.approx(0.85))]
    assert summary.run == "r"
    low, high = interval([0.8, 0.9], 0.25)
    assert low is not None
    assert (summary.low, summary.high) == (low, 1.0)  # no share is above 1
    assert high is not None
    assert high > 1


def test_the_best_on_held_back_images_is_recommended() -> None:
    trials = _trials("svm", [0.88, 0.90, 0.89], 5) + _trials("layers", [0.93, 0.95, 0.94], 90)
    trials += _trials("scratch", [0.5, 0.6, 0.7], 100)
    best, why = recommend(summarise(trials, 0.25), "top1", 0.25)
    assert best.method == "layers"
    assert "0.940" in why[0]
    assert "more than chance; it takes 18 times less" in why[1]
    assert why[2].startswith("All layers from a random start: 0.600, 0.340 less")


def test_a_difference_by_chance_is_called_so() -> None:
    trials = _trials("svm", [0.80, 0.92, 0.85], 5) + _trials("layers", [0.90, 0.84, 0.86], 90)
    best, why = recommend(summarise(trials, 0.25), "top1", 0.25)
    assert best.method == "layers"
    assert "may be chance; it takes 18 times less" in why[1]


def test_at_a_tie_the_faster_one() -> None:
    trials = _trials("layers", [0.9], 50) + _trials("svm", [0.9], 5)
    assert recommend(summarise(trials, 0.25), "top1", 0.25)[0].method == "svm"


def test_only_what_can_be_kept_is_recommended() -> None:
    trials = _trials("svm_depths", [0.95], 5, None) + _trials("svm", [0.9], 5)
    best, why = recommend(summarise(trials, 0.25), "top1", 0.25)
    assert best.method == "svm"
    assert "better by 0.050, but it is no network that can be kept" in why[1]
    with pytest.raises(ValueError, match="no method left a run"):
        recommend(summarise(trials[:1], 0.25), "top1", 0.25)


def test_a_difference_of_two_accuracies_lies_within_1() -> None:
    trials = _trials("svm", [0.05, 0.95], 5) + _trials("layers", [0.95, 0.9], 90)
    _, why = recommend(summarise(trials, 0.25), "top1", 0.25)
    assert "0.425 less (95 % interval -1.000 to 1.000)" in why[1]
