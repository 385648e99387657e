"""The place at which a trunk hands out its maps."""

from __future__ import annotations

from torch import Tensor, nn


class Maps(nn.Module):
    """Gives on the maps of a trunk, each [b, channels[i], h_i, w_i], as they are.

    `features` of many trunks is a method, which has no forward hooks, and some maps come from a function, such as the
    activation that the next stage begins with. A trunk whose `features` ends by this module has a place where hooks see
    all its maps, with their gradients: `network.maps.register_forward_hook(...)`.
    """

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps
