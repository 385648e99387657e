"""The place at which a trunk hands out its maps, and what a trunk gives that says where its poolings took them from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


class Maps(nn.Module):
    """Gives on the maps of a trunk, each [b, channels[i], h_i, w_i], as they are.

    `features` of many trunks is a method, which has no forward hooks, and some maps come from a function, such as the
    activation that the next stage begins with. A trunk whose `features` ends by this module has a place where hooks see
    all its maps, with their gradients: `network.maps.register_forward_hook(...)`.
    """

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps


@dataclass(frozen=True, slots=True)
class Pooled:
    """What a trunk ends in behind its last pooling, with what undoes each pooling; n poolings, from fine to coarse."""

    map: Tensor  # [b, c, h, w], pooled n times
    indices: list[Tensor]  # n of [b, c_i, h_i, w_i] int64: row * width + column of every maximum in the map before
    sizes: list[tuple[int, int]]  # n of (height, width): of the map before
