"""Matching detections to truth as COCO does, and average precision from the matches, for any weights of the images.

The whole set's COCO numbers come from faster-coco-eval (`detection.py`); this module repeats its two steps so that a
thousand resamples take seconds: an image is matched once, when it is added, and only the accumulation is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from saccade.ops.compiled import compiled

FALSE, TRUE, IGNORED = 0, 1, 2  # what became of a detection

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of intersection over union (COCO)
RECALLS = np.linspace(0.0, 1.0, 101)  # at which COCO reads the precision
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MAX_DETECTIONS = 100  # an image and class


@compiled
def coco_states(
    ious: np.ndarray,
    truth_area: np.ndarray,
    crowd: np.ndarray,
    area: np.ndarray,
    thresholds: np.ndarray,
    bands: np.ndarray,
) -> np.ndarray:
    """What becomes of the detections of one image and class: [A, T, d] uint8 of FALSE, TRUE, IGNORED.

    In order of score, every detection takes the free truth of highest IoU (the later one among equals) at or above
    the threshold; truths outside the area band and crowds are ignored: they are taken only where no counted truth
    can be, a crowd any number of times. A detection on an ignored truth, or without a truth and itself outside the
    band, is ignored.

    Args:
        ious: [d, g], detections in falling order of score; for a crowd intersection over area of the detection.
        truth_area, crowd: [g] pixels^2 and bool.
        area: [d] pixels^2 of the detections.
        thresholds: [T]; bands: [A, 2] lowest and highest area, both included.
    """
    d, g = len(area), len(truth_area)
    out = np.zeros((len(bands), len(thresholds), d), dtype=np.uint8)
    for a in range(len(bands)):
        low, high = bands[a]
        ignored = np.zeros(g, dtype=np.uint8)
        for j in range(g):
            ignored[j] = crowd[j] or truth_area[j] < low or truth_area[j] > high
        order = np.argsort(ignored, kind="mergesort")
        for t in range(len(thresholds)):
            taken = np.zeros(g, dtype=np.uint8)
            for i in range(d):
                best, found = min(thresholds[t], 1 - 1e-10), -1
                for j in order:
                    if taken[j] and not crowd[j]:
                        continue
                    if found > -1 and not ignored[found] and ignored[j]:
                        break
                    if ious[i, j] >= best:
                        best, found = ious[i, j], j
                if found > -1:
                    taken[found] = 1
                    out[a, t, i] = 2 if ignored[found] else 1
                elif area[i] < low or area[i] > high:
                    out[a, t, i] = 2
    return out


@compiled
def weighted_ap(
    states: np.ndarray, image: np.ndarray, totals: np.ndarray, weights: np.ndarray, recalls: np.ndarray
) -> np.ndarray:
    """Average precision [b, S] of one class under every weighting; NaN where there is no truth.

    The precision at a recall is the highest at that recall or above. It is averaged over `recalls`, or, where
    `recalls` is empty, integrated over all recall (VOC from 2010).

    Args:
        states: [S, n] uint8, all detections in falling order of score, under S rules (threshold, area band).
        image: [n] index of the image of each detection.
        totals: [b, S] number of counted truths under every weighting.
        weights: [b, images] how often each image counts.
        recalls: [P] rising, or [0].
    """
    b, s, n = len(weights), len(states), states.shape[1]
    out = np.full((b, s), np.nan)
    rising, precision, gain = np.empty(n), np.empty(n), np.empty(n)
    for i in range(b):
        for r in range(s):
            total = totals[i, r]
            if total == 0:
                continue
            correct, wrong, e = 0.0, 0.0, 0
            for k in range(n):
                w = weights[i, image[k]]
                if states[r, k] == 0:
                    wrong += w
                elif states[r, k] == 1 and w > 0:
                    correct += w
                    rising[e], precision[e], gain[e] = correct / total, correct / (correct + wrong), w / total
                    e += 1
            for k in range(e - 2, -1, -1):
                precision[k] = max(precision[k], precision[k + 1])
            area, k = 0.0, 0
            for p in recalls:
                while k < e and rising[k] < p:
                    k += 1
                if k == e:
                    break
                area += precision[k] / len(recalls)
            if len(recalls) == 0:
                for k in range(e):
                    area += precision[k] * gain[k]
            out[i, r] = area
    return out


@dataclass
class Matches:
    """One class over many images; what `weighted_ap` needs, collected image by image."""

    rules: int  # S
    scores: dict[str, np.ndarray] = field(default_factory=dict)  # image id -> [d] falling
    states: dict[str, np.ndarray] = field(default_factory=dict)  # image id -> [S, d] uint8
    truths: dict[str, np.ndarray] = field(default_factory=dict)  # image id -> [S] counted truths

    def table(self, ids: list[str]) -> Table:
        """Everything in one order: by score, then id of the image, then place in the image."""
        scores = [self.scores.get(id, np.zeros(0)) for id in ids]
        image = np.repeat(np.arange(len(ids)), [len(s) for s in scores])
        rank = np.concatenate([np.arange(len(s)) for s in scores] + [np.zeros(0, dtype=np.int64)])
        flat = np.concatenate([*scores, np.zeros(0)])
        order = np.argsort(-flat, kind="stable")
        blank = np.zeros((self.rules, 0), dtype=np.uint8)
        states = np.concatenate([self.states.get(id, blank) for id in ids] + [blank], axis=1)
        truths = np.array([self.truths.get(id, np.zeros(self.rules)) for id in ids], dtype=np.float64)
        return Table(
            flat[order],
            np.ascontiguousarray(states[:, order]),
            image[order].astype(np.int64),
            rank[order],
            truths.reshape(len(ids), self.rules),
        )


@dataclass
class Table:
    """Detections of one class in falling order of score (n of them), and counts of truths."""

    scores: np.ndarray  # [n]
    states: np.ndarray  # [S, n] uint8
    image: np.ndarray  # [n] int64
    rank: np.ndarray  # [n] place within its image
    truths: np.ndarray  # [images, S]

    def average_precision(self, weights: np.ndarray, recalls: np.ndarray) -> np.ndarray:
        """[b, S]; see `weighted_ap`."""
        values: np.ndarray = weighted_ap(self.states, self.image, weights @ self.truths, weights, recalls)
        return values

    def hits(self, limit: int) -> np.ndarray:
        """True detections among the `limit` first of every image: [images, S]."""
        counted = (self.states == TRUE) & (self.rank < limit)
        out = np.zeros_like(self.truths)
        for s in range(len(self.states)):
            out[:, s] = np.bincount(self.image[counted[s]], minlength=len(out))
        return out
