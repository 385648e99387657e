"""What the experiment found, and what follows from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from saccade.machine.files import make_folder, write_whole

LINEAR = ("svm", "logistic", "svm_depths", "logistic_depths")
TRAINED = ("last_block", "layers", "scratch")
METHODS: dict[str, str] = {
    "svm": "linear SVM on the top features",
    "logistic": "logistic regression on the top features",
    "svm_depths": "linear SVM on features of all depths",
    "logistic_depths": "logistic regression on features of all depths",
    "last_block": "the last block fine-tuned",
    "layers": "all layers fine-tuned, earlier ones slower",
    "scratch": "all layers from a random start",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One method on one split: made from training images alone, scored on the images held back."""

    method: str
    seed: int
    images: int  # training images
    share: float  # of the split's training images, 1 for all
    value: float  # of the metric that ranks the task, on the images held back
    metrics: dict[str, float | None]
    seconds: float
    chosen: str = ""  # what was chosen on the training images
    run: str | None = None  # run folder, if the model was kept


@dataclass(frozen=True, slots=True)
class Summary:
    """One method over all splits."""

    method: str
    mean: float
    deviation: float | None  # between splits; None for one split
    low: float | None  # 95 % interval of the mean
    high: float | None
    seconds: float  # mean of a trial
    seeds: int
    values: dict[int, float]  # by seed
    curve: list[dict[str, Any]] = field(default_factory=list)  # {images, share, mean, low, high} by data size
    run: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"says": METHODS[self.method]}


def keep_trial(path: Path, key: str, trial: Trial) -> None:
    """Write a trial, with a key of all that it follows from. Raises ResourceError."""
    make_folder(path.parent)
    write_whole(path, json.dumps({"key": key, "trial": asdict(trial)}, indent=2))


def known_trial(path: Path, key: str) -> Trial | None:
    """The trial of an earlier call, if it followed from the same."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return Trial(**state["trial"]) if state["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def interval(values: Sequence[float], ratio: float) -> tuple[float | None, float | None]:
    """95 % interval of a mean over splits that share images; None for one split.

    Student's t with the variance s^2 (1 / n + ratio): plain 1 / n would take the splits for independent.

    Args:
        ratio: held-back images by training images.

    Source: Nadeau & Bengio 2003, "Inference for the generalization error", section 3 (corrected resampled t-test).
    """
    n = len(values)
    if n < 2:
        return None, None
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * deviation * math.sqrt(1 / n + ratio)
    return mean - half, mean + half


def _of_shares(edges: tuple[float | None, float | None], lowest: float = 0.0) -> tuple[float | None, float | None]:
    """An interval of a metric, which ends at 0 and 1, or of a difference, at -1 and 1: Student's t knows no ends."""
    low, high = edges
    return None if low is None else max(low, lowest), None if high is None else min(high, 1.0)


def summarise(trials: Sequence[Trial], ratio: float) -> list[Summary]:
    """The methods in the order of METHODS, each over the seeds that it was tried with."""
    found = []
    for method in METHODS:
        own = [t for t in trials if t.method == method]
        whole = [t for t in own if t.share == 1]
        if not whole:
            continue
        values = [t.value for t in whole]
        low, high = _of_shares(interval(values, ratio))
        curve = []
        for share in sorted({t.share for t in own}):
            part = [t for t in own if t.share == share]
            edges = _of_shares(interval([t.value for t in part], ratio))
            mean = float(np.mean([t.value for t in part]))
            images = round(float(np.mean([t.images for t in part])))
            curve.append({"images": images, "share": share, "mean": mean, "low": edges[0], "high": edges[1]})
        found.append(
            Summary(
                method,
                float(np.mean(values)),
                float(np.std(values, ddof=1)) if len(values) > 1 else None,
                low,
                high,
                float(np.mean([t.seconds for t in whole])),
                len(values),
                {t.seed: t.value for t in whole},
                curve,
                next((t.run for t in whole if t.run is not None), None),
            )
        )
    return found


def recommend(summaries: Sequence[Summary], metric: str, ratio: float) -> tuple[Summary, list[str]]:
    """The method with the best mean on the images held back, among those that left a run; the faster one at a tie.

    Returns:
        It, and sentences that say why, with the paired difference to the others.

    Raises:
        ValueError: no method left a run.
    """
    usable = [s for s in summaries if s.run is not None]
    if not usable:
        raise ValueError("no method left a run")
    best = max(usable, key=lambda s: (round(s.mean, 9), -s.seconds))
    why = [
        f"{_sentence(best.method)} has the best {metric.replace('_', ' ')} on images that no choice was made on: "
        f"{best.mean:.3f}, the mean over {best.seeds} split{'s' if best.seeds > 1 else ''}."
    ]
    for other in sorted((s for s in summaries if s is not best), key=lambda s: -s.mean):
        why.append(_compare(best, other, ratio))
    return best, why


def _compare(best: Summary, other: Summary, ratio: float) -> str:
    seeds = sorted(set(best.values) & set(other.values))
    gains = [best.values[s] - other.values[s] for s in seeds]
    low, high = _of_shares(interval(gains, ratio), lowest=-1.0)
    gain = float(np.mean(gains)) if gains else best.mean - other.mean
    name = _sentence(other.method)
    if gain < 0:
        return f"{name}: {other.mean:.3f}, better by {-gain:.3f}, but it is no network that can be kept."
    if low is None or high is None:
        return f"{name}: {other.mean:.3f}, {gain:.3f} less; from one split nobody can say whether by chance."
    sure = "the difference may be chance" if low <= 0 else "more than chance"
    cheaper = f"; it takes {best.seconds / max(other.seconds, 1e-3):.0f} times less" if _cheap(best, other) else ""
    return f"{name}: {other.mean:.3f}, {gain:.3f} less (95 % interval {low:.3f} to {high:.3f}): {sure}{cheaper}."


def _cheap(best: Summary, other: Summary) -> bool:
    return best.seconds > 2 * max(other.seconds, 1e-3)


def _sentence(method: str) -> str:
    """What the method is, as the start of a sentence."""
    return METHODS[method][0].upper() + METHODS[method][1:]
