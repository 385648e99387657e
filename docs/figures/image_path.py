"""Draw image_path.svg, the way of an image through the code: `python docs/figures/image_path.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

OUT = Path(__file__).with_suffix(".svg")
WIDE, HIGH = 2.5, 0.84  # of a box


@dataclass(frozen=True)
class Box:
    """A step of the way: where it stands, the file that does it, and what it does in words."""

    x: float
    y: float
    file: str  # below src/saccade; "" for what is no code
    what: str
    colour: str


READ, LEARN, ANSWER, THING = "#dcebf7", "#fde8d3", "#dff2e1", "#ffffff"
BOXES = {
    "folder": Box(0, 5, "", "your folder:\nimages and labels", THING),
    "formats": Box(3, 5, "data/formats", "reads what the files state;\nthe ledger counts all", READ),
    "split": Box(6, 5, "data/split.py", "says which image trains,\nvalidates, tests", READ),
    "image": Box(9, 5, "data/image.py", "probes and decodes,\nupright RGB", READ),
    "truth": Box(9, 3.4, "data/truth.py", "image and labels become\na sample, in pixels", READ),
    "transforms": Box(6, 3.4, "data/transforms.py", "resize, crop, colour;\nremember the way back", READ),
    "loader": Box(3, 3.4, "data/loader.py", "workers make batches\nof uint8", READ),
    "batch": Box(0, 3.4, "data/types.py", "a batch on the device,\nfloats in [0, 1]", READ),
    "model": Box(0, 1.8, "models", "forward: raw outputs", THING),
    "train": Box(3, 1.8, "verbs/train.py", "loss, gradients, a step;\nagain and again", LEARN),
    "files": Box(6, 1.8, "checkpoint.py", "best and last weights,\nwhole or absent", LEARN),
    "predictor": Box(0, 0.2, "inference/predictor.py", "predict, by a faster copy\nof the network", ANSWER),
    "back": Box(3, 0.2, "data/pipelines.py", "answers back in pixels\nof the original", ANSWER),
    "metrics": Box(6, 0.2, "metrics", "scores with intervals", ANSWER),
    "reports": Box(9, 0.2, "reports", "report.html", ANSWER),
    "draw": Box(9, 1.8, "plots/draw.py", "answers drawn\ninto the image", ANSWER),
}
ARROWS = (
    *(("folder", "formats"), ("formats", "split"), ("split", "image"), ("image", "truth"), ("truth", "transforms")),
    *(("transforms", "loader"), ("loader", "batch"), ("batch", "model"), ("model", "train"), ("train", "files")),
    *(("model", "predictor"), ("predictor", "back"), ("back", "metrics"), ("metrics", "reports"), ("back", "draw")),
    ("draw", "reports"),
)


def main() -> None:
    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: small, searchable
    mpl.rcParams["svg.hashsalt"] = "saccade"
    figure = Figure(figsize=(11.6, 6.0), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.2, 11.7)
    axes.set_ylim(-0.1, 6.06)
    axes.axis("off")
    for start, end in ARROWS:
        arrow(axes, BOXES[start], BOXES[end])
    for box in BOXES.values():
        edge = FancyBboxPatch((box.x, box.y), WIDE, HIGH, boxstyle="round,pad=0,rounding_size=0.1")
        edge.set(facecolor=box.colour, edgecolor="#5b6672", linewidth=1)
        axes.add_patch(edge)
        lines = box.what.count("\n") + 1
        middle, top = box.x + WIDE / 2, box.y + HIGH - 0.2
        if box.file:
            axes.text(middle, top, box.file, ha="center", va="center", fontsize=9, family="monospace", weight="bold")
        for i, line in enumerate(box.what.split("\n")):
            y = top - 0.24 * (i + 1) if box.file else box.y + HIGH / 2 + 0.12 * (lines - 1 - 2 * i)
            axes.text(middle, y, line, ha="center", va="center", fontsize=9, family="sans-serif")
    figure.savefig(OUT, metadata={"Date": None, "Creator": None})


def arrow(axes: Axes, start: Box, end: Box) -> None:
    """From the side of one box to the nearest side of the other."""
    if start.y == end.y:
        right = end.x > start.x
        tail = (start.x + WIDE * right, start.y + HIGH / 2)
        head = (end.x + WIDE * (not right), end.y + HIGH / 2)
    else:
        down = end.y < start.y
        aside = 0.9 if start.x != end.x else 0.5  # an arrow across leaves beside the one that goes along
        tail = (start.x + WIDE * aside, start.y + HIGH * (not down))
        head = (end.x + WIDE * (0.1 if start.x != end.x else 0.5), end.y + HIGH * down)
    axes.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": "#5b6672", "linewidth": 1.3})


if __name__ == "__main__":
    main()
