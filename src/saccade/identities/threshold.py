"""From which similarity on are two pictures taken for one person? Thresholds for a false-accept rate that is stated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saccade.errors import DataError, ModelFileError, UsageError
from saccade.machine.files import inside, open_regular
from saccade.metrics.identification import Similarity, all_pairs, pair_scores, unit
from saccade.metrics.verification import Roc, Threshold, choose_on_curve, choose_threshold

METRICS = "metrics.json"


def of_run(run: Path, far: float) -> Threshold:
    """The threshold that a run's validation people gave for a false-accept rate (curve "roc" of its metrics.json).

    Raises:
        UsageError: there is no such curve: the run is a lone checkpoint, or was made without validation.
        DataError: its validation had fewer than 1 / far pairs of different people.
        ModelFileError: the file is damaged.
    """
    file = inside(run, METRICS) if run.is_dir() else run.parent / METRICS
    other = "give pictures of people who were not trained on (--calibrate FOLDER), or a --threshold"
    if not run.is_dir() or not file.is_file():
        raise UsageError(f"{run}: no {METRICS} that says what errors this model makes; {other}")
    try:
        with open_regular(file) as opened:
            curve = curve_of(json.loads(opened.read())["curves"]["roc"])
    except KeyError as error:
        raise UsageError(f"{file}: it holds no curve of false acceptances ({error}); {other}") from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{file}: damaged ({error}); {other}") from error
    return choose_on_curve(curve, far)


def curve_of(state: dict[str, Any]) -> Roc:
    """The curve that `metrics.identification.score_embeddings` left in a file. Raises KeyError, ValueError."""
    thresholds, far, tar = (np.array(state[name], dtype=np.float64) for name in ("threshold", "far", "tar"))
    thresholds[:1] = np.inf  # no number of JSON
    if not 2 <= len(thresholds) == len(far) == len(tar):
        raise ValueError("the columns of its curve differ in length")
    if not np.isfinite([thresholds[1:], far[1:], tar[1:]]).all() or (np.diff(far) < 0).any():
        raise ValueError("its curve is none")
    return Roc(thresholds, far, tar, float(state["same"]), float(state["different"]))


def of_people(
    embeddings: np.ndarray, people: Sequence[str], far: float, compare: Similarity | None = None, seed: int = 0
) -> Threshold:
    """The threshold for a false-accept rate from pictures of people whom the model was not trained on, with an interval
    over people (`metrics.verification.choose_threshold`).

    Args:
        embeddings: [n, d].
        people: [n] names.
        compare: how alike embeddings of length 1 are, in place of the cosine.

    Raises:
        DataError: fewer than 1 / far pairs of different people.
    """
    _, person = np.unique(np.asarray(people), return_inverse=True)
    rows, pairs = unit(embeddings), all_pairs(person, seed=seed)
    both = person[pairs]
    scores = pair_scores(rows, pairs, compare)
    return choose_threshold(scores, both[:, 0] == both[:, 1], far, both, seed=seed)


def of_strangers(best: np.ndarray, far: float) -> Threshold:
    """The threshold at which a database lets in at most the share `far` of strangers, from the score of the person whom
    each picture of a stranger was most like there. The interval is Clopper and Pearson's over the pictures.

    Args:
        best: [n] of pictures of people who are not in the database.

    Raises:
        DataError: fewer than 1 / far pictures.
    """
    if len(best) * far < 1 - 1e-9:
        raise DataError(
            f"{len(best)} pictures of strangers cannot show a rate of {far:g}: at least {int(np.ceil(1 / far - 1e-9))} "
            "are needed"
        )
    return choose_threshold(np.asarray(best, dtype=np.float64), np.zeros(len(best), dtype=bool), far)


def per_comparison(far: float, people: int) -> float:
    """The false-accept rate of one comparison at which a stranger who is compared with `people` is let in with
    probability `far`: 1 - (1 - far)^(1 / people), taking comparisons for independent (Grother & Phillips 2004)."""
    return float(-np.expm1(np.log1p(-far) / max(people, 1)))


def of_one_of(far: float, people: int) -> float:
    """The other way round: how likely a stranger is let in by one of `people` comparisons of rate `far` each."""
    return float(-np.expm1(people * np.log1p(-far)))
