"""A random step that may lose what the task cannot do without, and what is done in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saccade.data.types import Sample


@dataclass(frozen=True)
class KeepObjects:
    """`step` where all objects survive it, else `otherwise`; for localization, whose one box must stay in the image."""

    step: Callable[[Sample, np.random.Generator], Sample]
    otherwise: Callable[[Sample, np.random.Generator], Sample]  # loses nothing

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        changed = self.step(sample, rng)
        return changed if _count(changed) == _count(sample) else self.otherwise(sample, rng)


def _count(sample: Sample) -> int:
    return 0 if sample.truth.objects is None else len(sample.truth.objects)
