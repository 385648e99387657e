"""Which segmenter learns the most from these images in the same minutes? Every small form of the catalogue, one by one.

    python benchmarks/segmenters.py DATA/camvid --out OUT [--minutes 12 | --epochs N] [--only NAME ...] [--seeds 0 1 2]
        [--size 192x256] [--set NAME=VALUE ...]

All get the same images at half their size, split, crop and time, each by its own default recipe; FCN-32s, 16s and 8s
stand on the same trunk. Prints a table by falling mean IoU, with pixel accuracy, the IoU of each thin class (`--thin`,
of CamVid its poles), the images a second that it was trained on and the milliseconds that one answer takes, and leaves
OUT/segmenters.png: mean IoU while training. Means over the seeds; with several, the deviation of the mean IoU beside
it. Runs that are finished are kept, one that was stopped goes on. `--only` takes any segmenter.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from detectors import Run, answer_time, plot
from runs import epochs_of, make_parser, markdown, settings_flags, train

# From the oldest to the newest; the three of one trunk beside each other.
FORMS = (
    "patch_small",
    "fcn32s_small",
    "fcn16s_small",
    "fcn8s_small",
    "deconvnet_small",
    "segnet_small",
    "unet",
    "unet_light",
)
NAMES = ("mean_iou", "pixel_accuracy")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=FORMS, help="segmenters of the catalogue")
    parser.add_argument("--minutes", type=float, default=12.0, help="of each run")
    parser.add_argument("--epochs", type=int, help="of each run, instead of minutes")
    parser.add_argument("--size", default="192x256", help="crop that all are trained on")
    parser.add_argument("--scale", type=float, default=0.5, help="of all images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--thin", nargs="*", default=["pole"], metavar="CLASS", help="classes whose IoU is shown")
    options = parser.parse_args()
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    runs = []
    for seed in options.seeds:
        for model in options.only:
            folder = options.out / f"{model}-seed{seed}"
            flags = [length, f"--seed={seed}", f"--size={options.size}", "--set", f"scale={options.scale:g}"]
            found = train(model, options.data, folder, [*flags, *settings_flags(options.set)])
            scores = None if found is None else scores_of(found, options.thin)
            milliseconds = float("nan") if found is None else answer_time(folder, options.data, "segment")
            runs.append(Run(model, seed, epochs_of(folder), scores, milliseconds))
            print(f"{folder.name}: {scores or 'diverged'}", file=sys.stderr, flush=True)
    (options.out / "segmenters.png").write_bytes(plot(runs, "mean_iou", "mean IoU"))
    print(table(runs, [*NAMES, *options.thin]))


def scores_of(found: dict[str, Any], thin: list[str]) -> dict[str, float]:
    """What the table shows of a run's metrics.json."""
    known = {row["name"].lower(): row["iou"] for row in found["per_class"]}
    lacking = [name for name in thin if name.lower() not in known]
    if lacking:
        raise SystemExit(f"--thin: {', '.join(lacking)} is no class of these data, which have {', '.join(known)}")
    scores = {name: found["metrics"][name]["value"] for name in NAMES}
    return scores | {name: known[name.lower()] or 0.0 for name in thin}


def table(runs: list[Run], names: list[str]) -> str:
    """One line a segmenter, by falling mean IoU; means over the seeds."""
    rows = []
    for model in dict.fromkeys(run.model for run in runs):
        mine = [run for run in runs if run.model == model]
        done = [run.scores for run in mine if run.scores is not None]
        if not done:
            rows.append((0.0, [f"`{model}`", *["diverged"] * (len(names) + 2)]))
            continue
        means = {name: statistics.fmean(scores[name] for scores in done) for name in names}
        cells = [f"{means[name]:.3f}" for name in names]
        if len(done) > 1:
            cells[0] += f" ± {statistics.stdev(scores['mean_iou'] for scores in done):.3f}"
        cells.append(f"{statistics.median(epoch['images_per_second'] for run in mine for epoch in run.epochs):.1f}")
        cells.append(f"{statistics.median(run.milliseconds for run in mine):.0f}")
        rows.append((means["mean_iou"], [f"`{model}`", *cells]))
    heads = ["segmenter", "mean IoU", "pixel accuracy", *(f"IoU of {name}" for name in names[len(NAMES) :])]
    return markdown(
        [*heads, "images/s in training", "ms an answer"], [row for _, row in sorted(rows, key=lambda row: -row[0])]
    )


if __name__ == "__main__":
    main()
