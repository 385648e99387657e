"""Peer's side of ops.py and equal_outputs.py: torchvision's operators on given arrays, their results or their times."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchvision
from peer_side import serve
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder

_ready: dict[str, Callable[[], Any]] = {}  # the case being timed: its tensors are sent once


def call(op: str, given: dict[str, Tensor], settings: dict[str, Any]) -> list[Tensor]:
    """One operator; for pooling with `gradient` among the arrays also the gradient of the features."""
    if op == "nms":
        return [torchvision.ops.nms(given["boxes"], given["scores"], settings["threshold"])]
    if op == "batched_nms":
        labels = given["labels"]
        return [torchvision.ops.batched_nms(given["boxes"], given["scores"], labels, settings["threshold"])]
    if op == "box_iou":
        return [torchvision.ops.box_iou(given["a"], given["b"])]
    if op == "encode_boxes":
        return [BoxCoder(settings["weights"]).encode_single(given["boxes"], given["anchors"])]
    if op == "decode_boxes":
        return [BoxCoder(settings["weights"]).decode_single(given["deltas"], given["anchors"])]
    features, size, scale = given["features"], settings["size"], settings["scale"]
    if "gradient" in given:
        features = features.detach().requires_grad_()
    if op == "roi_align":
        pooled = torchvision.ops.roi_align(features, given["rois"], size, scale, settings["ratio"], settings["aligned"])
    else:
        pooled = torchvision.ops.roi_pool(features, given["rois"], size, scale)
    if "gradient" in given:
        return [pooled.detach(), torch.autograd.grad(pooled, features, given["gradient"])[0]]
    return [pooled]


def handle(request: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """{op, settings} with arrays gives results; with `time: true` it is kept for {repeat: n}, which times it."""
    torch.set_num_threads(request.get("threads", torch.get_num_threads()))
    if "repeat" in request:
        start = time.perf_counter()
        for _ in range(request["repeat"]):
            _ready["case"]()
        seconds = (time.perf_counter() - start) / request["repeat"]
        return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}, {}
    given = {name: torch.from_numpy(array) for name, array in arrays.items()}
    results = call(request["op"], given, request["settings"])
    if request.get("time"):
        _ready["case"] = lambda: call(request["op"], given, request["settings"])
        return {}, {}
    return {"version": torchvision.__version__}, {str(i): r.numpy() for i, r in enumerate(results)}


serve(handle)
