"""`report.html` of `saccade compare`: scores and their differences, curves, settings that differ, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.data.dataset import DataSet, Record
from saccade.data.pictures import decode_picture
from saccade.data.truth import read_truth
from saccade.data.types import Annotation
from saccade.experiments.runs import Finished, as_text
from saccade.models.own_file import short_name
from saccade.plots.course import plot_runs
from saccade.plots.draw import caption, draw, fit
from saccade.reports.gallery import SIDE, Exhibit, legend_of
from saccade.reports.page import Page, write_page
from saccade.reports.sections import Cell, Head, Row, Section, Table, picture
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS


@dataclass(frozen=True, slots=True)
class Answered:
    """What one run says of the images that are shown, in their order."""

    name: str
    dataset: DataSet
    answers: list[tuple[Record, Annotation]]  # of objects those that are shown


def write_comparison_report(
    folder: Path, runs: Sequence[Finished], found: Mapping[str, Any], answered: Sequence[Answered], command: str
) -> None:
    """Write `report.html` and `plots/*.png`.

    Args:
        found: what `saccade compare` returns.
        answered: of each run, on the images of `found["differ_most"]`.
        command: that compares the same runs again.

    Raises:
        ResourceError: no space, no permission.
    """
    task, metric = found["task"], found["metric"]
    page = Page(f"{len(runs)} runs compared", f"{TASKS[task].answers}; {found['images']} validation images")
    page.sentences = list(found["findings"])
    page.sentences.append(
        "Differences are those on the same images, resampled together. They do not cover another seed of the training: "
        "two runs of one command differ too. With several runs, one in twenty such intervals misses by chance."
    )
    page.warnings = list(found["warnings"])
    facts = [
        ("task", f"{task}: {TASKS[task].answers}"),
        ("images", f"{found['images']:,}, with the same content and labels in all runs"),
        ("time", f"{found['seconds']:.1f} s; each run predicted every image once"),
        ("hardware", found["hardware"]),
    ]
    page.sections = [
        Section("runs", "The runs", facts=facts, tables=[_costs(found)], commands=[("The same again:", command)]),
        _scores(task, metric, found),
        _curves(runs, metric),
        _settings(found),
        _pictures(task, found, answered),
    ]
    write_page(folder, page)


def _costs(found: Mapping[str, Any]) -> Table:
    rows = []
    for row in found["runs"]:
        numbers = [
            f"{row['epochs']:,}",
            f"{row['minutes']:.1f}",
            f"{row['parameters']:,}",
            f"{row['macs'] / 1e9:.3f} G",
            f"{1000 * row['seconds_per_image']:.1f}",
        ]
        cells = [Cell(row["name"], kind="name2"), Cell(short_name(row["model"]), kind="key")]
        rows.append(Row(cells + [Cell(text, True) for text in numbers]))
    numeric = ("epochs", "minutes", "parameters", "multiply-adds", "ms an image, with reading")
    return Table("", [Head("run"), Head("model"), *(Head(name, True) for name in numeric)], rows)


def _number(value: Mapping[str, float | None], signed: bool = False) -> str:
    if value["value"] is None:
        return "-"
    return f"{value['value']:+.4f}" if signed else f"{value['value']:.4f}"


def _interval(value: Mapping[str, float | None], signed: bool = False) -> str:
    low, high = value["low"], value["high"]
    if low is None or high is None:
        return ""
    return f"{low:+.4f} to {high:+.4f}" if signed else f"{low:.4f} to {high:.4f}"


def _scores(task: str, metric: str, found: Mapping[str, Any]) -> Section:
    rows = []
    for row in found["runs"]:
        value, change = row["metrics"][metric], row["difference"]
        cells = [Cell(row["name"], kind="name2"), Cell(_number(value), bar=value["value"], kind="key")]
        cells.append(Cell(_interval(value), kind="key"))
        words = ("", "") if change is None else (_number(change, True), _interval(change, True))
        rows.append(Row([*cells, *(Cell(text, kind="key") for text in words)]))
    heads = [Head("run"), Head(metric), Head("95 % interval"), Head(f"from {found['runs'][0]['name']}")]
    first = Table(f"{metric}: {task_of(task).MEANINGS[metric]}", [*heads, Head("95 % interval, paired")], rows)
    rows = []
    for name in found["runs"][0]["metrics"]:
        values = [run["metrics"].get(name, {"value": None}) for run in found["runs"]]
        cells = [Cell(_number(value), True) for value in values]
        rows.append(Row([Cell(name, kind="key"), *cells, Cell(task_of(task).MEANINGS.get(name, ""), kind="wide")]))
    heads = [Head("metric"), *(Head(run["name"], True) for run in found["runs"]), Head("what it is")]
    return Section("scores", "Scores", tables=[first, Table("All metrics", heads, rows)])


def _curves(runs: Sequence[Finished], metric: str) -> Section:
    figure = plot_runs({run.name: run.rows for run in runs if run.rows}, metric)
    texts = ["As the logs of the runs have them, each on its own validation images."]
    alt = f"Losses and {metric} of {', '.join(run.name for run in runs)} over epochs and over minutes."
    return Section("curves", "Curves", texts, plots=[picture("runs", figure, alt)])


def _settings(found: Mapping[str, Any]) -> Section:
    section = Section("settings", "Settings that differ")
    if not found["settings"]:
        section.texts.append("The runs were told the same.")
        return section
    rows = [
        Row([Cell(row["name"], kind="key"), *(Cell(as_text(value), kind="name2") for value in row["values"])])
        for row in found["settings"]
    ]
    section.tables.append(Table("", [Head("setting"), *(Head(run["name"]) for run in found["runs"])], rows))
    return section


def _pictures(task: str, found: Mapping[str, Any], answered: Sequence[Answered]) -> Section:
    """The images on which the runs differ most, each with what every run says of it."""
    section = Section("pictures", "Where they differ most", explain=True)
    if not found["differ_most"]:
        section.texts.append("There is no image of which one run's answer is better than another's.")
        return section
    kind = TASKS[task]
    section.texts.append(
        "Images whose answers differ most in how wrong they are."
        + (" Boxes are drawn from the thresholds of each run on." if kind.many_objects else "")
    )
    drawn: list[Annotation] = []  # whose classes the legend names
    for place, row in enumerate(found["differ_most"]):
        record, _ = answered[0].answers[place]
        dataset = answered[0].dataset
        image, truth = decode_picture(record, dataset.root)[0], read_truth(record, dataset, task)
        says = [one.answers[place][1] for one in answered]
        exhibit = Exhibit(row["id"], [], "", "", None, [], max(row["badness"]))
        if kind.whole_image:
            exhibit.pictures.append(("", fit(image, Annotation(truth.size), SIDE)[0]))
            exhibit.mistakes.append(f"true: {caption(truth, dataset.classes)}")
            for one, answer in zip(answered, says, strict=True):
                exhibit.mistakes.append(f"{one.name}: {caption(answer, dataset.classes)}")
        else:
            named = [("truth", truth), *((one.name, answer) for one, answer in zip(answered, says, strict=True))]
            for title, shown in named:
                exhibit.pictures.append((title, draw(*fit(image, shown, SIDE), dataset.classes, legend=False)))
        section.exhibits.append(exhibit)
        drawn += [truth, *says]
    section.legend = legend_of(drawn, answered[0].dataset.classes)
    return section
