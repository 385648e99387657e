"""Average precision in space, from above and of orientation, as KITTI's object benchmark counts them.

Source: Geiger, Lenz, Urtasun, CVPR 2012, section 3 (average orientation similarity), and the development kit
(evaluate_object_3d_offline.cpp: cleanData, computeStatistics, getThresholds, eval_class). Forty recalls in place of
eleven: Simonelli et al., "Disentangling monocular 3D object detection", ICCV 2019, section 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from saccade.ops.compiled import compiled

DIFFICULTIES = ("easy", "moderate", "hard")
LEAST_HEIGHT = (40, 25, 25)  # pixels of a box
MOST_OCCLUDED = (0, 1, 2)  # level
MOST_TRUNCATED = (0.15, 0.3, 0.5)  # share outside of the image
RECALLS = 41  # at most, at which precision is read: 0, 1/40, ..., 1
VEHICLES = {"car", "van", "truck", "tram", "bus"}
DEMANDED, LOOSE = (0.7, 0.5), (0.5, 0.25)  # IoU of vehicles, and of all others
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}  # which is neither right nor wrong where that is asked for
VALID, ASIDE, OTHER = 0, 1, -1  # what an object is to a class and difficulty


def plain(name: str) -> str:
    """A class name as it is compared."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def demanded(name: str, loose: bool = False) -> float:
    """The IoU above which an object of this class is found: 0.7 for vehicles and 0.5 for others; loosely 0.5 and 0.25,
    as is usual beside it. The benchmark itself has Car, Pedestrian and Cyclist alone."""
    return (LOOSE if loose else DEMANDED)[plain(name) not in VEHICLES]


@dataclass(frozen=True, slots=True)
class Side:
    """Truth or prediction of one image, n rows."""

    labels: np.ndarray  # [n] int
    heights: np.ndarray  # [n] pixels of the boxes
    hidden: np.ndarray  # [n, 2] truncated, occluded; zeros of predictions
    scores: np.ndarray  # [n]; zeros of truth
    known: np.ndarray  # [n] bool: there is a cuboid


def sort_truth(truth: Side, label: int, names: list[str], difficulty: int) -> np.ndarray:
    """[n] VALID, ASIDE (of the class and harder than the difficulty, or of its neighbour) or OTHER."""
    height, occluded, truncated = (each[difficulty] for each in (LEAST_HEIGHT, MOST_OCCLUDED, MOST_TRUNCATED))
    hard = (truth.hidden[:, 1] > occluded) | (truth.hidden[:, 0] > truncated) | (truth.heights <= height)
    neighbour = NEIGHBOURS.get(plain(names[label]))
    beside = np.array([plain(names[k]) == neighbour for k in truth.labels], bool)
    own = truth.labels == label
    return np.where(own & ~hard, VALID, np.where(own | beside, ASIDE, OTHER)).astype(np.int64)


def sort_found(found: Side, label: int, difficulty: int) -> np.ndarray:
    """[n] VALID, ASIDE (lower than the difficulty asks, of whatever class: so the development kit) or OTHER."""
    low = np.floor(found.heights) < LEAST_HEIGHT[difficulty]
    return np.where(low, ASIDE, np.where(found.labels == label, VALID, OTHER)).astype(np.int64)


@compiled
def _assign(
    overlaps: np.ndarray, scores: np.ndarray, found: np.ndarray, truth: np.ndarray, least: float, by_score: bool
) -> np.ndarray:
    """[g] the prediction that each truth is given, -1 for none, as computeStatistics does in its two passes: of those
    above `least` that of the highest score, or that of the greatest overlap, which is no candidate laid aside where
    another is there.

    Args:
        overlaps: [d, g]; scores: [d]; found: [d] and truth: [g] of VALID, ASIDE, OTHER.
    """
    d, g = overlaps.shape
    taken = np.zeros(d, dtype=np.bool_)
    out = np.full(g, -1)
    for j in range(g):
        if truth[j] == -1:
            continue
        best, aside = -1, False
        for i in range(d):
            if found[i] == -1 or taken[i] or overlaps[i, j] <= least:
                continue
            if by_score:
                if best < 0 or scores[i] > scores[best]:
                    best = i
            elif found[i] == 0:
                if best < 0 or aside or overlaps[i, j] > overlaps[best, j]:
                    best, aside = i, False
            elif best < 0:
                best, aside = i, True
        if best >= 0:
            out[j], taken[best] = best, True
    return out


@dataclass
class Curve:
    """One class at one difficulty, over many images."""

    hits: dict[str, np.ndarray] = field(default_factory=dict)  # id -> scores of the right predictions, of which the
    # scores are chosen at which precision is read
    steps: dict[str, np.ndarray] = field(default_factory=dict)  # id -> [s, 4]: a score, and by how much the right and
    # wrong predictions and their similarity grow where those from this score on are counted
    truths: dict[str, int] = field(default_factory=dict)  # id -> objects that count

    def add(
        self,
        id: str,
        overlaps: np.ndarray,
        sorted_: tuple[np.ndarray, np.ndarray],
        scores: np.ndarray,
        least: float,
        similar: np.ndarray | None = None,
        excused: np.ndarray | None = None,
    ) -> None:
        """One image.

        Args:
            overlaps: [d, g] IoU of predictions and truths.
            sorted_: `sort_found` [d] and `sort_truth` [g].
            least: IoU above which a truth is found.
            similar: [d, g] similarity of orientation in [0, 1].
            excused: [d] bool: which predictions lie in a region without labels.
        """
        found, truth = sorted_
        similar = np.zeros_like(overlaps) if similar is None else similar
        excused = np.zeros(len(scores), bool) if excused is None else excused
        self.truths[id] = int((truth == VALID).sum())
        first = _assign(overlaps, scores, found, truth, least, True)
        first = first[(first >= 0) & (truth == VALID)]
        self.hits[id] = scores[first[found[first] == VALID]]
        rows = []
        before = np.zeros(3)
        for score in np.unique(scores[found != OTHER])[::-1]:
            counted = np.where(scores >= score, found, OTHER)
            given = _assign(overlaps, scores, counted, truth, least, False)
            true = np.flatnonzero((given >= 0) & (truth == VALID))
            true = true[counted[given[true]] == VALID]
            wrong = (counted == VALID) & ~excused
            wrong[given[given >= 0]] = False
            now = np.array([len(true), wrong.sum(), similar[given[true], true].sum()])
            rows.append([score, *(now - before)])
            before = now
        self.steps[id] = np.array(rows, np.float64).reshape(-1, 4)

    def table(self, ids: list[str]) -> Table:
        """Everything in falling order of score."""
        hits, hit_image = _by_score([self.hits.get(id, np.zeros(0))[:, None] for id in ids], 1)
        steps, step_image = _by_score([self.steps.get(id, np.zeros((0, 4))) for id in ids], 4)
        truths = np.array([self.truths.get(id, 0) for id in ids], np.float64)
        return Table(hits[:, 0].copy(), hit_image, steps, step_image, truths)


def _by_score(parts: list[np.ndarray], columns: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.concatenate([np.zeros((0, columns)), *parts])
    image = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int64)
    order = np.argsort(-rows[:, 0], kind="stable")
    return np.ascontiguousarray(rows[order]), image[order]


@dataclass(frozen=True, slots=True)
class Table:
    """One class at one difficulty: what average precision follows from, for any weights of the images."""

    hits: np.ndarray  # [h] falling
    hit_image: np.ndarray  # [h]
    steps: np.ndarray  # [s, 4] falling
    step_image: np.ndarray  # [s]
    truths: np.ndarray  # [images]

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """[b, 4] under weights [b, images]: average precision at 40 recalls and at 11, orientation similarity at 40 and
        at 11; NaN where no truth counts."""
        values: np.ndarray = _average_precision(
            self.hits, self.hit_image, self.steps, self.step_image, self.truths, weights
        )
        return values


@compiled
def _average_precision(
    hits: np.ndarray,
    hit_image: np.ndarray,
    steps: np.ndarray,
    step_image: np.ndarray,
    truths: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    out = np.full((len(weights), 4), np.nan)
    for b in range(len(weights)):
        w = weights[b]
        total, count = (w * truths).sum(), 0.0
        if total == 0:
            continue
        for k in hit_image:
            count += w[k]
        precision, similarity = np.zeros(41), np.zeros(41)
        right, wrong, alike = 0.0, 0.0, 0.0
        recall, place, seen, s = 0.0, 0, 0.0, 0
        for k in range(len(hits)):
            for _ in range(int(w[hit_image[k]])):
                seen += 1
                left = seen / total
                after = (seen + 1) / total if seen < count else left
                if (after - recall < recall - left and seen < count) or place == 41:
                    continue
                while s < len(steps) and steps[s, 0] >= hits[k]:
                    each = w[step_image[s]]
                    right, wrong = right + each * steps[s, 1], wrong + each * steps[s, 2]
                    alike += each * steps[s, 3]
                    s += 1
                if right + wrong > 0:
                    precision[place], similarity[place] = right / (right + wrong), alike / (right + wrong)
                place += 1
                recall += 1 / 40
        for k in range(39, -1, -1):
            precision[k] = max(precision[k], precision[k + 1])
            similarity[k] = max(similarity[k], similarity[k + 1])
        out[b, 0], out[b, 1] = precision[1:].mean(), precision[::4].mean()
        out[b, 2], out[b, 3] = similarity[1:].mean(), similarity[::4].mean()
    return out
