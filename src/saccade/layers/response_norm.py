"""Local response normalisation, the norm of the networks before batch norm (Krizhevsky et al. 2012, section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LocalResponseNorm(nn.Module):
    """b = a / (k + alpha / 5 * sum of the squares of a over 5 channels) ** beta, as Caffe counts alpha.

    Computed in float32 whatever the type of the map: the square of a response above 256 is infinite in float16.
    """

    def __init__(self, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.alpha, self.beta, self.k = alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, H, W] -> [b, c, H, W] of the same type."""
        return F.local_response_norm(x.float(), 5, self.alpha, self.beta, self.k).type_as(x)
