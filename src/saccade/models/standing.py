"""The classification network that a model stands on, and where that network's weights go in the model.

Detectors, localizers and segmenters with the field `trunk` hold a network of the zoo without its classifier
(`create_trunk`), or in two parts (`create_extractor`). Its weights, however they come, are read by its own room and put
there; what a model has of the classifier besides says the `from_classifier` of its room.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from saccade.models.backbones import Extractor
from saccade.models.contract import Room, from_classifier
from saccade.models.dry_run import model_of_shapes

_BACKBONES = "saccade.models.backbones."


@dataclass(frozen=True, slots=True)
class Standing:
    """A classification network within a model."""

    network: str  # its name in the catalogue
    room: Room
    config: Any  # of its room, as the model has it
    place: str  # name in the model of what `create_trunk` or `create_extractor` made
    extractor: Extractor | None  # where it was the latter

    def classifier(self) -> nn.Module:
        """The whole network with the paper's classes, in shapes alone: what files of its weights are read for."""
        classes = self.room.VARIANTS[self.network].classes
        return model_of_shapes(self.room, dataclasses.replace(self.config, classes=classes))

    def other_fields(self, made: Mapping[str, Any] | None = None) -> list[str]:
        """Settings with which the model would stand on a network made as the weights' was: `--set trunk_width=64`.

        Args:
            made: the Config that the weights were made with; by default the usual one of the network.
        """
        wanted = dataclasses.asdict(self.room.VARIANTS[self.network]) if made is None else made
        own = dataclasses.asdict(self.config)
        names = [name for name in ("width", "depths", "hidden") if name in own and name in wanted]
        return [
            f"--set trunk_{name}={_plain(wanted[name])}" for name in names if _plain(own[name]) != _plain(wanted[name])
        ]

    def tensors(self, module: Room, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the classification network under the names that they have in the model.

        Args:
            module: the model's room.
            weights: under the names of the network's room. Each may come under several names, or one that there is not.
        """
        placed = from_classifier(module, weights)
        for key, value in weights.items():
            if self.extractor is None:
                placed[f"{self.place}.{key}"] = value
            elif self.extractor.layers and key.startswith(f"{self.extractor.layers}."):
                placed[f"{self.place}.tail{key.removeprefix(self.extractor.layers)}"] = value
            else:
                placed[f"{self.place}.network.{key}"] = value
        return placed


def standing_of(model: nn.Module) -> Standing | None:
    """What a model stands on; None for one that stands on itself."""
    name = getattr(model.config, "trunk", None)
    if name is None:
        return None
    for place, module in model.named_modules():
        network = module.network if isinstance(module, Extractor) else module
        kind = type(network)
        if kind.__name__ == "Model" and kind.__module__.startswith(_BACKBONES):
            room = cast("Room", sys.modules[kind.__module__])
            return Standing(str(name), room, network.config, place, module if isinstance(module, Extractor) else None)
    return None


def trunk_of(config: Any, *layers: Mapping[str, Any]) -> str | None:
    """The trunk of a model by its Config, or the last that settings give in its place; None of a model without."""
    asked = [layer["trunk"] for layer in layers if layer.get("trunk") is not None]
    name = asked[-1] if asked else getattr(config, "trunk", None)
    return None if name is None else str(name)


def is_counter(name: str) -> bool:
    """Whether a tensor counts batches: files from before 2018 have none, and nothing depends on it."""
    return name.endswith(".num_batches_tracked")


def parts_of(names: Iterable[str], all_names: Iterable[str]) -> list[str]:
    """Parts of a network whose tensors, but for batch counters, are all among `names`, each by its shortest name."""
    wanted, others = set(names), [name.split(".") for name in all_names if not is_counter(name)]
    mixed = {".".join(parts[:i]) for parts in others for i in range(len(parts) + 1) if ".".join(parts) not in wanted}
    found: dict[str, None] = {}
    for parts in (name.split(".") for name in names):
        ways = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
        found[next(way for way in ways if way not in mixed)] = None
    return list(found)


def _plain(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple | list) else str(value)
