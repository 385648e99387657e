"""The data of a run, read for the task that its labels and its model both serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saccade.data.borders import as_class_maps
from saccade.data.dataset import DataSet
from saccade.data.formats import read
from saccade.data.main_object import keep_main_objects
from saccade.errors import UsageError
from saccade.models.contract import Room
from saccade.tasks.table import TASKS
from saccade.training.joint import Joint, Sources, read_joint, sources_of, stored_joint


def read_for(
    module: Room,
    model: str,
    data: str | Path | Sources,
    task: str | None,
    stored: Mapping[str, Any] | None = None,
    border: int = 0,
) -> tuple[str, DataSet, Joint]:
    """Read what a run learns from, as a run goes on where its `config.json` is given; with a `border` class maps drawn
    from objects."""
    sources = sources_of(data)
    if border:
        task, dataset = _read_borders(module, model, sources.data, task, border)
    else:
        task, dataset = _read_data(module, model, sources.data, task)
    if stored is not None:
        return task, dataset, stored_joint(sources, dataset, stored)
    return task, dataset, read_joint(sources, dataset, module, model)


def _read_borders(module: Room, model: str, data: str | Path, task: str | None, border: int) -> tuple[str, DataSet]:
    """Read objects with masks as class maps with a border of so many pixels."""
    wanted = [name for name in module.TASKS if TASKS[name].semantic and task in (None, name)]
    if not wanted:
        raise UsageError(f"border_class is for models to segment; {model} serves {' and '.join(module.TASKS)}")
    return wanted[0], as_class_maps(read(data), border)


def _read_data(module: Room, model: str, data: str | Path, task: str | None) -> tuple[str, DataSet]:
    """Read `data` for a task that both the labels and the model serve."""
    if task is not None and task not in module.TASKS:
        raise UsageError(f"model {model} cannot be trained to {task}; it serves: {', '.join(module.TASKS)}")
    if task is None and all(TASKS[each].embedding for each in module.TASKS):
        task = module.TASKS[0]  # classes are read otherwise for it: val may show other people than train
    dataset = read(data, task)
    if task is not None:
        return task, dataset
    for candidate in dataset.serves:
        if candidate in module.TASKS:
            if TASKS[candidate].one_object and candidate != dataset.task:
                keep_main_objects(dataset)
            return candidate, dataset
    crops = "classify" in module.TASKS and any(record.things for record in dataset.records)
    objects = "; --task classify takes every object for a picture of its own" if crops else ""
    raise UsageError(
        f"{data} holds labels to {dataset.task}, model {model} serves {' and '.join(module.TASKS)}; "
        f"`saccade models --task {dataset.task}` lists the models that fit{objects}"
    )
