"""Class weights and repeat factors by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from saccade.data.balance import class_images, label_weights, repeat_factors, tag_weights
from saccade.data.dataset import Record, Thing


def labelled(*labels: int) -> list[Record]:
    return [Record(str(i), (4, 4), label=label) for i, label in enumerate(labels)]


def test_an_image_counts_once_for_each_of_its_classes() -> None:
    things = [Thing(1, (0, 0, 1, 1)), Thing(1, (0, 0, 2, 2)), Thing(3, (0, 0, 2, 2))]
    records = [*labelled(0, 0), Record("a", (4, 4), tags=[2, 0]), Record("b", (4, 4), things=things)]
    assert class_images([*records, Record("c", (4, 4), things=[])], 4).tolist() == [3, 1, 1, 1]


def test_inverse_weights_give_every_class_the_same_total() -> None:
    counts = np.array([60, 30, 10, 0])
    weights = label_weights(counts, "inverse")
    assert weights[:3] == pytest.approx((100 / 3 / 60, 100 / 3 / 30, 100 / 3 / 10), abs=1e-6)
    assert weights[3] == 1
    assert np.dot(weights, counts) == pytest.approx(100, abs=1e-3)


def test_effective_numbers_by_hand() -> None:
    counts = np.array([2, 1, 1])
    raw = np.array([0.1 / (1 - 0.81), 1.0, 1.0])  # (1 - beta) / (1 - beta^n)
    expected = raw * 4 / (raw * counts).sum()
    assert label_weights(counts, "effective", 0.9) == pytest.approx(tuple(expected), abs=1e-6)
    assert label_weights(counts, "effective", 0.0) == (1.0, 1.0, 1.0)  # every image is like every other
    near = label_weights(np.array([600, 3]), "effective", 0.999999)
    assert near == pytest.approx(label_weights(np.array([600, 3]), "inverse"), rel=1e-3)


def test_tag_weights_even_out_both_sides() -> None:
    assert tag_weights(np.array([25, 50, 0, 100]), 100, "inverse") == (3.0, 1.0, 1.0, 1.0)
    (weight,) = tag_weights(np.array([1]), 3, "effective", 0.9)
    assert weight == pytest.approx(1.9)


def test_repeat_factors_of_lvis() -> None:
    """Class 0 in 90 of 100 images, class 1 in 9, class 2 in one, threshold 0.36; one image holds 1 and 2."""
    records = [Record(str(i), (4, 4), tags=[0] if i < 90 else [1]) for i in range(99)]
    records.append(Record("x", (4, 4), tags=[0, 2]))
    factors = repeat_factors(records, 3, 0.36)
    assert factors[:90].tolist() == [1.0] * 90
    assert factors[90:99] == pytest.approx([2.0] * 9)
    assert factors[99] == pytest.approx(math.sqrt(36))
    assert repeat_factors([Record("e", (4, 4), things=[])], 3, 0.5).tolist() == [1.0]
    assert repeat_factors(records, 3, 0.0).tolist() == [1.0] * 100
