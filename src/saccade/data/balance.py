"""What to do about rare classes: weights for the loss, or images shown more often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saccade.data.dataset import Record


def class_images(records: Sequence[Record], classes: int) -> np.ndarray:
    """[classes] int64: images in which each class occurs, as label, tag or object (crowds included)."""
    counts = np.zeros(classes, np.int64)
    for record in records:
        counts[list(set(record.labels()))] += 1
    return counts


def label_weights(counts: np.ndarray, balance: str, beta: float = 0.999) -> tuple[float, ...]:
    """One weight a class for a loss of one label an image, such that the mean over the images is 1.

    "inverse" goes with 1 / n; "effective" with (1 - beta) / (1 - beta^n), which levels off where a class has many more
    than 1 / (1 - beta) images. A class without images has weight 1.

    Args:
        counts: n, [classes] images of each class.

    Source: Cui et al. 2019, "Class-balanced loss based on effective number of samples", section 3.2 (who scale the sum
    over the classes to their number instead).
    """
    raw = 1 / _volume(counts, balance, beta)
    mean = (raw * counts).sum() / max(1, counts.sum())
    return tuple(float(w) for w in np.where(counts > 0, raw / mean, 1.0).round(6))


def tag_weights(counts: np.ndarray, images: int, balance: str, beta: float = 0.999) -> tuple[float, ...]:
    """One weight a class for the images that hold the tag, those without it weigh 1.

    The two sides of a tag get the same total ("inverse": (images - n) / n), or that of their effective numbers. A tag
    that all or no images hold has weight 1.

    Args:
        counts: n, [classes] images that hold each tag.
    """
    held, rest = _volume(counts, balance, beta), _volume(images - counts, balance, beta)
    return tuple(float(w) for w in np.where((counts > 0) & (counts < images), rest / held, 1.0).round(6))


def _volume(counts: np.ndarray, balance: str, beta: float) -> np.ndarray:
    """How much `counts` images are worth, at least 1e-9."""
    n = counts.astype(np.float64)
    worth = n if balance == "inverse" or beta == 1 else (1 - beta**n) / (1 - beta)
    return np.maximum(worth, 1e-9)


def repeat_factors(records: Sequence[Record], classes: int, threshold: float) -> np.ndarray:
    """[images] float64: how often each image is to be shown in an epoch, at least 1.

    A class that occurs in the share f of the images has the factor max(1, sqrt(threshold / f)); an image takes the
    largest of its classes. Source: Gupta, Dollar & Girshick 2019, "LVIS", appendix (threshold 0.001).
    """
    share = class_images(records, classes) / max(1, len(records))
    factors = np.maximum(1, np.sqrt(threshold / np.maximum(share, 1e-12)))
    return np.array([max((float(factors[c]) for c in record.labels()), default=1.0) for record in records])
