"""Find and make models by name. Imports no torch until a model is made."""

from __future__ import annotations

import dataclasses
import importlib
import json
import typing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from saccade.errors import UsageError, suggest
from saccade.models.published import PUBLISHED

CATALOGUE = Path(__file__).with_name("catalogue.json")


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """All models by name, as `python -m saccade.models.make_catalogue` wrote them from the model files."""
    entries: dict[str, dict[str, Any]] = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    return entries


def find_models(task: str | None = None) -> list[dict[str, Any]]:
    """Catalogue entries, all or those that can be trained for `task`, by year and name; `weights`: those published."""
    entries = [
        dict(entry, name=name, weights=list(PUBLISHED.get(name, {})))
        for name, entry in catalogue().items()
        if task is None or task in entry["tasks"]
    ]
    return sorted(entries, key=lambda e: (e["year"], e["name"]))


def model_module(name: str) -> ModuleType:
    """The room (module) of a model. Raises UsageError with suggestions."""
    if name not in catalogue():
        raise UsageError(f"unknown model {name!r}: {suggest(name, catalogue())} `saccade models` lists all")
    return importlib.import_module(catalogue()[name]["module"])


def model_config(name: str, **changes: Any) -> Any:
    """The frozen Config of a model with some fields replaced.

    Raises:
        UsageError: a field that it does not have, or a word that is not one of those that the field takes.
    """
    config = model_module(name).VARIANTS[name]
    fields = {f.name for f in dataclasses.fields(config)}
    hints = typing.get_type_hints(type(config))
    for key, value in changes.items():
        if key not in fields:
            raise UsageError(f"model {name} has no setting {key!r}: {suggest(key, fields)}")
        words = typing.get_args(hints[key]) if typing.get_origin(hints[key]) is Literal else ()
        if words and value not in words:
            raise UsageError(f"{key} of model {name} is {value!r}, allowed: {', '.join(map(str, words))}")
    return dataclasses.replace(config, **changes)


def create(name: str, **changes: Any) -> Any:
    """A fresh model (an nn.Module with forward, loss and predict): `create("resnet18", classes=10)`."""
    from saccade.ops.conv_gradients import mend

    model = model_module(name).Model(model_config(name, **changes))
    mend(model)
    return model
