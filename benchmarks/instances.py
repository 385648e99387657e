"""Does RoIAlign draw better masks, and boxes, than RoIPool?

    python benchmarks/instances.py DATA/penn_fudan --out OUT [--epochs 60] [--seeds 0 1 2] [--model mask_rcnn_small]

RoIPool rounds the corners of a region and of its bins to whole pixels of the map, RoIAlign nothing (He et al. 2017,
section 3; tables 2c and 2d: the gain is largest at AP75, and with larger strides). Both get the same images, recipe,
seed and epochs; where the data set has no split, another seed holds out other images, the same for both. The table
shows the best checkpoint of each by mask AP on the validation images: of several seeds mean, least and greatest, and
the mean gain. Finished runs in OUT are kept.
"""

from __future__ import annotations

import statistics
import sys
from argparse import Namespace
from pathlib import Path

from runs import make_parser, markdown, settings_flags, train

from saccade.verbs.evaluate import evaluate

METRICS = ("ap", "ap50", "ap75", "mask_ap", "mask_ap50", "mask_ap75")
POOLINGS = ("pool", "align")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="mask_rcnn_small", help="with a field `pooling`")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", default="320")
    options = parser.parse_args()
    found = {pooling: [score(pooling, seed, options) for seed in options.seeds] for pooling in POOLINGS}
    rows = [
        [f"RoI{pooling.capitalize()}", *(spread(column) for column in columns(found[pooling]))] for pooling in POOLINGS
    ]
    pool, align = (columns(found[pooling]) for pooling in POOLINGS)
    gains = [statistics.fmean(b) - statistics.fmean(a) for a, b in zip(pool, align, strict=True)]
    rows.append(["gain", *(f"{gain:+.3f}" for gain in gains)])
    print(markdown([f"{options.model}, {options.epochs} epochs", *METRICS], rows))


def score(pooling: str, seed: int, options: Namespace) -> list[float]:
    """METRICS of one run, which is trained unless it is there."""
    run: Path = options.out / f"{options.model}-{pooling}-{options.epochs}epochs-seed{seed}"
    flags = [f"--epochs={options.epochs}", f"--seed={seed}", f"--size={options.size}"]
    flags += settings_flags([f"pooling={pooling}", *options.set])
    if train(options.model, options.data, run, flags) is None:
        raise SystemExit(f"{run}: the training diverged; delete the folder to try again with other settings")
    metrics = evaluate(run, options.data, bootstrap=0)["metrics"]
    values = [float(metrics[name]["value"] or 0.0) for name in METRICS]
    print(run.name, *(f"{name} {value:.3f}" for name, value in zip(METRICS, values, strict=True)), file=sys.stderr)
    return values


def columns(results: list[list[float]]) -> list[tuple[float, ...]]:
    """Of each metric the values of all seeds."""
    return list(zip(*results, strict=True))


def spread(values: tuple[float, ...]) -> str:
    """The mean, and of several values the least and the greatest."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
