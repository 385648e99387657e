"""The peers' end of `benchmarks/selective_search.py`: OpenCV contrib's selective search, one image a request."""

from __future__ import annotations

import time
from typing import Any

import cv2
import numpy as np
from peer_side import serve


def handle(request: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Boxes x1 y1 x2 y2 of an image [H, W, 3] RGB in the order of its ranks, and the seconds that they took."""
    cv2.setNumThreads(request["threads"])
    cv2.setRNGSeed(request["seed"])
    image = np.ascontiguousarray(arrays["image"][..., ::-1])
    start = time.perf_counter()
    contrib: Any = cv2  # which the package of the peers alone has
    search = contrib.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    if request["mode"] == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    rows = search.process()
    seconds = time.perf_counter() - start
    boxes = np.asarray(rows, np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {"seconds": seconds, "version": cv2.__version__}, {"boxes": boxes}


serve(handle)
