"""Run-length masks: the COCO coding, against hand-made values and a second implementation."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from faster_coco_eval.core import mask as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saccade.data.rle import (
    MAX_OUTLINE,
    check_outline,
    decode_rle,
    draw_polygons,
    encode_mask,
    encode_polygons,
    rle_area,
    rle_box,
    rle_counts,
)
from saccade.errors import DataError

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


def test_runs_go_down_the_columns() -> None:
    mask = decode_rle({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.tolist() == [[False, True, False], [True, False, False]]
    assert rle_box({"size": [2, 3], "counts": [1, 2, 3]}) == (0, 0, 2, 2)
    assert rle_box({"size": [4, 3], "counts": [5, 2, 5]}) == (1, 1, 2, 3)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_agrees_with_the_coco_api(mask: np.ndarray) -> None:
    ours = encode_mask(mask)
    theirs = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    text = theirs["counts"]
    assert ours["counts"] == (text.decode() if isinstance(text, bytes) else text)
    assert (decode_rle(ours) == mask).all()
    assert rle_area(ours) == mask.sum()
    rows, columns = np.nonzero(mask)
    if mask.any():
        assert rle_box(ours) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    else:
        assert rle_box(ours) == (0, 0, 0, 0)
    assert (decode_rle({"size": list(mask.shape), "counts": rle_counts(ours).tolist()}) == mask).all()


def test_a_large_mask_survives() -> None:
    mask = np.zeros((3000, 4000), dtype=bool)
    mask[1500:, 2000:] = True
    assert (decode_rle(encode_mask(mask)) == mask).all()


@pytest.mark.parametrize(
    ("rle", "says"),
    [
        ({"size": [10**6, 10**6], "counts": [10**12]}, "limit"),
        ({"size": [2, 2], "counts": [1, 2]}, "sum to 3"),
        ({"size": [2, 2], "counts": [5, -1]}, "below 0"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "whole numbers"),
        ({"size": [2, 0], "counts": []}, "size"),
        ({"size": "2x2", "counts": [4]}, "size"),
        ({"size": [True, 4], "counts": [4]}, "size"),
        ({"counts": [4]}, "size"),
        ({"size": [2, 2], "counts": "P"}, "middle"),
        ({"size": [2, 2], "counts": "ooooooooooooooo"}, "damaged"),
        ({"size": [2, 2], "counts": "é"}, "damaged"),
        ({"size": [2, 2], "counts": None}, "neither"),
    ],
)
def test_bad_masks_are_refused_before_memory_is_taken(rle: dict, says: str) -> None:
    with pytest.raises(DataError, match=says):
        decode_rle(rle)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_any_string_is_decoded_or_refused(text: str) -> None:
    with contextlib.suppress(DataError):
        assert decode_rle({"size": [5, 7], "counts": text}).shape == (5, 7)


def test_rectangles_cover_exactly_their_area() -> None:
    mask = draw_polygons([[2, 1, 7, 1, 7, 4, 2, 4]], (6, 9))
    assert mask[1:4, 2:7].all()
    assert mask.sum() == 15
    assert draw_polygons([[2, 1, 2, 4, 7, 4, 7, 1]], (6, 9)).sum() == 15  # the direction does not matter
    assert draw_polygons([[2.6, 1, 7.6, 1, 7.6, 4, 2.6, 4]], (6, 9))[1].nonzero()[0].tolist() == [3, 4, 5, 6, 7]
    assert draw_polygons([[-5, -5, 50, -5, 50, 50, -5, 50]], (6, 9)).all()
    assert draw_polygons([[20, 1, 30, 1, 30, 4]], (6, 9)).sum() == 0
    united = draw_polygons([[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]], (8, 8))
    assert united.sum() == 16 + 16 - 4


@pytest.mark.parametrize(
    ("polygons", "size", "counts"),
    [  # drawn by pycocotools 2.0
        (
            [[13.5, 4.0, -1.9, -2.5, 18.1, 20.7, 3.25, 17.75, 9.6, 2.2]],
            (15, 20),
            "?1>1O2N100KNK32ON1011L237N1O1OFO70o2",
        ),
        ([[0, 0, 120, 0, 0, 80]], (40, 60), "0P[2"),
        (
            [[1.5, 1.5, 12.3, 3.7, 6.1, 11.9], [8.4, 8.4, 19.7, 9.1, 14.2, 14.9]],
            (15, 20),
            "P12=2N2N2O1NN2O11OLKO5OL281O1O1OO1O1N2O7",
        ),
        ([[5, 5, 5.4, 5, 5.2, 5.6]], (15, 20), "\\9"),
    ],
)
def test_polygons_are_drawn_as_coco_draws_them(polygons: list, size: tuple[int, int], counts: str) -> None:
    assert encode_polygons(polygons, size) == {"size": list(size), "counts": counts}
    assert (draw_polygons(polygons, size) == decode_rle({"size": list(size), "counts": counts})).all()


def test_an_outline_that_asks_for_memory_is_refused() -> None:
    """Drawing walks along the outline: its length counts, not the area of the image."""
    check_outline([0, 0, 0.4 * MAX_OUTLINE, 0, 0.4 * MAX_OUTLINE, 10])
    for points in ([0, 0, MAX_OUTLINE, 0, 0, 10], [0, 0, 1, 0] * MAX_OUTLINE, [0, 0, float("nan"), 0, 1, 1]):
        with pytest.raises(DataError, match="pixels long; allowed: 2,000,000"):
            encode_polygons([points], (10, 10))
