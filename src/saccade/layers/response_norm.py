"""Local response normalisation, the norm of the networks before batch norm (Krizhevsky et al. 2012, section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class LocalResponseNorm(nn.Module):
    """b = a / (k + alpha / 5 * sum of the squares of a over 5 channels) ** beta, as Caffe counts alpha.

    Source: Krizhevsky et al. 2012, section 3.3, where alpha multiplies the sum itself.

    Computed in float32 whatever the type of the map: the square of a response above 256 is infinite in float16. The sum
    is one of shifted maps; torch's own form is an average pool in three dimensions, which takes twice the time on CPUs
    and has no deterministic gradient on GPUs.
    """

    def __init__(self, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.alpha, self.beta, self.k = alpha, beta, k

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, H, W] -> [b, c, H, W] of the same type."""
        responses, channels = x.float(), x.shape[1]
        squares = F.pad(responses.square(), (0, 0, 0, 0, 2, 2))
        a, b, c, d, e = (squares[:, i : i + channels] for i in range(5))
        total = a + b + c + d + e
        return (responses / (total * (self.alpha / 5) + self.k).pow(self.beta)).type_as(x)
