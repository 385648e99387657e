"""Run lengths against faster-coco-eval's own encoder."""

from __future__ import annotations

import numpy as np
import torch
from faster_coco_eval.core import mask as run_lengths
from hypothesis import example, given, settings
from hypothesis import strategies as st

from saccade.metrics.masks import encode


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
@example(0, 5, 6, 0.0)
@example(0, 5, 6, 1.0)
def test_equals_the_reference_encoder(seed: int, height: int, width: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.random((height, width)) < share
    dense[:, rng.random(width) < 0.5] = False
    if share == 1.0:
        dense[:] = True
    mine = encode(torch.from_numpy(dense)[None])[0]
    theirs = run_lengths.encode(np.asfortranarray(dense, dtype=np.uint8))
    assert list(mine["size"]) == list(theirs["size"])
    assert mine["counts"] == theirs["counts"]


def test_no_masks() -> None:
    assert encode(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
