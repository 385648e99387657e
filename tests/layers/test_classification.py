from __future__ import annotations

import pytest
import torch

from saccade.layers.classification import classification_predictions
from saccade.layers.frozen_norm import FrozenBatchNorm2d


def test_tags_of_the_worked_example_with_a_threshold_a_class():
    p = torch.tensor([[0.2, 0.6, 0.8, 0.1, 0.4]])
    (answer,) = classification_predictions(p.logit(), [(8, 8)], "tag", (0.5, 0.7, 0.6, 0.4, 0.6))
    assert answer.tags is not None
    assert answer.tags.tolist() == [False, False, True, False, False]
    torch.testing.assert_close(answer.probabilities, p[0])
    assert answer.label is None


def test_predictions_are_probabilities_with_the_sizes_given():
    logits = torch.tensor([[0.0, 3.0], [2.0, 2.0]])
    first, second = classification_predictions(logits, [(4, 6), (5, 7)], "classify")
    assert (first.size, second.size) == ((4, 6), (5, 7))
    assert (first.label, second.label) == (1, 0)  # the lowest index at a tie
    assert first.probabilities is not None
    assert first.probabilities.sum().item() == pytest.approx(1)


def test_frozen_norm_equals_batch_norm_in_evaluation_and_takes_its_state():
    norm = torch.nn.BatchNorm2d(5)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        torch.nn.init.uniform_(tensor, 0.5, 2)
    frozen = FrozenBatchNorm2d(5)
    frozen.load_state_dict(norm.state_dict())  # the batch counter is left out
    x = torch.randn(2, 5, 4, 3)
    torch.testing.assert_close(frozen.train()(x), norm.eval()(x))
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    assert not list(frozen.parameters())


def test_frozen_norm_with_eps_zero():
    frozen = FrozenBatchNorm2d(1, eps=0.0)
    frozen.get_buffer("running_var").fill_(4)
    assert frozen(torch.full((1, 1, 1, 1), 3.0)).item() == 1.5
