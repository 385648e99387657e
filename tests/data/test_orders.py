"""Orders of an epoch: what comes how often, and in which step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.data.orders import Identities, InOrder, Order, Repeated, Shuffled, identities_of_steps
from saccade.errors import DataError, UsageError

FACTORS = np.array([1.0, 1.4, 3.3, 1.0, 1.3])
PEOPLE = np.array([7, 7, 7, 7, 7, 2, 2, 2, 5, 9, 9])


def places(order: Order, images: int, epoch: int = 0, batch: int = 4) -> np.ndarray:
    return np.concatenate(order.steps(images, epoch, batch))


def test_in_order_and_shuffled_show_every_image_once() -> None:
    assert places(InOrder(), 11).tolist() == list(range(11))
    shuffled = [places(Shuffled(1), 11, epoch).tolist() for epoch in (0, 1)]
    assert sorted(shuffled[0]) == sorted(shuffled[1]) == list(range(11))
    assert shuffled[0] != shuffled[1] != places(Shuffled(2), 11, 1).tolist()
    assert shuffled[1] == places(Shuffled(1), 11, 1).tolist()


@pytest.mark.parametrize("order", [Shuffled(1), Repeated(np.ones(11), 1)])
def test_a_last_step_that_not_all_processes_share_is_left_out(order: Order) -> None:
    assert [len(step) for step in order.steps(11, 0, 4, processes=3)] == [4, 4, 3]
    assert [len(step) for step in order.steps(11, 0, 4, processes=4)] == [4, 4]
    assert [len(step) for step in order.steps(11, 0, 20, processes=20)] == [11]
    assert [len(step) for step in order.steps(11, 0, 1, processes=2)] == [1] * 11
    assert [len(step) for step in InOrder().steps(11, 0, 4, processes=4)] == [4, 4, 3]


@settings(max_examples=100, deadline=None)
@given(extra=st.lists(st.floats(0, 9), min_size=1, max_size=30), seed=st.integers(0, 100))
def test_every_image_comes_its_factor_times_rounded_up_or_down(extra: list[float], seed: int) -> None:
    factors = 1 + np.array(extra)
    found = places(Repeated(factors, seed), len(factors))
    assert len(found) == np.ceil(factors.sum() - 1e-9)
    images, copies = found % len(factors), found // len(factors)
    counts = np.bincount(images, minlength=len(factors))
    stretched = factors * len(found) / factors.sum()
    assert (counts >= np.floor(stretched + 1e-9)).all()
    assert (counts <= np.ceil(stretched - 1e-9)).all()
    assert all(sorted(copies[images == i].tolist()) == list(range(counts[i])) for i in range(len(factors)))


def test_repeats_have_their_factor_in_the_mean() -> None:
    counts = sum(np.bincount(places(Repeated(FACTORS), 5, epoch) % 5, minlength=5) for epoch in range(2000))
    assert counts / 2000 == pytest.approx(FACTORS, abs=0.05)


@pytest.mark.parametrize(("p", "k"), [(2, 3), (4, 1), (1, 2), (3, 4)])
def test_steps_of_identities(p: int, k: int) -> None:
    order = Identities(p, k, PEOPLE, seed=3)
    seen: set[int] = set()
    for epoch in range(40):
        steps = order.steps(len(PEOPLE), epoch, p * k)
        assert len(steps) == 4 // p
        for step in steps:
            people = PEOPLE[step % len(PEOPLE)].reshape(p, k)
            assert (people == people[:, :1]).all()
            assert len(set(people[:, 0])) == p
            assert len(set(step.tolist())) == p * k  # copies of an image are other places
        visits = np.concatenate(steps).reshape(-1, k) % len(PEOPLE)
        assert len(set(PEOPLE[visits[:, 0]])) == p * len(steps)  # nobody comes twice
        for visit in visits:
            times = np.bincount(visit, minlength=len(PEOPLE))[PEOPLE[visit[0]] == PEOPLE]
            assert times.max() - times.min() <= 1
        seen |= set(visits.ravel().tolist())
    assert seen == set(range(len(PEOPLE)))
    first, again, other = (places(order, 11, epoch, p * k).tolist() for epoch in (0, 0, 1))
    assert first == again != other


def test_identities_that_cannot_fill_a_step_are_refused() -> None:
    with pytest.raises(DataError, match="5 identities, the images show 4"):
        Identities(5, 2, PEOPLE)
    with pytest.raises(UsageError, match="at least 1"):
        Identities(2, 0, PEOPLE)
    with pytest.raises(UsageError, match="at least 1"):
        Identities(2, 2, PEOPLE, rounds=0)
    with pytest.raises(UsageError, match="batch 8: 2 identities with 3 images each are 6"):
        Identities(2, 3, PEOPLE).steps(11, 0, 8)


def test_rounds_of_identities_show_other_places() -> None:
    steps = Identities(2, 3, PEOPLE, seed=3, rounds=4).steps(len(PEOPLE), 0, 6)
    assert len(steps) == 4 * 2
    found = np.concatenate(steps)
    assert len(set(found.tolist())) == len(found)
    _, visits = np.unique(PEOPLE[found % len(PEOPLE)], return_counts=True)
    assert visits.tolist() == [12, 12, 12, 12]


@pytest.mark.parametrize(
    ("batch", "k", "p", "rounds"), [(64, 4, 16, 3), (8, 4, 2, 2), (4, 4, 2, 2), (400, 4, 20, 2), (40, 10, 4, 1)]
)
def test_steps_of_a_batch_fit_the_identities(batch: int, k: int, p: int, rounds: int) -> None:
    order = identities_of_steps(np.repeat(np.arange(20), 10), batch, k, seed=0)
    assert (order.p, order.k, order.rounds) == (p, k, rounds)
