"""Run-length masks: the COCO coding, against hand-made values and a second implementation."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from faster_coco_eval.core import mask as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saccade.data.rle import decode_rle, encode_mask, rle_area, rle_box, rle_counts
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
