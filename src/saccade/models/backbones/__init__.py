"""Classification networks, each also a trunk for detectors, segmenters and localizers."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from typing import Any, Literal, cast

from torch import Tensor, nn

from saccade.errors import UsageError, suggest
from saccade.layers.frozen_norm import freeze_norms
from saccade.models import catalogue
from saccade.models.configs import with_changes
from saccade.models.contract import Room, as_trunk, features_of
from saccade.models.dry_run import class_tensors

LISTED = "saccade models --task classify"  # the command that shows all of them


def create_trunk(
    name: str,
    width: float | None = None,
    norm: Literal["batch", "frozen", "none"] | None = None,
    norm_eps: float | None = None,
    depths: tuple[int, ...] | None = None,
    dilated: bool = False,
    tail: bool | int = False,
) -> Any:
    """A classification network without its classifier: an nn.Module with `features`, `channels` and `strides`.

    The arguments are the fields `trunk`, `trunk_width`, `trunk_norm`, ... of the Configs that stand on a trunk. The
    maps of a network that shrinks them by unpadded convolutions are padded, where its room offers that (`AS_TRUNK`).

    Args:
        width, depths: in place of the fields of the same name in the network's Config.
        norm: frozen: its batch norms become `FrozenBatchNorm2d`; batch: it must have some; none: it is made without, by
            the field `norm` of its Config; None: as it is.
        norm_eps: of its batch norms.
        dilated: the last map has the stride of the one before, where the network has a field of this name.
        tail: keep what follows its last map for regions, where the network has it (`models.contract.has_tail`); a
            number is the units of fc6 and fc7 there.

    Raises:
        UsageError: no such network, one without feature maps, a field that it has not, or norms that it has not.
    """
    room = _room(name)
    hidden = None if isinstance(tail, bool) else tail
    asked = {"width": width, "depths": depths, "dilated": dilated or None, "hidden": hidden}
    changes = {field: value for field, value in asked.items() if value is not None}
    if tail and hasattr(room.VARIANTS[name], "tail"):
        changes["tail"] = True
    if norm == "none":
        changes["norm"] = False
    config = with_changes(room.VARIANTS[name], {"classes": 0, **as_trunk(room), **changes}, name)
    trunk = room.Model(config)
    if features_of(trunk) is None:
        raise UsageError(f"{name} gives no feature maps and cannot serve as a trunk; {_networks()} can")
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms and (norm in ("batch", "frozen") or norm_eps is not None):
        raise UsageError(f"the trunk {name} has no batch norms, so that it takes neither trunk_norm nor trunk_norm_eps")
    for module in norms:
        module.eps = module.eps if norm_eps is None else norm_eps
    if norm == "frozen":
        freeze_norms(trunk)
    return trunk


class Extractor(nn.Module):
    """A classification network without its last layer, in two parts, for what stands on features of whole images.

    Attributes:
        network: images [n, 3, H, W] in [0, 1] -> what comes first to its fully connected layers, [n, pooled].
        tail: those layers but the last, [n, pooled] -> [n, hidden]; the identity where there is one alone.
        layers: the name in the whole network of what `tail` was taken from; "" where there is one layer alone.
    """

    def __init__(self, network: nn.Module, tail: nn.Module, pooled: int, hidden: int, layers: str = "") -> None:
        super().__init__()
        self.network, self.tail, self.layers = network, tail, layers
        self.pooled, self.hidden = pooled, hidden

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 3, H, W] -> [n, pooled] and [n, hidden]: pool5 and fc7 of AlexNet and VGG; elsewhere twice the mean over
        the last map."""
        pooled = self.network(images)
        return pooled, self.tail(pooled)


def create_extractor(name: str, width: float | None = None, depths: tuple[int, ...] | None = None) -> Extractor:
    """A classification network as a source of features; its images have the size that its classifier wants.

    Args:
        width, depths: as in `create_trunk`.

    Raises:
        UsageError: no such network or field, or its last layer gives no logits by itself.
    """
    room = _room(name)
    asked = {"width": width, "depths": depths}
    changes = {field: value for field, value in asked.items() if value is not None}
    config = with_changes(room.VARIANTS[name], changes, name)
    network = room.Model(config)
    layers = {tensor.rpartition(".")[0] for tensor in class_tensors(room, config)}
    place = next(reversed([part for part, _ in network.named_modules() if part in layers]), "")
    last = network.get_submodule(place)
    if len(layers) != 1 or not isinstance(last, nn.Linear | nn.Conv2d):
        raise UsageError(
            f"{name} does not end in one layer of classes and gives no features of a region; take another trunk, such "
            "as resnet18, vgg16 or squeezenet1_1"
        )
    hidden = last.in_features if isinstance(last, nn.Linear) else last.in_channels
    owner = place.rpartition(".")[0]
    layers_before = network.get_submodule(owner)
    linears = [layer for layer in layers_before.children() if isinstance(layer, nn.Linear)]
    if not isinstance(layers_before, nn.Sequential) or len(linears) < 2:
        network.set_submodule(place, nn.Identity())
        return Extractor(network, nn.Identity(), hidden, hidden)
    network.set_submodule(owner, nn.Identity())
    return Extractor(network, nn.Sequential(*list(layers_before)[:-1]), linears[0].in_features, hidden, owner)


def refuse_strides(name: str, strides: Sequence[int], wanted: str, least: int) -> UsageError:
    """The error for a trunk whose maps do not suit what stands on it.

    Args:
        strides: those of the trunk.
        wanted: what is needed of them, in words: `one at 8`.
        least: a stride that those networks have which the message names.
    """
    listed = ", ".join(map(str, strides))
    return UsageError(f"the trunk {name} has maps at strides {listed}, and needs {wanted}; {_networks(least)} fit")


def _networks(stride: int | None = None) -> str:
    """One network of each room that gives feature maps, with one at `stride`."""
    found: dict[str, str] = {}
    for name, entry in catalogue().items():
        strides = entry.get("strides", [])
        if strides and (stride is None or stride in strides):
            found.setdefault(entry["module"], name)
    return ", ".join(found.values())


def _room(name: str) -> Room:
    """The module of a network: where the catalogue says, else (it is made from the rooms) the one that holds it."""
    prefix = f"{__name__}."
    stated = catalogue().get(name, {}).get("module", prefix)
    names = [known for known, entry in catalogue().items() if entry["module"].startswith(prefix)]
    if not stated.startswith(prefix):
        raise UsageError(f"{name} is no classification network, which a trunk is: {suggest(name, names, LISTED)}")
    if stated != prefix and importlib.util.find_spec(stated) is not None:
        return cast("Room", importlib.import_module(stated))
    for info in pkgutil.iter_modules(__path__):
        room = cast("Room", importlib.import_module(prefix + info.name))
        if name in room.VARIANTS:
            return room
    raise UsageError(f"unknown trunk {name!r}: {suggest(name, names, LISTED)}")
