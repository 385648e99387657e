"""Draw transfer.svg, what is learnt anew in each way to use weights that exist: `python docs/figures/transfer.py`."""

from __future__ import annotations

from matplotlib.figure import Figure
from sketch import BLUE, GRAY, GREEN, ORANGE, arrow, box, save, sheet, write

PARTS = ("stem", "stage 1", "stage 2", "stage 3", "classifier")
FROZEN, SLOW, FITTED, FRESH = GRAY, BLUE, GREEN, ORANGE
ROWS = (  # method of `saccade transfer`, what it does, colour of each part
    ("scratch", "nothing is taken over", (FRESH,) * 5),
    ("logistic, svm", "a linear classifier on frozen features", (FROZEN,) * 4 + (FITTED,)),
    ("last_block", "the last stage goes along", (FROZEN,) * 3 + (SLOW, FITTED)),
    ("layers", "all go along, the first ones least", ("#f3f8fc", "#e4f0f9", "#cfe3f4", "#b3d4ee", FITTED)),
)
LEGEND = (
    (FROZEN, "kept as it is"),
    (SLOW, "starts from the weights, at a small rate"),
    (FITTED, "fitted to the new labels"),
    (FRESH, "starts from random numbers"),
)


def draw() -> Figure:
    figure, axes = sheet(11.2, 3.9)
    for i, (method, words, colours) in enumerate(ROWS):
        y = 3.5 - 0.72 * i
        write(axes, (0.15, y + 0.12), method, 10, bold=True, side="left")
        write(axes, (0.15, y - 0.12), words, 9, side="left")
        for j, (part, colour) in enumerate(zip(PARTS, colours, strict=True)):
            x = 4.1 + 1.45 * j
            box(axes, (x, y), (1.1, 0.44), part, colour)
            arrow(axes, (x - 0.9, y), (x - 0.55, y))
        arrow(axes, (10.45, y), (10.8, y))
    for j, (colour, words) in enumerate(LEGEND):
        x = (0.3, 2.15, 5.75, 8.3)[j]
        box(axes, (x, 0.4), (0.3, 0.22), colour=colour)
        write(axes, (x + 0.25, 0.4), words, 9, side="left")
    return figure


if __name__ == "__main__":
    save(draw(), __file__)
