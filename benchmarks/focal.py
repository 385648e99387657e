"""Cross-entropy or focal loss, where background outnumbers objects a thousand to one? RetinaNet with both.

    python benchmarks/focal.py DATA/raccoon --out OUT [--minutes 4 | --epochs 40] [--gammas 0 0.5 1 2 5] [--seeds 0 1 2]

The experiment of Lin et al. 2017, tables 1a and 1b, on a user's boxes: a dense detector scores every anchor, of which a
few in ten thousand have an object. All runs have the same network, images, recipe, seed and time, and begin with scores
of 0.01 (without which cross-entropy diverges in the paper); they differ in `focal_gamma` and `focal_alpha` alone. Gamma
0 is cross-entropy, once without and once with the weight of objects (alpha) that was best in the paper; with larger
gamma the best alpha falls, and each gamma is run with the paper's own. `--form softmax` takes the form of one class an
anchor instead of one sigmoid a class.

It prints a line a run, with the share that background has in the classification loss of the trained network (figure 4
of the paper asks the same), and leaves OUT/focal.png: AP against gamma, and AP while training. Runs that are finished
are kept, one that was stopped goes on.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from runs import epochs_of, make_parser, markdown, settings_flags, train, write_json

import saccade
from saccade.data.formats import read
from saccade.data.loader import collate
from saccade.data.truth import read_sample
from saccade.layers.matching import IGNORED
from saccade.layers.targets import detection_targets
from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

BEST_ALPHA = {0.0: 0.75, 0.1: 0.75, 0.2: 0.75, 0.5: 0.5, 1.0: 0.25, 2.0: 0.25, 5.0: 0.25}  # table 1b of the paper


@dataclass(frozen=True)
class Run:
    """A network trained once."""

    gamma: float
    alpha: float | None
    seed: int
    epochs: list[dict[str, Any]]  # of log.jsonl
    scores: dict[str, float] | None  # ap, ap50 of the best checkpoint; None: diverged
    anchors: dict[str, float] | None  # of `look`

    @property
    def name(self) -> str:
        if self.gamma:
            return f"focal, gamma {self.gamma:g}"
        return "cross-entropy" if self.alpha is None else "cross-entropy, balanced"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="retinanet_small", help="a variant of RetinaNet")
    parser.add_argument("--gammas", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0, 5.0])
    parser.add_argument("--form", choices=("sigmoid", "softmax"), default="sigmoid")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each run")
    parser.add_argument("--epochs", type=int, help="of each run, instead of minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    runs = []
    for seed in options.seeds:
        for gamma, alpha in pairs(options.gammas):
            word = "none" if alpha is None else f"{alpha:g}"
            folder = options.out / f"gamma{gamma:g}-alpha{word}-seed{seed}"
            own = [f"focal_gamma={gamma:g}", f"focal_alpha={word}", f"scores={options.form}", *options.set]
            found = train(options.model, options.data, folder, [length, f"--seed={seed}", *settings_flags(own)])
            scores = None if found is None else {k: found["metrics"][k]["value"] for k in ("ap", "ap50")}
            anchors = None if found is None else look(folder, options.data)
            runs.append(Run(gamma, alpha, seed, epochs_of(folder), scores, anchors))
            print(f"{folder.name}: {scores or 'diverged'}", file=sys.stderr, flush=True)
    (options.out / "focal.png").write_bytes(plot(runs))
    print(table(runs), sentence(runs), sep="\n\n")


def pairs(gammas: Sequence[float]) -> list[tuple[float, float | None]]:
    """Gamma and alpha of each run: cross-entropy without alpha before that with it."""
    found: list[tuple[float, float | None]] = []
    for gamma in sorted(set(gammas)):
        if gamma == 0:
            found.append((gamma, None))
        nearest = min(BEST_ALPHA, key=lambda known: abs(known - gamma))
        found.append((gamma, BEST_ALPHA[nearest]))
    return found


@torch.inference_mode()
def look(folder: Path, data: Path, images: int = 32) -> dict[str, float]:
    """What the trained network makes of the anchors of the first images with objects; kept in anchors.json.

    Returns:
        background: anchors that must find nothing, for each that has an object; share: the part of the classification
        loss that they have.
    """
    kept = folder / "anchors.json"
    if not kept.is_file():
        predictor = saccade.load(folder, "cpu", "fp32")
        dataset = read(data, "detect")
        network: Any = predictor.network  # RetinaNet
        records = [record for record in dataset.records if record.things][:images]
        empty = full = loss_of_empty = loss = 0.0
        for record in records:
            batch = collate([predictor.view.apply(read_sample(record, dataset, "detect"))]).to("cpu")
            targets = detection_targets(batch, network.config.classes)
            logits, _, anchors = network._outputs(batch.images)
            matches = network._match(targets, torch.cat(anchors))
            losses = network._class_losses(torch.cat(logits, 1).float(), answers_of(matches, targets.labels))
            background = (matches < 0) & (matches != IGNORED)
            empty, full = empty + float(background.sum()), full + float((matches >= 0).sum())
            loss_of_empty += float(losses[background].sum())
            loss += float(losses[matches != IGNORED].sum())
        write_json(kept, {"background": empty / max(full, 1.0), "share": loss_of_empty / max(loss, 1e-12)})
    found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def answers_of(matches: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What each anchor [b, A] must say: 0 for background, else the label + 1 of its object, from labels [b, T]."""
    return torch.where(matches >= 0, labels.gather(1, matches.clamp(min=0)) + 1, 0)


def table(runs: Sequence[Run]) -> str:
    """A line a run."""
    rows = []
    for run in sorted(runs, key=lambda r: (r.gamma, r.alpha is not None, r.seed)):
        last: dict[str, Any] = run.epochs[-1] if run.epochs else {"epoch": 0, "minutes": 0.0}
        scores = [f"{run.scores[name]:.3f}" if run.scores else "diverged" for name in ("ap", "ap50")]
        share = f"{100 * run.anchors['share']:.0f} %" if run.anchors else ""
        alpha = "none" if run.alpha is None else f"{run.alpha:g}"
        rows.append([run.name, alpha, str(run.seed), str(last["epoch"]), f"{last['minutes']:.1f}", *scores, share])
    heads = ["loss", "alpha", "seed", "epochs", "minutes", "AP", "AP50", "background's share of the loss"]
    return markdown(heads, rows)


def sentence(runs: Sequence[Run]) -> str:
    """How many anchors are background, and which loss had the best AP on average over the seeds."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run.scores:
            found.setdefault(run.name, []).append(run.scores["ap"])
    anchors = [run.anchors["background"] for run in runs if run.anchors]
    if not found:
        return "every run diverged"
    means = {name: statistics.fmean(values) for name, values in found.items()}
    ranked = ", ".join(f"{name} {means[name]:.3f}" for name in sorted(means, key=lambda name: -means[name]))
    return f"{statistics.fmean(anchors):.0f} anchors are background for each that has an object. Mean AP: {ranked}."


def plot(runs: Sequence[Run]) -> bytes:
    """PNG: AP against gamma left, AP of the validation images while training right."""
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    style(left, "AP after training", "gamma (0: cross-entropy)", "")
    style(right, "AP of the validation images while training", "epoch", "")
    names = list(dict.fromkeys(run.name for run in runs))
    for run in runs:
        colour = tuple(v / 255 for v in class_colour(names.index(run.name)))
        label = run.name if run.seed == runs[0].seed else None  # once for all seeds
        if run.scores:
            left.plot([run.gamma], [run.scores["ap"]], "o" if run.alpha is not None else "x", color=colour)
        points = [(row["epoch"], row["metrics"]["ap"]) for row in run.epochs if row.get("metrics")]
        right.plot([x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.6, label=label)
    if right.lines:
        right.legend(fontsize=8, frameon=False)
    return to_png(figure)


if __name__ == "__main__":
    main()
