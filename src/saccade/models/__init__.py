"""Find and make models by name. Imports no torch until a model is made."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

from saccade.errors import UsageError
from saccade.models.configs import with_changes
from saccade.models.contract import Room
from saccade.models.other_names import unknown_model
from saccade.models.own_file import is_own, named_by_user, own_room
from saccade.models.published import PUBLISHED

CATALOGUE = Path(__file__).with_name("catalogue.json")


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """All models by name, as `python -m saccade.models.make_catalogue` wrote them from the model files."""
    entries: dict[str, dict[str, Any]] = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    return entries


def find_models(task: str | None = None) -> list[dict[str, Any]]:
    """Catalogue entries, all or those that can be trained for `task`, by year and name; `weights`: those published,
    `file`: where the model stands."""
    entries = [
        dict(entry, name=name, weights=list(PUBLISHED.get(name, {})), file=file_of(entry))
        for name, entry in catalogue().items()
        if task is None or task in entry["tasks"]
    ]
    return sorted(entries, key=lambda e: (e["year"], e["name"]))


def file_of(entry: Mapping[str, Any]) -> str:
    """The file in which a model of the catalogue stands, as `saccade/models/detectors/ssd.py`."""
    return str(entry["module"]).replace(".", "/") + ".py"


def known_model(text: str) -> str:
    """The name of a model that a user names: of the catalogue, or a file of the user's own (`own_file`), which is read.

    Raises:
        UsageError: no such model, with suggestions; a file that fails or holds no network.
    """
    if is_own(text):
        return named_by_user(text)
    if text not in catalogue():
        raise UsageError(unknown_model(text, catalogue()))
    return text


def model_module(name: str) -> Room:
    """The room (module) of a model. Raises UsageError with suggestions."""
    if is_own(name):
        return own_room(name)
    if name not in catalogue():
        raise UsageError(unknown_model(name, catalogue()))
    return cast("Room", importlib.import_module(catalogue()[name]["module"]))


def model_config(name: str, **changes: Any) -> Any:
    """The frozen Config of a model with some fields replaced.

    Raises:
        UsageError: a field that it does not have, or a value that is not of the field's type and shape.
    """
    return with_changes(model_module(name).VARIANTS[name], changes, name)


def create(name: str, **changes: Any) -> Any:
    """A fresh model (an nn.Module with forward, loss and predict): `create("resnet18", classes=10)`.

    A file of your own is named by its path: `create("./my_net.py", classes=10)`.
    """
    from saccade.ops.conv_gradients import mend

    name = known_model(name)
    model = model_module(name).Model(model_config(name, **changes))
    mend(model)
    return model
