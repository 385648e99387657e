"""`report.html` of `saccade transfer`: the recommendation, the table of methods, learning curves, pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.plots.methods import plot_learning_curves, plot_methods
from saccade.reports.gallery import Gallery
from saccade.reports.page import Headline, Page, write_page
from saccade.reports.sections import Cell, Head, Row, Section, Table, picture
from saccade.tasks.contract import task_of
from saccade.training.plan import Plan

HEADS = ("method", "score", "95 % interval", "between splits", "splits", "seconds", "what it is")


def write_transfer_report(folder: Path, plan: Plan, result: Mapping[str, Any], gallery: Gallery, hardware: str) -> None:
    """Write `report.html` and `plots/*.png`.

    Args:
        result: what `saccade transfer` returns.
        gallery: the recommended model on the images that the first split held back.

    Raises:
        ResourceError: no space, no permission.
    """
    metric, best = result["metric"], result["recommended"]
    page = Page(f"Transfer to {plan.dataset.root.name}", f"{plan.model}, weights {result['weights']}")
    own = next(row for row in result["methods"] if row["method"] == best["method"])
    interval = "" if own["low"] is None else f"95 % interval {own['low']:.3f} to {own['high']:.3f}"
    says = f"{task_of(plan.task).MEANINGS[metric]}; mean over {own['seeds']} splits, on images held back"
    name = f"{metric.replace('_', ' ')} of {best['method'].replace('_', ' ')}"
    page.headline = Headline(name, says, f"{own['mean']:.3f}", own["mean"], own["low"], own["high"], interval)
    page.sentences.append(f"Recommended: {own['says']}. It lies ready in {best['run']}.")
    page.sentences += best["why"]
    facts = [
        ("task", plan.task),
        ("images", f"{result['images']['train']} to train on, {result['images']['held_back']} held back"),
        ("classes", str(len(plan.dataset.classes))),
        ("features", f"{result['features']['seconds']:.1f} s, computed once"),
        ("time", f"{result['seconds']:.0f} s"),
        ("hardware", hardware),
    ]
    page.sections.append(Section("run", "The experiment", facts=facts, commands=_commands(str(best["run"]))))
    methods = Section("methods", "The methods", tables=[_table(result)])
    methods.plots = [
        picture("methods", plot_methods(result["methods"], metric)),
        picture("learning_curves", plot_learning_curves(result["methods"], metric)),
    ]
    methods.texts.append(
        "What a method has to choose it chooses on a part of the training images. Intervals allow for the images that "
        "the splits share (Nadeau & Bengio 2003). The best of several is a little flattered by having been the best. "
        "Of methods that train, the points of the learning curve with fewer images are of the first split alone."
    )
    page.sections.append(methods)
    shown = Section("predictions", "The recommended model on images held back", exhibits=gallery.sampled())
    worst = Section("mistakes", "Its worst mistakes", exhibits=gallery.worst(), explain=True)
    if not worst.exhibits:
        worst.texts.append("No mistake was found.")
    page.sections += [shown, worst]
    page.warnings += [w for w in plan.dataset.ledger.warnings if w.startswith("leak")]
    write_page(folder, page)


def _table(result: Mapping[str, Any]) -> Table:
    numbers = {"splits", "seconds", "between splits"}
    rows = []
    for row in sorted(result["methods"], key=lambda row: -row["mean"]):
        interval = "" if row["low"] is None else f"{row['low']:.4f} to {row['high']:.4f}"
        spread = "" if row["deviation"] is None else f"{row['deviation']:.4f}"
        cells = [
            Cell(row["method"], kind="key"),
            Cell(f"{row['mean']:.4f}", bar=min(1.0, max(0.0, row["mean"])), kind="key"),
            Cell(interval, kind="key"),
            Cell(spread, number=True),
            Cell(str(row["seeds"]), number=True),
            Cell(f"{row['seconds']:.1f}", number=True),
            Cell(row["says"], kind="wide"),
        ]
        rows.append(Row(cells, changed=row["method"] == result["recommended"]["method"]))
    return Table("", [Head(name, name in numbers) for name in HEADS], rows)


def _commands(run: str) -> list[tuple[str, str]]:
    folder = shlex.quote(run)
    return [
        ("Answers of the recommended model:", f"saccade predict {folder} IMAGES --out predictions"),
        ("Measure it on other images:", f"saccade evaluate {folder} DATA --split all --out evaluation"),
        ("A file for deployment:", f"saccade export {folder} --to onnx"),
    ]
