"""What is saved by a convolution where a window is cut out around every pixel? Seconds, and their ratio.

    python benchmarks/patch_window.py [--model patch_small patch_multiscale] [--size 64] [--repeats 3]

The same untrained network names all pixels of one image in both ways (models/segmenters/patch.py), each measured
`--repeats` times after one that warms up; the best counts. Prints both, how far the answers differ, and the ratio,
which grows with the window and costs nothing of the answer: the reason for fully convolutional networks. About half a
minute on one core.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from runs import markdown
from sliding_window import seconds_of

from saccade.models import create


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    names = ["patch_small", "patch_multiscale", "patch_recurrent"]
    parser.add_argument("--model", nargs="+", default=names, help="variants of models/segmenters/patch")
    parser.add_argument("--size", type=int, default=64, help="side of the image in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    images = torch.rand(1, 3, arguments.size, arguments.size, generator=torch.Generator().manual_seed(0))
    rows = []
    for name in arguments.model:
        torch.manual_seed(0)
        model = create(name).eval()
        seconds, answers = [], []
        for way in ("crops", "convolution"):
            model.config = dataclasses.replace(model.config, by=way)
            taken, answer = seconds_of(model, images, arguments.repeats)
            seconds.append(taken)
            answers.append(answer)
        cells = [f"{model.window}", f"{seconds[0]:.2f}", f"{seconds[1]:.3f}", f"{seconds[0] / seconds[1]:.0f}"]
        rows.append([f"`{name}`", *cells, f"{float((answers[0] - answers[1]).abs().max()):.0e}"])
    print(f"{arguments.size**2:,} windows")
    heads = ["network", "window px", "cut out, s", "convolution, s", "ratio", "largest difference"]
    print(markdown(heads, rows))


if __name__ == "__main__":
    main()
