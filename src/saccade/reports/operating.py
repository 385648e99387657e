"""The parts of a report on when an answer is given: thresholds, and which mistakes are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saccade.plots.curves import plot_operating
from saccade.reports.sections import Cell, Head, Row, Section, Table, picture


def operating_section(points: Mapping[str, Any]) -> Section:
    """The threshold of the best F1, its precision and recall, and the curve (`metrics/operating.py`)."""
    section = Section("operating", "From which score on")
    section.texts.append(
        f"On these images F1 is best, {points['f1']:.2f}, where objects are given from a score of "
        f"{points['threshold']:.2f} on: {_share(points['precision'])} of what is given is right (precision), "
        f"{_share(points['recall'])} of what is there is found (recall). A higher threshold gives fewer wrong "
        "answers, a lower one misses less. `saccade predict` goes by the thresholds of the run's own "
        "validation images, unless --threshold says another."
    )
    section.plots.append(picture("operating", plot_operating(points)))
    # of a class that is neither there nor found there is nothing to say
    known = [row for row in points["classes"] if (row["precision"], row["recall"]) != (None, None)]
    if len(known) > 1:
        section.tables.append(_by_class(known))
    return section


def _by_class(classes: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in sorted(classes, key=lambda row: row["f1"]):
        numbers = (row[name] for name in ("threshold", "precision", "recall", "f1"))
        rows.append(
            Row([Cell(row["class"], kind="name2"), *(Cell("-" if v is None else f"{v:.2f}", True) for v in numbers)])
        )
    heads = [Head("class"), *(Head(name, True) for name in ("threshold", "precision", "recall", "F1"))]
    return Table("By class; one has a threshold of its own where that gains 0.02 in F1", heads, rows)


def mistakes_table(kinds: Sequence[tuple[str, int]]) -> Table:
    """What goes wrong how often, in the words of the pictures."""
    rows = [Row([Cell(words, kind="wide"), Cell(f"{count:,}", True)]) for words, count in kinds]
    return Table("Most frequent mistakes", [Head("mistake"), Head("count", True)], rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
