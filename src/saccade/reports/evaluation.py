"""The report of `saccade evaluate`, and the part of a training report that it shares: scores, curves, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade.data.dataset import DataSet
from saccade.reports.gallery import Gallery
from saccade.reports.operating import mistakes_table, operating_section
from saccade.reports.page import Page, headline, write_page
from saccade.reports.sections import Section, classes_section, curves_section, data_section, in_words, scores_section
from saccade.reports.words import cautions, explain_score
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS


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
    all_facts = [*facts, ("time", f"{summary['seconds']:.1f} s, {rate:.1f} images/s with reading and measuring")]
    page.sections.append(Section("run", "The evaluation", facts=all_facts, commands=[("The same again:", command)]))
    add_result(page, task, summary, gallery, f"images of {split}")
    page.warnings += [w for w in dataset.ledger.warnings if w.startswith("leak")]
    page.sections.append(data_section(dataset, {name: dataset.of(name) for name in dataset.splits}))
    write_page(folder, page)


def add_result(page: Page, task: str, found: Mapping[str, Any], gallery: Gallery, where: str) -> None:
    """Headline, plots, tables and pictures of an evaluation."""
    name = TASKS[task].metric
    page.headline = headline(name, task_of(task).MEANINGS[name], found["metrics"][name])
    page.sentences += explain_score(task, found, where)
    page.warnings += cautions(task, found)
    page.sections.append(scores_section(task, found["metrics"]))
    page.sections.append(curves_section(task, found))
    if found["curves"].get("operating") is not None:
        page.sections.append(operating_section(found["curves"]["operating"]))
    page.sections.append(classes_section(task, found["per_class"]))
    if TASKS[task].embedding:
        pairs = Section("pairs", "The pairs that mislead most", exhibits=gallery.pairs(found))
        pairs.texts.append(
            "Pairs of different identities that are most alike, and pairs of one identity that are least. Those judged "
            "wrongly at the threshold are marked; look for wrong labels among them."
        )
        page.sections.append(pairs)
        return
    shown = "" if gallery.shown_from is None else f" Predicted boxes are drawn from {in_words(gallery.shown_from)} on."
    sampled = Section(
        "predictions", "Predictions beside the truth", exhibits=gallery.sampled(), legend=gallery.legend()
    )
    sampled.texts.append(f"Images spread evenly over the {where}, not chosen by how well they do.{shown}")
    worst = Section("mistakes", "The worst mistakes", exhibits=gallery.worst(), explain=True)
    worst.texts.append(
        "Look here for wrong labels as well as for a weak model: what the model cannot learn is often mislabelled."
        if worst.exhibits
        else "No mistake was found."
    )
    if TASKS[task].many_objects and gallery.kinds():
        worst.tables.append(mistakes_table(gallery.kinds()))
    page.sections += [sampled, worst]
