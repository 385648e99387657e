"""Whether the priors (anchors, shapes of windows) of a detector fit the boxes that it is to learn."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from saccade.data.pipelines import Preprocessing
from saccade.data.types import Annotation
from saccade.errors import UsageError
from saccade.layers.anchors import best_overlaps, sides_of_boxes
from saccade.models.configs import SHAPES
from saccade.models.contract import Room, priors_as_shares, priors_of

GOOD, FEW = 0.5, 0.1  # IoU from which a prior fits a box, and the share of boxes below which a run warns


def poor_priors(
    room: Room, config: Any, examples: list[Annotation], data: Path, shape: Preprocessing, given: Collection[str]
) -> list[str]:
    """A warning where the priors (width, height) that the network of a Config uses fit hardly any of the boxes.

    Args:
        examples: their boxes in pixels of the network's input.
        given: the fields of the Config that a person gave.

    Raises:
        UsageError: a person gave the priors, and they fit not one box.
    """
    sides, as_shares = sides_of_boxes(examples), priors_as_shares(room)
    field, used = priors_of(room, config, SHAPES)
    priors = torch.tensor(list(_flat(used))).view(-1, 2)
    if not len(sides) or not len(priors) or shape.size is None:
        return []
    if as_shares:
        priors = priors * max(shape.size)
    good = float((best_overlaps(sides, priors) > GOOD).float().mean())
    if good >= FEW:
        return []
    size = "x".join(map(str, shape.size))
    unit = f" in pixels; those of this model are shares of {max(shape.size)}" if as_shares else ""
    words = (
        f"the {field} overlap only {good:.1%} of the boxes by more than {GOOD}, so that hardly any object has one that "
        f"could learn it: `saccade anchors {data} --k {len(priors)} --size {size}` finds some that do{unit}"
    )
    if good == 0 and field in given:
        raise UsageError(words)
    return [words]


def _flat(numbers: Any) -> Iterator[float]:
    for number in numbers:
        if isinstance(number, list | tuple):
            yield from _flat(number)
        else:
            yield float(number)
