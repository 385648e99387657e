"""Draw shortcuts.svg, a plain and a residual block, and how long the paths of many blocks are:
`python docs/figures/shortcuts.py`.
"""

from __future__ import annotations

from math import comb

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sketch import BLUE, FAINT, GRAY, INK, LINE, ORANGE, STRONG, arrow, box, save, sheet, write

BLOCKS = 54  # of a ResNet-110
SHORT = range(5, 18)  # path lengths that carry most of the gradient (Veit et al. 2016)


def draw() -> Figure:
    figure, axes = sheet(11.2, 4.3)
    block(axes, 1.4, "plain block", shortcut=False)
    block(axes, 4.2, "residual block", shortcut=True)
    write(axes, (1.4, 0.22), "y = relu(F(x))", 10)
    write(axes, (4.2, 0.22), "y = relu(F(x) + x)", 10)
    write(axes, (8.7, 4.05), f"the paths through {BLOCKS} residual blocks", 11, bold=True)
    inset = figure.add_axes((0.6, 0.17, 0.38, 0.68))
    paths = [comb(BLOCKS, length) / 2**BLOCKS for length in range(BLOCKS + 1)]
    inset.bar(range(BLOCKS + 1), paths, color=[STRONG if n in SHORT else "#9ec9e8" for n in range(BLOCKS + 1)])
    inset.set_xlabel("blocks that a path goes through, instead of around", fontsize=9, color=INK)
    inset.set_ylabel("share of all paths", fontsize=9, color=INK)
    inset.tick_params(labelsize=8, colors=INK)
    inset.grid(color=FAINT, linewidth=0.6)
    inset.set_axisbelow(True)
    for side in ("top", "right"):
        inset.spines[side].set_visible(False)
    inset.text(-1.5, 0.02, "most of the gradient\ncomes by paths of\n5 to 17 blocks", fontsize=9, color=STRONG)
    return figure


def block(axes: Axes, x: float, name: str, shortcut: bool) -> None:
    """Two convolutions with norms, from x at the top to y below."""
    write(axes, (x, 4.05), name, 11, bold=True)
    rows = (("3x3 convolution", BLUE), ("norm, relu", GRAY), ("3x3 convolution", BLUE), ("norm", GRAY))
    top, step, high = 3.15, 0.48, 0.34
    write(axes, (x - 0.15, 3.58), "x", 10)
    arrow(axes, (x, 3.75), (x, top + high / 2))
    for i, (text, colour) in enumerate(rows):
        y = top - i * step
        box(axes, (x, y), (1.4, high), text, colour)
        arrow(axes, (x, y - high / 2), (x, y - step + high / 2))
    y = top - 4 * step
    if shortcut:
        box(axes, (x, y), (0.34, high), "+", ORANGE, 11)
        axes.plot([x, x + 1.1, x + 1.1], [3.5, 3.5, y], color=STRONG, linewidth=1.5)
        arrow(axes, (x + 1.1, y), (x + 0.17, y), colour=STRONG)
        write(axes, (x + 1.25, 2.35), "x", 10, colour=STRONG)
        write(axes, (x - 0.4, y), "F(x)", 10)
        arrow(axes, (x, y - high / 2), (x, y - step + high / 2))
        y -= step
    box(axes, (x, y), (0.6, high), "relu", GRAY)
    axes.plot([x, x], [y - high / 2, 0.5], color=LINE, linewidth=1.3)
    arrow(axes, (x, 0.5), (x, 0.36))


if __name__ == "__main__":
    save(draw(), __file__)
