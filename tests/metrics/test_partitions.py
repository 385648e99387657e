"""Rand and warping error of membranes: by hand, and against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import adapted_rand_error

from saccade.data.dataset import Record
from saccade.data.types import Annotation
from saccade.errors import UsageError
from saccade.metrics.partitions import (
    MEANINGS,
    SIMPLE,
    Partitions,
    rand_scores,
    regions,
    thinned,
    warping_error,
)


def cells(*walls: tuple[slice | int, slice | int], size: tuple[int, int] = (20, 30)) -> np.ndarray:
    mask = np.ones(size, bool)
    for wall in walls:
        mask[wall] = False
    return mask


EVERY = slice(None)
TWO = cells((EVERY, 14))  # two cells of 20 x 14 and 20 x 15


def test_a_wall_drawn_aside_costs_nothing_where_walls_are_thinned() -> None:
    assert warping_error(TWO, cells((EVERY, 15))) == 0
    assert warping_error(TWO, cells((EVERY, 16))) > 0  # no pixel of the way there is wrong, so none is changed
    assert warping_error(TWO, cells((EVERY, slice(12, 18)))) == 0  # nor a thick one
    _, split, merge = rand_scores(regions(TWO), thinned(TWO))
    assert (split, merge) == (1, 1)


def test_a_gap_in_a_wall() -> None:
    """One pixel joins two cells: one pixel is wrong whatever the course, and half of the pairs are merged."""
    gap = TWO.copy()
    gap[10, 14] = True
    assert warping_error(TWO, gap) == pytest.approx(1 / 600)
    f, split, merge = rand_scores(regions(TWO), thinned(gap))
    assert split == 1
    assert merge == pytest.approx((280**2 + 300**2) / 580**2)
    assert f == pytest.approx(2 * merge / (1 + merge))


def test_a_wall_that_is_not_there() -> None:
    f, split, merge = rand_scores(regions(cells()), thinned(TWO))
    assert merge == 1
    parts = np.bincount(thinned(TWO).ravel())[1:]
    assert split == pytest.approx((parts**2).sum() / 600**2)
    assert f < 1
    # of a wall all but one pixel can be grown from the border of the image; the last would part the cell
    assert warping_error(cells(), TWO) == pytest.approx(1 / 600)


def test_an_island_and_a_hole_are_wrong_by_one_pixel() -> None:
    hole = cells()
    hole[5:8, 5:8] = False
    assert warping_error(cells(), hole) == pytest.approx(9 / 600)  # none of its pixels is simple
    assert warping_error(hole, cells()) == pytest.approx(1 / 600)  # it shrinks to one


def test_what_is_ignored_takes_no_part() -> None:
    gap, counted = TWO.copy(), np.ones(TWO.shape, bool)
    gap[10, 14], counted[10, 14] = True, False
    assert warping_error(TWO, gap, counted) == 0


def test_simple_pixels() -> None:
    """A pixel alone, in the midst of a region, at the end of a line (4-connected) and in its middle."""
    upper, right, lower = 1 << 1, 1 << 3, 1 << 5
    assert not SIMPLE[0]
    assert not SIMPLE[255]
    assert SIMPLE[upper]
    assert not SIMPLE[upper | lower]
    assert not SIMPLE[upper | right]  # the two meet at a corner only, which does not connect regions
    assert SIMPLE[upper | right | 1 << 2]
    assert SIMPLE[255 - upper]  # the border's corner touches
    assert SIMPLE[255 - (1 << 2)]  # at the corner alone is enough for a border, which is 8-connected
    assert not SIMPLE[255 - (upper | lower)]


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_image(seed: int) -> None:
    """Which counts pairs of different pixels: with many pixels the same."""
    rng = np.random.default_rng(seed)
    truth, prediction = (np.kron(rng.integers(0, n, (30, 40)), np.ones((16, 16), int)) for n in (6, 5))
    error, precision, recall = adapted_rand_error(truth, prediction)
    f, split, merge = rand_scores(truth, prediction)
    assert f == pytest.approx(1 - error, rel=1e-3)
    assert (split, merge) == (pytest.approx(precision, rel=1e-3), pytest.approx(recall, rel=1e-3))


def test_over_images_with_intervals() -> None:
    def of(mask: np.ndarray, ignored: tuple[int, int] | None = None) -> Annotation:
        classes = mask.astype(np.uint8)
        if ignored is not None:
            classes[ignored] = 255
        return Annotation(mask.shape, semantic=torch.from_numpy(classes))  # type: ignore[arg-type]

    gap = TWO.copy()
    gap[10, 14] = True
    metric = Partitions(["membrane", "cell"], "cell")
    metric.add(Record("a", (20, 30)), of(TWO), of(TWO))
    metric.add(Record("b", (20, 30)), of(TWO), of(gap))
    metric.add(Record("c", (20, 30)), of(np.zeros((20, 30), bool)), of(~TWO))  # no region in the truth
    found = metric.result(bootstrap=100)
    assert set(found) == set(MEANINGS)
    assert 0.75 < found["v_rand"].value < 1  # type: ignore[operator]
    assert found["v_rand_split"].value == 1
    assert found["warping_error"].low is not None
    with pytest.raises(UsageError, match="did you mean 'cell'"):
        Partitions(["membrane", "cell"], "cells")
