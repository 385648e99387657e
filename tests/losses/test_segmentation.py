from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from saccade.data.types import Annotation, Sample
from saccade.losses.segmentation import (
    balanced_weights,
    border_weights,
    cross_entropy_and_dice,
    dice_loss,
    median_frequency_weights,
    pixel_cross_entropy,
    stack_border_weights,
    stack_targets,
)
from saccade.training.border import BorderWeights


def test_cross_entropy_averages_over_labelled_pixels_only():
    logits = torch.log(torch.tensor([0.9, 0.1])).view(1, 2, 1, 1).expand(1, 2, 1, 3)
    target = torch.tensor([[[0, 1, 255]]])
    wanted = -(math.log(0.9) + math.log(0.1)) / 2
    assert pixel_cross_entropy(logits, target).item() == pytest.approx(wanted, abs=1e-6)
    # weights multiply the terms; the normaliser stays the number of pixels
    weighted = pixel_cross_entropy(logits, target, torch.tensor([1.0, 3.0])).item()
    assert weighted == pytest.approx(-(math.log(0.9) + 3 * math.log(0.1)) / 2, abs=1e-6)
    by_pixel = pixel_cross_entropy(logits, target, pixel_weights=torch.tensor([[[2.0, 1.0, 9.0]]])).item()
    assert by_pixel == pytest.approx(-(2 * math.log(0.9) + math.log(0.1)) / 2, abs=1e-6)


@pytest.mark.parametrize("loss", [pixel_cross_entropy, dice_loss])
def test_everything_ignored_gives_a_zero_that_reaches_the_logits(loss):
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 4), 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("loss", [pixel_cross_entropy, dice_loss])
def test_ignored_pixels_change_nothing(loss):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 4)
    target = torch.randint(0, 3, (1, 4, 4))
    target[0, 1] = 255
    changed = logits.clone()
    changed[:, :, 1] += 100 * torch.randn(1, 3, 4)
    assert loss(changed, target).item() == pytest.approx(loss(logits, target).item(), abs=1e-6)


def test_dice_by_hand():
    p = torch.tensor([0.8, 0.4])  # probability of class 1 at two pixels
    logits = torch.stack([(1 - p).log(), p.log()]).view(1, 2, 1, 2)
    dice_1 = (2 * 0.8 + 1) / (0.8**2 + 0.4**2 + 1 + 1)
    dice_0 = (2 * 0.6 + 1) / (0.2**2 + 0.6**2 + 1 + 1)
    assert dice_loss(logits, torch.tensor([[[1, 0]]])).item() == pytest.approx(1 - (dice_0 + dice_1) / 2, abs=1e-6)


def test_dice_is_zero_where_perfect_and_leaves_absent_classes_out():
    target = torch.tensor([[[0, 1], [1, 0]]])
    logits = 50 * F.one_hot(target, 5).movedim(-1, 1).float()
    assert dice_loss(logits, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labelled", ["some", "all", "none"])
def test_both_losses_at_once_equal_each_by_itself(layout, dtype, weighted, labelled):
    torch.manual_seed(2)
    logits = (3 * torch.randn(3, 4, 5, 6)).to(dtype).contiguous(memory_format=layout)
    target = torch.randint(0, 3, (3, 5, 6))  # class 3 does not occur
    if labelled == "none":
        target[:] = 255
    elif labelled == "some":
        target[torch.rand(3, 5, 6) < 0.3] = 255
    weights = (torch.rand(4) + 0.5, torch.rand(3, 5, 6)) if weighted else (None, None)
    apart, together = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    wanted = pixel_cross_entropy(apart, target, *weights), dice_loss(apart, target)
    found = cross_entropy_and_dice(together, target, *weights)
    assert [v.item() for v in found] == pytest.approx([v.item() for v in wanted], abs=2e-6)
    (wanted[0] + 0.7 * wanted[1]).backward()
    (found[0] + 0.7 * found[1]).backward()
    assert apart.grad is not None
    assert together.grad is not None
    assert together.grad.dtype == dtype
    assert together.grad.stride() == logits.stride()
    # autograd casts each loss's gradient to bfloat16 and adds there, so it is the less exact of the two
    tolerance = 1e-7 if dtype == torch.float32 else 4e-4
    torch.testing.assert_close(together.grad, apart.grad, rtol=tolerance, atol=tolerance)


def test_both_losses_at_once_of_a_confident_mistake_are_finite():
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).requires_grad_()
    cross_entropy, dice = cross_entropy_and_dice(logits, torch.ones(1, 1, 1, dtype=torch.int64))
    (cross_entropy + dice).backward()
    assert cross_entropy.item() == pytest.approx(400)
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize("loss", [pixel_cross_entropy, dice_loss])
def test_gradients_in_double_precision(loss, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)  # the losses compute in float32; check the formula
    torch.manual_seed(1)
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[[0, 1, 2], [255, 1, 0]], [[2, 2, 2], [0, 255, 1]]])
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)


def test_border_weights_between_two_cells():
    """A strip with cells at columns 0 and 6: at column 2 the distances are 2 and 4."""
    strip = np.zeros((1, 7), dtype=np.uint8)
    strip[0, 0] = strip[0, 6] = 1
    weights = border_weights(strip, strength=10, sigma=5)
    assert weights[0] == pytest.approx([0, *[10 * math.exp(-36 / 50)] * 5, 0], rel=1e-5)


def test_border_weights_against_distances_by_brute_force():
    rng = np.random.default_rng(0)
    target = np.zeros((24, 30), dtype=np.uint8)
    boxes = [(2, 2, 8, 9), (10, 3, 15, 12), (4, 15, 20, 20)]
    for top, left, bottom, right in boxes:
        target[top:bottom, left:right] = rng.integers(1, 3)
    target[0, :5] = 255
    found = border_weights(target)
    points = [[(y, x) for y in range(t, b) for x in range(le, r)] for t, le, b, r in boxes]
    for y, x in [(9, 5), (3, 12), (23, 29), (12, 14)]:
        d = sorted(min(math.hypot(y - v, x - u) for v, u in cell) for cell in points)
        assert found[y, x] == pytest.approx(10 * math.exp(-((d[0] + d[1]) ** 2) / 50), rel=1e-4)
    assert (found[target != 0] == 0).all()


def test_border_weights_need_two_things():
    target = np.zeros((6, 6), dtype=np.uint8)
    assert (border_weights(target) == 0).all()
    target[2:4, 2:4] = 1
    assert (border_weights(target) == 0).all()


def semantic(*rows: list[int]) -> Annotation:
    values = torch.tensor(rows, dtype=torch.uint8)
    return Annotation((values.shape[0], values.shape[1]), semantic=values)


def test_balanced_weights_by_hand():
    truth = [semantic([0, 0, 0, 0], [0, 0, 255, 1]), semantic([0, 1])]  # 7 of class 0, 2 of class 1, none of class 2
    w = balanced_weights(truth, 3, 1.0)
    assert 7 * w[0] == pytest.approx(2 * w[1], rel=1e-3)
    assert (7 * w[0] + 2 * w[1]) / 9 == pytest.approx(1, rel=1e-3)
    assert w[2] == 1
    assert balanced_weights(truth, 3, 0.0) == (1, 1, 1)
    assert balanced_weights([semantic([255])], 2, 1.0) == (1, 1)


def test_median_frequency_weights_by_hand():
    # Class 0: 7 pixels in images of 7 + 2 + 2 labelled ones; 1: 2 in 7 + 2; 2: 2 in 7 + 2; 3 is nowhere.
    truth = [semantic([0, 0, 0, 2], [0, 0, 255, 1]), semantic([0, 1]), semantic([2, 0, 255])]
    shares = (7 / 11, 2 / 9, 2 / 9)
    assert median_frequency_weights(truth, 4) == pytest.approx((*(2 / 9 / s for s in shares), 1), abs=1e-4)
    assert median_frequency_weights(truth, 4, 0.5)[0] == pytest.approx((2 / 9 / shares[0]) ** 0.5, abs=1e-4)
    assert median_frequency_weights(truth, 4, 0.0) == (1, 1, 1, 1)
    assert median_frequency_weights([semantic([255])], 2) == (1, 1)


def test_targets_are_padded_with_ignore():
    target = stack_targets([semantic([1, 2]), semantic([0], [3])], 2, 2, torch.device("cpu"))
    assert target.tolist() == [[[1, 2], [255, 255]], [[0, 255], [3, 255]]]
    with pytest.raises(ValueError, match="image 0 of the batch has a class map of 1x2"):
        stack_targets([semantic([1, 2])], 1, 1, torch.device("cpu"))
    with pytest.raises(ValueError, match="has no class map"):
        stack_targets([Annotation((2, 2))], 2, 2, torch.device("cpu"))


def test_border_weights_made_by_the_loader_are_those_of_the_batch():
    rng = np.random.default_rng(0)
    plain, made = [], []
    for height, width in ((20, 24), (16, 30)):
        plane = (rng.random((height, width)) < 0.1).astype(np.uint8)
        plane[:3] = 255
        sample = Sample(
            np.zeros((height, width, 3), np.uint8), Annotation((height, width), semantic=torch.from_numpy(plane))
        )
        plain.append(sample.truth)
        made.append(BorderWeights(10.0)(sample, rng).truth)
    target = stack_targets(plain, 20, 30, torch.device("cpu"))
    expected = stack_border_weights(plain, target, 10.0)
    assert expected.max() > 1.5
    torch.testing.assert_close(stack_border_weights(made, target, 10.0), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_pixels(gamma: float) -> None:
    """(1 - p)^gamma times the cross-entropy of each pixel, its class weight beside; a pixel beyond doubt has a
    gradient, and one that is ignored none."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    target = torch.randint(0, 3, (2, 4, 5))
    target[0, 0] = 255
    weights = torch.tensor([1.0, 2.0, 0.5])
    p = logits.softmax(1).gather(1, target.clamp(max=2)[:, None])[:, 0]
    known = target != 255
    expected = (weights[target.clamp(max=2)] * (1 - p) ** gamma * -p.log())[known].mean()
    found = pixel_cross_entropy(logits, target, weights, focal=gamma)
    torch.testing.assert_close(found, expected)
    sure = (100 * torch.nn.functional.one_hot(target.clamp(max=2), 3).movedim(-1, 1).float()).requires_grad_()
    pixel_cross_entropy(sure, target, focal=gamma).backward()
    assert sure.grad is not None
    assert sure.grad.isfinite().all()
    (gradient,) = torch.autograd.grad(found, logits)
    assert not gradient[0, :, 0].any()
