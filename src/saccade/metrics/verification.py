"""Verification: are these two pictures of one person? Curves, error rates and thresholds from scores of pairs.

Everything here works on scores: the higher, the more alike (a distance counts with its sign turned). A pair is
accepted where its score is at least the threshold, so pairs of equal score are accepted or refused together; the curve
has one point for every score that occurs and no line is drawn between points, but for the area under it.

FAR is the share of pairs of different people that are accepted, TAR that of pairs of one person (ISO/IEC 19795-1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from saccade.errors import DataError, UsageError


@dataclass(frozen=True)
class Roc:
    """The curve of one set of pairs, strictest threshold first; the first point accepts nothing.

    With weights FAR and TAR are weighted shares, and `same` and `different` are sums of weights.
    """

    thresholds: np.ndarray  # [t], falling: +inf, then every score that occurs
    far: np.ndarray  # [t], from 0 to 1; NaN without a pair of different people
    tar: np.ndarray  # [t], from 0 to 1; NaN without a pair of one person
    same: float  # pairs of one person
    different: float  # pairs of different people


@dataclass(frozen=True)
class Folds:
    """Accuracy by folds, each judged at the threshold that was best for all the others."""

    accuracy: float  # mean over folds
    standard_error: float  # of that mean: standard deviation over folds / sqrt(folds); NaN with less than two
    accuracies: np.ndarray  # [folds]
    thresholds: np.ndarray  # [folds]


def checked_pairs(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores as [n] float64 and same as [n] bool. Raises DataError where they do not fit or a score is not finite."""
    scores, same = np.asarray(scores, dtype=np.float64), np.asarray(same, dtype=bool)
    if scores.shape != same.shape or scores.ndim != 1:
        raise DataError(
            f"scores of shape {list(scores.shape)} for {list(same.shape)} pairs: one score a pair is needed"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(f"pair {bad[0]}: its score is {scores[bad[0]]}, not a finite number")
    return scores, same


def roc(scores: np.ndarray, same: np.ndarray, weights: np.ndarray | None = None) -> Roc:
    """The curve of pairs.

    Args:
        scores: [n], higher means more alike.
        same: [n] bool, whether both pictures show one person.
        weights: [n] of at least 0, how often each pair counts; once without them.

    Raises:
        DataError: a score that is not finite, or shapes that do not fit.
    """
    scores, same = checked_pairs(scores, same)
    counts = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1) if len(ranked) else np.zeros(0, dtype=np.int64)
    weighed, of_one = counts[order], same[order]
    accepted = np.cumsum(np.where(of_one, weighed, 0.0))[ends]
    mistaken = np.cumsum(np.where(of_one, 0.0, weighed))[ends]
    ones, others = (float(a[-1]) if len(a) else 0.0 for a in (accepted, mistaken))
    return Roc(
        np.concatenate([[np.inf], ranked[ends]]),
        np.concatenate([[0.0], mistaken]) / others if others else np.full(len(ends) + 1, np.nan),
        np.concatenate([[0.0], accepted]) / ones if ones else np.full(len(ends) + 1, np.nan),
        ones,
        others,
    )


def auc(curve: Roc) -> float:
    """Area under the curve by trapezoids: the chance that a pair of one person scores above a pair of different
    people, equal scores counted half (Fawcett 2006, "An introduction to ROC analysis", sections 7 and 8).

    NaN where there are no pairs of one of the two kinds.
    """
    return float(np.trapezoid(curve.tar, curve.far)) if curve.same and curve.different else float("nan")


def misleading(scores: np.ndarray, same: np.ndarray) -> np.ndarray:
    """How much each pair misleads, from 0 (not at all) to 1, whatever the scale of the scores: [n].

    Of a pair of one person it is the share of the pairs of different people that are more alike, of a pair of different
    people the share of those of one person that are less alike; equal scores count half. The mean over the pairs of
    either kind is 1 - `auc`, as both count the same comparisons. 0 where there are no pairs of the other kind.

    Args:
        scores: [n], higher means more alike.
        same: [n] bool, whether both pictures show one person.
    """
    found = np.zeros(len(scores))
    for kind, sign in ((same, -1.0), (~same, 1.0)):
        others = np.sort(sign * scores[~kind])
        mine = sign * scores[kind]
        below = np.searchsorted(others, mine, "left") + np.searchsorted(others, mine, "right")
        found[kind] = below / max(2 * len(others), 1)
    return found


def equal_error_rate(curve: Roc) -> tuple[float, float]:
    """(rate, threshold) where FAR and the rate of false refusals, 1 - TAR, are nearest to each other; the rate is the
    mean of both there, as no threshold need make them equal. Of several such thresholds the strictest counts.

    NaN for both where there are no pairs of one of the two kinds.
    """
    gap = np.abs(curve.far - (1 - curve.tar))
    if np.isnan(gap).any():
        return float("nan"), float("nan")
    at = int(gap.argmin())
    return float(curve.far[at] + 1 - curve.tar[at]) / 2, float(curve.thresholds[at])


def tar_at_far(curve: Roc, far: float) -> float:
    """The highest TAR of the thresholds whose FAR is at most `far`; nothing is interpolated.

    NaN where there are fewer than 1 / far pairs of different people: one false acceptance alone would be more than
    `far`, so such a set cannot tell that rate from 0. NaN, too, without a pair of one person.
    """
    if curve.different * far < 1 - 1e-9 or not curve.same:
        return float("nan")
    return float(curve.tar[curve.far <= far + 1e-12].max())


def best_accuracy(curve: Roc) -> tuple[float, float]:
    """(accuracy, threshold) of the threshold that judges most pairs correctly; see `threshold_between`.

    Of several with the same accuracy the strictest counts. NaN for both without a pair.
    """
    correct = np.nan_to_num(curve.tar) * curve.same + (1 - np.nan_to_num(curve.far)) * curve.different
    total = curve.same + curve.different
    if not total:
        return float("nan"), float("nan")
    at = int(correct.argmax())
    return float(correct[at] / total), threshold_between(curve, at)


def threshold_between(curve: Roc, at: int) -> float:
    """A threshold that accepts what point `at` of the curve accepts, halfway between the last score accepted and the
    first refused, so that scores that are rounded otherwise tomorrow are judged the same."""
    here = float(curve.thresholds[at])
    if at == 0:
        return float(np.nextafter(curve.thresholds[1], np.inf)) if len(curve.thresholds) > 1 else here
    if at + 1 == len(curve.thresholds):
        return here
    middle = (here + float(curve.thresholds[at + 1])) / 2
    return middle if middle > curve.thresholds[at + 1] else here  # two neighbouring numbers have no middle


def accuracy_by_folds(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> Folds:
    """Accuracy as Labeled Faces in the Wild prescribes: each fold is judged at the threshold that is best for all the
    others together; the mean over folds, and its standard error with n - 1 under the root (Huang et al. 2007,
    "Labeled Faces in the Wild", section III; Learned-Miller et al. 2016, section 2.2).

    Args:
        scores: [n], higher means more alike.
        same: [n] bool.
        folds: [n] numbers of the fold to which each pair belongs.

    Raises:
        DataError: fewer than two folds, or a score that is not finite.
    """
    scores, same = checked_pairs(scores, same)
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise DataError(
            f"{len(numbers)} fold(s) of pairs: a threshold is chosen on all folds but one, so two are needed"
        )
    accuracies, thresholds = [], []
    for number in numbers:
        held = np.asarray(folds) == number
        _, threshold = best_accuracy(roc(scores[~held], same[~held]))
        thresholds.append(threshold)
        accuracies.append(float(((scores[held] >= threshold) == same[held]).mean()))
    found = np.array(accuracies)
    error = float(found.std(ddof=1) / np.sqrt(len(found)))
    return Folds(float(found.mean()), error, found, np.array(thresholds))


def binomial_interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper & Pearson 1934): (0, 1) without a trial, (0, 3.7 / trials) or so where
    nothing was hit. It takes trials for independent, which pairs that share people are not."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it does to the pairs on which it was chosen."""

    threshold: float  # scores of at least this are accepted
    stated: float  # the false-accept rate that was asked for
    far: float  # the one reached, at most `stated`
    far_low: float  # 95 % interval of it
    far_high: float
    tar: float  # NaN without a pair of one person
    different: int  # pairs of different people on which it was chosen
    interval: str  # how the interval was found: "bootstrap over people" or "Clopper-Pearson over pairs"


def choose_threshold(
    scores: np.ndarray,
    same: np.ndarray,
    far: float,
    people: np.ndarray | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Threshold:
    """The lowest threshold whose false-accept rate on these pairs is at most `far`, with the rate's 95 % interval.

    The interval is a bootstrap over people where it is known who is in each pair: people are drawn with replacement, a
    pair of two counts as often as the product of theirs, a pair of one as often as the person (`pair_weights`). Where
    that is not known, or no pair at all was accepted falsely, of which resamples can make nothing, it is the exact
    binomial interval over pairs, which takes pairs for independent and is too narrow where they share people.

    Args:
        scores: [n], higher means more alike.
        same: [n] bool.
        far: the false-accept rate, in (0, 1).
        people: [n, 2] numbers of the people in each pair.
        bootstrap: resamples.
        seed: the randomness follows from it alone.

    Raises:
        UsageError: `far` is no rate.
        DataError: fewer than 1 / far pairs of different people, which cannot show such a rate.
    """
    curve = roc(scores, same)
    at = _point_of(curve, far)
    chosen = _chosen(curve, at, far, threshold_between(curve, at))
    if people is None or not chosen.far or not bootstrap:
        return chosen
    accepted = np.asarray(scores) >= chosen.threshold
    low, high = _far_over_people(accepted, np.asarray(same), people, bootstrap, seed)
    return replace(chosen, far_low=low, far_high=high, interval="bootstrap over people")


def choose_on_curve(curve: Roc, far: float) -> Threshold:
    """`choose_threshold` from a curve of which some points alone are kept: the lowest threshold among them whose rate
    is at most `far`, with the exact binomial interval over its pairs.

    Raises:
        UsageError: `far` is no rate.
        DataError: fewer than 1 / far pairs of different people, or no point but the one that accepts nothing.
    """
    at = _point_of(curve, far)
    if at == 0:
        raise DataError(f"no threshold of this curve keeps a false-accept rate of {far:g}: state a higher one")
    return _chosen(curve, at, far, float(curve.thresholds[at]))


def _point_of(curve: Roc, far: float) -> int:
    """The last point of a curve whose rate is at most `far`."""
    if not 0 < far < 1:
        raise UsageError(f"a false-accept rate of {far}: allowed are numbers between 0 and 1, such as 1e-3")
    if curve.different * far < 1 - 1e-9:
        raise DataError(
            f"{curve.different:.0f} pairs of different people cannot show a false-accept rate of {far:g}: at least "
            f"{int(np.ceil(1 / far - 1e-9))} are needed. Give more people, or state a higher rate"
        )
    return int(np.flatnonzero(curve.far <= far + 1e-12)[-1])


def _chosen(curve: Roc, at: int, far: float, threshold: float) -> Threshold:
    different, reached = round(curve.different), float(curve.far[at])
    low, high = binomial_interval(round(reached * different), different)
    tar = float(curve.tar[at])
    return Threshold(threshold, far, reached, low, high, tar, different, "Clopper-Pearson over pairs")


def pair_weights(drawn: np.ndarray, people: np.ndarray) -> np.ndarray:
    """How often pairs count where people were drawn `drawn` [people] times: [n]. Two different people make a pair for
    each of their meetings; a person drawn twice is two people, each with pairs of their own (the subsets bootstrap of
    Bolle, Ratha & Pankanti 2004, "Error analysis of pattern recognition systems")."""
    first, second = drawn[people[:, 0]], drawn[people[:, 1]]
    return np.where(people[:, 0] == people[:, 1], first, first * second)


def _far_over_people(
    accepted: np.ndarray, same: np.ndarray, people: np.ndarray, bootstrap: int, seed: int
) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of the false-accept rate over resampled people."""
    _, numbered = np.unique(people, return_inverse=True)
    several = int(numbered.max()) + 1
    rng = np.random.default_rng(seed)
    different = ~np.asarray(same, dtype=bool)
    # Pairs of the same two people count alike, so they are counted once for all resamples.
    two, which = np.unique(np.sort(numbered.reshape(people.shape)[different], axis=1), axis=0, return_inverse=True)
    which = which.reshape(-1)
    pairs = np.bincount(which).astype(np.float64)
    wrong = np.bincount(which, np.asarray(accepted)[different])
    rates = []
    for _ in range(bootstrap):
        weights = pair_weights(rng.multinomial(several, np.full(several, 1 / several)).astype(np.float64), two)
        if weights.any():
            rates.append(float(weights @ wrong / (weights @ pairs)))
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)
