"""Identification: ranks and open-set rates by hand, a plain second computation, what a collapse is worth."""

from __future__ import annotations

import numpy as np
import pytest

from saccade.errors import DataError
from saccade.metrics.identification import (
    Probes,
    all_pairs,
    open_set,
    rank_rate,
    score_embeddings,
    show_to_database,
    thinned,
    unit,
    worst_pairs,
)
from saccade.metrics.verification import auc, roc, tar_at_far


def made_people(count: int = 12, images: int = 5, noise: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(count, 8))
    people = np.repeat(np.arange(count), images)
    return unit(centres[people] + noise * rng.normal(size=(len(people), 8))), people


def test_ranks_against_a_plain_computation() -> None:
    rows, people = made_people()
    ranks = []
    for turn in range(5):
        enrolled = {person: rows[np.flatnonzero(people == person)[turn]] for person in range(12)}
        for i, row in enumerate(rows):
            if not np.array_equal(row, enrolled[people[i]]):
                best = sorted(enrolled, key=lambda person: -float(row @ enrolled[person]))
                ranks.append(best.index(people[i]) + 1)
    probes = show_to_database(rows, people)
    assert sorted(probes.rank.tolist()) == sorted(ranks)
    assert 0.5 < rank_rate(probes, 1) < rank_rate(probes, 5) <= 1
    assert len(show_to_database(rows, people, turns=2).rank) == 2 * 48


def test_a_collapse_is_worth_nothing() -> None:
    """Where all embeddings are the same, everyone scores the same: nobody is found, and half of all pairs are right."""
    rows = unit(np.ones((20, 4)))
    people = np.repeat(np.arange(5), 4)
    found = score_embeddings([str(i) for i in range(20)], [f"p{i}" for i in people], rows, bootstrap=0).metrics
    assert found["rank_1"].value == 0
    assert found["auc"].value == 0.5
    assert found["eer"].value == 0.5
    assert found["dir_at_far_1e-2"].value is None  # 80 strangers cannot show one in a hundred


def test_a_person_with_one_picture_is_enrolled_and_never_shown() -> None:
    rows, people = made_people(3, 2)
    probes = show_to_database(np.concatenate([rows, rows[:1]]), np.append(people, 9))
    assert 6 not in probes.image
    assert len(probes.image) == 6
    assert (probes.other[probes.image == 1] >= rows[1] @ rows[0] - 1e-12).all()  # the twin with the same picture
    assert not len(show_to_database(rows[:2], people[:2]).rank)  # one person: nobody to mistake it for


def test_the_open_set_by_hand() -> None:
    probes = Probes(
        image=np.arange(4),
        mate=np.array([0.9, 0.7, 0.6, 0.2]),
        other=np.array([0.3, 0.5, 0.1, 0.4]),  # the last is taken for another
        rank=np.array([1, 1, 1, 2]),
    )
    curve = open_set(probes)
    assert tar_at_far(curve, 0.25) == 0.75  # at 0.5 and above one stranger of four is let in
    assert tar_at_far(curve, 0.99) == 0.75  # who is taken for another is never found
    assert float(curve.tar[curve.thresholds == 0.7][0]) == 0.5
    assert rank_rate(probes, 1) == 0.75
    assert rank_rate(probes, 2) == 1


def test_intervals_are_over_people() -> None:
    rows, people = made_people()
    ids, names = [f"{i:03}" for i in range(len(rows))], [f"person {p}" for p in people]
    result = score_embeddings(ids, names, rows, bootstrap=200)
    for name in ("auc", "eer", "tar_at_far_1e-2", "tar_at_far_1e-3", "rank_1", "rank_5", "dir_at_far_1e-2"):
        value = result.metrics[name]
        assert value.value is not None, name
        assert value.low is not None, name
        assert value.low <= value.value <= value.high, name
    pairs = all_pairs(people)
    curve = roc((rows @ rows.T)[pairs[:, 0], pairs[:, 1]], people[pairs[:, 0]] == people[pairs[:, 1]])
    assert result.metrics["auc"].value == pytest.approx(auc(curve), abs=1e-12)
    assert score_embeddings(ids, names, rows, bootstrap=200).to_json() == result.to_json()
    one_each = score_embeddings(ids[::5], names[::5], rows[::5], bootstrap=20).to_json()
    assert one_each["metrics"]["auc"]["value"] is None
    assert one_each["metrics"]["rank_1"]["value"] is None


def test_what_a_result_keeps_of_people_and_pairs() -> None:
    rows, people = made_people(4, 3, 0.05)
    rows[0] = rows[4]  # a picture of person 0 that shows person 1
    ids = [f"{p}/{i}" for i, p in enumerate(people)]
    result = score_embeddings(ids, [f"p{p}" for p in people], rows, bootstrap=0)
    assert [row["name"] for row in result.per_class] == ["p0", "p1", "p2", "p3"]
    assert [row["images"] for row in result.per_class] == [3] * 4
    assert result.per_class[0]["rank_1"] < result.per_class[2]["rank_1"] == 1
    assert result.per_class[0]["false_refusals"] > result.per_class[2]["false_refusals"] == 0
    worst = result.curves["worst_pairs"]
    assert worst["different"][0] == ("0/0", "1/4", pytest.approx(1))
    assert {worst["same"][0][0], worst["same"][1][0]} == {"0/0"}
    assert sum(result.curves["scores"]["same"]) == 12
    assert sum(result.curves["scores"]["different"]) == 54
    near = rows.mean(0) + 1e-3 * rows  # pairs that are all alike still fill more than one bar
    bars = score_embeddings(ids, [f"p{p}" for p in people], near, bootstrap=0).curves["scores"]
    assert len(np.flatnonzero(bars["different"])) > 1
    assert score_embeddings([], [], np.zeros((0, 8)), bootstrap=5).to_json()["metrics"]["auc"]["value"] is None


def test_pairs_are_drawn_where_there_are_too_many() -> None:
    people = np.repeat(np.arange(4), 100)
    pairs = all_pairs(people, most=4000, seed=5)
    same = people[pairs[:, 0]] == people[pairs[:, 1]]
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert 1700 < same.sum() <= 2000
    assert 1700 < (~same).sum() <= 2000
    assert np.array_equal(pairs, all_pairs(people, most=4000, seed=5))
    few = np.repeat(np.arange(200), 2)  # 200 pairs of one person: all of them are kept
    pairs = all_pairs(few, most=4000)
    assert (few[pairs[:, 0]] == few[pairs[:, 1]]).sum() == 200


def test_a_thinned_curve_keeps_its_ends() -> None:
    rng = np.random.default_rng(0)
    same = rng.random(5000) < 0.5
    curve = roc(rng.normal(same), same)
    kept = thinned(curve, 100)
    assert len(kept) <= 102
    assert (kept[0], kept[-1]) == (0, len(curve.far) - 1)
    assert np.interp(0.01, curve.far[kept], curve.tar[kept]) == pytest.approx(tar_at_far(curve, 0.01), abs=0.01)


def test_worst_pairs_of_each_kind() -> None:
    pairs = np.array([[0, 1], [0, 2], [1, 2], [2, 3]])
    found = worst_pairs("abcd", pairs, np.array([0.1, 0.9, 0.3, 0.8]), np.array([True, False, False, True]), most=1)
    assert found == {"same": [("a", "b", 0.1)], "different": [("a", "c", 0.9)]}


def test_an_embedding_without_direction_is_refused() -> None:
    with pytest.raises(DataError, match="embedding 1 has length 0"):
        unit(np.array([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(DataError, match="no direction"):
        unit(np.array([[np.inf, 0.0]]))
