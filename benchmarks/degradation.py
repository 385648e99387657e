"""Do deeper plain networks train worse, and do shortcuts cure it? Plain-20 and -56 beside ResNet-20 and -56.

    python benchmarks/degradation.py DATA/cifar10_images --out OUT [--epochs 30 | --minutes 8] [--seeds 0 1 2]

The experiment of He et al. 2016, section 4.2 and figure 6, on class folders of 32-pixel images: all networks get the
same images, recipe, seed and epochs. The recipe is the paper's with batches of 64, for a small set has few steps an
epoch, and with a warm-up, which the paper needs for 110 layers: with a rate of 0.1 from the first step on 56 layers
leave a bad start late, with shortcuts too. The claim is about training: the deeper plain network has the higher
*training* error, so it is no overfitting. Training error is that of the last weights on the training images, without
augmentation; validation error that of the same.

It prints a line a run and the difference that depth makes, and leaves OUT/degradation.png: training loss and
validation error against epochs. Runs that are finished are kept, one that was stopped goes on.

Time: about 500 images/s for 20 layers on two cores, a third of that for 56. On 4,000 images 30 epochs of all four take
about 35 minutes a seed; `--epochs 10` says little, as the learning rate falls at half and three quarters of the run.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator
from runs import epochs_of, make_parser, markdown, settings_flags, train, write_json

from saccade import evaluate
from saccade.models import model_config
from saccade.models.backbones import resnet
from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

SMALL = [name for name, config in resnet.VARIANTS.items() if config.stem == "cifar"]
DEFAULT = ("plain20", "plain56", "resnet20", "resnet56")
KINDS = ("plain", "residual")


@dataclass(frozen=True)
class Run:
    """A network trained once."""

    network: str
    seed: int
    epochs: list[dict[str, Any]]  # of log.jsonl
    errors: dict[str, float] | None  # of the last weights: train, validation; None: diverged

    @property
    def kind(self) -> str:
        return KINDS[model_config(self.network).shortcut != "none"]

    @property
    def depth(self) -> int:
        return int(re.sub(r"\D", "", self.network))


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=SMALL, default=DEFAULT, metavar="NAME", help=", ".join(SMALL))
    parser.add_argument("--epochs", type=int, default=30, help="of each network")
    parser.add_argument("--minutes", type=float, help="of each network, instead of epochs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--batch", type=int, default=64, help="images a step; the paper's 128 make half the steps")
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the run in which the rate rises")
    parser.add_argument("--recipe", choices=("paper", "default"), default="paper")
    options = parser.parse_args()
    length = f"--epochs={options.epochs}" if options.minutes is None else f"--minutes={options.minutes:g}"
    settings = [f"warmup={options.warmup}", *options.set]
    flags = [f"--recipe={options.recipe}", f"--batch={options.batch}", length, *settings_flags(settings)]
    runs = []
    for seed in options.seeds:
        for network in options.networks:
            folder = options.out / f"{network}-seed{seed}"
            found = train(network, options.data, folder, [*flags, f"--seed={seed}"])
            errors = None if found is None else last_errors(folder, options.data)
            runs.append(Run(network, seed, epochs_of(folder), errors))
            print(f"{folder.name}: {errors or 'diverged'}", file=sys.stderr, flush=True)
    (options.out / "degradation.png").write_bytes(plot(runs))
    print(table(runs), *compare(runs), sep="\n\n")


def last_errors(run: Path, data: Path) -> dict[str, float]:
    """Errors of the last weights, measured once and kept in errors.json."""
    kept = run / "errors.json"
    if not kept.is_file():
        splits = {"train": "train", "validation": "val"}
        scores = {name: evaluate(run / "last.safetensors", data, split=s, bootstrap=0) for name, s in splits.items()}
        write_json(kept, {name: 1 - score["metrics"]["top1"]["value"] for name, score in scores.items()})
    errors: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return errors


def table(runs: Sequence[Run]) -> str:
    """A line a run."""
    rows = []
    for run in sorted(runs, key=lambda r: (r.kind, r.depth, r.seed)):
        last: dict[str, Any] = run.epochs[-1] if run.epochs else {"epoch": 0, "minutes": 0.0, "losses": {}}
        loss = f"{sum(last['losses'].values()):.3f}" if last["losses"] else ""
        errors = [f"{100 * run.errors[name]:.1f} %" if run.errors else "diverged" for name in ("train", "validation")]
        rows.append([run.network, str(run.seed), str(last["epoch"]), f"{last['minutes']:.1f}", loss, *errors])
    return markdown(
        ["network", "seed", "epochs", "minutes", "training loss", "training error", "validation error"], rows
    )


def compare(runs: Sequence[Run]) -> list[str]:
    """A sentence a kind: what the deepest networks lose or gain over the shallowest, on average over the seeds."""
    sentences = []
    for kind in KINDS:
        errors: dict[int, list[float]] = {}
        for run in runs:
            if run.kind == kind and run.errors is not None:
                errors.setdefault(run.depth, []).append(100 * run.errors["train"])
        if len(errors) > 1:
            few, many = min(errors), max(errors)
            a, b = statistics.fmean(errors[few]), statistics.fmean(errors[many])
            word = "higher: degradation" if b > a else "not higher: no degradation"
            sentences.append(f"{kind}: training error {a:.1f} % with {few} layers, {b:.1f} % with {many}, {word}")
    return sentences


def plot(runs: Sequence[Run]) -> bytes:
    """PNG: plain networks left, residual ones right; training loss above, validation error below."""
    figure = new_figure(10, 7)
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    depths = sorted({run.depth for run in runs})
    for column, kind in enumerate(KINDS):
        losses, errors = grid[0][column], grid[1][column]
        style(losses, f"{kind}: training loss", "", "mean of an epoch")
        style(errors, f"{kind}: validation error", "epoch", "%")
        for run in (r for r in runs if r.kind == kind):
            colour = tuple(v / 255 for v in class_colour((5, 3, 2, 0, 4)[depths.index(run.depth) % 5]))
            label = f"{run.depth} layers" if run.seed == runs[0].seed else None  # once for all seeds
            look = {"color": colour, "linewidth": 1.6, "label": label}
            points = [(row["epoch"], sum(row["losses"].values())) for row in run.epochs]
            losses.plot([x for x, _ in points], [y for _, y in points], **look)
            scored = [(row["epoch"], 100 * (1 - row["metrics"]["top1"])) for row in run.epochs if row.get("metrics")]
            errors.plot([x for x, _ in scored], [y for _, y in scored], marker="o", ms=3, **look)
        if losses.lines:
            losses.legend(fontsize=8, frameon=False)
        errors.xaxis.set_major_locator(MaxNLocator(integer=True))
    return to_png(figure)


if __name__ == "__main__":
    main()
