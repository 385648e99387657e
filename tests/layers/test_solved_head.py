"""Softmax until the SVMs are there, then their margins; offsets of the regressions; exact at any precision."""

from __future__ import annotations

import torch

from saccade.layers.solved_head import SolvedHead


def test_the_softmax_answers_until_the_svms_are_there() -> None:
    torch.manual_seed(0)
    head = SolvedHead(5, 7, 3)
    hidden, pooled = torch.rand(4, 5), torch.rand(4, 7)
    scores, deltas = head(hidden, pooled)
    torch.testing.assert_close(scores, head.cls_score(hidden).softmax(1)[:, 1:])
    assert torch.equal(deltas, torch.zeros(4, 12))
    weight, bias = torch.randn(3, 5), torch.randn(3)
    box_weight, box_bias = torch.randn(12, 7), torch.randn(12)
    solved = {"svm_weight": weight, "svm_bias": bias, "box_weight": box_weight, "box_bias": box_bias}
    head.load_state_dict(head.state_dict() | solved | {"solved": torch.ones(())})
    scores, deltas = head(hidden, pooled)
    torch.testing.assert_close(scores, (hidden @ weight.T + bias).sigmoid())
    torch.testing.assert_close(deltas, pooled @ box_weight.T + box_bias)
    with torch.autocast("cpu", torch.bfloat16):
        exact, _ = head(hidden, pooled)
    assert torch.equal(exact, scores)


def test_no_gradient_reaches_what_is_solved() -> None:
    assert [name for name, _ in SolvedHead(5, 7, 3).named_parameters()] == ["cls_score.weight", "cls_score.bias"]
