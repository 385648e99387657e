"""The tasks: what a model answers, which number ranks it, which model a beginner should try first. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from saccade.errors import UsageError, suggest


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of answer that models give, and what it asks of data and metrics."""

    name: str
    answers: str  # what the model says of an image
    metric: str  # the name in metrics.json that ranks checkpoints; higher is better
    needs: str  # what the labels must hold
    also: tuple[str, ...] = ()  # tasks that data of this task can serve as well


TASKS: dict[str, Task] = {
    t.name: t
    for t in (
        Task("classify", "one class an image", "top1", "a class an image"),
        Task("localize", "one class and its box an image", "localization_top1", "boxes with classes"),
        Task("tag", "several classes an image", "mean_ap", "any number of classes an image"),
        Task("detect", "boxes with classes", "ap", "boxes with classes", also=("tag", "localize")),
        Task(
            "instances",
            "boxes with classes and masks",
            "mask_ap",
            "polygons or masks",
            also=("detect", "tag", "localize"),
        ),
        Task("segment", "a class for every pixel", "mean_iou", "a class map an image"),
    )
}


def find_task(name: str) -> Task:
    """Raises UsageError with suggestions where there is no such task."""
    if name not in TASKS:
        raise UsageError(f"unknown task {name!r}: {suggest(name, TASKS)}")
    return TASKS[name]
