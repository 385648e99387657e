"""Percentile intervals over images (Efron & Tibshirani 1993, ch. 13).

A resample draws as many images as there are, with replacement. It is held as the number of times that each
image was drawn, so that every metric that is a function of sums over images can be computed from weights.
Pictures of one recording are drawn together (the cluster bootstrap, Davison & Hinkley 1997, section 3.8): one more
frame of a video says little that the others have not said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from saccade.metrics import Value

CHUNK = 64  # resamples computed at once: bounds memory at CHUNK x images numbers


def resampled_as(ids: Sequence[str], groups: Mapping[str, str] | None = None) -> np.ndarray:
    """What each image is drawn with: [images] int, equal for those of one group (recording) of `groups` by id."""
    names = [(1, groups[id]) if groups and id in groups else (0, id) for id in ids]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)


def resamples(units: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Weights of the images in `count` resamples, in chunks [b, images] float64; `units` is of `resampled_as`."""
    rng = np.random.default_rng(seed)
    several = int(units.max(initial=-1)) + 1
    share = np.full(several, 1 / max(several, 1))
    for start in range(0, count, CHUNK):
        b = min(CHUNK, count - start)
        yield rng.multinomial(several, share, size=b).astype(np.float64)[:, units]


def estimate(
    statistic: Callable[[np.ndarray], dict[str, np.ndarray]], units: np.ndarray, count: int, seed: int
) -> dict[str, Value]:
    """Values of the whole set with their 95 % intervals; without these where there is one image, or one recording.

    Args:
        statistic: takes weights [b, images], gives for every metric its values [b], NaN where undefined.
        units: [images], see `resampled_as`; without an image every metric is undefined.
        count: resamples; 0 for no interval.
        seed: the randomness follows from it alone.
    """
    whole = statistic(np.ones((1, len(units))))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in whole}
    if units.any():
        for weights in resamples(units, count, seed):
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
    return Value(value, float(low), float(high), drawn)


def difference(first: Value, second: Value) -> Value:
    """How much larger `second` is than `first`, with its interval from the difference in each resample: paired, so that
    images that are hard for both widen it less than they widen either.

    Args:
        first, second: one metric of two models on the same images (ids and recordings), drawn by the same seed.

    Raises:
        ValueError: they have not as many resamples.
    """
    if first.value is None or second.value is None:
        return Value(None)
    if first.drawn is None or second.drawn is None:
        return Value(second.value - first.value)
    if first.drawn.shape != second.drawn.shape:
        raise ValueError(f"{len(first.drawn)} and {len(second.drawn)} resamples have no pairs")
    return interval(second.value - first.value, second.drawn - first.drawn)


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, NaN where bottom is 0."""
    out = np.full(np.broadcast(top, bottom).shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom != 0)
    return out


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN entries; NaN where there is none."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))
