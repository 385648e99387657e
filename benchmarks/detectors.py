"""Which detector learns the most from these boxes in the same minutes? Every small form of the catalogue, one by one.

    python benchmarks/detectors.py DATA/bccd --out OUT [--minutes 15 | --epochs N] [--only NAME ...] [--seeds 0 1 2]

All get the same images, split, size and time, each by its own default recipe. Prints a table by falling AP, with the
images a second that it was trained on and the milliseconds that one answer takes, and leaves OUT/detectors.png: AP of
the validation images while training. Runs that are finished are kept, one that was stopped goes on. `--only` takes any
detector.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import epochs_of, make_parser, markdown, settings_flags, train

import saccade
from saccade.data.formats import read
from saccade.data.image import decode
from saccade.models import catalogue
from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

ALIASES = ("ssd_small",)  # of atss_small
TIMED = 10  # images that answers are timed on


@dataclass(frozen=True)
class Run:
    """A network trained once."""

    model: str
    seed: int
    epochs: list[dict[str, Any]]  # of log.jsonl
    scores: dict[str, float] | None  # of the best checkpoint; None: diverged
    milliseconds: float  # of an answer


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=small_forms(), help="detectors of the catalogue")
    parser.add_argument("--minutes", type=float, default=15.0, help="of each run")
    parser.add_argument("--epochs", type=int, help="of each run, instead of minutes")
    parser.add_argument("--size", default="320", help="input side of all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    runs = []
    for seed in options.seeds:
        for model in options.only:
            folder = options.out / f"{model}-seed{seed}"
            flags = [length, f"--seed={seed}", f"--size={options.size}", *settings_flags(options.set)]
            found = train(model, options.data, folder, flags)
            names = ("ap", "ap50", "ap75", "ar_100")
            scores = None if found is None else {name: found["metrics"][name]["value"] for name in names}
            milliseconds = float("nan") if found is None else answer_time(folder, options.data)
            runs.append(Run(model, seed, epochs_of(folder), scores, milliseconds))
            print(f"{folder.name}: {scores or 'diverged'}", file=sys.stderr, flush=True)
    (options.out / "detectors.png").write_bytes(plot(runs, "ap", "AP"))
    print(table(runs))


def small_forms() -> list[str]:
    """The detectors of the catalogue that are made for little data and a CPU."""
    known = catalogue()
    return [n for n in known if n.endswith("_small") and "detect" in known[n]["tasks"] and n not in ALIASES]


def answer_time(folder: Path, data: Path, task: str = "detect") -> float:
    """Median milliseconds from a decoded image to its answer, over the first images of the data."""
    predictor, dataset = saccade.load(folder), read(data, task)
    images = [decode(dataset.root / record.path) for record in dataset.records[:TIMED]]
    predictor.predict(images[0])  # the first call packs weights
    taken = []
    for image in images:
        start = time.perf_counter()
        predictor.predict(image)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken)


def table(runs: list[Run]) -> str:
    """One line a detector, by falling AP; means over the seeds."""
    rows = []
    for model in dict.fromkeys(run.model for run in runs):
        mine = [run for run in runs if run.model == model]
        done = [run.scores for run in mine if run.scores is not None]
        if not done:
            rows.append((0.0, [f"`{model}`", *["diverged"] * 6]))
            continue
        means = {name: statistics.fmean(scores[name] for scores in done) for name in done[0]}
        speed = statistics.median(epoch["images_per_second"] for run in mine for epoch in run.epochs)
        cells = [*(f"{means[name]:.3f}" for name in means), f"{speed:.1f}"]
        cells.append(f"{statistics.median(run.milliseconds for run in mine):.0f}")
        rows.append((means["ap"], [f"`{model}`", *cells]))
    heads = ["detector", "AP", "AP50", "AP75", "AR", "images/s in training", "ms an answer"]
    return markdown(heads, [row for _, row in sorted(rows, key=lambda row: -row[0])])


def plot(runs: list[Run], measure: str, words: str) -> bytes:
    """PNG: a score of the validation images against minutes, a line a network."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    style(axes, f"{words} of the validation images while training", "minutes", words)
    names = list(dict.fromkeys(run.model for run in runs))
    for run in runs:
        points = [(row["minutes"], row["metrics"][measure]) for row in run.epochs if row.get("metrics")]
        colour = tuple(v / 255 for v in class_colour(names.index(run.model)))
        label = run.model if run.seed == runs[0].seed else None  # once for all seeds
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.6, label=label)
    axes.legend(fontsize=8, frameon=False)
    return to_png(figure)


if __name__ == "__main__":
    main()
