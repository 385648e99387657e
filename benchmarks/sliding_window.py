"""What is saved by sliding a network as a convolution instead of cutting its windows out? Seconds, and their ratio.

    python benchmarks/sliding_window.py [--model sliding_window_small] [--size 320] [--repeats 3]

The same untrained network answers for all windows of one image in both ways (models/detectors/sliding_window.py), each
measured `--repeats` times after one that warms up; the best counts. Prints both, how far the answers differ, and the
ratio, which for a trunk without padding costs nothing of the answer. About half a minute on one core.
"""

from __future__ import annotations

import argparse
import dataclasses
import time

import torch
from torch import Tensor

from saccade.models import create


def seconds_of(model: torch.nn.Module, images: Tensor, repeats: int) -> tuple[float, Tensor]:
    """The best time of an answer, and the answer."""
    best = float("inf")
    with torch.inference_mode():
        answer = model(images)
        for _ in range(repeats):
            start = time.perf_counter()
            model(images)
            best = min(best, time.perf_counter() - start)
    return best, answer


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="sliding_window_small", help="a variant of models/detectors/sliding_window")
    parser.add_argument("--size", type=int, default=320, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = create(arguments.model).eval()
    images = torch.rand(1, 3, arguments.size, arguments.size)
    found = {}
    for way in ("crops", "convolution"):
        model.config = dataclasses.replace(model.config, by=way)
        found[way] = seconds_of(model, images, arguments.repeats)
        print(f"{way:12} {found[way][0]:8.3f} s for {found[way][1].shape[1]:,} windows", flush=True)
    (slow, one_by_one), (fast, at_once) = found.values()
    print(f"ratio {slow / fast:.1f}, answers differ by {float((one_by_one - at_once).abs().max()):.1e} at most")


if __name__ == "__main__":
    main()
