"""People and the embeddings of their pictures in one SQLite file.

The file is whole whatever happens: every change is one transaction, on the disk before it is reported done (journal and
`synchronous = FULL`: SQLite, "Atomic Commit In SQLite"), so that a process that is killed, or a power cut, loses
nothing that was reported. Several processes may read and write at once; a writer waits for its turn up to WAIT seconds.
There is no write-ahead log, in which the embeddings of a person who was removed could outlast the removal, and which
network file systems do not allow.

No pictures are kept, nor where they lay: of a picture there are its embedding and the SHA-256 of its pixels, by which
the same picture is known again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saccade.errors import DataError, ModelFileError, ResourceError, UsageError
from saccade.identities.sqlite_file import APPLICATION, FORMAT, HEAD, connect, make, sqlite_errors
from saccade.machine.files import disk_errors, open_regular

LONGEST_NAME = 200  # characters
MANY = 10_000  # pictures that are read at once


@dataclass(frozen=True)
class Face:
    """A picture of one person, ready to be enrolled."""

    embedding: np.ndarray  # [d], brought to length 1
    digest: bytes  # of the pixels (`digest_of`)
    source: str = "a picture"  # what messages call it, such as its file; not kept


@dataclass(frozen=True)
class Enrolled:
    """What became of pictures that were given: added, or known already as pictures of the same person."""

    added: int
    known: int


@dataclass(frozen=True)
class Snapshot:
    """All embeddings at one moment, those of a person side by side."""

    names: list[str]  # of the people
    starts: np.ndarray  # [people + 1] int64: rows starts[i] to starts[i + 1] are person i's
    rows: np.ndarray  # [pictures, d] float32 of length 1
    ids: np.ndarray  # [pictures] int64: numbers of the pictures, never given twice
    changes: int  # the state of the database (`Database.changes`)


def digest_of(pixels: np.ndarray) -> bytes:
    """SHA-256 of an image [H, W, 3] uint8 and its size: equal pictures in differently named files are one picture."""
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def checked_name(name: str) -> str:
    """A person's name as it is kept: Unicode in composed form (NFC), so that one name is one person on every system.

    Raises:
        DataError: empty, with control characters, or longer than 200 characters.
    """
    kept = unicodedata.normalize("NFC", name).strip()
    if not kept or len(kept) > LONGEST_NAME or any(unicodedata.category(c) in ("Cc", "Cs") for c in kept):
        raise DataError(f"{name[:50]!r} is no name: 1 to {LONGEST_NAME} characters of a line of text are")
    return kept


class Database:
    """A file of people. Open it by `open_database` or `create_database`, and close it (or use `with`).

    Attributes:
        path: the file.
        model: SHA-256 of the weights whose embeddings these are.
        length: numbers of an embedding.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, model: str, length: int) -> None:
        self.path, self._connection, self.model, self.length = path, connection, model, length

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def changes(self) -> int:
        """How often the database was changed; two equal numbers are one state."""
        with sqlite_errors(self.path):
            return int(self._connection.execute("SELECT changes FROM about").fetchone()[0])

    def people(self) -> list[tuple[str, int]]:
        """Names and numbers of pictures, sorted by name."""
        with sqlite_errors(self.path):
            return self._connection.execute(
                "SELECT name, count(pictures.id) FROM people JOIN pictures ON person = people.id GROUP BY people.id "
                "ORDER BY name"
            ).fetchall()

    def count(self) -> int:
        """Pictures in all."""
        with sqlite_errors(self.path):
            return int(self._connection.execute("SELECT count(*) FROM pictures").fetchone()[0])

    def enroll(self, people: Sequence[tuple[str, Sequence[Face]]], model: str) -> Enrolled:
        """Add pictures of people, all of them or none; when this returns they are on the disk.

        A picture that is there already as one of the same person is left as it is, so that enrolling twice is enrolling
        once. People who are not there yet are added.

        Raises:
            DataError: an embedding of another length, not finite or 0; a name that is none; a picture that is there as
                another person's. The database is as it was.
            UsageError: embeddings of another model.
            ResourceError: no space, no permission, or another process kept the database for too long.
        """
        self.check_model(model)
        self._clear()  # of a removal that was interrupted
        given = [(checked_name(name), face) for name, faces in people for face in faces]
        rows = [(name, face, self._bytes(face, name)) for name, face in given]
        added = 0
        with self._change() as connection:
            for name, face, embedding in rows:
                connection.execute("INSERT OR IGNORE INTO people (name) VALUES (?)", (name,))
                person = connection.execute("SELECT id FROM people WHERE name = ?", (name,)).fetchone()[0]
                there = connection.execute("SELECT person FROM pictures WHERE digest = ?", (face.digest,)).fetchone()
                if there is None:
                    connection.execute(
                        "INSERT INTO pictures (person, digest, embedding) VALUES (?, ?, ?)",
                        (person, face.digest, embedding),
                    )
                    added += 1
                elif there[0] != person:
                    other = connection.execute("SELECT name FROM people WHERE id = ?", there).fetchone()[0]
                    raise DataError(
                        f"{self.path}: {face.source}, given for {name!r}, is enrolled as one of {other!r}; one face is "
                        f"one person's. None of the {len(rows)} pictures given with it was enrolled"
                    )
        return Enrolled(added, len(rows) - added)

    def check_model(self, model: str) -> None:
        """Raises UsageError where embeddings are of another model, whose numbers mean something else."""
        if model != self.model:
            raise UsageError(
                f"{self.path}: its embeddings are of the model {self.model[:12]}, those given of {model[:12]}; they "
                "cannot be compared. Use that model, or enroll everyone into a new database"
            )

    def remove(self, names: Sequence[str]) -> int:
        """Remove people with all that was kept of them, from the file and from every index beside it, and write the
        file anew without the places where it stood; the number of pictures that were removed.

        Raises:
            DataError: someone of `names` is not there; nobody is removed.
            ResourceError: no space (the file is written once more), no permission, or another process kept the
                database for too long. Where that hit the last step the message says so: nobody finds the people any
                more, and the next change of the database ends the work.
        """
        wanted = [checked_name(name) for name in names]
        with self._change() as connection:
            removed = 0
            for name in dict.fromkeys(wanted):
                row = connection.execute("SELECT id FROM people WHERE name = ?", (name,)).fetchone()
                if row is None:
                    raise DataError(f"{self.path}: nobody here is called {name!r}; `saccade faces list` names everyone")
                removed += connection.execute("DELETE FROM pictures WHERE person = ?", row).rowcount
                connection.execute("DELETE FROM people WHERE id = ?", row)
            connection.execute("UPDATE about SET to_clear = 1")
            for file in index_files(self.path):
                file.unlink(missing_ok=True)
        self._clear()
        return removed

    def _clear(self) -> None:
        """Write the file anew without what was removed (VACUUM), where that is still to do."""
        with sqlite_errors(
            self.path, "everyone named is removed, but the file is yet to be written anew: the next call does"
        ):
            if self._connection.execute("SELECT to_clear FROM about").fetchone()[0]:
                self._connection.execute("VACUUM")
                self._connection.execute("UPDATE about SET to_clear = 0")

    @contextmanager
    def unchanged(self, changes: int) -> Iterator[bool]:
        """Whether the database is still in this state; while the block runs nobody changes it."""
        with sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute("SELECT changes FROM about").fetchone()[0] == changes
            finally:
                self._connection.execute("ROLLBACK")

    def snapshot(self) -> Snapshot:
        """All embeddings at one moment.

        Raises:
            ModelFileError: the file is damaged.
        """
        with sqlite_errors(self.path), self._reading() as connection:
            changes = int(connection.execute("SELECT changes FROM about").fetchone()[0])
            people = connection.execute(
                "SELECT people.id, name, count(*) FROM people JOIN pictures ON person = people.id GROUP BY people.id "
                "ORDER BY people.id"
            ).fetchall()
            total = sum(row[2] for row in people)
            ids = np.empty(total, dtype=np.int64)
            rows = np.empty((total, self.length), dtype=np.float32)
            found = connection.execute("SELECT id, embedding FROM pictures ORDER BY person, id")
            start = 0
            while some := found.fetchmany(MANY):
                ids[start : start + len(some)] = [picture for picture, _ in some]
                rows[start : start + len(some)] = self._numbers(some)
                start += len(some)
        odd = np.flatnonzero(~(np.abs(np.einsum("nd,nd->n", rows, rows) - 1) < 1e-3))
        if len(odd):
            raise ModelFileError(f"{self.path}: damaged: the embedding of picture {ids[odd[0]]} is not of length 1")
        starts = np.concatenate([[0], np.cumsum([row[2] for row in people])]).astype(np.int64)
        return Snapshot([row[1] for row in people], starts, rows, ids, changes)

    def pictures(self, ids: Sequence[int]) -> tuple[list[str], np.ndarray]:
        """Whose pictures of these numbers are [n], and their embeddings [n, d]; those that are not there any more are
        left out.

        Raises:
            ModelFileError: the file is damaged.
        """
        found: list[tuple[int, str, bytes]] = []
        with sqlite_errors(self.path):
            for start in range(0, len(ids), 500):
                some = [int(picture) for picture in ids[start : start + 500]]
                found += self._connection.execute(
                    "SELECT pictures.id, name, embedding FROM pictures JOIN people ON person = people.id "
                    f"WHERE pictures.id IN ({','.join('?' * len(some))})",
                    some,
                )
        return [name for _, name, _ in found], self._numbers([(picture, row) for picture, _, row in found])

    def _bytes(self, face: Face, name: str) -> bytes:
        """An embedding at length 1 as it is kept: little-endian float32."""
        row = np.asarray(face.embedding, dtype=np.float64)
        if row.shape != (self.length,):
            raise DataError(
                f"{self.path}: {face.source} of {name!r} has an embedding of shape {list(row.shape)}; those here have "
                f"{self.length} numbers"
            )
        length = float(np.linalg.norm(row))
        if not np.isfinite(length) or length == 0:
            raise DataError(
                f"{self.path}: {face.source} of {name!r} has an embedding of length {length}, without direction"
            )
        return (row / length).astype("<f4").tobytes()

    def _numbers(self, found: Sequence[tuple[int, object]]) -> np.ndarray:
        """Embeddings [n, d] of pictures as they are kept."""
        for picture, row in found:
            if not isinstance(row, bytes) or len(row) != 4 * self.length:
                raise ModelFileError(f"{self.path}: damaged: the embedding of picture {picture} has another length")
        joined = b"".join(row for _, row in found if isinstance(row, bytes))
        return np.frombuffer(joined, dtype="<f4").reshape(-1, self.length)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction that changes something: others wait meanwhile, and an error takes everything back."""
        with sqlite_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("UPDATE about SET changes = changes + 1")
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """One transaction in which all that is read is of one moment."""
        self._connection.execute("BEGIN")
        try:
            yield self._connection
        finally:
            self._connection.execute("ROLLBACK")


def index_files(path: Path) -> list[Path]:
    """The indexes beside a database, half-written ones too (`search.index_path`)."""
    return sorted(path.parent.glob(f".{_escaped(path.name)}.index-*"))


def _escaped(name: str) -> str:
    """A file's name as a pattern that only it matches."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def create_database(path: Path, model: str, length: int) -> Database:
    """A new, empty database, or the one that is there, where it is of the same model.

    Args:
        model: SHA-256 of the weights that make the embeddings.
        length: numbers of an embedding.

    Raises:
        UsageError: the database there is of another model or another length.
        ModelFileError: what is there is no database of people, is damaged, or of a newer Saccade.
        ResourceError: no permission or no space.
    """
    if not os.path.lexists(path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with disk_errors(path):
            temporary.unlink(missing_ok=True)
            try:
                make(temporary, model, length)
                with suppress(FileExistsError):  # another process was faster; theirs is taken
                    os.link(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
    database = open_database(path)
    try:
        database.check_model(model)
        if database.length != length:
            raise UsageError(f"{path}: its embeddings have {database.length} numbers, those given {length}")
    except UsageError:
        database.close()
        raise
    return database


def open_database(path: Path) -> Database:
    """Open a database that is there.

    Raises:
        ModelFileError: no file, no database of people, damaged, or of a newer Saccade. The file is not touched.
        ResourceError: no permission.
    """
    try:
        with open_regular(path, links=True) as file:
            head = file.read(100)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise ResourceError(f"{path}: no permission to read it") from error
        raise ModelFileError(
            f"{path}: no database of people here ({error.strerror}); `saccade faces enroll` makes one"
        ) from error
    if head[:16] != HEAD or int.from_bytes(head[68:72], "big") != APPLICATION:
        raise ModelFileError(f"{path}: no database of people; `saccade faces enroll` makes one under another name")
    version = int.from_bytes(head[60:64], "big")
    if version != FORMAT:
        raise ModelFileError(f"{path}: a database of format {version}, this Saccade reads {FORMAT}; update Saccade")
    connection = connect(path, "rw" if os.access(path, os.W_OK) else "ro")
    try:
        with sqlite_errors(path):
            model, length = connection.execute("SELECT model, length FROM about").fetchone() or (None, None)
        if not isinstance(model, str) or not isinstance(length, int) or length < 1:
            raise ModelFileError(f"{path}: damaged: it does not say whose embeddings it holds")
    except BaseException:
        connection.close()
        raise
    return Database(path, connection, model, length)
