"""Percentile intervals over images (Efron & Tibshirani 1993, ch. 13).

A resample draws as many images as there are, with replacement. It is held as the number of times that each
image was drawn, so that every metric that is a function of sums over images can be computed from weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from saccade.metrics import Value

CHUNK = 64  # resamples computed at once: bounds memory at CHUNK x images numbers


def resamples(images: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """Weights of the images in `count` resamples, in chunks [b, images] float64 whose rows sum to `images`."""
    rng = np.random.default_rng(seed)
    share = np.full(images, 1 / max(images, 1))
    for start in range(0, count, CHUNK):
        b = min(CHUNK, count - start)
        yield rng.multinomial(images, share, size=b).astype(np.float64)


def estimate(
    statistic: Callable[[np.ndarray], dict[str, np.ndarray]], images: int, count: int, seed: int
) -> dict[str, Value]:
    """Values of the whole set with their 95 % intervals.

    Args:
        statistic: takes weights [b, images], gives for every metric its values [b], NaN where undefined.
        images: number of images; without any, every metric is undefined.
        count: resamples; 0 for no interval.
        seed: the randomness follows from it alone.
    """
    whole = statistic(np.ones((1, images)))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in whole}
    if images:
        for weights in resamples(images, count, seed):
            for name, values in statistic(weights).items():
                drawn[name].append(values)
    return {
        name: interval(float(value[0]), np.concatenate(drawn[name]) if drawn[name] else np.zeros(0))
        for name, value in whole.items()
    }


def interval(value: float, drawn: np.ndarray) -> Value:
    """2.5 and 97.5 percentiles of `drawn` [count]; resamples in which the metric is undefined (NaN) are left out."""
    if not np.isfinite(value):
        return Value(None)
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Value(value)
    low, high = np.percentile(known, [2.5, 97.5])
    return Value(value, float(low), float(high))


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom != 0)
    return out


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN entries; NaN where there is none."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))
