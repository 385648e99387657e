"""Losses of vectors: worked examples, and the same by plain loops over pairs and triplets."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.losses.embedding import (
    Mining,
    _chosen_negatives,
    angular_margin,
    contrastive,
    contrastive_loss,
    pair_cross_entropy,
    same_identity,
    squared_distances,
    triplet,
    triplet_loss,
)

LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3])  # the last has one image


def vectors(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(len(LABELS), 5, generator=generator, dtype=torch.float64))


def test_contrastive_of_worked_pairs() -> None:
    distances = torch.tensor([0.6, 0.6, 0.25, 1.5])
    same = torch.tensor([True, False, False, False])
    found = contrastive(distances, same, margin=1.0)
    torch.testing.assert_close(found, torch.tensor([0.18, 0.08, 0.28125, 0.0]))


def test_triplet_of_the_worked_example() -> None:
    """Squared distances 0.5 and 0.6 with a margin of 0.2: 0.1, where min(., 0) would give 0."""
    assert float(triplet(torch.tensor(0.5), torch.tensor(0.6), 0.2)) == pytest.approx(0.1)
    assert float(triplet(torch.tensor(0.5), torch.tensor(0.8), 0.2)) == 0


def test_contrastive_loss_is_that_of_all_pairs_both_kinds_alike() -> None:
    x, kinds = vectors(), {True: [], False: []}
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                d = float((x[i] - x[j]).norm())
                same = bool(LABELS[i] == LABELS[j])
                kinds[same].append(d * d / 2 if same else max(0.0, 1.2 - d) ** 2 / 2)
    expected = sum(sum(values) / len(values) for values in kinds.values())
    assert float(contrastive_loss(x, LABELS, 1.2)) == pytest.approx(expected)


def triplets(x: Tensor) -> list[tuple[int, int, int]]:
    n = range(len(x))
    return [(a, p, m) for a in n for p in n for m in n if a != p and LABELS[a] == LABELS[p] and LABELS[a] != LABELS[m]]


def mined(x: Tensor, mining: str, margin: float) -> float:
    """The mean of the mined triplets above 0, by loops."""
    d = torch.cdist(x, x).square().tolist()
    losses: list[float] = []
    of_pair: dict[tuple[int, int], list[float]] = {}
    for a, p, m in triplets(x):
        of_pair.setdefault((a, p), []).append(d[a][m])
        losses += [max(0.0, d[a][p] - d[a][m] + margin)] if mining == "all" else []
    if mining == "semi_hard":
        for (a, p), negatives in of_pair.items():
            beyond = [v for v in negatives if v > d[a][p]]
            losses.append(max(0.0, d[a][p] - (min(beyond) if beyond else max(negatives)) + margin))
    if mining == "hard":
        for a in {a for a, _ in of_pair}:
            positive = max(d[a][p] for b, p in of_pair if a == b)
            negative = min(v for (b, _), negatives in of_pair.items() if a == b for v in negatives)
            losses.append(max(0.0, positive - negative + margin))
    active = [value for value in losses if value > 0]
    return sum(active) / len(active)


@pytest.mark.parametrize("mining", ["all", "hard", "semi_hard"])
@pytest.mark.parametrize("seed", [0, 1])
def test_mining_is_that_of_loops_over_triplets(mining: str, seed: int) -> None:
    x = vectors(seed)
    assert float(triplet_loss(x, LABELS, 0.3, cast("Mining", mining))) == pytest.approx(mined(x, mining, 0.3))


def test_random_negatives_follow_from_the_generator_and_are_of_others() -> None:
    x, values = vectors(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(float(triplet_loss(x, LABELS, 5.0, "random")))  # every triplet is within such a margin
    assert values[0] == values[1] != values[2]
    d = torch.cdist(x, x).square()
    of_all = [float(d[a, p] - d[a, m] + 5) for a, p, m in triplets(x)]
    assert min(of_all) < values[0] < max(of_all)


@pytest.mark.parametrize("mining", ["all", "random", "hard", "semi_hard"])
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_without_a_triplet_the_loss_is_0_and_reaches_the_vectors(mining: str, labels: list[int]) -> None:
    x = vectors()[:3].requires_grad_()
    loss = triplet_loss(x, torch.tensor(labels), 0.2, cast("Mining", mining))
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_random_negatives_are_all_of_the_others_alike_often() -> None:
    labels, distances = torch.tensor([0, 0, 1, 1, 2]), torch.arange(25.0).view(5, 5)
    found = torch.cat([_chosen_negatives(distances, same_identity(labels)[1], "random")[0] for _ in range(600)])
    values, counts = found.unique(return_counts=True)
    assert values.tolist() == [2, 3, 4]
    assert bool(((counts - 1000).abs() < 150).all())


def test_near_vectors_are_apart_in_bfloat16_too() -> None:
    x = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.01, 0.0]]))
    with torch.autocast("cpu", torch.bfloat16):
        assert float(squared_distances(x, x)[0, 1]) == pytest.approx(1e-4, rel=0.01)


def test_equal_vectors_have_finite_gradients() -> None:
    x = torch.ones(4, 3, dtype=torch.float64).requires_grad_()
    contrastive_loss(F.normalize(x), torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_hard_mining_of_one_point_costs_the_margin() -> None:
    """What collapse looks like: all vectors equal, a loss of exactly the margin, no gradient out of it."""
    x = torch.ones(len(LABELS), 3)
    assert float(triplet_loss(F.normalize(x), LABELS, 0.2, "hard")) == pytest.approx(0.2)


def test_gradients_of_the_losses() -> None:
    x = vectors().requires_grad_()
    for mining in ("all", "hard", "semi_hard"):
        assert torch.autograd.gradcheck(lambda v, m=mining: triplet_loss(v, LABELS, 0.3, m), (x,))
    assert torch.autograd.gradcheck(lambda v: contrastive_loss(v, LABELS), (x,))


def test_pairs_know_no_image_with_itself() -> None:
    same, different = same_identity(LABELS)
    assert not same.diagonal().any()
    assert not different.diagonal().any()
    assert int(same.sum()) == 6 + 6 + 2
    torch.testing.assert_close(squared_distances(vectors(), vectors()), torch.cdist(vectors(), vectors()).square())


def test_cross_entropy_of_pairs_weighs_both_kinds_alike() -> None:
    logits = torch.zeros(len(LABELS), len(LABELS))
    assert float(pair_cross_entropy(logits, LABELS)) == pytest.approx(2 * math.log(2))


def test_the_angular_margin_widens_the_true_angle_alone() -> None:
    angles = torch.tensor([[0.4, 1.0, 2.0], [1.2, 0.3, 3.0]])
    found = angular_margin(angles.cos(), torch.tensor([1, 2]), margin=0.5, scale=10.0)
    expected = 10 * angles.cos()
    expected[0, 1] = 10 * math.cos(1.5)
    expected[1, 2] = 10 * (math.cos(3.0) - 0.5 * math.sin(0.5))  # 3.0 + 0.5 is past pi
    torch.testing.assert_close(found, expected)


def test_no_margin_is_the_softmax_over_cosines() -> None:
    cosines = torch.rand(4, 6) * 2 - 1
    torch.testing.assert_close(angular_margin(cosines, torch.tensor([0, 1, 2, 5]), 0.0, 30.0), 30 * cosines)
