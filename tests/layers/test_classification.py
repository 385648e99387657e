from __future__ import annotations

import math

import pytest
import torch

from saccade.data.types import Annotation
from saccade.layers.classification import classification_loss, classification_predictions
from saccade.layers.frozen_norm import FrozenBatchNorm2d
from saccade.losses.classification import Objective


def labelled(*labels: int) -> list[Annotation]:
    return [Annotation((8, 8), label=label) for label in labels]


def test_softmax_loss_of_the_worked_example():
    logits = torch.tensor([[math.log(0.9), math.log(0.06), math.log(0.04)]])
    assert classification_loss(logits, labelled(0), "classify")["classification"].item() == pytest.approx(
        0.10536, abs=5e-6
    )


def test_multi_label_loss_of_the_worked_example():
    p = torch.tensor([[0.2, 0.6, 0.8, 0.1, 0.4]])
    truth = [Annotation((8, 8), tags=torch.tensor([0, 1, 1, 0, 1], dtype=torch.bool))]
    assert classification_loss(p.logit(), truth, "tag")["classification"].item() == pytest.approx(1.97876, abs=5e-6)


def test_tags_of_the_worked_example_with_a_threshold_a_class():
    p = torch.tensor([[0.2, 0.6, 0.8, 0.1, 0.4]])
    (answer,) = classification_predictions(p.logit(), [(8, 8)], "tag", (0.5, 0.7, 0.6, 0.4, 0.6))
    assert answer.tags is not None
    assert answer.tags.tolist() == [False, False, True, False, False]
    torch.testing.assert_close(answer.scores, p[0])
    assert answer.label is None


def test_label_smoothing_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    log_p = [x - math.log(math.exp(2) + 1 + math.exp(-1)) for x in (2.0, 0.0, -1.0)]
    wanted = -(0.9 * log_p[0] + 0.1 * sum(log_p) / 3)
    found = classification_loss(logits, labelled(0), "classify", Objective(label_smoothing=0.1))[
        "classification"
    ].item()
    assert found == pytest.approx(wanted, abs=1e-6)


def test_predictions_are_probabilities_with_the_sizes_given():
    logits = torch.tensor([[0.0, 3.0], [2.0, 2.0]])
    first, second = classification_predictions(logits, [(4, 6), (5, 7)], "classify")
    assert (first.size, second.size) == ((4, 6), (5, 7))
    assert (first.label, second.label) == (1, 0)  # the lowest index at a tie
    assert first.scores is not None
    assert first.scores.sum().item() == pytest.approx(1)


def test_loss_is_float32_under_half_precision():
    logits = torch.zeros(2, 3, dtype=torch.bfloat16)
    assert classification_loss(logits, labelled(0, 2), "classify")["classification"].dtype == torch.float32


@pytest.mark.parametrize(
    ("truth", "task", "message"),
    [
        (None, "classify", "truth"),
        ([Annotation((8, 8))], "classify", "image 0 of the batch has no label"),
        ([Annotation((8, 8), label=1)], "tag", "1 of 1 images of the batch have no tags"),
        ([Annotation((8, 8), label=1)], "detect", "'detect' is not classify or tag"),
    ],
)
def test_missing_truth_is_named(truth: list[Annotation] | None, task: str, message: str):
    with pytest.raises(ValueError, match=message):
        classification_loss(torch.zeros(1, 3), truth, task)


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
