"""Whether a run's network can be built and takes its images: tried in shapes alone, before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saccade.config import Settings, height_width
from saccade.errors import UsageError
from saccade.models.contract import Room, size_of
from saccade.models.dry_run import FAULTS, fault_at, model_of_shapes, smallest_side, takes
from saccade.training.rescale import scaled_side

LARGER = (1, 2, 4, 8)  # times the usual side: where a side is looked for that a network takes


def check_buildable(
    module: Room, model: str, config: Any, given: Sequence[str], settings: Settings, size: tuple[int, int] | None
) -> None:
    """Build the network in shapes alone, and send an image of the run's size through.

    Args:
        given: fields of Config that a person gave; what stands in the model file fits.
        size: height and width of the input; None: those of the training crop.

    Raises:
        UsageError: names the size and the smallest that would do, or the fields where no size does.
    """
    values = ", ".join(f"{name}={getattr(config, name)}" for name in given)
    look = f"`saccade settings {model}` lists its fields"
    try:
        network = model_of_shapes(module, config)
    except FAULTS as error:
        if not given or isinstance(error, UsageError):  # which says itself what is wrong
            raise
        raise UsageError(f"{model} cannot be built with {values}: {error}. {look}") from error
    height, width = smallest_size(settings, size)
    fault = fault_at(module, network, height, width)
    if fault is None:
        return
    usual = size_of(module, model)
    known = next((side * usual for side in LARGER if takes(module, network, side * usual, side * usual)), None)
    called = f"{model} with {values}" if given else model
    if known is None:
        if given:  # else it does what shapes alone cannot show, in a file of the user's perhaps
            tried = f"{height}x{width}, nor of {' or '.join(str(side * usual) for side in LARGER)} pixels a side"
            raise UsageError(f"{called} takes no image of {tried}: {fault}. {look}") from fault
        return
    least = smallest_side(module, network, known)
    if min(height, width) < least:
        raise UsageError(
            f"size {height}x{width} is too small for {called}, which needs at least {least}x{least}: use a "
            "larger --size"
        ) from fault
    raise UsageError(f"size {height}x{width} does not go through {called}, {known}x{known} does: {fault}") from fault


def smallest_size(settings: Settings, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the smallest images that the network is trained on."""
    height, width = size or height_width(settings.size)
    if settings.multi_scale:
        return scaled_side(height, 1 - settings.multi_scale), scaled_side(width, 1 - settings.multi_scale)
    return height, width
