"""Detection losses at points worked by hand, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from saccade.losses.classification import Objective, softmax_focal
from saccade.losses.detection import quality_focal, sigmoid_focal, smooth_l1


def test_smooth_l1_by_hand() -> None:
    x = torch.tensor([0.0, 0.5, -1.0, 3.0])
    torch.testing.assert_close(smooth_l1(x, torch.zeros(4)), torch.tensor([0, 0.125, 0.5, 2.5]))
    torch.testing.assert_close(smooth_l1(x, torch.zeros(4), beta=0), x.abs())
    # sigma 3: 0.5 (3 x)^2 below 1/9, |x| - 0.5/9 above
    small = torch.tensor([0.1, 0.5])
    torch.testing.assert_close(smooth_l1(small, torch.zeros(2), beta=1 / 9), torch.tensor([0.045, 0.5 - 0.5 / 9]))


def test_focal_at_80_percent() -> None:
    logit = torch.tensor([math.log(4.0)], dtype=torch.float64)  # p = 0.8
    """SYSTEMS 11.5, worked_examples.json `focal_80pct`; both published forms."""
    expected = {0: 0.2231435513142097, 0.5: 0.09979282989585707, 1: 0.04462871026284193, 2: 0.008925742052568384}
    expected[5] = 7.140593642054703e-05
    for gamma, value in expected.items():
        hit = sigmoid_focal(logit, torch.ones_like(logit), gamma, alpha=1.0)
        miss = sigmoid_focal(-logit, torch.zeros_like(logit), gamma, alpha=0.0)
        torch.testing.assert_close(hit, torch.tensor([value], dtype=torch.float64))
        torch.testing.assert_close(miss, hit)
        torch.testing.assert_close(sigmoid_focal(logit, torch.ones_like(logit), gamma, alpha=None), hit)
        pair = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log()  # of two classes the softmax is the sigmoid
        torch.testing.assert_close(softmax_focal(pair, torch.tensor([0]), Objective(focal_gamma=gamma)), hit)
    paper = sigmoid_focal(logit, torch.ones_like(logit))
    torch.testing.assert_close(paper, torch.tensor([0.0022314], dtype=torch.float64), atol=1e-7, rtol=0)
    balanced = sigmoid_focal(logit.repeat(2), torch.tensor([1.0, 0.0], dtype=torch.float64), 0.0, alpha=0.25)
    torch.testing.assert_close(balanced, torch.tensor([0.25 * 0.2231435513, 0.75 * math.log(5)], dtype=torch.float64))


def test_focal_of_what_is_certain_has_a_slope() -> None:
    """With gamma below 1 the slope of (1 - p)^gamma is infinite at p = 1; the loss there is 0 and its slope finite."""
    logits = torch.tensor([40.0, -40.0], requires_grad=True)
    sigmoid_focal(logits, torch.tensor([1.0, 0.0]), gamma=0.5).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_quality_focal() -> None:
    logits = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    hard = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    p = logits.sigmoid()
    torch.testing.assert_close(quality_focal(logits, hard), 2 * sigmoid_focal(logits, hard, alpha=0.5))
    assert quality_focal(logits, p).abs().max() == 0  # a score that equals the quality costs nothing
    quality = torch.tensor([0.4], dtype=torch.float64)
    expected = (0.4 - p[0]) ** 2 * -(0.4 * p[0].log() + 0.6 * (1 - p[0]).log())
    torch.testing.assert_close(quality_focal(logits[:1], quality)[0], expected)


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.rand(6, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda v: smooth_l1(v, target, 0.3), x)
    assert torch.autograd.gradcheck(lambda v: sigmoid_focal(v, target.round()), x)
    assert torch.autograd.gradcheck(lambda v: quality_focal(v, target), x)
