"""What does each step from YOLO to YOLOv2 give? The table of the paper, on your boxes.

    python benchmarks/yolo2_steps.py DATA/bccd --out OUT [--minutes 6 | --epochs N] [--seeds 0 1 2]

Redmon & Farhadi 2017, table 2: every row adds one thing to the row above it. All rows train from scratch on the same
images for the same time, with the small trunk of Darknet. Two rows of the paper are left out: the classifier trained at
the detector's size first, which needs a large set of labelled images (`saccade train darknet_reference IMAGES`, and its
run as `--weights` of all rows), and the other trunk (`--trunk darknet19` runs all rows on it). Prints AP50, AP and the
share of objects found, beside the paper's AP50 on VOC 2007, and leaves OUT/yolo2_steps.png. Runs that are finished are
kept, one that was stopped goes on.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass

from runs import make_parser, markdown, settings_flags, train

from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

SIZE = 352  # a multiple of 32; cells of 32 pixels as in the paper
START = ("dilated=true", "passthrough=none", "joined=0", "convs=[512]", "location=anchor", "fit_priors=false")


@dataclass(frozen=True)
class Step:
    """A row of the table: everything that its run is told."""

    title: str
    model: str
    settings: tuple[str, ...]
    paper: float  # AP50 on VOC 2007, in percent
    size: int = SIZE


def steps(trunk: str) -> list[Step]:
    """The rows. Each of the settings of YOLOv2 that a row adds replaces what the rows before it said."""
    dilated = ("dilated=true",) if trunk == "darknet_reference" else ("dilated=false",)
    first = ("head=full", "hidden=1024", "convs=[[512,1]]", f"trunk={trunk}", f"grid={SIZE // 64}")
    found = [
        Step("YOLO", "yolo1", (*first, "trunk_norm=none", "lr=1e-4"), 63.4),
        Step("+ batch norm", "yolo1", first, 65.8),
    ]
    settings = (*START, *dilated, f"trunk={trunk}")
    for title, added, paper in (
        ("+ anchors, by convolutions", (), 69.2),
        ("+ priors fitted to the data", ("fit_priors=true",), 69.6),
        ("+ centres that stay in their cell", ("location=cell",), 74.4),
        ("+ a finer map passed through", ("passthrough=reduced", "joined=512"), 75.4),
        ("+ sizes that change", ("multi_scale=0.3",), 76.8),
    ):
        settings = (*settings, *added)
        found.append(Step(title, "yolo2", settings, paper))
    return [*found, Step("+ a larger image", "yolo2", settings, 78.6, SIZE * 4 // 3 // 32 * 32)]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--trunk", choices=("darknet_reference", "darknet19"), default="darknet_reference")
    parser.add_argument("--minutes", type=float, default=6.0, help="of each run")
    parser.add_argument("--epochs", type=int, help="of each run, instead of minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    rows, means, found = [], [], steps(options.trunk)
    for number, step in enumerate(found):
        scores = []
        for seed in options.seeds:
            folder = options.out / f"{number}-seed{seed}"
            flags = [length, f"--seed={seed}", f"--size={step.size}", *settings_flags([*step.settings, *options.set])]
            summary = train(step.model, options.data, folder, flags)
            if summary is not None:
                scores.append([summary["metrics"][name]["value"] for name in ("ap50", "ap", "ar_100")])
            print(f"{step.title}: {scores}", file=sys.stderr, flush=True)
        mean = [statistics.fmean(values) for values in zip(*scores, strict=True)] if scores else []
        means.append(mean[0] if mean else 0.0)
        rows.append([step.title, *(f"{value:.3f}" for value in mean or [float("nan")] * 3), f"{step.paper:.1f}"])
    print(markdown(["step", "AP50", "AP", "AR", "AP50 of the paper, VOC 2007"], rows))
    (options.out / "yolo2_steps.png").write_bytes(plot([step.title for step in found], means))


def plot(titles: list[str], scores: list[float]) -> bytes:
    """PNG: a bar a step."""
    figure = new_figure(8, 4)
    axes = figure.subplots()
    style(axes, "From YOLO to YOLOv2", "AP50", "")
    colour = tuple(v / 255 for v in class_colour(0))
    axes.barh(range(len(titles)), scores, color=colour)
    axes.set_yticks(range(len(titles)), titles)
    axes.invert_yaxis()
    axes.margins(x=0.08)  # room for the number behind the longest bar
    for row, score in enumerate(scores):
        axes.text(score, row, f" {score:.3f}", va="center", fontsize=8)
    return to_png(figure)


if __name__ == "__main__":
    main()
