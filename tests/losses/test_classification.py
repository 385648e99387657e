"""The losses of labels and tags against worked examples, tables by hand and second implementations in plain Python."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from saccade.data.types import Annotation
from saccade.losses.classification import (
    CLASSIFY,
    CROSS_ENTROPY,
    TAG,
    Objective,
    classification_loss,
    label_loss,
    multiclass_hinge,
    pairwise_ranking,
    rank_weights,
    sampled_ranks,
    softmax_focal,
    tag_focal,
    tag_loss,
    tag_softmax,
)


def _scores(count: int = 5, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _some_tags(count: int = 5, classes: int = 4) -> Tensor:
    """0 and 1 by chance; the first image has no tag, the second has all."""
    tags = (torch.rand(count, classes, generator=torch.Generator().manual_seed(1)) < 0.5).double()
    tags[0], tags[1] = 0, 1
    return tags


def focal(gamma: float) -> Objective:
    return Objective("focal", focal_gamma=gamma)


def label_losses(logits: Tensor, labels: Tensor, objective: Objective) -> Tensor:
    return label_loss(objective.loss)(logits, labels, objective)


def tag_losses(logits: Tensor, tags: Tensor, objective: Objective) -> Tensor:
    return tag_loss(objective.loss)(logits, tags, objective)


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        (0, 0.2231435513142097),
        (0.5, 0.09979282989585707),
        (1, 0.04462871026284193),
        (2, 0.008925742052568384),
        (5, 7.140593642054703e-05),
    ],
)
def test_focal_of_the_worked_example(gamma: float, expected: float) -> None:
    logits = torch.tensor([[0.8, 0.15, 0.05]], dtype=torch.float64).log()
    assert softmax_focal(logits, torch.tensor([0]), focal(gamma)).item() == pytest.approx(expected, rel=1e-9)
    one = torch.tensor([[0.8]], dtype=torch.float64).logit()
    assert tag_focal(one, torch.ones_like(one), focal(gamma)).item() == pytest.approx(expected, rel=1e-9)
    assert tag_focal(-one, torch.zeros_like(one), focal(gamma)).item() == pytest.approx(expected, rel=1e-9)


def test_focal_turns_the_imbalance_of_the_worked_example() -> None:
    objects = torch.tensor([[0.0, math.log(math.expm1(3))]], dtype=torch.float64)  # p = e^-3
    easy = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log()
    label = torch.tensor([0])
    assert 10 * softmax_focal(objects, label, focal(0.0)).item() == pytest.approx(30)
    assert 10_000 * softmax_focal(easy, label, focal(0.0)).item() == pytest.approx(2231.4355, abs=1e-3)
    assert 10 * softmax_focal(objects, label).item() == pytest.approx(27.0871, abs=1e-3)
    assert 10_000 * softmax_focal(easy, label).item() == pytest.approx(89.2574, abs=1e-3)


def test_hinge_by_hand_and_as_torch_has_it() -> None:
    scores = torch.tensor([[3.2, 5.1, -1.7], [1.3, 4.9, 2.0], [2.2, 2.5, -3.1]])
    losses = multiclass_hinge(scores, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(losses, torch.tensor([2.9, 0.0, 12.9]))
    labels = torch.tensor([3, 0, 1, 2, 2])
    theirs = torch.nn.functional.multi_margin_loss(_scores(), labels, reduction="none") * 4
    torch.testing.assert_close(multiclass_hinge(_scores(), labels), theirs)


def test_warp_weights_of_the_worked_example() -> None:
    expected = torch.tensor([0.0, 1.0, 1.5, 1.8333333333333333, 2.083333333333333])
    torch.testing.assert_close(rank_weights(torch.arange(5), 4), expected)


def test_tag_softmax_and_ranking_against_plain_python() -> None:
    scores, tags = _scores(), _some_tags()
    importance = torch.rand(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for i in range(5):
        s, held = scores[i].tolist(), [k for k in range(4) if tags[i, k]]
        rest = [k for k in range(4) if k not in held]
        total = math.log(sum(map(math.exp, s)))
        softmax = sum((total - s[k]) / len(held) for k in held)
        assert tag_softmax(scores, tags)[i].item() == pytest.approx(softmax, abs=1e-12)
        ranking = sum(importance[i, j].item() * max(0.0, 1 - s[j] + s[k]) for j in held for k in rest)
        assert pairwise_ranking(scores, tags, importance=importance)[i].item() == pytest.approx(ranking, abs=1e-12)
    assert tag_softmax(scores, tags)[0] == pairwise_ranking(scores, tags, importance=importance)[:2].sum() == 0


def test_ranking_agrees_with_torchs_margin_of_tags() -> None:
    scores, tags = _scores(), _some_tags()
    targets = torch.full((5, 4), -1)
    for i in range(5):
        held = tags[i].nonzero()[:, 0]
        targets[i, : len(held)] = held
    theirs = torch.nn.functional.multilabel_margin_loss(scores, targets, reduction="none") * 4
    torch.testing.assert_close(pairwise_ranking(scores, tags), theirs)


def test_ranks_are_sampled_as_the_paper_says() -> None:
    """One tag, 9 other labels of which 3 violate the margin: draws are geometric in 1/3, ranks floor(9 / draws)."""
    scores = torch.tensor([[0.0, 1, 1, 1, -2, -2, -2, -2, -2, -2]]).expand(20_000, -1)
    tags = torch.zeros(20_000, 10)
    tags[:, 0] = 1
    torch.manual_seed(0)
    ranks = sampled_ranks(scores, tags)[:, 0]
    for rank, draws in ((9, [1]), (4, [2]), (3, [3]), (2, [4]), (1, range(5, 200))):
        expected = sum((2 / 3) ** (s - 1) / 3 for s in draws)
        assert (ranks == rank).double().mean().item() == pytest.approx(expected, abs=0.015)
    assert set(ranks.tolist()) == {9, 4, 3, 2, 1}


def test_ranks_at_the_ends() -> None:
    tags = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 1, 1]])
    scores = torch.tensor([[5.0, 0, 0], [0.0, 5, 5], [0.0, 0, 0]])
    assert sampled_ranks(scores, tags)[:, 0].tolist() == [0, 2, 0]  # none violates; all do; nothing to violate
    assert sampled_ranks(torch.zeros(1, 1), torch.ones(1, 1)).tolist() == [[0]]
    torch.manual_seed(3)
    first = sampled_ranks(_scores(), _some_tags())
    torch.manual_seed(3)
    assert torch.equal(first, sampled_ranks(_scores(), _some_tags()))


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0, 3.0)])
@pytest.mark.parametrize("loss", TAG)
def test_gradients_of_tag_losses(loss: str, weights: tuple[float, ...]) -> None:
    objective = Objective(loss, class_weights=weights)

    def total(logits: Tensor) -> Tensor:
        torch.manual_seed(5)  # WARP draws the same ranks each time
        return tag_losses(logits, _some_tags(), objective)

    assert torch.autograd.gradcheck(total, _scores().requires_grad_())


@pytest.mark.parametrize("weights", [(), (0.5, 2.0, 1.0, 3.0)])
@pytest.mark.parametrize("loss", CLASSIFY)
def test_gradients_of_label_losses(loss: str, weights: tuple[float, ...]) -> None:
    objective = Objective(loss, 0.1, 1.5, weights)
    labels = torch.tensor([3, 0, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: label_losses(x, labels, objective), _scores().requires_grad_())


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_stays_finite_where_the_network_is_sure(gamma: float) -> None:
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0]], requires_grad=True)
    tags = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    (
        softmax_focal(logits, torch.tensor([0, 0]), focal(gamma)).sum() + tag_focal(logits, tags, focal(gamma)).sum()
    ).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_class_weights_weight_the_true_class_or_the_tags_that_hold() -> None:
    weights, labels = (0.5, 2.0, 1.0, 3.0), torch.tensor([3, 0, 1, 2, 2])
    for loss in CLASSIFY:
        plain, weighted = Objective(loss), Objective(loss, class_weights=weights)
        factors = torch.tensor(weights)[labels].double()
        torch.testing.assert_close(
            label_losses(_scores(), labels, weighted), factors * label_losses(_scores(), labels, plain)
        )
    same = dataclasses.replace(CROSS_ENTROPY, class_weights=(2.0,) * 4)
    tags, log_p = _some_tags(), torch.nn.functional.logsigmoid
    expected = -(2 * tags * log_p(_scores()) + (1 - tags) * log_p(-_scores())).sum(1)
    torch.testing.assert_close(tag_losses(_scores(), tags, same), expected)
    for loss in ("softmax", "ranking"):
        doubled = tag_losses(_scores(), tags, dataclasses.replace(same, loss=loss))
        torch.testing.assert_close(doubled, 2 * tag_losses(_scores(), tags, Objective(loss)))


@pytest.mark.parametrize("loss", TAG)
def test_every_tag_loss_puts_tags_in_front(loss: str) -> None:
    """A linear map from 8 numbers to 6 tags that follow from them."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 8, generator=generator)
    tags = (inputs @ torch.randn(8, 6, generator=generator) > 1.5).float()
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 6)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        tag_losses(layer(inputs), tags, Objective(loss)).mean().backward()
        optimizer.step()
    scores = layer(inputs).detach()
    ahead = (scores[:, :, None] > scores[:, None, :]).float()
    pairs = tags[:, :, None] * (1 - tags[:, None, :])
    assert (ahead * pairs).sum() / pairs.sum() > 0.97


def test_a_loss_of_the_other_task_is_refused() -> None:
    with pytest.raises(ValueError, match="'warp' is not for one label an image; allowed: cross_entropy, hinge, focal"):
        label_losses(_scores(), torch.zeros(5, dtype=torch.int64), Objective("warp"))
    with pytest.raises(ValueError, match="'hinge' is not for tags"):
        tag_losses(_scores(), _some_tags(), Objective("hinge"))


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


def test_label_smoothing_by_hand():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    log_p = [x - math.log(math.exp(2) + 1 + math.exp(-1)) for x in (2.0, 0.0, -1.0)]
    wanted = -(0.9 * log_p[0] + 0.1 * sum(log_p) / 3)
    found = classification_loss(logits, labelled(0), "classify", Objective(label_smoothing=0.1))[
        "classification"
    ].item()
    assert found == pytest.approx(wanted, abs=1e-6)


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
