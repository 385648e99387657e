"""Draw blocks.svg, one block of each network from LeNet to DenseNet: `python docs/figures/blocks.py`."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sketch import BLUE, GRAY, GREEN, ORANGE, STRONG, arrow, box, save, sheet, write

HIGH = 0.36  # of a box
TOP, BOTTOM = 3.55, 0.75


def draw() -> Figure:
    figure, axes = sheet(11.6, 4.5)
    for x, name, what in (
        (0.95, "LeNet, 1998", "a chain"),
        (2.95, "VGG, 2015", "small filters, stacked"),
        (5.6, "Inception, 2015", "several sizes side by side"),
        (8.3, "ResNet, 2016", "add the input"),
        (10.5, "DenseNet, 2017", "keep all inputs"),
    ):
        write(axes, (x, 4.25), name, 11, bold=True)
        write(axes, (x, 0.25), what, 9.5)
        write(axes, (x, 3.92), "maps", 8.5)
        arrow(axes, (x, 3.84), (x, TOP))
        arrow(axes, (x, BOTTOM), (x, 0.42))
    five, three, pool = ("5x5 convolution", BLUE), ("3x3 convolution", BLUE), ("max-pool", GRAY)
    column(axes, 0.95, [five, ("subsampling", GRAY), five, ("subsampling", GRAY), ("fully connected", ORANGE)])
    column(axes, 2.95, [three, three, pool])
    inception(axes, 5.6)
    residual(axes, 8.3)
    dense(axes, 10.5)
    return figure


def column(axes: Axes, x: float, layers: Sequence[tuple[str, str]]) -> None:
    """Layers one below the other, from TOP to BOTTOM."""
    step = (TOP - BOTTOM - HIGH) / (len(layers) - 1)
    for i, (text, colour) in enumerate(layers):
        y = TOP - HIGH / 2 - i * step
        box(axes, (x, y), (1.35, HIGH), text, colour)
        if i:
            arrow(axes, (x, y + step - HIGH / 2), (x, y + HIGH / 2))


def inception(axes: Axes, x: float) -> None:
    """Four branches, of which a 1x1 convolution makes the large ones cheap."""
    box(axes, (x, TOP - 0.06), (2.6, 0.12), colour=GRAY)
    branches = (("", "1x1"), ("1x1", "3x3"), ("1x1", "5x5"), ("max-pool", "1x1"))
    for i, (first, second) in enumerate(branches):
        at = x + (i - 1.5) * 0.68
        upper, lower = 2.75, 1.85
        arrow(axes, (at, TOP - 0.12), (at, (upper if first else lower) + HIGH / 2))
        if first:
            box(axes, (at, upper), (0.6, HIGH), first, GRAY if "pool" in first else GREEN, 8)
            arrow(axes, (at, upper - HIGH / 2), (at, lower + HIGH / 2))
        box(axes, (at, lower), (0.6, HIGH), second, GREEN if second == "1x1" else BLUE, 8)
        arrow(axes, (at, lower - HIGH / 2), (at, BOTTOM + HIGH))
    box(axes, (x, BOTTOM + HIGH / 2), (2.6, HIGH), "joined, channel beside channel", ORANGE)


def residual(axes: Axes, x: float) -> None:
    """Two convolutions and a way around them."""
    first, second, plus = 2.85, 2.0, BOTTOM + 0.14
    box(axes, (x, first), (1.35, HIGH), "3x3 convolution")
    box(axes, (x, second), (1.35, HIGH), "3x3 convolution")
    box(axes, (x, plus), (0.28, 0.28), "+", ORANGE, 11)
    arrow(axes, (x, TOP), (x, first + HIGH / 2))
    arrow(axes, (x, first - HIGH / 2), (x, second + HIGH / 2))
    arrow(axes, (x, second - HIGH / 2), (x, plus + 0.14))
    arrow(axes, (x, TOP - 0.08), (x + 0.14, plus), bend=-0.85, colour=STRONG)
    write(axes, (x + 0.98, 1.35), "x", 10, colour=STRONG)
    write(axes, (x - 0.32, 1.35), "F(x)", 10)


def dense(axes: Axes, x: float) -> None:
    """Three layers, each of which reads all maps so far and adds k of its own."""
    colours, part = (GRAY, "#9ec9e8", "#f6b681", "#9fd3a5"), 0.3
    step = (TOP - BOTTOM - 0.2) / 3
    for i in range(4):
        y, left = TOP - 0.1 - i * step, x - part * (i + 1) / 2
        for j in range(i + 1):
            box(axes, (left + part * (j + 0.5), y), (part, 0.2), "k0" if j == 0 else "k", colours[j], 7.5)
        if i < 3:
            box(axes, (x, y - step / 2), (1.35, HIGH), f"layer {i + 1}: k new maps")
            arrow(axes, (x, y - 0.1), (x, y - step / 2 + HIGH / 2))
            arrow(axes, (x, y - step / 2 - HIGH / 2), (x + part * (i + 1) / 2, y - step + 0.1))
            arrow(axes, (x - 0.8, y - 0.1), (x - 0.8, y - step + 0.1), colour=STRONG)


if __name__ == "__main__":
    save(draw(), __file__)
