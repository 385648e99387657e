"""The peer's side of video.py: Ultralytics' own way from a video file to boxes, on the CPU in float32.

`predict(source=..., stream=True)` of an untrained network, as its pages say to use it; its multiply-adds are counted by
hooks. Ultralytics would leave one core of the machine alone; it gets as many threads as Saccade. Nothing is downloaded.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import numpy as np
import torch
from peer_side import serve
from torch import nn

STATE: dict[str, Any] = {}


def make(request: dict[str, Any]) -> dict[str, Any]:
    """The network, and its multiply-adds for a square image."""
    os.environ |= {"YOLO_OFFLINE": "True", "YOLO_CONFIG_DIR": tempfile.mkdtemp(prefix="ultralytics-")}
    import ultralytics
    from ultralytics.utils import torch_utils

    torch_utils.NUM_THREADS = request["threads"]
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    STATE["model"] = ultralytics.YOLO(f"{request['network']}.yaml")
    network = STATE["model"].model.eval()
    counts: list[int] = []

    def count(module: nn.Conv2d, _: Any, output: torch.Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())

    hooks = [part.register_forward_hook(count) for part in network.modules() if isinstance(part, nn.Conv2d)]
    with torch.inference_mode():
        network(torch.zeros(1, 3, request["size"], request["size"]))
    for hook in hooks:
        hook.remove()
    return {"macs": sum(counts), "version": ultralytics.__version__, "torch": torch.__version__}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """One pass over a video: seconds, frames, boxes, and the milliseconds a frame that Ultralytics itself states."""
    begun, frames, boxes, speeds = time.perf_counter(), 0, 0, []
    found = STATE["model"].predict(request["clip"], stream=True, imgsz=request["size"], device="cpu", verbose=False)
    for result in found:
        frames += 1
        boxes += len(result.boxes)
        speeds.append(result.speed)
    seconds = time.perf_counter() - begun
    stated = {name: sum(speed[name] for speed in speeds) / frames for name in speeds[0]}
    return {
        "seconds": seconds,
        "frames": frames,
        "boxes": boxes,
        "speed": stated,
        "size": list(STATE["model"].predictor.imgsz),
        "threads": torch.get_num_threads(),
    }


def handle(request: dict[str, Any], _: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """make: a network; run: one pass over a video."""
    return (make if request["do"] == "make" else run)(request), {}


if __name__ == "__main__":
    serve(handle)
