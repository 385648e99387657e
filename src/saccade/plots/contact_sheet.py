"""A sheet of small pictures with their labels drawn in: what a person looks at before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from saccade.plots.palette import class_colour
from saccade.plots.text import font_of, shorten

_CAPTION = 18  # pixels below each picture
_GAP = 6


@dataclass(slots=True)
class Tile:
    """One picture of the sheet with what is said of it; coordinates are pixels of `image`."""

    image: np.ndarray  # [H, W, 3] uint8 RGB
    caption: str
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)  # x1 y1 x2 y2
    labels: list[int] = field(default_factory=list)  # class index of each box, for its colour
    names: list[str] = field(default_factory=list)  # class name of each box
    polygons: list[tuple[int, list[float]]] = field(default_factory=list)  # (colour index, x1 y1 x2 y2 ...)
    regions: np.ndarray | None = None  # [H, W] int: colour index of each pixel, below 0 uncoloured


def draw_contact_sheet(tiles: Sequence[Tile], columns: int = 5, side: int = 256) -> Image.Image:
    """All tiles in rows of `columns`, each fitted into `side` x `side` pixels (small pictures are enlarged); rows are
    as high as the highest picture in them.

    Raises:
        ValueError: there is no tile.
    """
    if not tiles:
        raise ValueError("a contact sheet needs a picture")
    columns = min(columns, len(tiles))
    pictures = [_draw(tile, side) for tile in tiles]
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [max(pictures[i].height for i in row) for row in rows]
    whole = sum(heights) + len(rows) * (_CAPTION + _GAP) + _GAP
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, whole), (245, 245, 245))
    pen = ImageDraw.Draw(sheet)
    font = font_of(12)
    y = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x, picture = _GAP + column * (side + _GAP), pictures[i]
            sheet.paste(picture, (x + (side - picture.width) // 2, y + (height - picture.height) // 2))
            pen.text((x, y + height + 2), shorten(tiles[i].caption, font, side), fill=(30, 30, 30), font=font)
        y += height + _CAPTION + _GAP
    return sheet


def _draw(tile: Tile, side: int) -> Image.Image:
    image = tile.image
    if tile.regions is not None:
        image = _tint(image, tile.regions)
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    picture = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR if scale < 3 else Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    font = font_of(10)
    for index, polygon in tile.polygons:
        points = [(x * scale, y * scale) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
        if len(points) > 1:
            pen.line([*points, points[0]], fill=class_colour(index), width=2)
    for box, label, name in zip(tile.boxes, tile.labels, tile.names, strict=True):
        x1, y1, x2, y2 = (value * scale for value in box)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=class_colour(label), width=2)
        if len(tile.boxes) <= 12:
            pen.text(
                (x1 + 3, y1 + 2),
                shorten(name, font, side),
                fill="white",
                font=font,
                stroke_width=2,
                stroke_fill="black",
            )
    return picture


def _tint(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Half the picture, half the colour of each region."""
    tinted = image.astype(np.float32)
    for index in np.unique(regions[regions >= 0]):
        here = regions == index
        tinted[here] = 0.5 * tinted[here] + 0.5 * np.array(class_colour(int(index)), dtype=np.float32)
    return tinted.astype(np.uint8)
