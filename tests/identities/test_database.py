"""The file of people: whole after every accident, shared by processes, without traces of who was removed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from saccade.errors import DataError, ModelFileError, ResourceError, UsageError
from saccade.identities import sqlite_file as module
from saccade.identities.database import Database, Face, create_database, digest_of, open_database

MODEL = "a" * 64


def face(number: int, length: int = 8) -> Face:
    pixels = np.full((2, 2, 3), number % 256, dtype=np.uint8)
    pixels[0, 0, 0] = number // 256
    return Face(np.random.default_rng(number).normal(size=length), digest_of(pixels))


def made(path: Path, people: int = 3, each: int = 2) -> Database:
    database = create_database(path, MODEL, 8)
    database.enroll([(f"p{i}", [face(10 * i + k) for k in range(each)]) for i in range(people)], MODEL)
    return database


def test_enrolling_twice_is_enrolling_once(tmp_path: Path) -> None:
    with made(tmp_path / "faces.db") as database:
        again = database.enroll([("p0", [face(0), face(1), face(2)]), ("new", [face(99), face(99)])], MODEL)
        assert (again.added, again.known) == (2, 3)
        assert database.people() == [("new", 1), ("p0", 3), ("p1", 2), ("p2", 2)]
        assert database.count() == 8
    with create_database(tmp_path / "faces.db", MODEL, 8) as database:  # the one that is there
        snapshot = database.snapshot()
    assert snapshot.names == ["p0", "p1", "p2", "new"]
    assert snapshot.starts.tolist() == [0, 3, 5, 7, 8]
    expected = face(2).embedding / np.linalg.norm(face(2).embedding)
    np.testing.assert_allclose(snapshot.rows[2], expected, rtol=1e-6)


def test_names_are_one_person_in_every_spelling_of_unicode(tmp_path: Path) -> None:
    with made(tmp_path / "faces.db", people=0) as database:
        database.enroll([("Zoe\u0308", [face(0)]), (" Zo\u00eb ", [face(1)])], MODEL)
        assert database.people() == [("Zo\u00eb", 2)]
        for name in ("", "  ", "a\nb", "x" * 201, "\ud800"):
            with pytest.raises(DataError, match="is no name"):
                database.enroll([(name, [face(2)])], MODEL)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Face(np.ones(7), b"x"), "have 8 numbers"),
        (Face(np.zeros(8), b"x"), "without direction"),
        (Face(np.full(8, np.nan), b"x"), "without direction"),
        (face(10), "enrolled as one of 'p1'"),
    ],
)
def test_a_wrong_picture_enrolls_nobody(tmp_path: Path, wrong: Face, words: str) -> None:
    with made(tmp_path / "faces.db") as database:
        with pytest.raises(DataError, match=words):
            database.enroll([("before", [face(50)]), ("p0", [wrong])], MODEL)
        assert [name for name, _ in database.people()] == ["p0", "p1", "p2"]


def test_embeddings_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "faces.db"
    with made(path) as database, pytest.raises(UsageError, match="cannot be compared"):
        database.enroll([("x", [face(50)])], "b" * 64)
    with pytest.raises(UsageError, match="cannot be compared"):
        create_database(path, "b" * 64, 8)
    with pytest.raises(UsageError, match="8 numbers, those given 9"):
        create_database(path, MODEL, 9)


def test_who_is_removed_leaves_no_trace(tmp_path: Path) -> None:
    """Neither name nor numbers nor the picture's digest, in no file beside the database; the others stay."""
    path = tmp_path / "faces.db"
    with made(path, people=40, each=5) as database:
        database.enroll([("Zaphod Beeblebrox", [face(5000 + i) for i in range(5)])], MODEL)
        (tmp_path / ".faces.db.index-2").write_bytes(b"Zaphod's numbers")
        gone = [face(5000 + i) for i in range(5)]
        traces = [b"Zaphod", *(f.digest for f in gone)]
        traces += [(f.embedding / np.linalg.norm(f.embedding)).astype("<f4").tobytes()[:8] for f in gone]
        assert all(trace in path.read_bytes() for trace in traces)
        assert database.remove(["Zaphod Beeblebrox", "p7", "p7"]) == 10
        assert len(database.people()) == 39
    left = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert list(left) == ["faces.db"]
    assert not [trace for trace in traces if trace in left["faces.db"]]
    assert face(390).digest in left["faces.db"]
    with open_database(path) as database, pytest.raises(DataError, match="nobody here is called 'p7'"):
        database.remove(["p1", "p7"])
    with open_database(path) as database:
        assert "p1" in dict(database.people())


def test_an_interrupted_removal_is_ended_by_the_next_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "faces.db"
    monkeypatch.setattr(module, "WAIT", 0.05)
    with made(path) as database:
        reader = sqlite3.connect(path, isolation_level=None)
        cursor = reader.execute("SELECT * FROM pictures")  # holds the file while it reads
        cursor.fetchone()
        with pytest.raises(ResourceError, match="Another process kept it"):
            database.remove(["p0"])
        cursor.close()
        reader.close()
        database.enroll([("new", [face(77)])], MODEL)
        assert not sqlite3.connect(path).execute("SELECT to_clear FROM about").fetchone()[0]


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "newer", "foreign", "folder", "missing", "numbers", "rows"])
def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "faces.db"
    made(path, people=60, each=5).close()
    whole = path.read_bytes()
    words = {
        "cut": "damaged",
        "text": "no database of people",
        "empty": "no database of people",
        "newer": "format 2, this Saccade reads 1; update",
        "foreign": "no database of people",
        "folder": "no database of people",
        "missing": "no database of people",
        "numbers": "not of length 1",
        "rows": "another length",
    }[damage]
    if damage in ("folder", "missing"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage in ("text", "empty"):
        path.write_bytes(b"people and their faces" * 9 if damage == "text" else b"")
    elif damage != "missing":
        statement = {
            "newer": "PRAGMA user_version = 2",
            "foreign": "PRAGMA application_id = 7",
            "numbers": "UPDATE pictures SET embedding = zeroblob(32) WHERE id = 9",
            "rows": "UPDATE pictures SET embedding = 'text' WHERE id = 9",
        }[damage]
        with sqlite3.connect(path) as connection:
            connection.execute(statement)
        connection.close()
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ModelFileError, match=words), open_database(path) as database:
        database.snapshot()
    if before is not None:
        assert path.read_bytes() == before
    assert not list(tmp_path.glob("*-journal"))


WRITER = """
import sys
from pathlib import Path
import numpy as np
from saccade.identities.database import Face, create_database
path, who, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with create_database(path, "a" * 64, 8) as database:
    for i in range(count):
        database.enroll([(f"{who}{i}", [Face(np.arange(8.0) + 1, f"{who}{i}".encode())])], "a" * 64)
        print(i, flush=True)
"""


def writer(path: Path, who: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), who, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    """Both find no file and make it; every picture that either reported is there."""
    path = tmp_path / "faces.db"
    both = [writer(path, who, 25) for who in "ab"]
    assert [process.wait(120) for process in both] == [0, 0]
    with open_database(path) as database:
        assert {name for name, _ in database.people()} == {f"{who}{i}" for who in "ab" for i in range(25)}
        assert database.changes() == 50
    assert [file.name for file in tmp_path.iterdir()] == ["faces.db"]


@pytest.mark.slow
def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    path = tmp_path / "faces.db"
    rng = np.random.default_rng(0)
    for turn in range(12):
        process = writer(path, f"{turn}-", 100_000)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.5)))
        process.kill()
        reported = [0, *(int(line) for line in process.stdout.read().splitlines() if line)]
        process.wait()
        with open_database(path) as database:
            names = {name for name, _ in database.people()}
            assert {f"{turn}-{i}" for i in reported} <= names
            assert database.snapshot().rows.shape[0] == len(names)
