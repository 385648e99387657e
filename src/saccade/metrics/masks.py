"""Masks as COCO run lengths, so that a set's masks fit in memory and are compared without being drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from faster_coco_eval.core import mask as run_lengths
from torch import Tensor


def encode(masks: Tensor) -> list[dict[str, Any]]:
    """Compressed run lengths {"size": [H, W], "counts": bytes} of masks [n, H, W] bool.

    Only the columns that a mask touches are read in COCO's order (down, then right): several times faster than
    reordering the whole image where objects are small.
    """
    return [_encode(mask) for mask in masks.cpu().numpy()]


def _encode(mask: np.ndarray) -> dict[str, Any]:
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        counts = [height * width]
    else:
        first, last = int(columns[0]), int(columns[-1]) + 1
        line = np.ascontiguousarray(mask[:, first:last].T, dtype=np.int8).ravel()
        turns = np.flatnonzero(np.diff(line, prepend=np.int8(0), append=np.int8(0))) + first * height
        counts = np.diff(turns, prepend=0, append=height * width).tolist()
        if counts[-1] == 0:
            counts.pop()
    packed: dict[str, Any] = run_lengths.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return packed
