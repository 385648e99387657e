"""The parts of an explanation's report: an introduction, then heat maps and feature maps image by image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from saccade.explanations.feature_maps import channel_image, first_filters
from saccade.explanations.image import Explained
from saccade.explanations.words import (
    CUT,
    ENDS,
    LIMITS,
    MEANINGS,
    METHODS,
    NO_GRADIENT,
    NO_HEAT,
    OF_BOXES,
    OF_CUBOIDS,
    OF_JOINTS,
    OF_ONE_BOX,
    OF_VECTORS,
    SIGNED,
    UNITS,
)
from saccade.plots.contact_sheet import Tile, draw_contact_sheet
from saccade.plots.heat import HeatPanel, plot_heat_maps
from saccade.reports.sections import Cell, Head, Plot, Row, Section, Table, picture
from saccade.tasks.contract import Target
from saccade.tasks.table import TASKS

SHOWN = 480  # pixels of the longer side of a picture in the report
FILTERS = 96  # of the first layer, shown
TILE = 118


def introduction(task: str, methods: Sequence[str]) -> Section:
    """What the pictures below mean, and what they do not."""
    section = Section("meaning", "How to read the pictures")
    section.texts = [MEANINGS[method] for method in METHODS if method in methods]
    kind = TASKS[task]
    if kind.embedding:
        section.texts.append(OF_VECTORS)
    elif kind.many_objects:
        section.texts.append(NO_GRADIENT + (OF_JOINTS if kind.keypoints else OF_CUBOIDS if kind.cuboids else OF_BOXES))
    elif kind.one_object:
        section.texts.append(OF_ONE_BOX)
    section.warnings.append(LIMITS)
    return section


def filters_section(model: nn.Module) -> Section | None:
    """The filters of the first convolution; None where it does not look at three colours."""
    found = first_filters(model)
    if found is None:
        return None
    name, filters = found
    tiles = [Tile(pixels, str(i)) for i, pixels in enumerate(filters[:FILTERS])]
    more = "" if len(filters) <= FILTERS else f" The first {FILTERS} of {len(filters)} are shown."
    text = (
        f"The filters of {name}, the first layer, {filters.shape[1]}x{filters.shape[2]} pixels, as images: gray is 0, "
        "each on a scale of its own. A trained network usually has edges, stripes and spots of colour here; noise says "
        f"that it was trained briefly or that the layer has more filters than it needs.{more}"
    )
    return Section("filters", "First-layer filters", [text], plots=[_sheet("filters", tiles, 16, 56)])


def image_section(number: int, explained: Explained, classes: Sequence[str], name: str = "") -> Section:
    """Heat maps and feature maps of one image; `number` counts the images from 1, `name` is by default its file's."""
    section = Section(f"image{number}", name or explained.path.name)
    section.facts = [("image", str(explained.path)), ("size", f"{explained.size[1]} x {explained.size[0]} pixels")]
    if explained.cam_layer:
        height, width = explained.cells
        section.facts.append(("Grad-CAM's layer", f"{explained.cam_layer}, {width} x {height} cells"))
    if explained.patch:
        section.facts.append(("occluding patch", f"{explained.patch} pixels a side"))
    section.warnings = list(explained.notes)
    if any(np.isnan(heat).any() for heats in explained.heats.values() for heat in heats):
        section.texts.append(CUT)
    image, scale = _shrunk(explained.picture)
    rows = []
    for rank, target in enumerate(explained.targets):
        panels = [
            HeatPanel(METHODS[m], _shrunk(explained.heats[m][rank])[0], UNITS[m], m in SIGNED, ENDS.get(m, 1.0))
            for m in METHODS
            if m in explained.heats
        ]
        title = f"{target.name(classes)} {target.score:.3f}"
        box = None if target.box is None else [value * scale for value in target.box]
        figure = plot_heat_maps(image, panels, title, box)
        section.plots.append(replace(picture(f"{number}-{rank + 1}", figure), photo=True))
        rows.append(_row(explained, rank, target, classes))
    if rows:
        shown = [m for m in METHODS if m in explained.heats]
        heads = [Head("explained"), Head("score", True), *(Head(f"{METHODS[m]}: strongest at") for m in shown)]
        section.tables.append(Table("", heads, rows))
    for place, stage in enumerate(explained.stages, 1):
        drawn = "" if stage.drawn == stage.boxes else f" {stage.drawn} of {stage.boxes} are drawn."
        section.texts.append(f"{place}. {stage.name[:1].upper()}{stage.name[1:]}: {stage.words}{drawn}")
    if explained.stages:
        tiles = [
            Tile(stage.pixels, f"{i}. {stage.name} ({stage.boxes})") for i, stage in enumerate(explained.stages, 1)
        ]
        section.plots.append(replace(_sheet(f"{number}-stages", tiles, 3, 320), title="The way to the answer"))
    for name, (maps, channels) in explained.layers.items():
        title = f"{name}: maps of {maps.shape[2]} x {maps.shape[1]} cells, the {len(channels)} strongest channels"
        section.plots.append(replace(_layer_sheet(number, name, explained), title=title))
    return section


def strongest(explained: Explained, method: str, rank: int) -> tuple[float, float] | None:
    """x and y of the strongest value in pixels of the original; None where nothing is above zero."""
    heat = explained.heats[method][rank]
    if not bool((heat > 0).any()):
        return None
    y, x = np.unravel_index(int(np.nanargmax(heat)), heat.shape)
    return (float(x) + 0.5) / explained.scale, (float(y) + 0.5) / explained.scale


def summary(explained: Explained, classes: Sequence[str]) -> dict[str, Any]:
    """The `--json` entry of one image, without files."""
    out: dict[str, Any] = {"image": str(explained.path), "size": list(explained.size), "explained": []}
    for rank, target in enumerate(explained.targets):
        entry: dict[str, Any] = {"name": target.name(classes), "score": round(target.score, 5), "strongest": {}}
        if target.box is not None:
            entry["box"] = [round(value / explained.scale, 2) for value in target.box]
        for method in explained.heats:
            place = strongest(explained, method, rank)
            entry["strongest"][method] = None if place is None else [round(value, 1) for value in place]
        out["explained"].append(entry)
    if explained.cam_layer:
        out["grad_cam"] = {"layer": explained.cam_layer, "cells": list(explained.cells)}
    if explained.patch:
        out["occlusion"] = {"patch": explained.patch}
    if explained.notes:
        out["notes"] = explained.notes
    if explained.stages:
        out["stages"] = [{"name": s.name, "boxes": s.boxes, "drawn": s.drawn} for s in explained.stages]
    out["layers"] = {
        name: {"cells": list(maps.shape[1:]), "channels": channels}
        for name, (maps, channels) in explained.layers.items()
    }
    return out


def _row(explained: Explained, rank: int, target: Target, classes: Sequence[str]) -> Row:
    cells = [Cell(target.name(classes), kind="name2"), Cell(f"{target.score:.3f}", True, target.score)]
    for method in METHODS:
        if method in explained.heats:
            place = strongest(explained, method, rank)
            cells.append(Cell(NO_HEAT if place is None else f"x {place[0]:.0f}, y {place[1]:.0f}", kind="key"))
    return Row(cells)


def _layer_sheet(number: int, name: str, explained: Explained) -> Plot:
    maps, channels = explained.layers[name]
    assert explained.input is not None
    tiles = [Tile(explained.input, "input")]
    for plane, channel in zip(maps, channels, strict=True):
        tiles.append(Tile(channel_image(plane), f"{channel}: {_short(plane.min())} to {_short(plane.max())}"))
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    return _sheet(f"{number}-layer-{safe}", tiles, 8, TILE)


def _short(value: Tensor) -> str:
    return f"{float(value):.0f}" if abs(float(value)) >= 10 else f"{float(value):.2g}"


def _sheet(name: str, tiles: list[Tile], columns: int, side: int) -> Plot:
    sheet = draw_contact_sheet(tiles, columns, side)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return Plot(name, buffer.getvalue(), sheet.width, sheet.height)


def _shrunk(pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """A picture or map with at most SHOWN pixels a side, and its scale."""
    longest = max(pixels.shape[:2])
    if longest <= SHOWN:
        return pixels, 1.0
    scale = SHOWN / longest
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX)), scale
    resized = Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BOX)  # NaN stays NaN
    return np.asarray(resized), scale
