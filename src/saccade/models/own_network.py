"""A plain `nn.Module` of the user's as a network that Saccade trains: its Config is read from its constructor.

The constructor takes the number of classes, `forward` gives logits [b, classes] for images [b, 3, H, W]; no more is
needed to classify and to tag. The images are normalised before, by ImageNet's mean and deviation unless `mean` and
`std` say otherwise, as plain networks of PyTorch expect.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from saccade.data.types import Annotation, Batch
from saccade.errors import UsageError
from saccade.layers.classification import classification_predictions
from saccade.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize
from saccade.losses.classification import CROSS_ENTROPY, Objective, classification_loss
from saccade.models.recipes import PHOTOGRAPHS

COUNTS = ("classes", "num_classes", "n_classes", "number_of_classes", "num_labels", "nb_classes")
SIDES = (224, 32, 28, 64, 96, 128, 227, 256, 299)  # tried in this order for networks of one size
_EXAMPLES, _CLASSES = 2, 10  # images and classes of a trial


class OwnNetwork(nn.Module):
    """A plain network with the loss, the answers and the normalisation of a classifier.

    Args:
        config: its Config, made by `names_of_plain`.
        network: images [b, 3, H, W], normalised -> logits [b, classes].
    """

    def __init__(self, config: Any, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(config.mean, config.std)
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits [b, classes] of images [b, 3, H, W] in [0, 1]."""
        logits: Tensor = self.network(self.normalize(images))
        return logits

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return classification_loss(self(batch.images), batch.truth, self.config.task, self.config.objective)

    def predict(self, batch: Batch) -> list[Annotation]:
        return classification_predictions(self(batch.images), batch.sizes, self.config.task)


def names_of_plain(module: ModuleType, path: Path) -> dict[str, Any]:
    """What a room must offer, for the plain networks of a file.

    Raises:
        UsageError: the file defines no nn.Module; a constructor that does not take the number of classes, or needs
            more; a network that gives no logits.
    """
    kinds = {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == module.__name__
    }
    if not kinds:
        raise UsageError(f"{path} defines no network: a class that derives from torch.nn.Module, with forward(images)")
    made, faults = {}, {}
    for name, kind in kinds.items():
        try:
            made[name] = _config_type(kind, f"{path} class {name}")
        except UsageError as error:  # of a block, most likely, of which a network is made
            faults[name] = error
    if not made:
        raise next(iter(reversed(faults.values())))

    def build(config: Any) -> OwnNetwork:
        name, count = next((name, count) for name, (made_of, count) in made.items() if made_of is type(config))
        options = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
        given = {name: value for name, value in options.items() if name not in _FIELDS}
        return OwnNetwork(config, kinds[name](**{count: config.classes}, **given))

    usual = _usual(made, path)
    side = getattr(module, "SIZE", None)
    if side is None:
        side = 224 if usual is None else _find_side(build, made[usual][0](), f"{path} class {usual}")

    def from_public(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The plain network's own state dict as well as ours."""
        own = all(name.startswith("network.") for name in state_dict)
        return dict(state_dict) if own else {f"network.{name}": value for name, value in state_dict.items()}

    return {
        "FIRST": usual,
        "TASKS": ("classify", "tag"),
        "Config": next(iter(made.values()))[0],
        "Model": build,
        "VARIANTS": {name: config() for name, (config, _) in made.items()},
        "SIZE": side,
        "RECIPES": getattr(module, "RECIPES", {"default": {"*": PHOTOGRAPHS | {"size": side}}}),
        "from_public": from_public,
    }


def _usual(made: Mapping[str, tuple[type, str]], path: Path) -> str | None:
    """The class that is meant where none is named: the only one whose constructor says that it takes classes, or the
    one that has the name of the file, or is called Model or Net; None where that leaves a choice."""
    names = [name for name, (_, count) in made.items() if count in COUNTS] or list(made)
    alike = [name for name in names if name.lower() == path.stem.replace("_", "").lower()]
    found = alike or [name for name in ("Model", "Net") if name in names] or names
    return found[0] if len(found) == 1 or alike else None


_FIELDS = {"classes", "task", "objective", "mean", "std"}  # of every such Config; the others are the constructor's


def _config_type(kind: type, where: str) -> tuple[type, str]:
    """A Config whose fields are the options of a constructor, and the name of its argument for the classes."""
    arguments = [
        p for p in inspect.signature(kind).parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    needed = [p.name for p in arguments if p.default is p.empty]
    counts = [p.name for p in arguments if p.name in COUNTS] or needed[:1]
    if not counts:
        raise UsageError(f"{where}: its constructor must take the number of classes, as an argument num_classes")
    others = [name for name in needed if name != counts[0]]
    if others:
        raise UsageError(
            f"{where}: its constructor is given the number of classes ({counts[0]}) alone; {', '.join(others)} needs a "
            "default, and can then be set by --set"
        )
    fields: list[tuple[str, Any, Any]] = [
        ("classes", int, _CLASSES),
        ("task", str, "classify"),
        ("objective", Objective, CROSS_ENTROPY),
        ("mean", tuple[float, ...], IMAGENET_MEAN),
        ("std", tuple[float, ...], IMAGENET_STD),
    ]
    for p in arguments:
        if p.name not in (counts[0], *_FIELDS) and type(p.default) in (int, float, bool, str):
            fields.append((p.name, type(p.default), p.default))
    return dataclasses.make_dataclass("Config", fields, frozen=True), counts[0]


def _find_side(build: Any, config: Any, where: str) -> int:
    """The first of the usual sizes of images that a network takes, in shapes alone. Raises UsageError, or what the
    network raises at the first."""
    first: Exception | None = None
    for side in SIDES:
        try:
            with torch.no_grad(), torch.device("meta"):
                found = build(config).eval()(torch.empty(_EXAMPLES, 3, side, side))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            first = first or error
            continue
        shape = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        if shape != [_EXAMPLES, _CLASSES]:
            raise UsageError(
                f"{where}: its forward gives {shape} for {_EXAMPLES} images of {side}x{side} and {_CLASSES} classes; "
                f"a plain network is a classifier, which gives logits [{_EXAMPLES}, {_CLASSES}]; one for another task "
                "needs Config, loss and predict (docs/own_network.md, 2)"
            )
        return side
    assert first is not None
    tried = ", ".join(map(str, SIDES))
    first.add_note(f"with images of {SIDES[0]}x{SIDES[0]}, and no other of {tried} goes through; SIZE = N says yours")
    raise first
