"""Several runs beside each other, as a table and a drawing: `python examples/compare_runs.py RUN... --out FILE.png`.

All that it knows stands in the run folders: log.jsonl has a line an epoch, config.json the settings.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

COLOURS = (5, 3, 2, 0, 4)  # of the palette, dark ones first


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--metric", default="top1")
    parser.add_argument("--out", type=Path, default=Path("runs.png"))
    options = parser.parse_args(arguments)
    rows = {run.name: epochs_of(run) for run in options.runs}
    figure = new_figure(9, 3.4)
    losses, scores = figure.subplots(1, 2)
    style(losses, "training loss", "epoch", "")
    style(scores, f"{options.metric} of the validation images", "epoch", "")
    for i, (name, epochs) in enumerate(rows.items()):
        look: dict[str, Any] = {"color": [v / 255 for v in class_colour(COLOURS[i % len(COLOURS)])], "linewidth": 1.6}
        measured = [row for row in epochs if row.get("metrics")]
        found = [row["metrics"][options.metric] for row in measured]
        print(f"{name:<20} {len(epochs):>3} epochs   {options.metric} {max(found):.3f}")
        losses.plot([row["epoch"] for row in epochs], [sum(row["losses"].values()) for row in epochs], **look)
        scores.plot([row["epoch"] for row in measured], found, marker="o", ms=3, label=name, **look)
    for axes in (losses, scores):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    scores.legend(fontsize=8, frameon=False)
    options.out.write_bytes(to_png(figure))


def epochs_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log: {epoch, losses, metrics in those that were measured, ...}."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
