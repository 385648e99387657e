"""`report.html`: one file that says what a run or an evaluation found; it opens without network or server."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, StrictUndefined
from PIL import Image

from saccade import __version__
from saccade.config import Settings
from saccade.data.dataset import DataSet
from saccade.files import inside, make_folder, write_whole
from saccade.gallery import Gallery
from saccade.metrics.curves import SCORE
from saccade.models.paper import paper_of
from saccade.plots.curves import plot_training
from saccade.report_sections import (
    Plot,
    Section,
    classes_section,
    curves_section,
    data_section,
    picture,
    scores_section,
    settings_section,
)
from saccade.report_words import cautions, explain_score, meaning
from saccade.tasks import TASKS
from saccade.training.plan import Plan

# flags of `saccade train` that have a name of their own; others are given by --set
OWN_FLAGS = ("epochs", "minutes", "batch", "size", "seed", "precision", "workers")


@dataclass
class Headline:
    """The number that ranks the run, shown large, with what it means and its 95 % interval."""

    name: str
    meaning: str
    text: str
    value: float | None
    low: float | None
    high: float | None
    interval: str


@dataclass
class Page:
    """Everything that the template shows, top to bottom."""

    title: str
    subtitle: str
    headline: Headline | None = None
    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    version: str = __version__


def write_training_report(
    run: Path,
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    gallery: Gallery | None,
    hardware: str,
    precision: str,
) -> None:
    """Write `report.html` and `plots/*.png` of a finished run.

    Args:
        rows: of log.jsonl.
        summary: metrics.json; with the fields of `Result.to_json()` if there are validation images.
        gallery: the pictures of the last evaluation; None without validation images.
        hardware: one line (`device.describe_hardware`).
        precision: what the run computed with.

    Raises:
        ResourceError: no space, no permission.
    """
    title = f"{plan.model} on {plan.dataset.root.name}"
    page = Page(title, f"A training run to {plan.task}: {TASKS[plan.task].answers}")
    page.sections.append(
        Section(
            "run", "The run", facts=_run_facts(plan, rows, summary, hardware, precision), commands=_repeat(plan, run)
        )
    )
    if rows:
        figure = plot_training(rows, TASKS[plan.task].metric)
        page.sections.append(Section("training", "Training", plots=[picture("training", figure)]))
    if gallery is None:
        page.sentences.append(
            "There are no validation images, so nothing was measured. Add some, or a split, to get scores."
        )
    else:
        _add_result(page, plan.task, summary, gallery, "validation images")
    if "test" in summary:
        _add_test(page, plan, summary["test"])
    page.warnings += [w for w in plan.dataset.ledger.warnings if w.startswith("leak")]
    page.sections.append(data_section(plan.dataset, {name: plan.dataset.of(name) for name in plan.dataset.splits}))
    page.sections.append(settings_section(plan))
    page.sections.append(_next_steps(plan, run))
    write_page(run, page)


def write_evaluation_report(
    folder: Path,
    dataset: DataSet,
    task: str,
    summary: Mapping[str, Any],
    gallery: Gallery,
    facts: Sequence[tuple[str, str]],
    command: str,
) -> None:
    """Write `report.html` and `plots/*.png` of `saccade evaluate`.

    Args:
        summary: `{split, images, seconds}` and the fields of `Result.to_json()`.
        facts: what is evaluated and where, as (name, value).
        command: the command line that gives this evaluation again.

    Raises:
        ResourceError: no space, no permission.
    """
    split = summary["split"]
    page = Page(f"Evaluation on {dataset.root.name}", f"{TASKS[task].answers}; split {split}")
    rate = summary["images"] / max(summary["seconds"], 1e-9)
    told = [*facts, ("time", f"{summary['seconds']:.1f} s, {rate:.1f} images/s with reading and measuring")]
    page.sections.append(Section("run", "The evaluation", facts=told, commands=[("The same again:", command)]))
    _add_result(page, task, summary, gallery, f"images of {split}")
    page.warnings += [w for w in dataset.ledger.warnings if w.startswith("leak")]
    page.sections.append(data_section(dataset, {name: dataset.of(name) for name in dataset.splits}))
    write_page(folder, page)


def write_page(folder: Path, page: Page) -> None:
    """Render a page to `folder`/report.html and its plots to `folder`/plots. Raises ResourceError."""
    plots = make_folder(inside(folder, "plots"))
    for section in page.sections:
        for plot in section.plots:
            write_whole(plots / f"{plot.name}.png", plot.png)
    source = resources.files("saccade").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["plot"] = _plot_uri
    environment.filters["jpeg"] = _jpeg_uri
    text = environment.from_string(source).render(page=page)
    write_whole(folder / "report.html", text.encode("utf-8", "replace"))  # names of files may hold half surrogates


def _add_result(page: Page, task: str, found: Mapping[str, Any], gallery: Gallery, where: str) -> None:
    """Headline, plots, tables and pictures of an evaluation."""
    name = TASKS[task].metric
    page.headline = _headline(name, meaning(name, task), found["metrics"][name])
    page.sentences += explain_score(task, found, where)
    page.warnings += cautions(task, found)
    page.sections.append(scores_section(task, found["metrics"]))
    page.sections.append(curves_section(task, found))
    page.sections.append(classes_section(task, found["per_class"]))
    shown = f" Predicted boxes are drawn from a score of {SCORE} on." if task in ("detect", "instances") else ""
    sampled = Section("predictions", "Predictions beside the truth", exhibits=gallery.sampled())
    sampled.texts.append(f"Images spread evenly over the {where}, not chosen by how well they do.{shown}")
    worst = Section("mistakes", "The worst mistakes", exhibits=gallery.worst(), explain=True)
    worst.texts.append(
        "Look here for wrong labels as well as for a weak model: what the model cannot learn is often mislabelled."
        if worst.exhibits
        else "No mistake was found."
    )
    page.sections += [sampled, worst]


def _add_test(page: Page, plan: Plan, found: Mapping[str, Any]) -> None:
    """The test part's scores: the headline, as nothing was chosen by them."""
    name = TASKS[plan.task].metric
    page.headline = _headline(name, f"{meaning(name, plan.task)}, on the test images", found["metrics"][name])
    page.sentences.insert(
        0,
        f"The number above is that of {found['images']:,} test images, which were looked at once, at the end. All else "
        "but their table of scores is of the validation images, by which the checkpoint was chosen.",
    )
    section = scores_section(plan.task, found["metrics"])
    section.key, section.title = "test", "Scores on the test images"
    place = next((i for i, other in enumerate(page.sections) if other.key == "scores"), len(page.sections))
    page.sections.insert(place, section)


def _headline(name: str, says: str, value: Mapping[str, float | None]) -> Headline:
    number, low, high = value["value"], value["low"], value["high"]
    interval = "" if low is None or high is None else f"95 % interval {low:.3f} to {high:.3f}"
    text = "-" if number is None else f"{number:.3f}"
    return Headline(name.replace("_", " "), says, text, number, low, high, interval)


def _run_facts(
    plan: Plan, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], hardware: str, precision: str
) -> list[tuple[str, str]]:
    paper = paper_of(plan.module, plan.model)
    facts = [
        ("model", plan.model),
        ("paper", f"{paper.title}. {paper.authors}, {paper.year} ({paper.where})"),
        ("task", f"{plan.task}: {TASKS[plan.task].answers}"),
        ("data", f"{plan.dataset.root} ({plan.dataset.format})"),
        (
            "images",
            f"{len(plan.training):,} to train on, {len(plan.validation):,} to validate, {len(plan.testing):,} to test",
        ),
        ("classes", str(len(plan.dataset.classes))),
        (
            "time",
            f"{summary['seconds'] / 60:.1f} minutes, {len(rows)} epochs, {rows[-1]['step'] if rows else 0:,} steps",
        ),
        ("speed", f"{summary['images_per_second']:.1f} images/s in training"),
        ("hardware", hardware),
        ("precision", precision),
        ("recipe", plan.recipe),
        ("versions", f"saccade {__version__}, torch {torch.__version__}, Python {platform.python_version()}"),
    ]
    metric = TASKS[plan.task].metric
    scored = [row for row in rows if row.get("metrics", {}).get(metric) is not None]
    if scored:
        best = max(scored, key=lambda row: row["metrics"][metric])
        facts.append(("best checkpoint", f"epoch {best['epoch']} of {rows[-1]['epoch']}"))
    return facts


def _repeat(plan: Plan, run: Path) -> list[tuple[str, str]]:
    words = ["saccade", "train", plan.model, str(plan.dataset.root), "--out", str(run), "--task", plan.task]
    if plan.recipe != "default":
        words += ["--recipe", plan.recipe]
    known = {f.name for f in dataclasses.fields(Settings)}
    files = [origin for origin in dict.fromkeys(plan.origins.values()) if Path(origin).is_file()]
    words += [word for file in files for word in ("--config", file)]
    for name, origin in plan.origins.items():
        if origin in ("flag", "found", "resumed"):
            value = getattr(plan.settings if name in known else plan.config, name)
            if origin == "resumed" and value == getattr(Settings(), name, None):
                continue
            words += _flag(name, value)
    return [("The same run again:", shlex.join(words))]


def _flag(name: str, value: Any) -> list[str]:
    if name in OWN_FLAGS and value is not None:
        text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
        return [f"--{name}", text]
    return ["--set", f"{name}={json.dumps(value)}"]


def _next_steps(plan: Plan, run: Path) -> Section:
    folder, data = shlex.quote(str(run)), shlex.quote(str(plan.dataset.root))
    commands = [
        ("Measure on other images, with a report:", f"saccade evaluate {folder} DATA --split all --out evaluation"),
        ("Answers for new images, folders or videos:", f"saccade predict {folder} IMAGES --out predictions"),
        ("A file for deployment, checked to give the same answers:", f"saccade export {folder} --to onnx"),
    ]
    longer = f"saccade train {plan.model} {data} --out {folder} --resume"
    if plan.ends_by_epochs:
        longer += f" --epochs {2 * plan.settings.epochs}"
    if plan.settings.minutes is not None:
        longer += f" --minutes {2 * plan.settings.minutes:g}"
    commands.append(("Train twice as long:", longer))
    return Section("next", "How to go on", commands=commands)


def _plot_uri(plot: Plot) -> str:
    if plot.photo:
        with Image.open(io.BytesIO(plot.png), formats=("PNG",)) as picture:
            return _jpeg_uri(np.asarray(picture.convert("RGB")))
    return "data:image/png;base64," + base64.b64encode(plot.png).decode("ascii")


def _jpeg_uri(pixels: Any) -> str:
    """[H, W, 3] uint8 as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
