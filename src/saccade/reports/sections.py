"""The parts of a report: tables, plots and pictures, made from plain results. `page.py` puts them on a page."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from saccade.config import Settings
from saccade.data.dataset import DataSet, Entry, Record
from saccade.models.configs import flat_values
from saccade.plots.curves import plot_calibration, plot_class_bars, plot_precision_recall
from saccade.plots.figures import shown_size, to_png
from saccade.plots.matrices import plot_confusion
from saccade.plots.verification import plot_ranks, plot_roc, plot_similarities
from saccade.reports.gallery import Exhibit
from saccade.tasks.contract import task_of
from saccade.tasks.table import find_task
from saccade.training.plan import Plan

NAMED = 10  # lines of the ledger that a report names


@dataclass
class Cell:
    """One field of a table."""

    text: str
    number: bool = False
    bar: float | None = None  # 0..1: a bar before the text
    kind: str = ""  # a class of the style sheet


@dataclass
class Row:
    """One line of a table; `changed` marks a setting that is not the default."""

    cells: list[Cell]
    changed: bool = False


@dataclass
class Head:
    """The title of a column."""

    name: str
    number: bool = False


@dataclass
class Table:
    """A table under its title, every row with as many cells as there are heads."""

    title: str
    heads: list[Head]
    rows: list[Row]


@dataclass
class Plot:
    """A figure as PNG."""

    name: str  # also the file's name in plots/
    png: bytes
    width: int  # as shown, pixels
    height: int
    photo: bool = False  # mostly photographs: the page holds it as JPEG, a sixth of the size
    title: str = ""  # above it
    alt: str = ""  # what it shows, for who cannot see it; by default its name


@dataclass
class Section:
    """One part of a report under its heading; what is empty is not shown."""

    key: str
    title: str
    texts: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)  # name of a class, its colour as CSS has it
    exhibits: list[Exhibit] = field(default_factory=list)
    explain: bool = False  # say what is wrong under each picture
    warnings: list[str] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)


def picture(name: str, figure: Figure, alt: str = "") -> Plot:
    """A figure as the report shows it; `name` is also that of its file in plots/, `alt` says what it shows."""
    png = to_png(figure)
    return Plot(name, png, *shown_size(png), alt=alt)


def scores_section(task: str, metrics: Mapping[str, Mapping[str, float | None]]) -> Section:
    """Every metric with its 95 % interval; "-" where the truth holds nothing to measure it on."""
    meanings, rows = task_of(task).MEANINGS, []
    for name, value in sorted(metrics.items(), key=lambda item: item[0] != find_task(task).metric):
        number, low, high = value["value"], value["low"], value["high"]
        interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        text = "-" if number is None else f"{number:.4f}"
        why = " (nothing of this kind in the truth)" if number is None else ""
        share = number if name not in task_of(task).REPORT.amounts else None
        cells = [Cell(name, kind="key"), Cell(text, bar=share, kind="key"), Cell(interval, kind="key")]
        rows.append(Row([*cells, Cell(meanings.get(name, "") + why, kind="wide")]))
    heads = [Head("metric"), Head("value"), Head("95 % interval"), Head("what it is")]
    return Section("scores", "Scores", tables=[Table("", heads, rows)])


def classes_section(task: str, per_class: Sequence[Mapping[str, Any]]) -> Section:
    """A row a class, the weakest first; classes without a value last."""
    form = task_of(task).REPORT
    main = form.ranked_by
    ranked = sorted(per_class, key=lambda row: (row[main] is None, row[main] or 0.0))
    rows = []
    for row in ranked:
        cells = [Cell(row["name"], kind="name2")]
        for column in form.columns:
            value = row[column]
            text = "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
            cells.append(Cell(text, True, value if column == main else None))
        rows.append(Row(cells))
    heads = [Head("class"), *(Head(c, True) for c in form.columns)]
    return Section("classes", "Class by class", ["The weakest classes come first."], tables=[Table("", heads, rows)])


def curves_section(task: str, found: Mapping[str, Any]) -> Section:
    """The plots of a result, and its most frequent confusions."""
    curves, section = found["curves"], Section("plots", "Where it goes right and wrong")
    form, rows = task_of(task).REPORT, found["per_class"]
    for of in form.curves:
        if any(curve["recall"] for curve in curves.get(of.key, ())):
            figure = plot_precision_recall(
                curves[of.key], [row[of.area] for row in rows], of.title, of.area.replace("_", " ")
            )
            section.plots.append(picture(of.key, figure))
    values = [row[form.ranked_by] for row in rows]
    if form.bars and sum(value is not None for value in values) > 1:
        figure = plot_class_bars([row["name"] for row in rows], values, f"{form.ranked_by.replace('_', ' ')} by class")
        section.plots.append(picture("classes", figure))
    confusion = curves.get("confusion")
    if confusion is not None and any(sum(row) for row in confusion["counts"]):
        counted = form.counted
        if "shown_from" in confusion:
            counted += f", from {in_words(confusion['shown_from'])} on"
        figure = plot_confusion(confusion["classes"], confusion["counts"], f"Confusion matrix ({counted})")
        section.plots.append(picture("confusion", figure))
        if not find_task(task).many_objects:  # whose mistakes are counted by kind (reports/operating.py)
            section.tables.append(_confusions(confusion))
    if curves.get("joints"):
        section.tables.append(_joints(curves["joints"]))
    if "roc" in curves and curves["roc"]["far"] and curves.get("chosen") is not None:
        mark = curves.get("given") or curves["chosen"]
        section.plots.append(picture("roc", plot_roc(curves["roc"], mark)))
        section.plots.append(picture("similarities", plot_similarities(curves["scores"], mark)))
        if curves["ranks"]["rank"]:
            section.plots.append(picture("ranks", plot_ranks(curves["ranks"], curves["open_set"])))
    if curves.get("calibration") is not None and any(curves["calibration"]["images"]):
        section.plots.append(picture("calibration", plot_calibration(curves["calibration"])))
    return section


def in_words(shown_from: float | Sequence[float]) -> str:
    """The smallest score of what is shown, of all objects or of each class."""
    scores = [shown_from] if isinstance(shown_from, float | int) else shown_from
    low, high = min(scores), max(scores)
    return f"a score of {low:.2f}" if low == high else f"the score of the class ({low:.2f} to {high:.2f})"


def _confusions(confusion: Mapping[str, Any]) -> Table:
    names, counts = confusion["classes"], confusion["counts"]
    pairs = [(counts[t][p], t, p) for t in range(len(names)) for p in range(len(names)) if t != p and counts[t][p]]
    rows = []
    for count, t, p in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:10]:
        cells = [Cell(names[t], kind="name2"), Cell(names[p], kind="name2"), Cell(f"{count:,}", True)]
        rows.append(Row([*cells, Cell(f"{100 * count / sum(counts[t]):.1f} %", True)]))
    heads = [Head("true"), Head("taken for"), Head("count", True), Head("share of the true", True)]
    return Table("Most frequent confusions", heads, rows)


def _joints(rows: Sequence[Mapping[str, Any]]) -> Table:
    """How many of each joint are labelled, and which share of them is found."""
    lines = []
    for row in rows:
        cells = [Cell(row["joint"], kind="name2"), Cell(f"{row['labelled']:,}", True)]
        for name in ("pck", "pckh"):
            value = row[name]
            cells.append(Cell("-" if value is None else f"{value:.3f}", True, value))
        lines.append(Row(cells))
    return Table("Joint by joint", [Head("joint"), *(Head(name, True) for name in ("labelled", "pck", "pckh"))], lines)


def data_section(dataset: DataSet, records: Mapping[str, Sequence[Record]]) -> Section:
    """What the data holds by split, and what was repaired or refused when it was read."""
    ledger = dataset.ledger
    section = Section("data", "The data", warnings=list(ledger.warnings))
    section.facts = [
        ("place", str(dataset.root)),
        ("format", dataset.format),
        ("classes", str(len(dataset.classes))),
        ("images", ", ".join(f"{len(part):,} {split}" for split, part in records.items())),
        ("images refused", f"{ledger.images_refused:,} of {ledger.images_refused + ledger.images_used:,}"),
        ("labels refused", f"{ledger.labels_refused:,} of {ledger.labels_refused + ledger.labels_used:,}"),
        ("repaired", f"{len(ledger.repaired):,}"),
    ]
    for title, entries in (("Refused", ledger.refused), ("Repaired", ledger.repaired)):
        if entries:
            section.tables.append(_ledger_table(title, entries))
    counts = {split: _labels_of_each_class(part) for split, part in records.items() if part}
    if any(column.total() for column in counts.values()):
        rows = [
            Row([Cell(name, kind="name2"), *(Cell(f"{column[k]:,}", True) for column in counts.values())])
            for k, name in enumerate(dataset.classes)
        ]
        section.tables.append(Table("Labels", [Head("class"), *(Head(split, True) for split in counts)], rows))
    return section


def _labels_of_each_class(records: Sequence[Record]) -> Counter[int]:
    """Labels, tags or objects of each class; none for class maps, which are not read for this."""
    return Counter(label for record in records for label in record.labels())


def _ledger_table(title: str, entries: Sequence[Entry]) -> Table:
    rows = [Row([Cell(e.where, kind="name2"), Cell(e.what, kind="wide")]) for e in entries[:NAMED]]
    more = "" if len(entries) <= NAMED else f", the first {NAMED} of {len(entries):,} (`saccade check` lists all)"
    return Table(title + more, [Head("where"), Head("what")], rows)


def settings_section(plan: Plan) -> Section:
    """Every setting with its value and origin, those that differ from the default first."""
    strength = {"flag": 0, "default": 3}
    known = {f.name: f for f in dataclasses.fields(Settings)}
    defaults = Settings()
    rows = []
    for name in sorted(known, key=lambda n: strength.get(plan.origins[n], 1 + plan.origins[n].startswith("recipe"))):
        value, origin = getattr(plan.settings, name), plan.origins[name]
        before = "" if origin == "default" else _plain(getattr(defaults, name))
        rows.append(_setting_row(name, _plain(value), before, origin, str(known[name].metadata["help"])))
    texts = ["A value comes from the first of: flag, settings file, recipe of the model, default."]
    heads = [Head("setting"), Head("value"), Head("default"), Head("origin"), Head("what it is")]
    section = Section("settings", "Settings", texts, tables=[Table("", heads, rows)])
    usual = flat_values(plan.module.VARIANTS[plan.model])
    rows = []
    for name, value in flat_values(plan.config).items():
        before = usual[name]
        origin = plan.origins.get(name, "model" if value == before else "fitted to the data")
        rows.append(_setting_row(name, _plain(value), "" if value == before else _plain(before), origin, None))
    rows.sort(key=lambda row: not row.changed)
    heads = [Head("field"), Head("value"), Head("of the model"), Head("origin")]
    section.tables.append(Table(f"Architecture of {plan.model}", heads, rows))
    return section


def _setting_row(name: str, value: str, before: str, origin: str, help: str | None) -> Row:
    cells = [Cell(name, kind="key"), Cell(value, kind="name2"), Cell(before, kind="name2"), Cell(origin, kind="key")]
    if help is not None:
        cells.append(Cell(help, kind="wide"))
    return Row(cells, changed=origin not in ("default", "model") and value != before)


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
