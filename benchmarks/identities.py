"""How fast is a database of people, and what does its index miss?

    python benchmarks/identities.py --out OUT [--pictures 1000000] [--each 4] [--length 128] [--queries 200]

Embeddings are made: a person is a point of 32 dimensions turned into `length`, a picture that point with noise in all
of them, so that two pictures of a person have a cosine of about 0.8 and those of others lie around 0 (up to 0.9 for the
nearest of 250,000). Queries are new pictures of people who are enrolled. Measured: seconds to enroll 10,000 pictures,
256 and all at a time, and the rest; to read all embeddings; of one exact search; to build the index, and one search by
it; the share of the five people of exact search whom the index finds; seconds to remove a person. The database stays in
OUT, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from saccade.identities.database import Database, Face, create_database
from saccade.identities.search import exact, has_usearch, indexed, open_index, update_index

MODEL, LATENT, NOISE, TOP = "made", 32, 0.5, 5
FIRST = 10_000  # pictures whose enrolling is measured by itself


def made(pictures: int, each: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres [people, length] of length 1, and the turn [LATENT, length]."""
    rng = np.random.default_rng(0)
    turn = rng.normal(size=(LATENT, length)).astype(np.float32)
    centres = rng.normal(size=(-(-pictures // each), LATENT)).astype(np.float32) @ turn
    return centres / np.linalg.norm(centres, axis=1, keepdims=True), turn


def pictures_of(centres: np.ndarray, people: np.ndarray, seed: int) -> np.ndarray:
    """A picture [n, length] of each of `people` [n]."""
    noise = np.random.default_rng(seed).normal(size=(len(people), centres.shape[1])).astype(np.float32)
    return centres[people] + NOISE * noise / np.sqrt(centres.shape[1])


def parts(centres: np.ndarray, each: int, pictures: int, size: int) -> Iterator[list[tuple[str, list[Face]]]]:
    """Everyone's pictures, `size` at a time."""
    for start in range(0, pictures, size):
        numbers = np.arange(start, min(start + size, pictures))
        rows = pictures_of(centres, numbers // each, 1 + start)
        named = zip(numbers.tolist(), rows, strict=True)
        yield [(f"person {n // each}", [Face(row, n.to_bytes(32, "big"))]) for n, row in named]


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def enroll(path: Path, centres: np.ndarray, each: int, pictures: int, size: int) -> float:
    """Seconds to enroll so many pictures into an empty file."""
    path.unlink(missing_ok=True)
    given = list(parts(centres, each, pictures, size))
    with create_database(path, MODEL, centres.shape[1]) as database:
        return seconds(lambda: [database.enroll(part, MODEL) for part in given])[0]


def times(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> tuple[dict[str, float], list[Any]]:
    """Milliseconds a query, after one that nobody counts."""
    search(queries[0])
    found = [seconds(lambda q=q: search(q)) for q in queries]  # type: ignore[misc]
    milliseconds = sorted(1000 * spent for spent, _ in found)
    place = min(len(milliseconds) - 1, int(0.99 * len(milliseconds)))
    return {"median_ms": statistics.median(milliseconds), "p99_ms": milliseconds[place]}, [r for _, r in found]


def searched(database: Database, queries: np.ndarray) -> dict[str, Any]:
    """Exact search, the index, and what the index misses."""
    read, snapshot = seconds(database.snapshot)
    exact_ms, expected = times(lambda q: exact(snapshot, q, TOP), queries)
    result: dict[str, Any] = {"read_seconds": read, "exact": exact_ms}
    if not has_usearch():
        return result
    build, _ = seconds(lambda: update_index(database, least=1))
    index = open_index(database)
    assert index is not None
    indexed_ms, found = times(lambda q: indexed(database, index, q, TOP), queries)
    hits = [len({m.name for m in a} & {m.name for m in b}) / len(a) for a, b in zip(expected, found, strict=True)]
    return result | {"build_seconds": build, "indexed": indexed_ms, f"recall_at_{TOP}": statistics.mean(hits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--each", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    centres, _ = made(options.pictures, options.each, options.length)
    few = min(FIRST, options.pictures)
    result: dict[str, Any] = {"pictures": options.pictures, "length": options.length}
    for size in (256, few):
        spent = enroll(options.out / "few.db", centres, options.each, few, size)
        result[f"enroll_{few}_by_{size}_seconds"] = spent
    path = options.out / f"people-{options.pictures}.db"
    with create_database(path, MODEL, options.length) as database:
        if database.count() < options.pictures:
            given = parts(centres, options.each, options.pictures, 10_000)
            result["enroll_all_seconds"], _ = seconds(lambda: [database.enroll(part, MODEL) for part in given])
        result["megabytes"] = path.stat().st_size / 1e6
        asked = np.random.default_rng(1).integers(0, len(centres), options.queries)
        queries = pictures_of(centres, asked, 0)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        result |= searched(database, queries)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
