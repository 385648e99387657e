"""Values of a model's Config: given ones checked against the types and ranges of its fields, and what its source says
of each.

Imports no torch.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from saccade.config import Settings
from saccade.errors import UsageError, suggest
from saccade.models.contract import Room, recipe_of, with_weights

_UNIONS = (types.UnionType, typing.Union)  # int | None, and what Python makes of Literal[...] | None

OBJECTIVE = "objective"  # the field of a Config that holds `losses.classification.Objective`
SHAPES = ("priors", "anchors", "shapes")  # fields that hold widths and heights of boxes, in lists of any depth
WEIGHTS = {"class_weights"}  # of an objective, filled by the plan


def with_changes(config: Any, changes: Mapping[str, Any], model: str) -> Any:
    """A frozen Config with some fields replaced; lists become the tuples, mappings the dataclasses that it holds.

    With another `trunk`, the fields that a variant has for its own (`trunk_width`, ...) are none unless given.

    Args:
        config: a model's Config.
        changes: values by the names of `flat_values`, as Python, YAML or JSON give them. A field whose metadata has
            `read` is what that function makes of the value, such as the text of a file that it names.
        model: its name, for messages.

    Raises:
        UsageError: a field that there is not, or a value that is not of the field's type and shape.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    readers = {field.name: field.metadata["read"] for field in dataclasses.fields(config) if "read" in field.metadata}
    of_objective = {name: changes[name] for name in changes if name not in hints and name in flat_values(config)}
    values: dict[str, Any] = {}
    if changes.get("trunk", getattr(config, "trunk", None)) != getattr(config, "trunk", None):
        values = {name: None for name in hints if name.startswith("trunk_")}
    for name in [name for name in changes if name not in of_objective]:
        value = changes[name]
        if name not in hints:
            raise UsageError(f"model {model} has no setting {name!r}: {suggest(name, [*hints, *flat_values(config)])}")
        try:
            values[name] = _coerce(hints[name], value, getattr(config, name))
            if name in readers:
                values[name] = readers[name](values[name])
            if name in SHAPES and values[name] != getattr(config, name):
                _refuse_flat(values[name])
        except ValueError as error:
            form = f"; expected {describe_type(hints[name])}, such as {_short(getattr(config, name))}"
            what = "" if typing.get_origin(hints[name]) is Literal else form  # which lists the words
            raise UsageError(f"{name} of model {model} is {_short(value)}: {error}{what}") from None
    if of_objective:
        values[OBJECTIVE] = with_changes(values.get(OBJECTIVE, config.objective), of_objective, model)
    return dataclasses.replace(config, **values)


def flat_values(config: Any) -> dict[str, Any]:
    """The values of a Config by the names that users give: in place of `objective` stand its fields."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    objective = values.pop(OBJECTIVE, None)
    return values if objective is None else values | flat_values(objective)


def free_fields(config: Any) -> set[str]:
    """The names of a Config's fields that users set: all but the objective's weights, which follow from the data."""
    return set(flat_values(config)) - (WEIGHTS if hasattr(config, OBJECTIVE) else set())


def _refuse_flat(shapes: Any) -> None:
    """Raises ValueError for a side of a box that is not above 0, or a list without boxes."""
    if isinstance(shapes, tuple):
        if not shapes:
            raise ValueError("a list without boxes")
        for each in shapes:
            _refuse_flat(each)
    elif shapes <= 0:
        raise ValueError(f"a side of {shapes:g}; widths and heights of boxes are above 0")


def _coerce(hint: Any, value: Any, now: Any) -> Any:
    """`value` as the annotated type. Raises ValueError with what is wrong."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        number = _coerce(parts[0], value, now)
        if number not in parts[1]:
            raise ValueError(f"allowed: {parts[1]}")
        return number
    if origin is Literal:
        if value not in parts or type(value) not in {type(part) for part in parts}:
            raise ValueError(f"allowed: {', '.join(map(str, parts))}")
        return value
    if origin in _UNIONS:  # X | None
        kinds = [part for part in parts if part is not type(None)]
        is_number = kinds[0] in (int, float) or typing.get_origin(kinds[0]) is Annotated
        nothing = value is None or (value == "none" and is_number)  # the word that messages use
        return None if nothing else _coerce(kinds[0], value, now)
    if origin is tuple:
        return _coerce_tuple(parts, value)
    if dataclasses.is_dataclass(hint):
        return _coerce_dataclass(hint, value, now)
    return _coerce_plain(hint, value)


def _coerce_tuple(parts: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{_short(value)} is no list")
    if parts[-1] is Ellipsis:
        return tuple(_coerce(parts[0], item, None) for item in value)
    if len(value) != len(parts):
        raise ValueError(f"{_short(value)} has {len(value)} entries, not {len(parts)}")
    return tuple(_coerce(part, item, None) for part, item in zip(parts, value, strict=True))


def _coerce_dataclass(hint: Any, value: Any, now: Any) -> Any:
    if isinstance(value, hint):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{_short(value)} is no mapping of names to values")
    hints = typing.get_type_hints(hint, include_extras=True)
    unknown = set(value) - set(hints)
    if unknown:
        raise ValueError(f"no field {min(unknown, key=str)!r}: {suggest(str(min(unknown, key=str)), hints)}")
    changed = {name: _coerce(hints[name], item, getattr(now, name, None)) for name, item in value.items()}
    return dataclasses.replace(now, **changed) if now is not None else hint(**changed)


def _coerce_plain(hint: Any, value: Any) -> Any:
    if hint is bool or hint is str:
        if not isinstance(value, hint):
            raise ValueError(f"{_short(value)} is not {'true or false' if hint is bool else 'a word'}")
        return value
    number = _number(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f"{_short(value)} is no {'whole ' if hint is int else ''}number")
    if hint is int:
        if number != int(number) or number < 0:
            raise ValueError(f"{_short(value)} is no whole number from 0 on")
        return int(number)
    return float(number)


def _number(value: Any) -> float | int | None:
    """None for what is no number; YAML takes `1e-3` for a word."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def config_from_json(module: Room, model: str, state: Mapping[str, Any]) -> Any:
    """A model's Config from JSON: lists become the tuples, dictionaries the dataclasses that frozen configs hold."""
    return _from_json(module.VARIANTS[model], _renamed(module.VARIANTS[model], state))


def unknown_fields(module: Room, model: str, state: Mapping[str, Any]) -> list[str]:
    """Names in a stored Config that the model's Config does not have, nor had under an older name."""
    made = module.VARIANTS[model]
    return sorted(set(_renamed(made, state)) - {field.name for field in dataclasses.fields(made)})


def _renamed(made: Any, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored Config in today's names.

    `label_smoothing` of the first classifiers is a part of `objective`; U-Net's `encoder` is its `trunk`; the pyramid
    detector wrote out the residual network that it stands on, and its small form drew boxes as the paper's; our small
    detector and the paper's SSD were one Config.
    """
    state, fields = dict(state), {field.name for field in dataclasses.fields(made)}
    if "label_smoothing" in state and "objective" not in state and "objective" in fields:
        state["objective"] = {"label_smoothing": state.pop("label_smoothing")}
    if "block" in state and "trunk" in fields:
        state["trunk"] = {"basic": "resnet18", "bottleneck": "resnet50"}[state.pop("block")]
        state |= {f"trunk_{name}": state.pop(name) for name in ("depths", "width", "norm", "norm_eps") if name in state}
    for before, now in (("encoder", "trunk"), ("encoder_width", "trunk_width")):
        if before in state and now in fields:
            state[now] = state.pop(before)
    if "head_iou" in state and "cascade" in fields:
        state = {name: value for name, value in _BOXES_OF_THE_PAPER.items() if name not in state} | state
    if {"fit_priors", "steps"} <= set(state):
        return _small_detector(state) if "trunk_width" in fields else _paper_ssd(state)
    return state


# Fields that the pyramid detector was given since, as they were before.
_BOXES_OF_THE_PAPER = {"aligned": False, "cascade": [], "box_loss": "smooth_l1", "box_weight": 1.0, "score": "softmax"}
# What the Config of both detectors had, and one of them never changed.
_SMALL_ALONE = {"matching": "overlap", "class_loss": "softmax", "fit_priors": False}
_SMALL_FIXED = {"matching": "adaptive", "class_loss": "quality", "side": 0}
_SMALL_COLOURS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # its trunk's own


def _small_detector(state: Mapping[str, Any]) -> dict[str, Any]:
    """What `ssd_small` stored while it was a variant of SSD. Values that it can no longer have stay, as unknown."""
    fixed = _SMALL_FIXED | _SMALL_COLOURS
    dropped = {name for name, value in fixed.items() if state.get(name) == value} | {"negatives", "min_negatives"}
    now = {"width": "trunk_width", "depths": "trunk_depths", "steps": "strides"}
    kept = {now.get(name, name): value for name, value in state.items() if name not in dropped}
    return kept | {"trunk": "resnet18"}


def _paper_ssd(state: Mapping[str, Any]) -> dict[str, Any]:
    """What `ssd300` and its siblings stored while `ssd_small` was one of them."""
    dropped = {name for name, value in _SMALL_ALONE.items() if state.get(name) == value}
    dropped |= {"trunk", "width", "depths", "channels"}
    kept = {name: value for name, value in state.items() if name not in dropped}
    return kept | {"form": str(state.get("trunk")).removeprefix("vgg")}


def _from_json(made: Any, state: Mapping[str, Any]) -> Any:
    values = {}
    for name, value in state.items():
        now = getattr(made, name, None)
        values[name] = _from_json(now, value) if dataclasses.is_dataclass(now) else _tuples(value)
    return dataclasses.replace(made, **values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def describe_type(hint: Any) -> str:
    """A field's type in words: `a list of lists of 2 numbers`."""
    return _type_words(hint, 1)


def _type_words(hint: Any, count: int) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _type_words(parts[0], count)
    if origin is Literal:
        return "one of " + ", ".join(map(str, parts))
    if origin in _UNIONS:
        return " or ".join("none" if part is type(None) else _type_words(part, count) for part in parts)
    if origin is tuple:
        many = "" if parts[-1] is Ellipsis else f"{len(parts)} "
        return f"{'a list' if count == 1 else 'lists'} of {many}{_type_words(parts[0], 2)}"
    if dataclasses.is_dataclass(hint):
        return f"{'a mapping' if count == 1 else 'mappings'} with {', '.join(typing.get_type_hints(hint))}"
    words = {int: ("a whole number", "whole numbers"), float: ("a number", "numbers"), str: ("a word", "words")}
    words[bool] = ("true or false", "true or false")
    return words[hint][count > 1]


def describe_fields(config: Any) -> list[dict[str, Any]]:
    """The fields of a Config in order, those of its objective in its place: name, value, type in words, and the comment
    that stands with it in the file."""
    hints, comments = typing.get_type_hints(type(config)), _comments(type(config))
    rows = []
    for name in hints:
        if name == OBJECTIVE:
            rows += [row for row in describe_fields(config.objective) if row["name"] not in WEIGHTS]
        else:
            words = {"type": describe_type(hints[name]), "help": comments.get(name, "")}
            rows.append({"name": name, "value": getattr(config, name)} | words)
    return rows


def describe_settings(model: str | None = None, recipe: str = "default") -> list[dict[str, Any]]:
    """Every training setting, and with a model what its recipe sets and the fields of its own Config.

    Returns:
        A row a setting: `name`, `value` (JSON-able), `from` ("default" or the recipe), `of` ("training" or the model),
        `group` (run, optimiser, numerics, data, augmentation, files, or "of MODEL"), `type`, `help`; `with_weights`:
        what the recipe sets instead where the run starts from weights (None: nothing else).

    Raises:
        UsageError: no such model or recipe.
    """
    from saccade.models import known_model, model_module

    own: dict[str, Any] = {}
    from_weights: dict[str, Any] = {}
    fields: list[dict[str, Any]] = []
    if model is not None:
        model = known_model(model)
        module = model_module(model)
        own = recipe_of(module, model, recipe)
        from_weights = with_weights(module, model, recipe, getattr(module.VARIANTS[model], "trunk", None))
        fields = [dict(row, of=model, group=f"of {model}") for row in describe_fields(module.VARIANTS[model])]
    hints = typing.get_type_hints(Settings)
    training = [
        {"name": f.name, "value": f.default, "type": describe_type(hints[f.name])}
        | {name: f.metadata[name] for name in ("help", "group")}
        for f in dataclasses.fields(Settings)
    ]
    rows = [dict(row, of="training") for row in training] + fields
    for row in rows:
        row["from"] = f"recipe {recipe}" if row["name"] in own else "default"
        row["with_weights"] = from_weights.get(row["name"])
        value = own.get(row["name"], row["value"])
        row["value"] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else _lists(value)  # type: ignore[arg-type]
    return rows


def _comments(made: type) -> dict[str, str]:
    """The comment of each field of a dataclass: behind it, or in the lines right above it."""
    try:
        lines = inspect.getsource(made).splitlines()
    except (OSError, TypeError):  # made from the constructor of a plain network
        return {}
    body = ast.parse(inspect.cleandoc("\n".join(lines))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = lines[(node.end_lineno or node.lineno) - 1]
            behind = last.encode()[node.end_col_offset or 0 :].decode().strip()
            above: list[str] = []
            row = node.lineno - 2
            while not behind.startswith("#") and lines[row].strip().startswith("#"):
                above.insert(0, lines[row].strip().lstrip("# "))
                row -= 1
            found[node.target.id] = behind.lstrip("# ") if behind.startswith("#") else " ".join(above)
    return found


def _short(value: Any) -> str:
    text = repr(_lists(value))
    return text if len(text) <= 80 else text[:77] + "..."


def _lists(value: Any) -> Any:
    """As a person writes it on the command line: tuples as lists."""
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
