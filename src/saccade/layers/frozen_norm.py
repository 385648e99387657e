"""Batch normalisation with fixed statistics, for detectors that train a few images a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """y = weight * (x - running_mean) / sqrt(running_var + eps) + bias, all four buffers: nothing trains or drifts.

    Shapes: x [b, c, H, W] -> [b, c, H, W]. The state dict holds weight, bias, running_mean and running_var
    (the layout of the public detection checkpoints); a `num_batches_tracked` of an ordinary batch norm is accepted
    and left out, since it has no meaning here. The oldest public detection files were trained with eps = 0.

    Source: Ioffe & Szegedy 2015, "Batch normalization", algorithm 2, the last step; fixed in detectors since He et al.
    2016, "Deep residual learning", appendix A.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.get_buffer("weight") * torch.rsqrt(self.get_buffer("running_var") + self.eps)
        shift = self.get_buffer("bias") - self.get_buffer("running_mean") * scale
        # The arithmetic is float32 whatever the autocast type; the result keeps the type of x.
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(x.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.get_buffer('weight').numel()}, eps={self.eps}"


def freeze_norms(module: nn.Module) -> None:
    """Put a `FrozenBatchNorm2d` with the same numbers in the place of every batch norm inside `module`."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps).to(child.weight.device)
            with torch.no_grad():
                for key in ("weight", "bias", "running_mean", "running_var"):
                    frozen.get_buffer(key).copy_(getattr(child, key))
            setattr(module, name, frozen)
        else:
            freeze_norms(child)
