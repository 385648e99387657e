"""Draw localization.svg, one trunk with a head for the class and one for the box, and three overlaps:
`python docs/figures/localization.py`.
"""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sketch import BLUE, GRAY, GREEN, INK, ORANGE, OTHER, STRONG, arrow, box, frame, save, sheet, write

from saccade.ops.boxes import iou


def draw() -> Figure:
    figure, axes = sheet(11.4, 4.4)
    network(axes)
    for i, shift in enumerate(((0.45, 0.3), (0.22, 0.16), (0.07, 0.05))):
        overlap(axes, 8.95, 3.25 - 1.15 * i, shift)
    write(axes, (9.85, 4.15), "intersection over union", 11, bold=True)
    return figure


def network(axes: Axes) -> None:
    """Image, trunk, heads, answers, loss."""
    axes.add_patch(Rectangle((0.2, 1.35), 1.7, 1.7, facecolor="#f5f2ea", edgecolor=INK))
    axes.text(1.2, 2.25, "7", fontsize=52, weight="bold", ha="center", va="center", color="#7a4fa3")
    frame(axes, (0.9, 1.93, 1.5, 2.7), STRONG)
    write(axes, (1.05, 3.3), "one object", 9.5)
    arrow(axes, (1.95, 2.2), (2.35, 2.2))
    for i, (high, x) in enumerate(((1.7, 2.55), (1.25, 2.95), (0.8, 3.35))):
        box(axes, (x, 2.2), (0.26, high), colour=BLUE)
        if i == 1:
            write(axes, (x, 0.98), "trunk", 9.5)
    for y, words, answer, loss, colour in (
        (3.15, "class head", "C scores\np = softmax(s)", "- log p(7)", GREEN),
        (1.25, "box head", "4 numbers\ncx, cy, w, h", "|cx - cx*| + ... + |h - h*|", ORANGE),
    ):
        arrow(axes, (3.52, 2.2), (4.0, y))
        box(axes, (4.6, y), (1.15, 0.5), words, colour)
        arrow(axes, (5.2, y), (5.55, y))
        box(axes, (6.25, y), (1.35, 0.55), answer, GRAY)
        write(axes, (6.25, y - 0.47), loss, 9)
    write(axes, (6.25, 1.95), "loss = class + alpha x box", 9.5, bold=True)


def overlap(axes: Axes, x: float, y: float, shift: tuple[float, float]) -> None:
    """Two boxes of one size, one moved by `shift`, and their IoU."""
    truth = (x, y - 0.45, x + 0.9, y + 0.35)
    found = tuple(value + shift[i % 2] for i, value in enumerate(truth))
    both = (found[0], found[1], truth[2] - found[0], truth[3] - found[1])
    axes.add_patch(Rectangle(both[:2], both[2], both[3], facecolor="#d9d2e9", edgecolor="none"))
    frame(axes, truth, STRONG)
    frame(axes, found, OTHER, dashed=True)
    value = float(iou(torch.tensor(truth), torch.tensor(found)))
    write(axes, (x + 1.5, y), f"IoU {value:.2f}", 10, side="left")


if __name__ == "__main__":
    save(draw(), __file__)
