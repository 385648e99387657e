"""Runs beside each other: names, settings that differ, words on differences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from saccade.experiments.runs import as_text, difference_in_words, differing
from saccade.metrics import Value


def _run(config: dict[str, Any], settings: dict[str, Any], **origins: str) -> Any:
    stated = {"model": "m", "config": config, "settings": settings, "origins": origins, "images": {"train": 4}}
    return SimpleNamespace(stated=stated)


def test_only_what_differs_is_listed() -> None:
    one = _run({"width": 4, "objective": {"loss": "bce"}, "usual": 1}, {"lr": 0.1, "seed": 0, "new": 1})
    other = _run({"width": 8, "objective": {"loss": "focal"}, "set": 2}, {"lr": 0.1, "seed": 1}, set="flag")
    rows = {row["name"]: row["values"] for row in differing([one, other])}
    assert rows == {"seed": [0, 1], "width": [4, 8], "loss": ["bce", "focal"], "set": [None, 2]}
    assert differing([one, one]) == []
    assert as_text(None) == "-"
    assert len(as_text(list(range(100)))) == 60


def test_a_difference_in_words() -> None:
    value = Value(0.5)
    assert "0.100 more than A" in difference_in_words("B", "A", "ap", value, Value(0.1, 0.05, 0.2))
    assert difference_in_words("B", "A", "ap", value, Value(0.1, 0.05, 0.2)).endswith("more than chance.")
    assert difference_in_words("B", "A", "ap", value, Value(-0.1, -0.3, 0.2)).endswith("may be chance.")
    assert "undefined" in difference_in_words("B", "A", "ap", Value(None), Value(None))
    assert "without an interval" in difference_in_words("B", "A", "ap", value, Value(0.1))
    assert "0.00020 less than A" in difference_in_words("B", "A", "ap", value, Value(-2e-4, -6e-4, -3e-5))
    assert "-0.00060 to -0.00003" in difference_in_words("B", "A", "ap", value, Value(-2e-4, -6e-4, -3e-5))
    assert "0.500, the same as A" in difference_in_words("B", "A", "ap", value, Value(0.0, -0.1, 0.1))
    few = difference_in_words("B", "A", "ap", value, Value(0.1, 0.05, 0.2), units=5)
    assert few.endswith("so few images cannot tell it from chance.")
