"""Identification: whose picture is this? Ranks in a database of known people, strangers refused by a threshold, and
what a set of embeddings of known people is worth in all.

Embeddings are compared by their cosine, or by a similarity that is given. One picture of a person is enrolled, the
others are shown to the database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saccade.errors import DataError
from saccade.metrics import Result, Value
from saccade.metrics.bootstrap import estimate, ratio
from saccade.metrics.verification import (
    Roc,
    accuracy_by_folds,
    auc,
    equal_error_rate,
    pair_weights,
    roc,
    tar_at_far,
)

Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]  # [n, d], [m, d] -> [n, m], higher is more alike

FARS = {"1e-2": 1e-2, "1e-3": 1e-3}  # false-accept rates at which TAR is stated
OPEN = "1e-2"  # the share of strangers let in at which DIR is stated
MOST_PAIRS = 500_000  # pairs that are scored; of more this many are drawn
TURNS = 10  # sets of enrolled pictures at most, over which ranks are averaged
BLOCK = 1024  # pictures compared with the enrolled ones at once: bounds memory at BLOCK x people numbers
POINTS = 400  # of a curve that is kept for plots
WORST = 24  # pairs of each kind that are kept for the report


@dataclass(frozen=True)
class Probes:
    """What a database answered for the pictures shown to it; a picture comes once in every turn."""

    image: np.ndarray  # [p] index of the picture
    mate: np.ndarray  # [p] score of its own person's enrolled picture
    other: np.ndarray  # [p] best score of another person's
    rank: np.ndarray  # [p] place of its person, 1 the best; people of equal score come before it


def unit(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [n, d] at length 1, float64. Raises DataError where one is not finite or has no direction."""
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2:
        raise DataError(f"embeddings of shape {list(rows.shape)}: [pictures, numbers] is needed")
    lengths = np.linalg.norm(rows, axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths) | (lengths == 0))
    if len(bad):
        raise DataError(f"embedding {bad[0]} has length {lengths[bad[0]]}, so it has no direction to compare")
    return np.asarray(rows / lengths[:, None])


def all_pairs(people: np.ndarray, most: int = MOST_PAIRS, seed: int = 0) -> np.ndarray:
    """The pictures of every pair, the first before the second: [n, 2] indices into `people` [pictures].

    Of more than `most` pairs, half of `most` are drawn of each kind (one person, different people) that has more; the
    draw follows from the seed.
    """
    count = len(people)
    if count * (count - 1) // 2 <= most:
        return np.stack(np.triu_indices(count, 1), axis=1)
    _, person, images = np.unique(people, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(person, kind="stable"), np.cumsum(images)[:-1])
    ones = images * (images - 1) // 2
    rng = np.random.default_rng(seed)
    half = most // 2
    if int(ones.sum()) <= half:
        same = np.concatenate([m[np.stack(np.triu_indices(len(m), 1), axis=1)] for m in members])
    else:
        chosen = rng.choice(len(members), size=half, p=ones / ones.sum())
        same = np.stack([rng.choice(members[g], 2, replace=False) for g in chosen])
    drawn = rng.integers(0, count, (2 * half, 2))
    different = drawn[person[drawn[:, 0]] != person[drawn[:, 1]]][:half]
    return np.unique(np.sort(np.concatenate([same, different]), axis=1), axis=0)


def show_to_database(
    embeddings: np.ndarray, people: np.ndarray, turns: int = TURNS, similarity: Similarity | None = None
) -> Probes:
    """Enrol one picture of every person and show the others, in `turns` turns: turn k enrols the k-th picture of each,
    beginning anew where a person has fewer. People with one picture are enrolled and never shown.

    Args:
        embeddings: [n, d] of length 1 (`unit`).
        people: [n] whose picture each is, anything that numpy can sort.
        similarity: in place of the cosine.

    Returns:
        Probes; none where fewer than two people have pictures, among whom nobody can be found.
    """
    _, person, images = np.unique(people, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(person, kind="stable"), np.cumsum(images)[:-1]) if len(images) else []
    found: list[tuple[np.ndarray, ...]] = []
    for turn in range(min(turns, int(images.max(initial=0))) if len(members) > 1 else 0):
        enrolled = np.array([m[turn % len(m)] for m in members])
        shown = np.setdiff1d(np.flatnonzero(images[person] > 1), enrolled)
        for start in range(0, len(shown), BLOCK):
            probe = shown[start : start + BLOCK]
            scores = _compared(embeddings[probe], embeddings[enrolled], similarity)
            rows = np.arange(len(probe))
            mate = scores[rows, person[probe]].copy()
            scores[rows, person[probe]] = -np.inf
            found.append((probe, mate, scores.max(1), 1 + (scores >= mate[:, None]).sum(1)))
    columns = [np.concatenate(c) for c in zip(*found, strict=True)] if found else [np.zeros(0) for _ in range(4)]
    return Probes(columns[0].astype(np.int64), columns[1], columns[2], columns[3].astype(np.int64))


def rank_rate(probes: Probes, rank: int, weights: np.ndarray | None = None) -> float:
    """The share of pictures whose person is among the best `rank` (closed set: everyone shown is enrolled; Grother &
    Phillips 2004, "Models of large population recognition performance"). NaN without a probe."""
    counts = np.ones(len(probes.rank)) if weights is None else weights
    return float(ratio((counts * (probes.rank <= rank)).sum(), counts.sum()))


def open_set(probes: Probes, weights: np.ndarray | None = None) -> Roc:
    """Detection and identification rate (`tar`) against the share of strangers let in (`far`): Phillips, Grother &
    Micheals 2011, "Evaluation methods in face recognition", section 21.2.2.

    Every picture is shown twice: to the whole database, which must put its person first with a score of at least the
    threshold, and as a stranger to the database without its person, which must give nobody such a score. The last
    point of the curve, at which everyone is let in, counts those too whose person is not first.
    """
    below = min(probes.mate.min(initial=0.0), probes.other.min(initial=0.0)) - 1.0
    known = np.where(probes.rank == 1, probes.mate, below)
    scores = np.concatenate([known, probes.other])
    is_known = np.arange(len(scores)) < len(known)
    return roc(scores, is_known, None if weights is None else np.concatenate([weights, weights]))


def score_embeddings(
    ids: Sequence[str],
    people: Sequence[str],
    embeddings: np.ndarray,
    bootstrap: int = 1000,
    seed: int = 0,
    similarity: Similarity | None = None,
) -> Result:
    """What embeddings of known people are worth: verification over all pairs, identification with one enrolled picture.

    Metrics auc, eer (lower is better), tar_at_far_1e-2, tar_at_far_1e-3, rank_1, rank_5, dir_at_far_1e-2, with
    intervals over resampled people (`pair_weights`). Rows of `per_class` are the people: name, images, rank_1, and at
    the threshold of equal errors the shares of their pairs that are refused (`false_refusals`) or, with others,
    accepted (`false_accepts`). Curves: "roc" {far, tar, threshold, and the numbers of pairs same, different},
    "open_set" {far, dir}, "ranks" {rank, share}, "scores" {edges, same, different: pairs a bin}, "threshold" (of equal
    errors), "worst_pairs" {same, different: [id, id, score], the most misleading first}.

    Args:
        ids: of the pictures.
        people: [n] names.
        embeddings: [n, d], any length but 0.
        bootstrap: resamples of the people; 0 for no intervals.
        seed: of the resamples, and of the pairs where there are more than MOST_PAIRS.
        similarity: of embeddings at length 1, in place of the cosine.

    Raises:
        DataError: an embedding that is not finite or 0.
    """
    names, person = np.unique(np.asarray(people), return_inverse=True)
    rows = unit(embeddings) if len(ids) else np.zeros((0, 1))
    pairs = all_pairs(person, seed=seed)
    scores = pair_scores(rows, pairs, similarity)
    both = person[pairs]
    same = both[:, 0] == both[:, 1]
    order = np.argsort(-scores, kind="stable")  # once: resamples then sort what is in order
    pairs, scores, both, same = pairs[order], scores[order], both[order], same[order]
    probes = show_to_database(rows, person, similarity=similarity)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = [_values(w, person, (scores, same, both), probes) for w in weights]
        return {name: np.array([values[name] for values in found]) for name in found[0]}

    metrics = estimate(statistic, person, bootstrap, seed)
    curve = roc(scores, same)
    _, threshold = equal_error_rate(curve)
    per_class = _per_person(names, (scores >= threshold, same, both), person, probes)
    curves = _curves(curve, probes, scores, same)
    curves["threshold"] = threshold
    curves["worst_pairs"] = worst_pairs(ids, pairs, scores, same)
    return Result(metrics, per_class, curves, len(ids))


def score_pairs(
    scores: np.ndarray, same: np.ndarray, people: np.ndarray, folds: np.ndarray, bootstrap: int = 1000, seed: int = 0
) -> Result:
    """What scores of given pairs are worth, as of a list of Labeled Faces in the Wild.

    Metrics accuracy (by folds, `verification.accuracy_by_folds`; its interval is Student's over folds), auc, eer,
    tar_at_far_1e-2, tar_at_far_1e-3 with intervals over resampled people. Rows of `per_class` are the folds: name,
    pairs, accuracy, threshold. Curve: "roc" as in `score_embeddings`.

    Args:
        scores: [n], higher means more alike.
        same: [n] bool.
        people: [n, 2] numbers of the people in each pair.
        folds: [n] numbers.

    Raises:
        DataError: fewer than two folds, or a score that is not finite.
    """
    from scipy.stats import t

    found = accuracy_by_folds(scores, same, folds)
    names, numbered = np.unique(people, return_inverse=True)
    both = numbered.reshape(people.shape)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        curves = [roc(scores, same, pair_weights(w, both)) for w in weights]
        values = {"auc": [auc(c) for c in curves], "eer": [equal_error_rate(c)[0] for c in curves]}
        values |= {f"tar_at_far_{word}": [tar_at_far(c, far) for c in curves] for word, far in FARS.items()}
        return {name: np.array(column) for name, column in values.items()}

    spread = float(t.ppf(0.975, len(found.accuracies) - 1)) * found.standard_error
    accuracy = Value(found.accuracy, found.accuracy - spread, min(1.0, found.accuracy + spread))
    metrics = {"accuracy": accuracy} | estimate(statistic, np.arange(len(names)), bootstrap, seed)
    rows = zip(np.unique(folds), found.accuracies, found.thresholds, strict=True)
    per_fold = [
        {"name": f"fold {k}", "pairs": int((folds == k).sum()), "accuracy": float(value), "threshold": float(limit)}
        for k, value, limit in rows
    ]
    return Result(metrics, per_fold, {"roc": roc_to_json(roc(scores, same))}, len(scores))


def roc_to_json(curve: Roc) -> dict[str, Any]:
    """A curve as it is kept in a file, of some of its points (`thinned`)."""
    at = thinned(curve)
    columns = {"far": curve.far, "tar": curve.tar, "threshold": curve.thresholds}
    return {name: column[at].tolist() for name, column in columns.items()} | {
        "same": curve.same,
        "different": curve.different,
    }


def pair_scores(rows: np.ndarray, pairs: np.ndarray, similarity: Similarity | None = None) -> np.ndarray:
    """Similarities [n] of pairs [n, 2] of embeddings [pictures, d] at length 1, by default cosines; a block at a
    time."""
    if similarity is None:
        blocks = np.array_split(pairs, max(1, len(pairs) // 100_000))
        return np.concatenate([np.einsum("nd,nd->n", rows[b[:, 0]], rows[b[:, 1]]) for b in blocks])
    found = np.zeros(len(pairs))
    order = np.argsort(pairs[:, 0], kind="stable")
    firsts, starts = np.unique(pairs[order, 0], return_index=True)
    for first, own in zip(firsts, np.split(order, starts[1:]), strict=True):  # each picture with all of its partners
        found[own] = similarity(rows[first : first + 1], rows[pairs[own, 1]])[0]
    return found


def _compared(a: np.ndarray, b: np.ndarray, similarity: Similarity | None) -> np.ndarray:
    return a @ b.T if similarity is None else np.asarray(similarity(a, b), dtype=np.float64)


def _values(
    drawn: np.ndarray, person: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], probes: Probes
) -> dict[str, float]:
    """The metrics where pictures count `drawn` [n] times, those of one person alike."""
    scores, same, both = pairs
    of_person = np.zeros(int(person.max(initial=-1)) + 1)
    of_person[person] = drawn
    curve = roc(scores, same, pair_weights(of_person, both))
    shown = drawn[probes.image]
    found = {"auc": auc(curve), "eer": equal_error_rate(curve)[0]}
    found |= {f"tar_at_far_{word}": tar_at_far(curve, far) for word, far in FARS.items()}
    found |= {f"rank_{rank}": rank_rate(probes, rank, shown) for rank in (1, 5)}
    return found | {f"dir_at_far_{OPEN}": tar_at_far(open_set(probes, shown), FARS[OPEN])}


def _per_person(
    names: np.ndarray, pairs: tuple[np.ndarray, np.ndarray, np.ndarray], person: np.ndarray, probes: Probes
) -> list[dict[str, Any]]:
    accepted, same, both = pairs
    count = len(names)
    ones, others = both[same, 0], both[~same]
    refused = ratio(np.bincount(ones, ~accepted[same], count), np.bincount(ones, minlength=count))
    mistaken = np.bincount(others.reshape(-1), np.repeat(accepted[~same], 2), count)
    mistaken = ratio(mistaken, np.bincount(others.reshape(-1), minlength=count))
    shown = person[probes.image]
    first = ratio(np.bincount(shown, probes.rank == 1, count), np.bincount(shown, minlength=count))
    images = np.bincount(person, minlength=count)
    return [
        {
            "name": str(names[k]),
            "images": int(images[k]),
            "rank_1": float(first[k]),
            "false_refusals": float(refused[k]),
            "false_accepts": float(mistaken[k]),
        }
        for k in range(count)
    ]


def _curves(curve: Roc, probes: Probes, scores: np.ndarray, same: np.ndarray) -> dict[str, Any]:
    opened = open_set(probes)
    low, high = (float(scores.min()), float(scores.max())) if len(scores) else (-1.0, 1.0)
    edges = np.linspace(low - 1e-3, high + 1e-3, 81)
    last = min(20, int(probes.rank.max(initial=0)))
    open_thin = thinned(opened)
    return {
        "roc": roc_to_json(curve),
        "open_set": {"far": opened.far[open_thin].tolist(), "dir": opened.tar[open_thin].tolist()},
        "ranks": {"rank": list(range(1, last + 1)), "share": [rank_rate(probes, r) for r in range(1, last + 1)]},
        "scores": {
            "edges": edges.tolist(),
            "same": np.histogram(scores[same], edges)[0].tolist(),
            "different": np.histogram(scores[~same], edges)[0].tolist(),
        },
    }


def thinned(curve: Roc, points: int = POINTS) -> np.ndarray:
    """Indices of at most about `points` points of a curve that draw the same picture over a logarithmic FAR: half of
    them lie evenly in FAR, half in its logarithm."""
    if len(curve.far) <= points or np.isnan(curve.far).any():
        return np.arange(len(curve.far))[:: max(1, len(curve.far) // points)]
    lowest = max(1 / max(curve.different, 1), 1e-9)
    wanted = np.concatenate([np.linspace(0, 1, points // 2), np.geomspace(lowest, 1, points // 2)])
    places = np.searchsorted(curve.far, wanted, side="right") - 1  # the best TAR at that FAR
    return np.unique(np.concatenate([[0], places, [len(curve.far) - 1]]))


def worst_pairs(
    ids: Sequence[str], pairs: np.ndarray, scores: np.ndarray, same: np.ndarray, most: int = WORST
) -> dict[str, list[tuple[str, str, float]]]:
    """The pairs of one person that score lowest, and those of different people that score highest."""
    found = {}
    for kind, wanted, sign in (("same", same, 1), ("different", ~same, -1)):
        at = np.flatnonzero(wanted)
        at = at[np.argsort(sign * scores[at], kind="stable")[:most]]
        found[kind] = [(ids[int(pairs[i, 0])], ids[int(pairs[i, 1])], float(scores[i])) for i in at]
    return found
