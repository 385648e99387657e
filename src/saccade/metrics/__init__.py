"""What a set of predictions is worth: one metric for every task, each number with an interval over images.

A metric takes one image at a time (`add`) and keeps little of it: counts, boxes, run lengths; never dense masks.
The order in which images are added has no influence on the result: images are ordered by id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from saccade.data.types import Annotation


@dataclass(frozen=True)
class Value:
    """A number with its 95 % bootstrap interval over images; None where it is undefined (nothing to count)."""

    value: float | None
    low: float | None = None
    high: float | None = None
    # [count], of each resample, NaN where undefined; of another model on the same images the resamples are the same
    drawn: np.ndarray | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, float | None]:
        """The number and its interval."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass
class Result:
    """What an evaluation found. In JSON an undefined number is null; NaN and infinity never occur."""

    metrics: dict[str, Value]  # by name, the ranking metric of the task among them
    per_class: list[dict[str, Any]]  # one row a class, in the order of the classes, each with "name"
    curves: dict[str, Any]  # plain lists and numbers for plots, described in the module of the task
    images: int  # images added
    recordings: int = 0  # that they are pictures of, where these are known (data/recordings.py)
    seconds: float = field(default=0.0, compare=False)  # that answering took, with reading and without measuring

    def to_json(self) -> dict[str, Any]:
        metrics = {name: value.to_json() for name, value in self.metrics.items()}
        state = {"metrics": metrics, "per_class": self.per_class, "curves": self.curves, "images": self.images}
        whole: dict[str, Any] = plain(state | {"recordings": self.recordings})
        return whole


class Metric(Protocol):
    """What `make_metric` of a task's file (tasks/contract.py) gives."""

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None: ...

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result: ...


def plain(value: Any) -> Any:
    """`value` with numpy numbers and arrays turned into Python's own, and NaN and infinity into None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
