r"""What does each part of a detector's recipe give: moving averages, mosaic, mixup, changing sizes, mirrors?

    python benchmarks/augmentations.py DATA/bccd --out OUT [--model atss_small] [--minutes 6 | --epochs N] \
        [--seeds 0 1 2] [--only recipe ema ...]

All runs have the same network, images, seed and time. The first is the default recipe; each of the others takes one
part of it away, or adds one that it has not. Prints AP and AP50 of each and by how much they differ from the recipe's,
and leaves OUT/augmentations.png. Runs that are finished are kept, one that was stopped goes on.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from runs import make_parser, markdown, settings_flags, train

from saccade.models import model_module
from saccade.models.contract import recipe_of
from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

# the value of a part where the recipe has none of it; where it has some, 0 takes it away
ADDED = {"ema": 0.995, "mosaic": 0.5, "mixup": 8, "multi_scale": 0.3, "flip": 0.5, "jitter": 0.3, "color": 0.3}
RECIPE = "recipe"


@dataclass(frozen=True)
class Result:
    """A row of the table: means over the seeds."""

    title: str
    ap: float
    ap50: float


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="atss_small", help="a detector")
    parser.add_argument("--minutes", type=float, default=6.0, help="of each run")
    parser.add_argument("--epochs", type=int, help="of each run, instead of minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=[RECIPE, *ADDED], default=[RECIPE, *ADDED], metavar="PART")
    options = parser.parse_args()
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    recipe = recipe_of(model_module(options.model), options.model, "default")
    results = []
    for part in options.only:
        changed = [] if part == RECIPE else [f"{part}={0 if recipe.get(part) else ADDED[part]:g}"]
        scores = []
        for seed in options.seeds:
            flags = [length, f"--seed={seed}", *settings_flags([*changed, *options.set])]
            summary = train(options.model, options.data, options.out / f"{part}-seed{seed}", flags)
            if summary is not None:
                scores.append([summary["metrics"][name]["value"] for name in ("ap", "ap50")])
            print(f"{part}: {scores}", file=sys.stderr, flush=True)
        if scores:
            ap, ap50 = (statistics.fmean(each) for each in zip(*scores, strict=True))
            results.append(Result(changed[0] if changed else "default recipe", ap, ap50))
    print(table(results))
    (options.out / "augmentations.png").write_bytes(plot(results))


def table(results: Sequence[Result]) -> str:
    """A line a run, with what it changed against the first."""
    rows = [
        [each.title, f"{each.ap:.3f}", f"{each.ap50:.3f}", *(f"{gain:+.3f}" for gain in gains(each, results[0]))]
        for each in results
    ]
    return markdown(["changed", "AP", "AP50", "change of AP", "change of AP50"], rows)


def gains(result: Result, first: Result) -> tuple[float, float]:
    """What a change gave, in AP and AP50."""
    return result.ap - first.ap, result.ap50 - first.ap50


def plot(results: Sequence[Result]) -> bytes:
    """PNG: a bar a run."""
    figure = new_figure(8, 4)
    axes = figure.subplots()
    style(axes, "Parts of the recipe", "AP", "")
    axes.barh(range(len(results)), [each.ap for each in results], color=tuple(v / 255 for v in class_colour(0)))
    axes.set_yticks(range(len(results)), [each.title for each in results])
    axes.invert_yaxis()
    for row, each in enumerate(results):
        axes.text(each.ap, row, f" {each.ap:.3f}", va="center", fontsize=8)
    return to_png(figure)


if __name__ == "__main__":
    main()
