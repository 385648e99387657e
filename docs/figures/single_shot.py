"""Draw single_shot.svg, how priors of a fine and a coarse map meet the objects: `python docs/figures/single_shot.py`.

What is drawn is computed: the priors by `grid_anchors`, and which of them match by the rule of SSD.
"""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sketch import INK, LINE, OTHER, STRONG, arrow, box, frame, save, sheet, write
from torch import Tensor

from saccade.layers.anchors import grid_anchors, shapes_of
from saccade.ops.boxes import iou

SIDE = 3.0  # of the image, in inches
TRUTH = torch.tensor([[0.6, 1.1, 1.68, 2.64], [2.22, 0.26, 2.64, 0.82]])  # y from the top
WORDS = ("3", "7")
MAPS = ((8, 0.48), (4, 1.3))  # cells a side, side of the square prior
CELLS = ((1, 6), (2, 1))  # of each map, (row, column) of the cell whose priors are shown
RATIOS = (1.0, 2.0, 0.5)


def draw() -> Figure:
    figure, axes = sheet(11.4, 4.35)
    picture(axes, 0.25)
    write(axes, (0.25 + SIDE / 2, 4.1), "image with two objects", 10.5, bold=True)
    for i, (cells, side) in enumerate(MAPS):
        x = 4.05 + 3.75 * i
        name = f"{cells} x {cells} map, small priors" if i == 0 else f"{cells} x {cells} map, large priors"
        write(axes, (x + SIDE / 2, 4.1), name, 10.5, bold=True)
        grid(axes, x, cells)
        priors = grid_anchors(shapes(side), (cells, cells), (SIDE / cells, SIDE / cells), 0.5)
        matched(axes, x, priors, cells, CELLS[i])
    box(axes, (5.7, 0.3), (10.6, 0.36), "every prior answers: a score for each class and background, and four offsets")
    arrow(axes, (3.4, 2.3), (3.9, 2.3))
    arrow(axes, (7.15, 2.3), (7.65, 2.3))
    return figure


def shapes(side: float) -> Tensor:
    """Cell priors of one area, wide and high."""
    return shapes_of([(side * ratio**0.5, side / ratio**0.5) for ratio in RATIOS])


def at(x: float, corners: Tensor) -> tuple[float, float, float, float]:
    """Corners with y from the top of the image, on the sheet."""
    x1, y1, x2, y2 = corners.tolist()
    return x + x1, 0.75 + SIDE - y2, x + x2, 0.75 + SIDE - y1


def picture(axes: Axes, x: float) -> None:
    axes.add_patch(Rectangle((x, 0.75), SIDE, SIDE, facecolor="#f5f2ea", edgecolor=INK))
    for corners, word, letters, colour in zip(TRUTH, WORDS, (125, 40), (OTHER, STRONG), strict=True):
        x1, y1, x2, y2 = at(x, corners)
        middle = (y1 + y2) / 2 - 0.0016 * letters  # a digit stands above the middle of its line
        axes.text((x1 + x2) / 2, middle, word, fontsize=letters, ha="center", va="center", color="#7a4fa3")
        frame(axes, (x1, y1, x2, y2), colour, width=2)


def grid(axes: Axes, x: float, cells: int) -> None:
    axes.add_patch(Rectangle((x, 0.75), SIDE, SIDE, facecolor="white", edgecolor=INK))
    for i in range(1, cells):
        axes.plot([x + i * SIDE / cells] * 2, [0.75, 0.75 + SIDE], color=LINE, linewidth=0.4)
        axes.plot([x, x + SIDE], [0.75 + i * SIDE / cells] * 2, color=LINE, linewidth=0.4)


def matched(axes: Axes, x: float, priors: Tensor, cells: int, shown: tuple[int, int]) -> None:
    """The priors of one cell, and all of the map that overlap an object by more than a half."""
    first = (shown[0] * cells + shown[1]) * len(RATIOS)
    for prior in priors[first : first + len(RATIOS)]:
        frame(axes, at(x, prior), LINE, dashed=True, width=1)
    for truth, colour in zip(TRUTH, (OTHER, STRONG), strict=True):
        for prior in priors[iou(priors, truth) > 0.5]:
            frame(axes, at(x, prior), colour, width=1.8)


if __name__ == "__main__":
    save(draw(), __file__)
