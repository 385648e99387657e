"""The thresholds that the best checkpoint keeps, chosen on the validation images."""

from __future__ import annotations

from saccade.metrics import Result
from saccade.tasks.table import TASKS
from saccade.training.plan import Plan


def thresholds_of(plan: Plan, result: Result) -> list[float]:
    """Of objects that of each class at which F1 is best (`metrics/operating.py`); tag: the threshold of each label that
    is best, if they are to be tuned; embed: the one at which the stated share
    of the pairs of different identities is accepted."""
    if TASKS[plan.task].embedding:
        chosen = result.curves["chosen"]
        return [] if chosen is None else [chosen["threshold"]]
    points = result.curves.get("operating")
    if points is not None:
        return list(points["thresholds"])
    tuned = TASKS[plan.task].tags and plan.config.objective.tune_thresholds
    return [row["best_threshold"] for row in result.per_class] if tuned else []
