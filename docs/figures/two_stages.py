"""Draw two_stages.svg, the way from image to boxes in two stages, and how a region is read from a map:
`python docs/figures/two_stages.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sketch import BLUE, FAINT, GRAY, GREEN, INK, LINE, ORANGE, OTHER, STRONG, arrow, box, frame, save, sheet, write

CELL, CELLS = 0.43, 7
REGION = (0.7, 0.6, 4.9, 4.4)  # on the map, x1 y1 x2 y2, where value i has coordinate i


def draw() -> Figure:
    figure, axes = sheet(11.6, 6.3)
    write(axes, (0.2, 6.05), "one image, two stages", 11, bold=True, side="left")
    stages(axes)
    reading(axes, 1.3, "RoIPool: whole cells, the largest of each bin", rounded=True)
    reading(axes, 7.3, "RoIAlign: the exact region, points between cells", rounded=False)
    return figure


def stages(axes: Axes) -> None:
    y, low = 5.3, 4.2
    for x, wide, words, colour in (
        (0.75, 1.1, "image", GRAY),
        (2.45, 1.4, "trunk and\npyramid", BLUE),
        (4.5, 1.5, "first stage: RPN\nobject or not, offsets", GREEN),
        (6.9, 1.5, "best K boxes\nafter NMS", GRAY),
        (9.05, 1.3, "RoIAlign\n7 x 7", BLUE),
        (10.85, 1.2, "second stage:\nclass, offsets", ORANGE),
    ):
        box(axes, (x, y), (wide + 0.1, 0.62), words, colour, 8.5)
    for tail, head in ((1.35, 1.7), (3.2, 3.7), (5.3, 6.1), (7.7, 8.35), (9.75, 10.2)):
        arrow(axes, (tail, y), (head, y))
    axes.plot([2.45, 2.45, 9.05], [y - 0.31, low, low], color=LINE, linewidth=1.3)
    arrow(axes, (9.05, low), (9.05, y - 0.31))
    write(axes, (5.75, low + 0.15), "the maps are computed once and read by both stages", 9)
    write(axes, (5.7, y + 0.22), "A anchors", 8.5)
    write(axes, (8.02, y + 0.22), "K regions", 8.5)


def reading(axes: Axes, x: float, name: str, rounded: bool) -> None:
    """A map with a region, cut into 2 x 2 bins; values stand at the dots, the middles of the cells."""
    y = 0.55
    write(axes, (x + CELL * CELLS / 2, 3.75), name, 10.5, bold=True)
    for i in range(CELLS + 1):
        axes.plot([x + i * CELL] * 2, [y, y + CELLS * CELL], color=FAINT, linewidth=0.8)
        axes.plot([x, x + CELLS * CELL], [y + i * CELL] * 2, color=FAINT, linewidth=0.8)
    values = [(x + (i % CELLS + 0.5) * CELL, y + (i // CELLS + 0.5) * CELL) for i in range(CELLS**2)]
    axes.plot([px for px, _ in values], [py for _, py in values], ".", color="#aab2bb", markersize=3)
    x1, y1, x2, y2 = REGION
    if rounded:
        columns, rows = bins(round(x1), round(x2)), bins(round(y1), round(y2))
        for i, (left, right) in enumerate(columns):
            for bottom, top in rows:
                corner, colour = (x + left * CELL, y + bottom * CELL), (OTHER, STRONG)[i]
                wide, high = (right - left) * CELL, (top - bottom) * CELL
                axes.add_patch(Rectangle(corner, wide, high, facecolor=colour, edgecolor="none", alpha=0.2))
                frame(axes, (*corner, corner[0] + wide, corner[1] + high), colour, width=1.4)
        words = "rounded to 5 x 4 cells; the bins of 3 cells share a column"
    else:
        wide, high = (x2 - x1) / 2, (y2 - y1) / 2
        for left, bottom in ((x1, y1), (x1 + wide, y1), (x1, y1 + high), (x1 + wide, y1 + high)):
            frame(axes, on_map(x, y, (left, bottom, left + wide, bottom + high)), STRONG, width=1)
            points = [(left + a * wide, bottom + b * high) for a in (0.25, 0.75) for b in (0.25, 0.75)]
            places = [on_map(x, y, point) for point in points]
            axes.plot([p[0] for p in places], [p[1] for p in places], "o", color=STRONG, markersize=4)
        words = "each bin: the mean of four points, interpolated between values"
    write(axes, (x + CELL * CELLS / 2, 0.25), words, 9)
    frame(axes, on_map(x, y, REGION), INK, dashed=True)


def on_map(x: float, y: float, coordinates: Sequence[float]) -> tuple[float, ...]:
    """Coordinates of a map, at which value i has the coordinate i, on the sheet."""
    return tuple((x, y)[i % 2] + CELL * (value + 0.5) for i, value in enumerate(coordinates))


def bins(first: int, last: int) -> list[tuple[int, int]]:
    """The cells first..last in two bins, from floor(i n / 2) to ceil((i + 1) n / 2): they share one if n is odd."""
    n = last - first + 1
    return [(first + i * n // 2, first - (-(i + 1) * n // 2)) for i in range(2)]


if __name__ == "__main__":
    save(draw(), __file__)
