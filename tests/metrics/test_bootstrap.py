"""Intervals by resampling: images one by one, or recordings as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.data.types import Annotation
from saccade.metrics import Value
from saccade.metrics.bootstrap import difference, estimate, resampled_as, resamples
from saccade.tasks.contract import task_of


def _mean(values: np.ndarray):
    return lambda w: {"mean": (w @ values) / w.sum(1)}


def test_pictures_of_one_recording_are_drawn_together() -> None:
    units = resampled_as(["a", "b", "c", "d", "e"], {"a": "film", "c": "film", "d": "b"})
    assert units.tolist() == [0, 1, 0, 2, 3]  # a recording called as an image is
    for weights in resamples(units, 100, seed=0):
        assert (weights[:, 0] == weights[:, 2]).all()
        assert (weights[:, [0, 1, 3, 4]].sum(1) == 4).all()


def test_without_recordings_images_are_drawn_one_by_one() -> None:
    units = resampled_as(["b", "a", "c"])
    weights = np.concatenate(list(resamples(units, 1000, seed=0)))
    assert (weights.sum(1) == 3).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.1)


def test_frames_that_agree_leave_the_interval_as_wide_as_their_recordings_do() -> None:
    rng = np.random.default_rng(0)
    of_recordings = rng.random(10)
    values = np.repeat(of_recordings, 20) + rng.normal(0, 0.01, 200)
    ids = [str(i) for i in range(200)]
    groups = {str(i): str(i // 20) for i in range(200)}
    alone = estimate(_mean(values), resampled_as(ids), 2000, 0)["mean"]
    together = estimate(_mean(values), resampled_as(ids, groups), 2000, 0)["mean"]
    few = estimate(_mean(of_recordings), resampled_as(ids[:10]), 2000, 0)["mean"]
    widths = [v.high - v.low for v in (alone, together, few)]  # type: ignore[operator]
    assert widths[1] > 3 * widths[0]
    np.testing.assert_allclose(widths[1], widths[2], rtol=0.1)


def test_one_recording_has_no_interval() -> None:
    one = estimate(_mean(np.arange(4.0)), resampled_as(list("abcd"), dict.fromkeys("abcd", "film")), 100, 0)["mean"]
    assert one == Value(1.5)


def test_every_metric_takes_recordings() -> None:
    metric = task_of("classify").make_metric(["a", "b"])
    for i in range(40):
        correct = i // 10 % 2 == 0
        scores = np.array([0.9, 0.1]) if correct else np.array([0.1, 0.9])

        metric.add(str(i), Annotation((9, 9), label=0), Annotation((9, 9), probabilities=torch.from_numpy(scores)))
    alone, together = (
        metric.result().metrics["top1"],
        metric.result(groups={str(i): str(i // 10) for i in range(40)}).metrics["top1"],
    )
    assert alone.value == together.value == 0.5
    assert (alone.low or 0) > 0.3
    assert together.low == 0


def test_a_difference_is_paired() -> None:
    """Images that are hard for both models say nothing about which is better."""
    rng = np.random.default_rng(0)
    hard, units = rng.random(100), np.arange(100)
    first, second = (estimate(_mean(values), units, 500, 0)["mean"] for values in (hard, hard + 0.1))
    found = difference(first, second)
    assert found.value is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    noisy = estimate(_mean(hard + rng.normal(0, 0.05, 100)), units, 500, 0)["mean"]
    apart = difference(first, noisy)
    assert apart.low is not None
    assert apart.high is not None
    assert apart.low < 0 < apart.high
    assert first.high is not None
    assert first.low is not None
    assert apart.high - apart.low < 0.5 * (first.high - first.low)


def test_a_difference_without_pairs() -> None:
    assert difference(Value(None), Value(0.5)) == Value(None)
    assert difference(Value(0.25), Value(0.5)) == Value(0.25)
    with pytest.raises(ValueError, match="have no pairs"):
        difference(Value(0.0, drawn=np.zeros(3)), Value(0.0, drawn=np.zeros(4)))
