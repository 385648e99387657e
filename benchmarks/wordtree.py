"""A tree of classes or one flat softmax? YOLO9000 with both, on handwritten digits that have a hierarchy.

    python benchmarks/wordtree.py --out OUT [--minutes 4 | --epochs 40] [--seeds 0 1 2] [--set NAME=VALUE ...]

The script makes its data: scenes of digits on photographs (`saccade.data.scenes`), and a tree of them by form:

    round: zero, six, eight, nine    angular: one, four, seven    open: two, three, five

The same network learns three sets, once with the tree and once with all classes side by side (Redmon & Farhadi 2017,
section 4, compare the same of classifiers: the tree costs a little and falls back to the class above):

    digits   every box has its digit
    kinds    one image in four has digits, the boxes of the others only round, angular or open
    joined   four digits have no boxes at all, but pictures with a class (`--join`)

All are measured on the same new scenes with every digit: AP50 of the digits, of those that had no boxes in `joined`,
and of the three kinds, where the answer "six" counts as round. It prints a line a run and leaves OUT/wordtree.png.
Runs that are finished are kept, one that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from runs import epochs_of, markdown, settings_flags, train, write_json

import saccade
from saccade.data.formats import read
from saccade.data.scenes import CLASSES, Material, Scene, compose, material
from saccade.data.truth import read_truth
from saccade.data.types import Objects
from saccade.inference.score import predictions
from saccade.layers.wordtree import lifted, nearest_known
from saccade.metrics.detection import Detection
from saccade.plots.figures import new_figure, style, to_png
from saccade.plots.palette import class_colour

KINDS = {
    "round": ("zero", "six", "eight", "nine"),
    "angular": ("one", "four", "seven"),
    "open": ("two", "three", "five"),
}
UNSEEN = ("six", "four", "nine", "three")  # digits without boxes in `joined`
NAMES = [name for kind, digits in KINDS.items() for name in (kind, *digits)]
PARENTS = [-1 if name in KINDS else NAMES.index(next(k for k in KINDS if name in KINDS[k])) for name in NAMES]
SIDE, OBJECTS, SHARES = 128, 3, (0.25, 0.4)
SCENES, TESTS, PICTURES = 400, 200, 60  # to learn (a fifth validates), to measure, with a class alone of each digit
SETS = ("digits", "kinds", "joined")
SCORES = ("digits", "without boxes", "kinds")


@dataclass(frozen=True)
class Run:
    """A network trained once."""

    data: str
    head: str  # tree or flat
    seed: int
    epochs: list[dict[str, Any]]  # of log.jsonl
    scores: dict[str, float] | None  # AP50 by SCORES; None: diverged


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--minutes", type=float, default=4.0, help="of each run")
    parser.add_argument("--epochs", type=int, help="of each run, instead of minutes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="handed to `saccade train`")
    options = parser.parse_args()
    length = f"--minutes={options.minutes:g}" if options.epochs is None else f"--epochs={options.epochs}"
    data = options.out / "data"
    if not (data / "made").is_file():
        make_data(data)
    runs = []
    for seed in options.seeds:
        for name in options.sets:
            for head in ("flat", "tree"):
                folder = options.out / f"{name}-{head}-seed{seed}"
                own = [f"size={SIDE}", "flip=0", *options.set]  # a mirrored digit is another form
                flags = [length, f"--seed={seed}", *settings_flags(own)]
                flags += ["--tree", str(data / "tree.yaml")] if head == "tree" else []
                flags += ["--join", str(data / "pictures")] if name == "joined" else []
                found = train("yolo9000_small", data / name, folder, flags)
                scores = None if found is None else measure(folder, data / "test")
                runs.append(Run(name, head, seed, epochs_of(folder), scores))
                print(f"{folder.name}: {scores or 'diverged'}", file=sys.stderr, flush=True)
    (options.out / "wordtree.png").write_bytes(plot(runs))
    print(table(runs))


def make_data(out: Path) -> None:
    """The three sets, new scenes to measure, pictures with a class, and the tree. The same files each time."""
    learn, new = material("train"), material("val")
    seen = [name for name in CLASSES if name not in UNSEEN]
    write_scenes(out / "digits", {"train": scenes(learn, SCENES, 1)}, NAMES)
    write_scenes(out / "kinds", {"train": scenes(learn, SCENES, 1)}, NAMES, exact=4)
    write_scenes(out / "joined", {"train": scenes(only(learn, seen), SCENES, 2)}, seen)
    write_scenes(out / "test", {"test": scenes(new, TESTS, 3)}, NAMES)
    for name in UNSEEN:
        (out / "pictures" / name).mkdir(parents=True, exist_ok=True)
        for i, scene in enumerate(scenes(only(learn, [name]), PICTURES, 4, objects=1)):
            Image.fromarray(scene.image).save(out / "pictures" / name / f"{i}.png")
    lines = [f"{kind}: [{', '.join(digits)}]" for kind, digits in KINDS.items()]
    (out / "tree.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "made").touch()


def only(stuff: Material, names: Sequence[str]) -> Material:
    """The digits of these names alone."""
    rows = np.isin(stuff.labels, [CLASSES.index(name) for name in names])
    return replace(stuff, digits=stuff.digits[rows], labels=stuff.labels[rows])


def scenes(stuff: Material, count: int, seed: int, objects: int = OBJECTS) -> list[Scene]:
    return [compose(stuff, np.random.default_rng([seed, i]), SIDE, objects, SHARES) for i in range(count)]


def write_scenes(root: Path, parts: dict[str, list[Scene]], names: Sequence[str], exact: int = 1) -> None:
    """A YOLO data set. Of every `exact` images the first has digits for classes, the others their kinds."""
    for split, made in parts.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        for i, scene in enumerate(made):
            Image.fromarray(scene.image).save(root / "images" / split / f"{i:04d}.png")
            rows = []
            for label, (x1, y1, x2, y2) in zip(scene.labels, scene.boxes, strict=True):
                name = CLASSES[label] if i % exact == 0 else next(k for k in KINDS if CLASSES[label] in KINDS[k])
                numbers = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                rows.append(f"{names.index(name)} " + " ".join(f"{v / SIDE:.6f}" for v in numbers))
            (root / "labels" / split / f"{i:04d}.txt").write_text("\n".join(rows), encoding="utf-8")
    content = [f"{split}: images/{split}" for split in parts] + [f"names: [{', '.join(names)}]"]
    (root / "data.yaml").write_text("\n".join(content) + "\n", encoding="utf-8")


def measure(folder: Path, data: Path) -> dict[str, float]:
    """AP50 on the test scenes, by SCORES; kept in scores.json."""
    kept = folder / "scores.json"
    if not kept.is_file():
        predictor, dataset = saccade.load(folder), read(data, "detect")
        place = torch.tensor([NAMES.index(name) for name in predictor.classes])
        above = {
            "digits": nearest_known(PARENTS, {i for i, name in enumerate(NAMES) if name not in KINDS}),
            "kinds": torch.tensor([i if parent < 0 else parent for i, parent in enumerate(PARENTS)]),
        }
        metrics = {name: Detection(NAMES) for name in above}
        for record, answer in predictions(predictor, dataset, dataset.records):
            truth = read_truth(record, dataset, "detect")
            assert truth.objects is not None
            assert answer.objects is not None
            found: Objects = replace(answer.objects, labels=place[answer.objects.labels])
            for name, metric in metrics.items():
                true = replace(truth.objects, labels=above[name][truth.objects.labels])
                counted = replace(answer, objects=lifted(found, above[name], 0.45))
                metric.add(record.id, replace(truth, objects=true), counted)
        results = {name: metric.result(bootstrap=0) for name, metric in metrics.items()}
        of_digit = {row["name"]: row["ap50"] for row in results["digits"].per_class if row["objects"]}
        scores = {
            "digits": statistics.fmean(of_digit.values()),
            "without boxes": statistics.fmean(of_digit[name] for name in UNSEEN),
            "kinds": float(results["kinds"].metrics["ap50"].value or 0.0),
        }
        write_json(kept, scores)
    found_before: dict[str, float] = json.loads(kept.read_text(encoding="utf-8"))
    return found_before


def table(runs: Sequence[Run]) -> str:
    """A line a run."""
    rows = []
    for run in sorted(runs, key=lambda r: (SETS.index(r.data), r.head, r.seed)):
        last: dict[str, Any] = run.epochs[-1] if run.epochs else {"epoch": 0, "minutes": 0.0}
        scores = [f"{run.scores[name]:.3f}" if run.scores else "diverged" for name in SCORES]
        rows.append([run.data, run.head, str(run.seed), str(last["epoch"]), f"{last['minutes']:.1f}", *scores])
    heads = ["set", "classes", "seed", "epochs", "minutes", "AP50 of digits", "of six, four, nine, three", "of kinds"]
    return markdown(heads, rows)


def plot(runs: Sequence[Run]) -> bytes:
    """PNG: the three scores beside each other, a group of bars a set, the mean over the seeds."""
    figure = new_figure(12, 4)
    sets = [name for name in SETS if any(run.data == name for run in runs)]
    for axes, score in zip(figure.subplots(1, 3, sharey=True), SCORES, strict=True):
        style(axes, {"without boxes": "AP50 of six, four, nine, three"}.get(score, f"AP50 of {score}"), "", "")
        for i, head in enumerate(("flat", "tree")):
            colour = tuple(v / 255 for v in class_colour(i))
            for x, name in enumerate(sets):
                found = [run.scores[score] for run in runs if (run.data, run.head) == (name, head) and run.scores]
                if found:
                    axes.bar(x + 0.4 * i - 0.2, statistics.fmean(found), 0.38, color=colour, label=head)
                    axes.plot([x + 0.4 * i - 0.2] * len(found), found, "k.", markersize=4)
        axes.set_xticks(range(len(sets)), sets)
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(handles.values(), handles.keys(), fontsize=8, frameon=False)
    axes.set_ylim(bottom=0)  # of all three, once nothing can move the upper end any more
    return to_png(figure)


if __name__ == "__main__":
    main()
