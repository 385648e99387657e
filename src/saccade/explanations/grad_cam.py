"""Grad-CAM: where the last maps of a network speak for a class.

Sources: Selvaraju et al. 2017, "Grad-CAM: Visual explanations from deep networks via gradient-based localization",
section 3; Zhou et al. 2016, "Learning deep features for discriminative localization" (CAM), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.errors import UsageError
from saccade.explanations.layers import of_trunk, recorded_maps
from saccade.tasks.contract import Scores


@dataclass(frozen=True, slots=True)
class GradCam:
    """Heat maps of one image."""

    layer: str  # whose maps are weighted
    heat: Tensor  # [targets, h, w] float32 at the layer's own resolution, at least 0, in units of the score


def grad_cam(model: nn.Module, images: Tensor, scores: Scores, deepest: bool = False) -> GradCam:
    """relu(sum_k a_k A_k) with a_k the mean over the map of the gradient of the score by channel k (equations 1 and 2).

    The maps A are the last ones before the pooling over the whole map: the last of the trunk contract (`features`)
    where the network has it, else of the last layer with more than one cell. For a network that ends in mean pooling
    and one linear layer, the result is CAM without its negative part, divided by the number of cells.

    Args:
        images: [1, 3, H, W] in [0, 1].
        scores: differentiable (`raw_scores` of the task).
        deepest: take the smallest map instead, the bottleneck of a network that widens again (segmentation).

    Raises:
        UsageError: no map of a single image with more than one cell leads to the score.
    """
    with torch.enable_grad(), recorded_maps(model) as maps:
        values = scores(images.detach().clone().requires_grad_())
    for name in _candidates(maps, deepest):
        heat = _weighted(values[0], maps[name])
        if heat is not None:
            return GradCam(name, heat)
    raise UsageError(
        f"Grad-CAM needs a layer whose map has more than one cell; with images of {images.shape[2]}x{images.shape[3]} "
        "this network has none on the way to its answer. Train it at a larger --size, or ask for --methods occlusion"
    )


def _candidates(maps: dict[str, Tensor], deepest: bool) -> list[str]:
    last_first = list(reversed(maps))
    if deepest:
        return sorted(last_first, key=lambda name: maps[name][0, 0].numel())
    trunk = [name for name in last_first if of_trunk(name)]
    return trunk + [name for name in last_first if name not in trunk]


def _weighted(values: Tensor, maps: Tensor) -> Tensor | None:
    """Heat [targets, h, w]; None where the maps have no part in the scores."""
    heats = []
    for value in values:
        if not (maps.requires_grad and value.requires_grad):
            return None
        (gradient,) = torch.autograd.grad(value, maps, retain_graph=True, allow_unused=True)
        if gradient is None:
            return None
        weights = gradient.float().mean((2, 3), keepdim=True)
        heats.append((weights * maps.detach().float()).sum(1)[0].clamp(min=0))
    return torch.stack(heats).cpu()
