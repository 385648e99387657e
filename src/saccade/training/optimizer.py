"""Optimiser, learning-rate schedule and averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from saccade.config import Settings


def make_optimizer(
    model: nn.Module, settings: Settings, scales: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """SGD, AdamW or RMSProp with two groups: weights of two or more dimensions decay; norms, biases and scales do not.

    Args:
        scales: factor on the learning rate by name of the parameter (`depth.rate_scales`), 1 where there is none; every
            factor has two groups of its own, each with its `lr_scale`.

    RMSProp is torch's: v <- d v + (1 - d) g^2, m <- momentum m + g / (sqrt(v) + eps), w <- w - lr m, from v = 0. The
    papers used TensorFlow's, which begins at v = 1 and has eps inside the root; with their eps of 1 and gradients far
    below 1 both divide by about 1.
    """
    trained = [((scales or {}).get(name, 1.0), p) for name, p in model.named_parameters() if p.requires_grad]
    groups = []
    for scale in sorted({scale for scale, _ in trained}, reverse=True):
        decaying = [p for s, p in trained if s == scale and p.ndim >= 2]
        free = [p for s, p in trained if s == scale and p.ndim < 2]
        groups.append({"params": decaying, "weight_decay": settings.weight_decay, "lr_scale": scale})
        groups.append({"params": free, "weight_decay": 0.0, "lr_scale": scale})
    fused = (
        True if all(p.is_cuda for _, p in trained) else None
    )  # one kernel for all; on a CPU it would change the bits
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999), fused=fused)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            groups, lr=settings.lr, alpha=settings.rms_decay, eps=settings.rms_eps, momentum=settings.momentum
        )
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.nesterov, fused=fused)


def learning_rate(settings: Settings, progress: float) -> float:
    """The rate at `progress` in [0, 1] of the run: linear warm-up from lr / 1000, then the chosen course."""
    warmup = settings.warmup
    if progress < warmup:
        return settings.lr * (0.001 + 0.999 * progress / warmup)
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        return settings.lr * settings.gamma ** sum(progress >= m for m in settings.milestones)
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    if settings.schedule == "poly":
        return settings.lr * (1 - rest) ** settings.power
    return settings.lr * 0.5 * (1 + math.cos(math.pi * rest))


class AveragedWeights:
    """Exponential moving average of weights and buffers; what is evaluated and saved when `ema` is set.

    The decay grows with the step t as min(decay, (1 + t) / (10 + t)), so that short runs do not average
    their random start (the rule of TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged, current = _tensors(self.model), _tensors(model)
        torch._foreach_lerp_(averaged[0], current[0], 1 - decay)
        if averaged[1]:
            torch._foreach_copy_(averaged[1], current[1])


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The floating-point tensors of a model, and the others (counters), each in a fixed order."""
    tensors = [*model.parameters(), *model.buffers()]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
