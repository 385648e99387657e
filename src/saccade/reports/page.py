"""`report.html`: one file that says what was found; it opens without network or server. What all reports share."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from saccade.machine.files import inside, make_folder, write_whole
from saccade.reports.sections import Plot, Section
from saccade.version import __version__


@dataclass
class Headline:
    """The number that ranks the run, shown large, with what it means and its 95 % interval."""

    name: str
    meaning: str
    text: str
    value: float | None
    low: float | None
    high: float | None
    interval: str


@dataclass
class Page:
    """Everything that the template shows, top to bottom."""

    title: str
    subtitle: str
    headline: Headline | None = None
    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    version: str = __version__


def headline(name: str, says: str, value: Mapping[str, float | None]) -> Headline:
    """The value of a metric with its interval, and what the metric says."""
    number, low, high = value["value"], value["low"], value["high"]
    interval = "" if low is None or high is None else f"95 % interval {low:.3f} to {high:.3f}"
    text = "-" if number is None else f"{number:.3f}"
    return Headline(name.replace("_", " "), says, text, number, low, high, interval)


def write_page(folder: Path, page: Page) -> None:
    """Render a page to `folder`/report.html and its plots to `folder`/plots. Raises ResourceError."""
    plots = make_folder(inside(folder, "plots"))
    for section in page.sections:
        for plot in section.plots:
            write_whole(plots / f"{plot.name}.png", plot.png)
    source = resources.files("saccade.reports").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["plot"] = _plot_uri
    environment.filters["jpeg"] = _jpeg_uri
    text = environment.from_string(source).render(page=page)
    write_whole(folder / "report.html", text.encode("utf-8", "replace"))  # names of files may hold half surrogates


def _plot_uri(plot: Plot) -> str:
    if plot.photo:
        with Image.open(io.BytesIO(plot.png), formats=("PNG",)) as picture:
            return _jpeg_uri(np.asarray(picture.convert("RGB")))
    return "data:image/png;base64," + base64.b64encode(plot.png).decode("ascii")


def _jpeg_uri(pixels: Any) -> str:
    """[H, W, 3] uint8 as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
