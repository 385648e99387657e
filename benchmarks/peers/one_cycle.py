"""A plain training loop for the peers that bring none: one cycle of the learning rate, fitted to a time budget.

The learning rate rises linearly over the first part and falls to zero along a cosine (Smith & Topin 2018, with the
cosine of common practice); bf16 autocast where the processor multiplies that natively, as Saccade does. The score on
the held-out images is taken ten times, evenly spaced, as Saccade does, and the best weights are kept; the time that
this takes is part of the budget.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

CHECKS = 10


def autocast() -> torch.autocast:
    """bf16 where the processor multiplies it natively; elsewhere it would take minutes for a step."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.ops.mkldnn._is_mkldnn_bf16_supported())


def one_cycle(share: float, peak: float, warm: float) -> float:
    """The learning rate after a share of the run: from peak / 25 to peak in the share `warm`, then to zero."""
    if share < warm:
        return peak * (1 / 25 + (1 - 1 / 25) * share / warm)
    return peak * (1 + math.cos(math.pi * min(1.0, (share - warm) / (1 - warm)))) / 2


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    score_of: Callable[[nn.Module], float],
    minutes: float,
    peak: float,
    warm: float,
) -> dict[str, Any]:
    """Train for `minutes` of wall clock and leave the best weights in the model.

    Args:
        batches: images [b, 3, H, W] float and targets, without end.
        loss_of: (logits, targets) -> scalar.
        score_of: the validation score of the model, which is in eval mode; higher is better.

    Returns:
        `{seconds, steps, images, images_per_second, check_seconds, best, scores}`; scores are (share of the run,
        score).
    """
    start = time.monotonic()
    checks: list[float] = []  # seconds of each; those to come are expected to take their median
    budget = 60 * minutes  # seconds of training, what the checks leave
    spent, steps, images = 0.0, 0, 0
    best, weights = -math.inf, model.state_dict()
    scores: list[tuple[float, float]] = []
    while len(scores) < CHECKS and (spent < budget or time.monotonic() - start < 60 * minutes):
        begin = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(spent / budget, peak, warm)
        inputs, targets = next(batches)
        loss = _step(model, optimizer, inputs, targets, loss_of)
        steps, images = steps + 1, images + len(inputs)
        spent += time.monotonic() - begin
        if spent / budget >= (len(scores) + 1) / CHECKS:
            begin = time.monotonic()
            score = _check(model, score_of)
            checks.append(time.monotonic() - begin)
            scores.append((round(spent / budget, 3), score))
            left = (CHECKS - len(checks)) * statistics.median(checks)
            budget = max(spent, 60 * minutes - sum(checks) - left)
            print(
                f"{scores[-1][0]:.2f} of the run, step {steps}: loss {loss:.3f}, score {score:.4f}",
                flush=True,
            )
            if score > best:
                best, weights = score, {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    model.eval()
    return {
        "seconds": round(time.monotonic() - start, 1),
        "steps": steps,
        "images": images,
        "images_per_second": round(images / spent, 2),
        "check_seconds": round(sum(checks), 1),
        "best": best,
        "scores": scores,
    }


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
    loss_of: Callable[[Tensor, Tensor], Tensor],
) -> float:
    model.train()
    with autocast():
        logits = model(inputs.to(memory_format=torch.channels_last))
    loss = loss_of(logits.float(), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _check(model: nn.Module, score_of: Callable[[nn.Module], float]) -> float:
    model.eval()
    with torch.inference_mode(), autocast():
        return score_of(model)
