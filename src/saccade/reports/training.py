"""The report of a training run: how it went, what it reached, how to repeat it and how to go on."""

from __future__ import annotations

import dataclasses
import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from saccade.config import Settings
from saccade.models.configs import flat_values
from saccade.models.contract import paper_of
from saccade.models.own_file import COPY, digest_of, short_name
from saccade.plots.course import plot_training
from saccade.reports.evaluation import add_result
from saccade.reports.gallery import Gallery
from saccade.reports.page import Page, headline, write_page
from saccade.reports.sections import (
    Section,
    data_section,
    picture,
    scores_section,
    settings_section,
)
from saccade.reports.words import explain_course
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS
from saccade.training.plan import Plan
from saccade.training.run_folder import resume_command
from saccade.version import __version__

HOW_MEASURED = (
    "The training loss is that of the steps, with augmentation, dropout and the statistics of each batch, drawn in the "
    "middle of the steps of which it is the mean; the validation loss is that of the network as it answers, on the "
    "same images every time. It may lie below the training loss: what counts is whether it still falls."
)
# flags of `saccade train` that have a name of their own; others are given by --set
OWN_FLAGS = ("epochs", "minutes", "batch", "size", "seed", "precision", "workers")


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
        hardware: one line (`machine.device.describe_hardware`).
        precision: what the run computed with.

    Raises:
        ResourceError: no space, no permission.
    """
    title = f"{short_name(plan.model)} on {plan.dataset.root.name}"
    page = Page(title, f"A training run to {plan.task}: {TASKS[plan.task].answers}")
    page.sections.append(
        Section(
            "run", "The run", facts=_run_facts(plan, rows, summary, hardware, precision), commands=_repeat(plan, run)
        )
    )
    if rows:
        page.sections.append(training_section(rows, TASKS[plan.task].metric))
    if gallery is None:
        page.sentences.append(
            "There are no validation images, so nothing was measured. Add some, or a split, to get scores."
        )
    else:
        add_result(page, plan.task, summary, gallery, "validation images")
    if "test" in summary:
        _add_test(page, plan, summary["test"])
    page.warnings += [w for w in plan.dataset.ledger.warnings if w.startswith("leak")]
    page.sections.append(data_section(plan.dataset, {name: plan.dataset.of(name) for name in plan.dataset.splits}))
    page.sections.append(settings_section(plan))
    page.sections.append(_next_steps(plan, run))
    write_page(run, page)


def training_section(rows: Sequence[Mapping[str, Any]], metric: str) -> Section:
    """The curves of a run, and what they say of overfitting; `rows` are of log.jsonl."""
    words = explain_course(rows, metric)
    alt = "Loss, score and learning rate by epoch. " + " ".join(words)
    texts = [*words, *([HOW_MEASURED] if any(row.get("validation_losses") for row in rows) else [])]
    return Section("training", "Training", texts, plots=[picture("training", plot_training(rows, metric), alt)])


def _add_test(page: Page, plan: Plan, found: Mapping[str, Any]) -> None:
    """The test part's scores: the headline, as nothing was chosen by them."""
    name = TASKS[plan.task].metric
    page.headline = headline(name, f"{task_of(plan.task).MEANINGS[name]}, on the test images", found["metrics"][name])
    page.sentences.insert(
        0,
        f"The number above is that of {found['images']:,} test images, which were looked at once, at the end. All else "
        "but their table of scores is of the validation images, by which the checkpoint was chosen.",
    )
    section = scores_section(plan.task, found["metrics"])
    section.key, section.title = "test", "Scores on the test images"
    place = next((i for i, other in enumerate(page.sections) if other.key == "scores"), len(page.sections))
    page.sections.insert(place, section)


def _run_facts(
    plan: Plan, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], hardware: str, precision: str
) -> list[tuple[str, str]]:
    paper = paper_of(plan.module, plan.model)
    facts = [
        ("model", plan.model),
        ("paper", f"{paper.title}. {paper.authors}, {paper.year} ({paper.where})")
        if paper.year
        else ("file", f"a copy as it was: {COPY}; SHA-256 {digest_of(plan.module)}"),
        ("task", f"{plan.task}: {TASKS[plan.task].answers}"),
        ("data", f"{plan.dataset.root} ({plan.dataset.format})"),
        *([] if plan.joint.join is None else [("joined", f"{plan.joint.join}: images with a class and no boxes")]),
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
    words = ["saccade", "train", plan.model, plan.data, "--out", str(run), "--task", plan.task]
    for option, given in (("--tree", plan.joint.tree), ("--join", plan.joint.join)):
        words += [] if given is None else [option, given]
    if plan.recipe != "default":
        words += ["--recipe", plan.recipe]
    known = {f.name for f in dataclasses.fields(Settings)}
    files = [origin for origin in dict.fromkeys(plan.origins.values()) if Path(origin).is_file()]
    words += [word for file in files for word in ("--config", file)]
    for name, origin in plan.origins.items():
        if origin in ("flag", "found", "resumed"):
            value = getattr(plan.settings, name) if name in known else flat_values(plan.config)[name]
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
    folder = shlex.quote(str(run))
    commands = [
        ("Measure on other images, with a report:", f"saccade evaluate {folder} DATA --split all --out evaluation"),
        ("Answers for new images, folders or videos:", f"saccade predict {folder} IMAGES --out predictions"),
        ("A file for deployment, checked to give the same answers:", f"saccade export {folder} --to onnx"),
    ]
    longer = resume_command(plan.model, plan.data, run)
    if plan.ends_by_epochs:
        longer += f" --epochs {2 * plan.settings.epochs}"
    if plan.settings.minutes is not None:
        longer += f" --minutes {2 * plan.settings.minutes:g}"
    commands.append(("Train twice as long:", longer))
    return Section("next", "How to go on", commands=commands)
