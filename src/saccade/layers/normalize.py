"""Input normalisation inside the model, so that a checkpoint carries its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1], as the public torchvision checkpoints expect
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize(nn.Module):
    """(images - mean) / std for images [b, 3, H, W] in [0, 1]; buffers outside the state dict (public layouts).

    Source: LeCun et al. 1998, "Efficient BackProp", section 4.3; here one mean and deviation a colour.
    """

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        if len(mean) not in (1, 3) or len(std) != len(mean) or not all(map(math.isfinite, mean)) or min(std) <= 0:
            raise ValueError(f"mean {mean} and std {std}: expected a number each for gray or for red, green and blue")
        self.nothing = set(mean) == {0.0} and set(std) == {1.0}  # of a trunk whose owner normalises
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.nothing:
            return images
        return (images - self.get_buffer("mean")) / self.get_buffer("std")


def fill_padding(images: Tensor, sizes: Sequence[tuple[int, int]], colour: Tensor) -> Tensor:
    """The images with one colour beyond their own sizes: the mean, which is 0 after normalisation.

    So the public detection weights know padding; and what a network answers does not depend on what stands there.

    Args:
        images: [b, 3, H, W], padded right and below.
        sizes: (height, width) of each image inside the padding.
        colour: broadcasts with the images, such as [1, 3, 1, 1] (`mean_colour`).
    """
    height, width = images.shape[-2:]
    if all(size == (height, width) for size in sizes):
        return images
    return fill_beyond(images, torch.tensor(sizes).to(images.device, non_blocking=True), colour)


def fill_beyond(images: Tensor, limits: Tensor, colour: Tensor) -> Tensor:
    """`fill_padding` where sizes are numbers of the graph, as in a file that is exported: `limits` [b, 2]."""
    inside_y = torch.arange(images.shape[-2], device=images.device) < limits[:, :1]
    inside_x = torch.arange(images.shape[-1], device=images.device) < limits[:, 1:]
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return torch.where(inside, images, colour.to(images.dtype))


def mean_colour(network: nn.Module) -> Tensor:
    """The mean [1, 3, 1, 1] (or [1, 1, 1, 1]), in [0, 1], that the first `Normalize` inside a network subtracts."""
    normalize = next(module for module in network.modules() if isinstance(module, Normalize))
    return normalize.get_buffer("mean").clone()
