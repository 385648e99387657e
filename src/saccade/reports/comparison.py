"""`report.html` of `saccade compare`: scores and their differences, curves, settings that differ, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.data.dataset import DataSet, Record
from saccade.data.packing import Spool
from saccade.data.pictures import decode_picture
from saccade.data.truth import read_truth
from saccade.data.types import Annotation
from saccade.experiments.runs import Finished, as_text
from saccade.models.own_file import short_name
from saccade.plots.course import plot_runs
from saccade.plots.draw import caption, fit
from saccade.reports.gallery import Exhibit, above, drawn, explain, legend_of, pair_of, side_of
from saccade.reports.page import Page, write_page
from saccade.reports.sections import Cell, Head, Row, Section, Table, picture
from saccade.tasks.contract import task_of
from saccade.tasks.table import TASKS
from saccade.tasks.words import percent

MISTAKES = 4  # kinds of them that are named of an answer


@dataclass(frozen=True, slots=True)
class Pictures:
    """The images that all runs have, as the first run has them, and what each run says of them."""

    dataset: DataSet
    records: Mapping[str, Record]  # by id
    answers: Spool  # by the number of the run and the image's id, of objects those that are shown; embed: none


def write_comparison_report(
    folder: Path, runs: Sequence[Finished], found: Mapping[str, Any], pictures: Pictures, command: str
) -> None:
    """Write `report.html` and `plots/*.png`.

    Args:
        found: what `saccade compare` returns.
        pictures: those of `found["differ_most"]` are shown.
        command: that compares the same runs again.

    Raises:
        ResourceError: no space, no permission.
    """
    task, metric = found["task"], found["metric"]
    places = list(dict.fromkeys(str(run.plan.dataset.root) for run in runs))
    page = Page(
        f"{len(runs)} runs compared on {runs[0].plan.dataset.root.name}",
        f"{', '.join(run.name for run in runs)}: {TASKS[task].answers}; {found['images']} validation images",
    )
    page.sentences = list(found["findings"])
    page.sentences.append(
        "Differences are those on the same images, resampled together. They do not cover another seed of the training: "
        "two runs of one command differ too. With several runs, one in twenty such intervals misses by chance."
    )
    page.warnings = list(found["warnings"])
    facts = [
        ("task", f"{task}: {TASKS[task].answers}"),
        ("data", ", ".join(places)),
        ("images", f"{found['images']:,}, with the same content and labels in all runs"),
        ("time", f"{found['seconds']:.1f} s; each run predicted every image once"),
        ("hardware", found["hardware"]),
    ]
    page.sections = [
        Section("runs", "The runs", facts=facts, tables=[_costs(found)], commands=[("The same again:", command)]),
        _scores(task, metric, found),
        _curves(runs, metric),
        _settings(found),
        _where_they_differ(task, found, pictures),
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
    return f"{value['value']:+z.4f}" if signed else f"{value['value']:.4f}"


def _interval(value: Mapping[str, float | None], signed: bool = False) -> str:
    low, high = value["low"], value["high"]
    if low is None or high is None:
        return ""
    return f"{low:+z.4f} to {high:+z.4f}" if signed else f"{low:.4f} to {high:.4f}"


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
    for name in sorted(found["runs"][0]["metrics"], key=lambda name: name != metric):
        values = [run["metrics"].get(name, {"value": None}) for run in found["runs"]]
        cells = [Cell(_number(value), True) for value in values]
        rows.append(Row([Cell(name, kind="key"), *cells, Cell(task_of(task).MEANINGS.get(name, ""), kind="wide")]))
    heads = [Head("metric"), *(Head(run["name"], True) for run in found["runs"]), Head("what it is")]
    return Section("scores", "Scores", tables=[first, Table("All metrics", heads, rows)])


def _curves(runs: Sequence[Finished], metric: str) -> Section:
    figure = plot_runs({run.name: run.rows for run in runs if run.rows}, metric)
    if not any(run.rows for run in runs):
        return Section("curves", "Curves", ["No part of these runs is trained step by step: they have no curves."])
    texts = ["As the logs of the runs have them, each on its own validation images."]
    none = [run.name for run in runs if not run.rows]
    texts += [f"{', '.join(none)}: not trained step by step, and so without curves."] if none else []
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


def _where_they_differ(task: str, found: Mapping[str, Any], pictures: Pictures) -> Section:
    """The images, or pairs of them, on which the runs differ most, each with what every run says of it."""
    section = Section("pictures", "Where they differ most", explain=True)
    what = "pair of images" if TASKS[task].embedding else "image"
    if not found["differ_most"]:
        section.texts.append(f"There is no {what} of which one run's answer is better than another's.")
        return section
    if TASKS[task].embedding:
        section.texts.append(
            "Pairs that mislead one run and not another: two identities that are more alike than many pairs of one, or "
            "one identity less alike than many pairs of two. No image is shown twice."
        )
        section.exhibits = [_pair(row, found["runs"], pictures) for row in found["differ_most"]]
        return section
    section.texts.append(
        "Images whose answers differ most in how wrong they are."
        + (" Boxes are drawn from the thresholds of each run on." if TASKS[task].many_objects else "")
    )
    names, classes = [run["name"] for run in found["runs"]], pictures.dataset.classes
    shown: list[Annotation] = []  # whose classes the legend names
    for row in found["differ_most"]:
        record = pictures.records[row["id"]]
        truth = read_truth(record, pictures.dataset, task)
        answers = {name: pictures.answers[number, record.id] for number, name in enumerate(names)}
        exhibit = Exhibit(record.id, [], "", "", None, [], max(row["badness"]))
        image = decode_picture(record, pictures.dataset.root)[0]
        if TASKS[task].whole_image:
            exhibit.pictures.append(("", fit(image, Annotation(truth.size), side_of(truth.size))[0]))
            named = {"true": truth} | answers
            exhibit.mistakes = [f"{name}: {caption(one, classes)}" for name, one in named.items()]
        else:
            exhibit.pictures = [("truth", drawn(image, truth, classes))]
            for name, answer in answers.items():
                exhibit.pictures.append((name, drawn(image, answer, classes)))
                exhibit.beside += above(name, answer, truth)
                mistakes = explain(task, task_of(task).judge(truth, answer, classes), classes, MISTAKES)
                exhibit.mistakes.append(f"{name}: {'; '.join(mistakes) or 'no mistake'}")
        section.exhibits.append(exhibit)
        shown += [truth, *answers.values()]
    section.legend = legend_of(shown, classes)
    return section


def _pair(row: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], pictures: Pictures) -> Exhibit:
    """Two pictures, and how alike they are to each run, beside the pairs of the other kind."""
    exhibit = pair_of([pictures.records[id] for id in row["pair"]], pictures.dataset)
    others = "pairs of two identities are more alike" if row["same"] else "pairs of one identity are less alike"
    for run, similarity, badness, threshold in zip(
        runs, row["similarity"], row["badness"], row["thresholds"], strict=True
    ):
        taken = "" if threshold is None else f", said to be {'one' if similarity >= threshold else 'two'}"
        exhibit.mistakes.append(f"{run['name']}: {similarity:.3f}{taken}; {percent(badness)} of the {others}")
    return exhibit
