from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from saccade.layers.layout import adaptive_pool, global_pool, join

LAST = torch.channels_last


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=LAST).requires_grad_()


def arrivals(x: Tensor) -> tuple[Tensor, list[bool]]:
    """A map made of x, and whether each gradient that comes to it lies channels last."""
    y, seen = F.relu(x), list[bool]()
    y.register_hook(lambda gradient: seen.append(gradient.is_contiguous(memory_format=LAST)))
    return y, seen


def test_values_and_gradients_are_those_of_cat_and_mean() -> None:
    x, y = channels_last(2, 3, 4, 5), channels_last(2, 6, 4, 5)
    weights = torch.randn(2, 9, 4, 5)
    assert torch.equal(join([x, y]), torch.cat([x, y], 1))
    assert torch.equal(global_pool(y), y.mean((2, 3)))
    found = torch.autograd.grad((join([x, y]) * weights).sum() + global_pool(y).square().sum(), (x, y))
    expected = torch.autograd.grad((torch.cat([x, y], 1) * weights).sum() + y.mean((2, 3)).square().sum(), (x, y))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("ours", [True, False])
def test_gradients_arrive_channels_last(ours: bool) -> None:
    """With torch's own they do not: without this there would be no need of these functions."""
    one, of_one = arrivals(channels_last(2, 8, 6, 6))
    two, of_two = arrivals(channels_last(2, 48, 6, 6))
    pooled, of_pooled = arrivals(channels_last(2, 8, 6, 6))
    joined = join([one, two]) if ours else torch.cat([one, two], 1)
    mean = global_pool(pooled) if ours else pooled.mean((2, 3))
    weights = torch.randn(joined.shape).contiguous(memory_format=LAST)
    ((joined * weights).sum() + mean.square().sum()).backward()
    assert [of_one, of_two, of_pooled] == [[ours]] * 3


def test_other_uses_of_a_map_keep_their_gradients() -> None:
    x = channels_last(1, 2, 3, 3)
    (join([x, x]).sum() + 5 * x.sum()).backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full_like(x, 7))


@pytest.mark.parametrize(("height", "width", "side"), [(6, 6, 6), (13, 7, 6), (5, 4, 7), (12, 18, 6), (1, 3, 4)])
def test_the_means_of_deterministic_training_are_those_of_the_adaptive_pool(height: int, width: int, side: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    expected = F.adaptive_avg_pool2d(x, side)
    torch.use_deterministic_algorithms(True)
    try:
        found = adaptive_pool(x, side)
        with torch.no_grad():
            assert torch.equal(adaptive_pool(x, side), expected)
    finally:
        torch.use_deterministic_algorithms(False)
    assert "AdaptiveAvgPool" not in str(found.grad_fn)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    upstream = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, x, upstream)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-6)


class _Block(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return global_pool(join([x, F.relu(x)]))


def test_nothing_of_it_in_traces_and_exports() -> None:
    with torch.no_grad():
        graph = fx.symbolic_trace(_Block()).graph
    assert [node.target for node in graph.nodes if node.op.startswith("call")] == [F.relu, torch.cat, "mean"]
    x = channels_last(1, 2, 3, 3)
    program = torch.export.export(_Block(), (x,))
    torch.testing.assert_close(program.module()(x), _Block()(x))
