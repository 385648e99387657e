"""Every task is a file that offers the same names."""

from __future__ import annotations

import inspect

import pytest

from saccade.errors import UsageError
from saccade.tasks.contract import TaskFile, task_of
from saccade.tasks.table import TASKS

NAMES = [name for name in vars(TaskFile) if not name.startswith("_")]


@pytest.mark.parametrize("task", TASKS)
def test_each_offers_all_names_with_the_arguments_of_the_contract(task: str) -> None:
    file = task_of(task)
    for name in NAMES:
        of_contract = inspect.getattr_static(TaskFile, name)
        if not isinstance(of_contract, property):
            expected = [p for p in inspect.signature(of_contract).parameters if p != "self"]
            assert list(inspect.signature(getattr(file, name)).parameters) == expected, name
    assert TASKS[task].metric in file.MEANINGS


@pytest.mark.parametrize("task", TASKS)
def test_a_report_finds_its_columns_and_curves_in_the_result(task: str) -> None:
    file = task_of(task)
    result = file.make_metric(["a", "b"]).result(bootstrap=0)
    for row in result.per_class:
        assert {file.REPORT.ranked_by, *file.REPORT.columns, *(c.area for c in file.REPORT.curves)} <= set(row)
    assert {curves.key for curves in file.REPORT.curves} <= set(result.curves)
    assert bool(file.REPORT.counted) == ("confusion" in result.curves)


def test_an_unknown_task_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="did you mean 'detect'"):
        task_of("detects")
