"""Soft-NMS by hand and against its reference, and the scope that sets the rule."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.errors import UsageError
from saccade.ops import suppression as module
from saccade.ops.suppression import NmsRule, nms_rule, soft_nms, suppress

# IoU of neighbours 3/7, of the ends 1/9
CHAIN = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
SCORES = torch.tensor([0.9, 0.8, 0.7])
ONE = torch.zeros(3, dtype=torch.int64)


def test_linear_by_hand() -> None:
    """The first fades the middle to 0.8 * 4/7 = 0.457 (IoU 3/7 is above 0.3) and spares the end (1/9); the end, next
    with 0.7, fades the middle once more."""
    rows, scores = soft_nms(CHAIN, SCORES, ONE, 0.3, 10)
    assert rows.tolist() == [0, 2, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.8 * (4 / 7) ** 2]))
    rows, scores = soft_nms(CHAIN, SCORES, ONE, 0.5, 10)  # no IoU reaches 0.5: all stay as they are
    assert rows.tolist() == [0, 1, 2]
    torch.testing.assert_close(scores, SCORES)


def test_gaussian_by_hand() -> None:
    """exp(-(3/7)^2 / 0.5) = 0.6926, exp(-(1/9)^2 / 0.5) = 0.9756; any overlap counts."""
    near, far = math.exp(-((3 / 7) ** 2) / 0.5), math.exp(-((1 / 9) ** 2) / 0.5)
    rows, scores = soft_nms(CHAIN, SCORES, ONE, 0.9, 10, sigma=0.5)
    assert rows.tolist() == [0, 2, 1]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7 * far, 0.8 * near * near]))


def test_classes_limit_least_and_ties() -> None:
    labels = torch.tensor([0, 1, 0])
    rows, scores = soft_nms(CHAIN, SCORES, labels, 0.3, 10)
    assert rows.tolist() == [0, 1, 2]  # the middle is of another class
    torch.testing.assert_close(scores, SCORES)
    assert soft_nms(CHAIN, SCORES, ONE, 0.3, 2)[0].tolist() == [0, 2]
    assert soft_nms(CHAIN, SCORES, ONE, 0.3, 10, least=0.3)[0].tolist() == [0, 2]  # the middle ends at 0.261
    assert soft_nms(CHAIN, SCORES, ONE, 0.3, 10, least=0.25)[0].tolist() == [0, 2, 1]
    half = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 4]])  # IoU exactly 1/2: the paper's threshold is not strict
    rows, scores = soft_nms(half, torch.tensor([0.5, 0.5]), ONE[:2], 0.5, 10)
    assert (rows.tolist(), scores.tolist()) == ([0, 1], [0.5, 0.25])
    rows, scores = soft_nms(CHAIN[:0], SCORES[:0], ONE[:0], 0.3, 10)
    assert (rows.shape, scores.shape) == ((0,), (0,))
    with pytest.raises(ValueError, match=r"scores and labels \[3\]"):
        soft_nms(CHAIN, SCORES[:2], ONE, 0.3, 10)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 50), st.integers(1, 3), st.sampled_from([None, 0.1, 0.5, 2.0]))
def test_reference_and_compiled_agree(seed: int, n: int, classes: int, sigma: float | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 20, (n, 2), generator=generator).double()
    boxes = torch.cat((corner, corner + torch.randint(0, 12, (n, 2), generator=generator)), 1)  # some without area
    scores = torch.rand(n, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    rows, values = module._fade_compiled(boxes, scores, labels, 0.3, 30, sigma)
    expected_rows, expected = module._fade_reference(boxes, scores, labels, 0.3, 30, sigma)
    assert torch.equal(rows, expected_rows)
    torch.testing.assert_close(values, expected)
    assert (values.diff() <= 0).all()  # scores only fall, so what is taken later is never better


def test_the_scope_sets_the_rule() -> None:
    labels = torch.tensor([0, 1, 1])

    def kept() -> list[int]:
        return suppress(CHAIN, SCORES, labels, 0.3, 10)[0].tolist()

    assert kept() == [0, 1]  # hard: the end goes with the middle, which is of its class
    with nms_rule(NmsRule(agnostic=True)):
        assert kept() == [0, 2]
        with nms_rule(NmsRule("hard", iou=0.6)):
            assert kept() == [0, 1, 2]
        assert kept() == [0, 2]
        elsewhere: list[list[int]] = []
        thread = threading.Thread(target=lambda: elsewhere.append(kept()))
        thread.start()
        thread.join()
        assert elsewhere == [[0, 1]]
    with nms_rule(NmsRule("soft_linear")):
        rows, scores = suppress(CHAIN, SCORES, labels, 0.3, 10, least=0.01)
        assert rows.tolist() == [0, 1, 2]
        torch.testing.assert_close(scores, torch.tensor([0.9, 0.8, 0.7 * 4 / 7]))
    with pytest.raises(RuntimeError), nms_rule(NmsRule(agnostic=True)):
        raise RuntimeError
    assert kept() == [0, 1]  # also after an error


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"form": "sof"}, "did you mean 'soft'"),
        ({"iou": 1.5}, "iou is 1.5, allowed: 0 to 1"),
        ({"form": "soft", "sigma": 0.0}, "sigma is 0.0, allowed: above 0"),
        ({"form": "soft", "iou": 0.5}, "iou is for hard and soft_linear"),
        ({"form": "soft_linear", "sigma": 0.5}, "sigma is for nms soft, not for soft_linear"),
    ],
)
def test_rules_that_there_are_not(rule: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        NmsRule(**rule)  # type: ignore[arg-type]


def test_the_words_of_a_rule() -> None:
    assert NmsRule().words() == []
    assert NmsRule("soft", sigma=0.3).words() == ["--nms", "soft", "--sigma", "0.3"]
    assert NmsRule(iou=0.4, agnostic=True).words() == ["--iou", "0.4", "--agnostic-nms"]
    assert NmsRule("soft").to_json() == {"form": "soft", "iou": None, "sigma": 0.5, "agnostic": False}
