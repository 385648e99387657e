"""Classification networks, each also a trunk for detectors and segmenters."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any

from saccade.errors import UsageError, suggest


def create_trunk(name: str, **changes: Any) -> Any:
    """A backbone without classifier: an nn.Module with `features`, `channels` and `strides`.

    `changes` replace fields of its Config (`norm="frozen"`, `width=32`). It asks the rooms themselves and not the
    catalogue, which is made from them.

    Raises:
        UsageError: no backbone has this name, or it cannot serve as a trunk.
    """
    names: list[str] = []
    for room in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{room.name}")
        if name in module.VARIANTS:
            trunk = module.Model(dataclasses.replace(module.VARIANTS[name], classes=0, **changes))
            if not hasattr(trunk, "features"):
                raise UsageError(f"backbone {name} gives no feature maps and cannot serve as a trunk")
            return trunk
        names += module.VARIANTS
    raise UsageError(f"unknown backbone {name!r}: {suggest(name, names)}")
