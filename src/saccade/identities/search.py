"""Who in a database is most like an embedding: exactly, or by an index of neighbours.

Exact search compares with every picture; a person scores as the most alike of their pictures. From INDEX_FROM pictures
on, where usearch is installed, an index (HNSW: Malkov & Yashunin 2018, arXiv:1603.09320) beside the database is kept,
of which a search reads a few thousand pictures alone and now and then misses one (`benchmarks/identities.py`).
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saccade.errors import DataError, UsageError, how_to_install
from saccade.identities.database import Database, Snapshot, index_files
from saccade.machine.files import disk_errors
from saccade.metrics.identification import Similarity

INDEX_FROM = 200_000  # pictures: below, exact search takes a few hundredths of a second
BLOCK = 65_536  # pictures compared at once
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 256  # of the index: links a picture, candidates looked at


@dataclass(frozen=True)
class Match:
    """A person and how alike the most alike of their pictures is (cosine)."""

    name: str
    score: float


def checked_query(query: np.ndarray, length: int) -> np.ndarray:
    """An embedding [length] at length 1, float32. Raises DataError for one of another length or without direction."""
    row = np.asarray(query, dtype=np.float64)
    norm = float(np.linalg.norm(row))
    if row.shape != (length,) or not np.isfinite(norm) or norm == 0:
        raise DataError(
            f"an embedding of shape {list(row.shape)} and length {norm:g}; {length} finite numbers are needed"
        )
    return np.asarray(row / norm, dtype=np.float32)


def similarities(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Cosines [n] of a query [d] to rows [n, d], all of length 1, a block of rows at a time."""
    found = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        np.matmul(rows[start : start + BLOCK], query, out=found[start : start + BLOCK])
    return found


def exact(snapshot: Snapshot, query: np.ndarray, top: int = 5, compare: Similarity | None = None) -> list[Match]:
    """The `top` people most like a query [d] of length 1, best first; of equals the one enrolled first. `compare` says
    how alike they are, in place of the cosine."""
    if not snapshot.names:
        return []
    rows = snapshot.rows
    scores = similarities(rows, query) if compare is None else compare(query[None], rows)[0]
    best = np.maximum.reduceat(scores, snapshot.starts[:-1])
    some = np.argpartition(-best, top - 1)[:top] if top < len(best) else np.arange(len(best))
    some = np.sort(some)
    order = some[np.argsort(-best[some], kind="stable")]
    return [Match(snapshot.names[i], float(best[i])) for i in order]


def has_usearch() -> bool:
    """Whether the library of the index is installed."""
    return importlib.util.find_spec("usearch") is not None


def index_path(database: Database, changes: int) -> Path:
    """Where the index of this state of the database lies. A database that changed since has no index of that name, so
    an old one never answers for it."""
    return database.path.with_name(f".{database.path.name}.index-{changes}")


class Index:
    """An index of neighbours over the pictures of one state of a database."""

    def __init__(self, inner: Any, length: int) -> None:
        self._inner, self._length = inner, length

    @classmethod
    def of(cls, ids: np.ndarray, rows: np.ndarray, threads: int = 0) -> Index:
        """Built from pictures: ids [n] and rows [n, d] of length 1; `threads` 0: as many as there are cores.

        Raises:
            UsageError: usearch is not installed.
        """
        index = cls(_new(rows.shape[1]), rows.shape[1])
        index._inner.add(ids.astype(np.uint64), rows, threads=threads)
        return index

    def pictures(self, query: np.ndarray, top: int) -> np.ndarray:
        """Ids [k] of the pictures most like a query [d] of length 1, k at most `top`."""
        return np.asarray(self._inner.search(query, top).keys).astype(np.int64)

    def __len__(self) -> int:
        return len(self._inner)

    def save(self, path: Path) -> None:
        """Write the index to a file."""
        self._inner.save(str(path))


def _new(length: int) -> Any:
    if not has_usearch():
        raise UsageError(f"an index of neighbours needs usearch: {how_to_install('identities')}")
    from usearch.index import Index as Neighbours

    return Neighbours(
        ndim=length,
        metric="ip",
        dtype="f16",  # who is near; how near is computed from the database
        connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD,
        expansion_search=EXPANSION_SEARCH,
    )


def update_index(database: Database, least: int = INDEX_FROM) -> bool:
    """Keep the index of a database of at least `least` pictures, where usearch is installed; whether there is one now.

    What was only added to is added to; after a removal the index is built anew. It takes minutes for a million
    pictures. Meanwhile others may change the database: then the index is of a state that is gone, and is not kept.

    Raises:
        ResourceError: no space or no permission.
    """
    if not has_usearch() or database.count() < least:
        return False
    snapshot = database.snapshot()
    place = index_path(database, snapshot.changes)
    if place.exists():
        return True
    old = [file for file in index_files(database.path) if not file.name.endswith(".tmp")]
    index = _extended(old[-1], snapshot) if old else Index.of(snapshot.ids, snapshot.rows)
    temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    with disk_errors(place):
        try:
            index.save(temporary)
            with database.unchanged(snapshot.changes) as unchanged:
                if unchanged:
                    os.replace(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)
        for file in old if place.exists() else ():
            file.unlink(missing_ok=True)
    return place.exists()


def _extended(file: Path, snapshot: Snapshot) -> Index:
    """An older index with the pictures that came since; built anew where it holds what the database does not."""
    inner = _new(snapshot.rows.shape[1])
    try:
        inner.load(str(file))
        known = np.asarray(inner.keys).astype(np.int64)
    except (RuntimeError, ValueError, OSError):  # damaged, or of another length
        return Index.of(snapshot.ids, snapshot.rows)
    fresh = ~np.isin(snapshot.ids, known)
    if len(known) + int(fresh.sum()) != len(snapshot.ids):
        return Index.of(snapshot.ids, snapshot.rows)
    inner.add(snapshot.ids[fresh].astype(np.uint64), snapshot.rows[fresh])
    return Index(inner, snapshot.rows.shape[1])


def open_index(database: Database) -> Index | None:
    """The index of the database as it is now, read from the disk as it is needed; None where there is none."""
    place = index_path(database, database.changes())
    if not has_usearch() or not place.is_file():
        return None
    inner = _new(database.length)
    try:
        inner.view(str(place))
    except (RuntimeError, ValueError, OSError):
        return None  # damaged: exact search answers
    return Index(inner, database.length)


def indexed(database: Database, index: Index, query: np.ndarray, top: int = 5) -> list[Match]:
    """The `top` people most like a query [d] of length 1 by the index, best first, with their scores as in the
    database. Where the nearest pictures are all of a few people, more are asked for."""
    wanted = 4 * top
    while True:
        ids = index.pictures(query, min(wanted, len(index)))
        names, rows = database.pictures(ids.tolist())
        scores = rows @ query
        best: dict[str, float] = {}
        for i in np.argsort(-scores, kind="stable"):
            best.setdefault(names[i], float(scores[i]))
        if len(best) >= top or wanted >= len(index):
            return [Match(name, score) for name, score in list(best.items())[:top]]
        wanted *= 4


class Searcher:
    """Answers for one state of a database after another: by its index where it has one, else exactly, from memory.

    With `compare`, how alike embeddings are in place of the cosine, always exactly: an index knows the cosine alone.
    """

    def __init__(self, database: Database, compare: Similarity | None = None) -> None:
        self.database, self._compare = database, compare
        self._snapshot: Snapshot | None = None
        self._index: Index | None = None
        self._changes = -1

    def nearest(self, query: np.ndarray, top: int = 5) -> list[Match]:
        """The `top` people most like an embedding [d], best first; none in an empty database.

        Raises:
            DataError: an embedding of another length or without direction.
        """
        row = checked_query(query, self.database.length)
        changes = self.database.changes()
        if changes != self._changes:
            self._index = open_index(self.database) if self._compare is None else None
            self._snapshot = None if self._index is not None else self.database.snapshot()
            self._changes = changes if self._snapshot is None else self._snapshot.changes
        if self._index is not None:
            return indexed(self.database, self._index, row, top)
        assert self._snapshot is not None
        return exact(self._snapshot, row, top, self._compare)

    @property
    def by_index(self) -> bool:
        """Whether the last answer came from an index."""
        return self._index is not None
