"""Numbers that a field of a Config allows, said in its annotation: `nms_iou: Share = 0.5`.

`models.configs.with_changes` refuses what lies outside. Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both allowed; `above`: all but `low` itself."""

    low: float = 0.0
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)

    def __str__(self) -> str:
        if math.isfinite(self.high):
            return f"above {self.low:g} to {self.high:g}" if self.above else f"{self.low:g} to {self.high:g}"
        return f"above {self.low:g}" if self.above else f"{self.low:g} or more"


Share = Annotated[float, Range(high=1.0)]
"""A probability, an IoU, a part of a whole."""
NonNegative = Annotated[float, Range()]
"""A weight in a sum of losses, a distance."""
Positive = Annotated[float, Range(above=True)]
"""A size, or what is divided by."""
Count = Annotated[int, Range(low=1)]
"""How many, or how wide."""
Natural = Annotated[int, Range()]
"""A count that may be 0: what it counts is left out."""
