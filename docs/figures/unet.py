"""Draw unet.svg, the network of Ronneberger et al. 2015 with the sides of its maps: `python docs/figures/unet.py`.

The sides are computed: a 3x3 convolution without padding takes two pixels, a pool halves, an up-convolution doubles.
"""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sketch import BLUE, GREEN, INK, OTHER, STRONG, arrow, box, save, sheet, write

INPUT, CHANNELS, LEVELS = 572, 64, 5
STEP, ACROSS, LOW = 0.83, 1.15, 0.75  # between levels, down and across; the lowest


def draw() -> Figure:
    figure, axes = sheet(11.4, 5.1)
    down, up = sides(INPUT)
    for level in range(LEVELS):
        y, wide = LOW + (LEVELS - 1 - level) * STEP, 1.55 - 0.12 * level
        left = 1.1 + ACROSS * level
        channels = CHANNELS * 2**level
        tower(axes, left, y, wide, f"{down[level][0]} to {down[level][1]}", f"{channels} maps", BLUE)
        if level + 1 < LEVELS:
            right = 10.3 - ACROSS * level
            tower(axes, right, y, wide, f"{up[level][0]} to {up[level][1]}", f"{channels} maps", GREEN)
            arrow(axes, (left + wide / 2, y), (right - wide / 2, y), colour=STRONG)
            write(axes, ((left + right) / 2, y + 0.13), f"{up[level][0]} of {down[level][1]}", 8.5)
            arrow(axes, (left + 0.3, y - 0.26), (left + ACROSS - 0.3, y - STEP + 0.26), colour=OTHER)
            arrow(axes, (right - ACROSS + 0.3, y - STEP + 0.26), (right - 0.3, y - 0.26), colour=INK)
    top = LOW + (LEVELS - 1) * STEP
    write(axes, (1.1, top + 0.62), f"image {INPUT} x {INPUT}", 9.5, bold=True)
    write(axes, (10.3, top + 0.62), f"class map {up[0][1]} x {up[0][1]}", 9.5, bold=True)
    arrow(axes, (1.1, top + 0.5), (1.1, top + 0.27))
    arrow(axes, (10.3, top + 0.27), (10.3, top + 0.5))
    legend(axes)
    return figure


def sides(side: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Sides before and after the two convolutions of each level, on the way down and on the way up."""
    down = []
    for _ in range(LEVELS):
        down.append((side, side - 4))
        side = (side - 4) // 2
    up: list[tuple[int, int]] = []
    side = down[-1][1]
    for _ in range(LEVELS - 1):
        up.insert(0, (2 * side, 2 * side - 4))
        side = 2 * side - 4
    return down, up


def tower(axes: Axes, x: float, y: float, wide: float, sides: str, channels: str, colour: str) -> None:
    box(axes, (x, y), (wide, 0.5), f"{sides}\n{channels}", colour, 8)


def legend(axes: Axes) -> None:
    for x, words, colour in (
        (0.3, "max-pool 2x2", OTHER),
        (2.3, "up-convolution 2x2", INK),
        (8.35, "the middle of the maps, copied", STRONG),
    ):
        arrow(axes, (x, 0.18), (x + 0.35, 0.18), colour=colour)
        write(axes, (x + 0.45, 0.18), words, 9, side="left")
    write(axes, (6.4, 0.18), "in every box two 3x3 convolutions", 9)


if __name__ == "__main__":
    save(draw(), __file__)
