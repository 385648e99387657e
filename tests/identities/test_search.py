"""Search: exact against a plain computation, the index beside it and when it is not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saccade.errors import DataError
from saccade.identities.database import Database, Face, create_database
from saccade.identities.search import (
    Index,
    Match,
    Searcher,
    exact,
    has_usearch,
    index_path,
    open_index,
    similarities,
    update_index,
)

MODEL = "m"
needs_usearch = pytest.mark.skipif(not has_usearch(), reason="usearch is not installed")


def made(path: Path, people: int = 60, each: int = 3) -> tuple[Database, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    vectors = {f"p{i}": rng.normal(size=(each, 16)) for i in range(people)}
    database = create_database(path, MODEL, 16)
    database.enroll(
        [(name, [Face(row, f"{name}{k}".encode()) for k, row in enumerate(rows)]) for name, rows in vectors.items()],
        MODEL,
    )
    return database, vectors


def plainly(vectors: dict[str, np.ndarray], query: np.ndarray, top: int) -> list[Match]:
    scores = {
        name: max(float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in rows)
        for name, rows in vectors.items()
    }
    return [Match(name, score) for name, score in sorted(scores.items(), key=lambda pair: -pair[1])[:top]]


def same(found: list[Match], expected: list[Match]) -> None:
    assert [match.name for match in found] == [match.name for match in expected]
    np.testing.assert_allclose([m.score for m in found], [m.score for m in expected], atol=1e-6)


def test_exact_search_against_a_plain_computation(tmp_path: Path) -> None:
    database, vectors = made(tmp_path / "faces.db")
    with database:
        searcher = Searcher(database)
        for query in np.random.default_rng(1).normal(size=(10, 16)):
            same(searcher.nearest(query, 5), plainly(vectors, query, 5))
        assert len(searcher.nearest(query, 100)) == 60
        assert not searcher.by_index
        with pytest.raises(DataError, match="16 finite numbers are needed"):
            searcher.nearest(np.ones(15))
        with pytest.raises(DataError, match="16 finite numbers are needed"):
            searcher.nearest(np.zeros(16))


def test_a_search_sees_what_another_process_changes(tmp_path: Path) -> None:
    database, vectors = made(tmp_path / "faces.db", people=5)
    query = vectors["p2"][1]
    with database, create_database(tmp_path / "faces.db", MODEL, 16) as other:
        searcher = Searcher(database)
        assert searcher.nearest(query, 1)[0].name == "p2"
        other.remove(["p2"])
        assert searcher.nearest(query, 1)[0].name != "p2"
        other.enroll([("again", [Face(query, b"again")])], MODEL)
        assert searcher.nearest(query, 1)[0].name == "again"
        other.remove([name for name, _ in other.people()])
        assert searcher.nearest(query, 1) == []
        assert exact(other.snapshot(), np.ones(16, dtype=np.float32)) == []


def test_a_learned_similarity_takes_the_place_of_the_cosine(tmp_path: Path) -> None:
    """And of the index, which knows the cosine alone."""
    database, vectors = made(tmp_path / "faces.db", people=20)
    query = np.random.default_rng(1).normal(size=16)

    def nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return -np.abs(a[:, None] - b[None]).max(2)

    unit = query / np.linalg.norm(query)
    scores = {n: max(-np.abs(unit - r / np.linalg.norm(r)).max() for r in rows) for n, rows in vectors.items()}
    with database:
        if has_usearch():
            update_index(database, least=10)
        searcher = Searcher(database, nearness)
        found = searcher.nearest(query, 3)
        assert [match.name for match in found] == sorted(scores, key=lambda name: -scores[name])[:3]
        assert found[0].score == pytest.approx(max(scores.values()), abs=1e-6)
        assert not searcher.by_index


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    monkeypatch.setattr("saccade.identities.search.BLOCK", 7)
    np.testing.assert_allclose(similarities(rows, rows[3]), rows @ rows[3], rtol=1e-5, atol=1e-6)


@needs_usearch
def test_the_index_answers_as_exact_search_does(tmp_path: Path) -> None:
    database, vectors = made(tmp_path / "faces.db")
    with database:
        assert not update_index(database)  # too few pictures to need one
        assert update_index(database, least=10)
        searcher = Searcher(database)
        for query in np.random.default_rng(1).normal(size=(10, 16)):
            same(searcher.nearest(query, 5), plainly(vectors, query, 5))
        assert searcher.by_index
        assert len(searcher.nearest(query, 60)) == 60  # several pictures a person: it asks for more


@needs_usearch
def test_an_index_is_of_one_state_and_none_outlives_a_removal(tmp_path: Path) -> None:
    database, vectors = made(tmp_path / "faces.db", people=20)
    late = np.random.default_rng(9).normal(size=16)
    trace = (late / np.linalg.norm(late)).astype(np.float16).tobytes()[:12]
    with database:
        update_index(database, least=10)
        first = index_path(database, database.changes())
        database.enroll([("late", [Face(late, b"late")])], MODEL)
        assert open_index(database) is None  # of another state
        assert Searcher(database).nearest(late, 1)[0].name == "late"
        update_index(database, least=10)
        assert not first.exists()
        assert trace in index_path(database, database.changes()).read_bytes()
        index = open_index(database)
        assert index is not None
        assert len(index) == 61
        assert Searcher(database).nearest(late, 1)[0].name == "late"
        database.remove(["late"])
        assert [file.name for file in tmp_path.iterdir()] == ["faces.db"]
        update_index(database, least=10)
        place = index_path(database, database.changes())
        assert trace not in place.read_bytes()
        place.write_bytes(b"damaged")
        same(Searcher(database).nearest(vectors["p3"][0], 3), plainly(vectors, vectors["p3"][0], 3))


@needs_usearch
def test_an_index_of_a_state_that_is_gone_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone is removed while the index is built: it would hold what was removed."""
    database, _ = made(tmp_path / "faces.db", people=20)
    save = Index.save

    def save_late(index: Index, path: Path) -> None:
        save(index, path)
        with create_database(tmp_path / "faces.db", MODEL, 16) as other:
            other.remove(["p3"])

    monkeypatch.setattr(Index, "save", save_late)
    with database:
        assert not update_index(database, least=10)
    assert [file.name for file in tmp_path.iterdir()] == ["faces.db"]
