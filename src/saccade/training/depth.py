"""A network as a list of parts from the image to the answer: what is frozen, and what learns at which rate.

Parts are the children of the network in the order in which the paper (and `forward`) goes through them. Lists of layers
(nn.Sequential, nn.ModuleList) and trunks (a module with lists of `channels` or `strides`, or called `features`) are
opened, so that the parts of a ResNet are its stem and its residual blocks, those of a VGG its convolutions and linear
layers. A norm belongs to the layer before it. Layers whose shape follows from the number of classes come last, wherever
they stand.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

from saccade.errors import UsageError
from saccade.models.contract import is_trunk


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the network that is frozen, or learns, as one."""

    name: str  # of its first module, as in the state dict
    modules: tuple[tuple[str, nn.Module], ...]  # names as in the state dict

    def parameters(self) -> dict[str, nn.Parameter]:
        """By their names in the whole network."""
        return {
            f"{prefix}.{name}": parameter
            for prefix, module in self.modules
            for name, parameter in module.named_parameters()
        }


def find_parts(model: nn.Module, last: Collection[str] = ()) -> list[Part]:
    """The parts of a network in order of depth; each holds parameters, together they hold all that modules hold.

    Args:
        last: names of tensors whose parts stand at the end (`class_tensors`).
    """
    parts: list[Part] = []
    for name, module in _pieces("", model):
        matrices = any(p.ndim >= 2 for p in module.parameters())
        if parts and not matrices:  # a norm, or a learned activation
            parts[-1] = Part(parts[-1].name, (*parts[-1].modules, (name, module)))
        else:
            parts.append(Part(name, ((name, module),)))
    heads = [part for part in parts if not set(last).isdisjoint(part.parameters())]
    return [part for part in parts if part not in heads] + heads


def _pieces(prefix: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    children = {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
    for name, child in children.items():
        path = f"{prefix}.{name}" if prefix else name
        whole = not any(True for _ in child.children())
        opened = _is_opened(name, child) or (len(children) == 1 and not prefix)
        found += _pieces(path, child) if opened and not whole else [(path, child)]
    return found


def _is_opened(name: str, module: nn.Module) -> bool:
    """Whether a module is a list or a trunk. One that holds parameters besides its children stays in one piece."""
    if any(True for _ in module.parameters(recurse=False)):
        return False
    if name == "features" or is_trunk(module):
        return True
    filled = [child for child in module.children() if any(p.ndim >= 2 for p in child.parameters())]
    return isinstance(module, nn.Sequential | nn.ModuleList) and len(filled) > 1


def freeze(parts: Sequence[Part], count: int, model: str) -> list[nn.Module]:
    """Take the first `count` parts out of training: their parameters get no gradient.

    Returns:
        The modules of these parts; the loop keeps them in evaluation mode, so that batch norms keep their statistics
        and dropout lets everything through.

    Raises:
        UsageError: no part would be left to learn; names the parts.
    """
    if count >= len(parts):
        names = ", ".join(f"{number} {part.name}" for number, part in enumerate(parts, 1))
        raise UsageError(
            f"freeze is {count}, but {model} has {len(parts)} parts, of which the last must learn: allowed are 0 to "
            f"{len(parts) - 1}. The parts: {names}"
        )
    frozen = []
    for part in parts[:count]:
        for _, module in part.modules:
            module.requires_grad_(False)
            frozen.append(module)
    return frozen


def rate_scales(parts: Sequence[Part], decay: float) -> dict[str, float]:
    """The factor on the learning rate of every parameter: decay ** (parts behind its own).

    The last part learns at the full rate, the one before at `decay` times it, and so on down to the image.

    Source: Howard & Ruder 2018, "Universal language model fine-tuning", section 3.2 (discriminative fine-tuning, there
    1 / 2.6); the name is that of Bao et al. 2022 (BEiT).
    """
    top = len(parts) - 1
    return {name: decay ** (top - depth) for depth, part in enumerate(parts) for name in part.parameters()}
