"""`saccade anchors`: the shapes that stand best for the boxes of a data set, for detectors that have priors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.config import parse_sides
from saccade.data.dataset import Record
from saccade.data.formats import read
from saccade.errors import DataError, UsageError
from saccade.layers.anchors import best_overlaps, fit_anchors
from saccade.machine.files import results_folder, write_whole
from saccade.machine.paths import at_home
from saccade.plots.anchors import plot_anchor_curve, plot_anchors
from saccade.plots.figures import to_png

CELL = 32  # pixels, in which the files of YOLOv2 count
MOST = 9  # anchors to which the curve goes at least, as many as YOLOv3 has
STARTS, FITTED = 5, 20_000  # starts of k-means, and boxes to which it is fitted at most
LEAST = 1.0  # pixels of a side of a box that counts
MAPS = 3  # of YOLOv3
GOOD = 0.5  # IoU from which an anchor fits a box


def anchors(
    data: str | Path,
    *,
    k: int = 5,
    size: str | int | tuple[int, int] = 416,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Shapes fitted to the boxes of a data set by k-means under 1 - IoU (YOLO9000, section 2), as a network sees them.

    Args:
        data: a folder, the file that describes a set, or "format:path"; its training part where it has one.
        k: number of shapes.
        size: pixels of the input, a side or HxW, into which images are letterboxed.
        out: folder for anchors.png and curve.png.

    Returns:
        `{data, images, boxes, too_small, size, k, pixels, shares, cells, average_iou, good, curve: [{k, average_iou,
        good}], settings, files}`: width and height of each shape by rising area in pixels of the input, in shares of
        its sides, and in cells of 32 pixels; the mean over the boxes of their IoU with the best shape; the share of
        boxes where that is above 0.5; both for each number of shapes; and what to give to `--set`: by `yolo2` for a
        detector of one map, by `yolo3` for one of three, the largest to the coarsest, where `k` can be divided so.

    Raises:
        DataError: no boxes, or fewer than `k`.
        UsageError: `k` below 1, a size that is none.
    """
    if k < 1:
        raise UsageError(f"k is {k}, allowed: at least 1")
    data, out = at_home(data), at_home(out)
    height, width = parse_sides(size)
    dataset = read(data, "detect")
    records = [each for each in dataset.records if each.things is not None]
    records = [each for each in records if each.split == "train"] or records
    every = _sides(records, height, width)
    sides = every[(every >= LEAST).all(1)]
    if not len(sides):
        raise DataError(f"{data}: no boxes of at least {LEAST:g} pixel at {height}x{width} to fit anchors to")
    if k > len(sides):
        raise DataError(f"{data}: {len(sides)} boxes cannot have {k} anchors; use --k {len(sides)} or fewer")
    fits = {n: _best(sides, n) for n in range(1, min(max(k, MOST), len(sides)) + 1)}
    curve = [{"k": n, **_fit(sides, shapes)} for n, shapes in fits.items()]
    shapes = fits[k]
    files = [] if out is None else _draw(Path(out), sides, shapes, curve)
    return {
        "data": str(data),
        "images": len(records),
        "boxes": len(sides),
        "too_small": len(every) - len(sides),
        "size": [height, width],
        "k": k,
        "pixels": _rounded(shapes, 2),
        "shares": _rounded(shapes / torch.tensor([width, height]), 5),
        "cells": _rounded(shapes / CELL, 5),
        **_fit(sides, shapes),
        "curve": curve,
        "settings": _settings(_rounded(shapes, 2)),
        "files": files,
    }


def _sides(records: list[Record], height: int, width: int) -> Tensor:
    """Width and height [n, 2] of all boxes but those of crowds, in pixels of the letterboxed images."""
    rows = []
    for record in records:
        scale = min(height / record.size[0], width / record.size[1])
        for thing in record.things or []:
            x1, y1, x2, y2 = thing.box
            if not thing.crowd:
                rows.append((scale * (x2 - x1), scale * (y2 - y1)))
    return torch.tensor(rows, dtype=torch.float32).view(-1, 2)


def _best(sides: Tensor, k: int) -> Tensor:
    """The best of some k-means, each from another start, as one may end beside the best shapes."""
    some = sides[:: -(-len(sides) // FITTED)]
    fits = [fit_anchors(some, k, seed) for seed in range(STARTS)]
    return max(fits, key=lambda shapes: float(best_overlaps(some, shapes).mean()))


def _settings(pixels: list[list[float]]) -> dict[str, str]:
    """Shapes by rising area as `priors` of detectors of one map and of three."""

    def listed(shapes: list[list[float]]) -> str:
        return "[" + ",".join(f"[{w:g},{h:g}]" for w, h in shapes) + "]"

    third = len(pixels) // MAPS
    maps = [listed(pixels[third * i : third * (i + 1)]) for i in reversed(range(MAPS))]
    settings = {"yolo2": f"priors={listed(pixels)}"}
    return settings if len(pixels) % MAPS else settings | {"yolo3": f"priors=[{','.join(maps)}]"}


def _fit(sides: Tensor, shapes: Tensor) -> dict[str, float]:
    best = best_overlaps(sides, shapes)
    return {"average_iou": round(float(best.mean()), 4), "good": round(float((best > GOOD).float().mean()), 4)}


def _rounded(shapes: Tensor, digits: int) -> list[list[float]]:
    return [[round(float(side), digits) for side in row] for row in shapes]


def _draw(out: Path, sides: Tensor, shapes: Tensor, curve: list[dict[str, Any]]) -> list[str]:
    folder = results_folder(out)
    write_whole(folder / "anchors.png", to_png(plot_anchors(sides.numpy(), shapes.numpy())))
    write_whole(folder / "curve.png", to_png(plot_anchor_curve(curve, len(shapes))))
    return [str(folder / name) for name in ("anchors.png", "curve.png")]
