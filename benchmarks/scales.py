"""Do boxes from three maps find more than boxes from one? YOLOv3 with one map, two and three.

    python benchmarks/scales.py DATA/bccd --out OUT [--minutes 6 | --epochs N] [--seeds 0 1 2]

Redmon & Farhadi 2018, section 2.3: YOLOv2 draws all boxes from one coarse map, YOLOv3 from three, each with the priors
that fit its cells. All runs have the same trunk, images, recipe, time and nine priors, fitted to the data once, the
largest on the coarsest map; they differ in the maps that these are dealt out to. One map is tried at stride 32, as in
YOLOv2, and at 16, for which the trunk's last stage is dilated. Prints AP of all objects and of small, medium and large
ones, and leaves OUT/scales.png. Runs that are finished are kept, one that was stopped goes on.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runs import make_parser, markdown, settings_flags, train

import saccade
from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

SCORES = {"ap": "AP", "ap50": "AP50", "ap_small": "small", "ap_medium": "medium", "ap_large": "large"}


@dataclass(frozen=True)
class Maps:
    """A row of the table."""

    title: str
    priors: tuple[int, ...]  # of each map, the coarsest first
    settings: tuple[str, ...]


ROWS = {
    "one32": Maps("one map, stride 32", (9,), ("widths=[96]", "depths=[1]")),
    "one16": Maps("one map, stride 16", (9,), ("widths=[96]", "depths=[1]", "dilated=true")),
    "two": Maps("two maps, 32 and 16", (5, 4), ("widths=[96,64]", "depths=[1,1]")),
    "three": Maps("three maps, 32, 16 and 8", (3, 3, 3), ()),
}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--size", type=int, default=320, help="pixels of a side of the input")
    parser.add_argument("--minutes", type=float, default=6.0, help="of each run")
    parser.add_argument("--epochs", type=int, help="of each run, instead of minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    shapes = saccade.anchors(options.data, k=9, size=options.size)["pixels"]
    found: dict[str, list[float]] = {}
    for name, maps in ROWS.items():
        own = [*maps.settings, f"priors={dealt_out(shapes, maps.priors)}", "fit_priors=false", *options.set]
        scores = []
        for seed in options.seeds:
            flags = [length, f"--seed={seed}", f"--size={options.size}", *settings_flags(own)]
            summary = train("yolo3_small", options.data, options.out / f"{name}-seed{seed}", flags)
            if summary is not None:
                scores.append([value_of(summary, score) for score in SCORES])
            print(f"{maps.title}: {scores}", file=sys.stderr, flush=True)
        nothing = [float("nan")] * len(SCORES)
        found[maps.title] = [statistics.fmean(each) for each in zip(*scores, strict=True)] if scores else nothing
    rows = [
        [title, *("-" if value != value else f"{value:.3f}" for value in values)] for title, values in found.items()
    ]
    print(markdown(["boxes from", *SCORES.values()], rows))
    (options.out / "scales.png").write_bytes(plot(found))


def dealt_out(shapes: Sequence[Sequence[float]], counts: Sequence[int]) -> str:
    """`priors` of as many maps as there are counts: shapes of rising area, the largest to the first map."""
    maps, end = [], len(shapes)
    for count in counts:
        maps.append(shapes[end - count : end])
        end -= count
    return json.dumps(maps, separators=(",", ":"))


def value_of(summary: dict[str, Any], score: str) -> float:
    """A score of a run; not a number where the data have no such objects."""
    value = summary["metrics"][score]["value"]
    return float("nan") if value is None else float(value)


def plot(found: dict[str, list[float]]) -> bytes:
    """PNG: bars of every score, one for each choice of maps."""
    figure = new_figure(9, 4)
    axes = figure.subplots()
    style(axes, "One map against three", "", "AP")
    width = 0.8 / len(found)
    for i, (title, values) in enumerate(found.items()):
        colour = tuple(v / 255 for v in class_colour(i))
        axes.bar([x + i * width for x in range(len(values))], values, width, color=colour, label=title)
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(SCORES))], list(SCORES.values()))
    axes.legend(fontsize=8, frameon=False)
    return to_png(figure)


if __name__ == "__main__":
    main()
