"""How well a class map parts an image into regions, as the ISBI 2012 challenge measures membranes between cells.

The regions are the 4-connected parts of one class (cells); all else (membranes) lies between them. A gap of one pixel
in a membrane joins two cells and costs little in pixels, much here; a membrane drawn a pixel aside costs next to none.

Sources: Jain et al. 2010, "Boundary Learning by Optimization with Topological Constraints", CVPR (warping error);
Arganda-Carreras et al. 2015, "Crowdsourcing the creation of image segmentation algorithms for connectomics", Frontiers
in Neuroanatomy 9:142 (Rand scores, border thinning). The challenge took the best of many thresholds of a map of
probabilities; here the class map is measured, as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from saccade.data.dataset import Record
from saccade.data.types import IGNORE, Annotation
from saccade.errors import DataError, UsageError, suggest
from saccade.metrics import Value
from saccade.metrics.bootstrap import estimate, ratio, resampled_as
from saccade.metrics.segmentation import class_maps
from saccade.ops.compiled import compiled

MEANINGS = {
    "v_rand": "agreement of the regions, borders thinned: F-score of the foreground-restricted Rand index",
    "v_rand_split": "share of the pairs of pixels of one true region that stay in one",
    "v_rand_merge": "share of the pairs of pixels of one predicted region that are of one true region",
    "rand_error": "1 - the same F-score with the borders as they are",
    "warping_error": "share of the pixels that are wrong whatever the borders' exact course: gaps, holes, islands",
}


class Partitions:
    """Watches an evaluation (`inference.score.Watcher`) and measures the regions of one class; all numbers are means
    over the images that have such regions in the truth. Pixels that the truth ignores take no part.

    Args:
        classes: names in the order of the labels.
        region: the class whose connected parts are the regions.

    Raises:
        UsageError: no such class.
    """

    def __init__(self, classes: Sequence[str], region: str) -> None:
        if region not in classes:
            raise UsageError(f"--regions {region!r}: {suggest(region, classes)}")
        self.classes, self.label = len(classes), list(classes).index(region)
        self._rows: dict[str, list[float]] = {}

    def add(self, record: Record, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where a map is missing or of another size."""
        true, predicted = class_maps(record.id, truth, prediction, self.classes)
        if record.id in self._rows:
            raise DataError(f"{record.id}: evaluated twice; give every image once")
        cells = true == self.label
        found = np.where(true == IGNORE, False, predicted == self.label)
        labels = regions(cells)
        thin = rand_scores(labels, thinned(found))
        rough = rand_scores(labels, regions(found))
        self._rows[record.id] = [*thin, 1 - rough[0], warping_error(cells, found, true != IGNORE)]

    def result(self, bootstrap: int = 0, seed: int = 0, groups: Mapping[str, str] | None = None) -> dict[str, Value]:
        """The numbers of MEANINGS with their intervals."""
        ids = sorted(self._rows)
        rows = np.array([self._rows[id] for id in ids], dtype=np.float64).reshape(-1, len(MEANINGS))
        known = np.isfinite(rows).astype(np.float64)

        def statistic(w: np.ndarray) -> dict[str, np.ndarray]:
            means = ratio(w @ np.nan_to_num(rows), w @ known)
            return {name: means[:, k] for k, name in enumerate(MEANINGS)}

        return estimate(statistic, resampled_as(ids, groups), bootstrap, seed)


def regions(cells: np.ndarray) -> np.ndarray:
    """[H, W] int32 numbers from 1 of the 4-connected parts of a mask [H, W]; 0 elsewhere."""
    found: np.ndarray = cv2.connectedComponents(cells.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1]
    return found


def thinned(cells: np.ndarray) -> np.ndarray:
    """[H, W] int32: the regions of a mask grown until nothing lies between them, each pixel to the nearest one; zeros
    where the mask has none."""
    from skimage.segmentation import expand_labels

    found: np.ndarray = expand_labels(regions(cells), distance=float(sum(cells.shape)))
    return found


def rand_scores(truth: np.ndarray, prediction: np.ndarray) -> tuple[float, float, float]:
    """The foreground-restricted Rand F-score, split score and merge score of two maps of numbers [H, W].

    With p_ij the share of pixels in true region i and predicted region j, of those that lie in a true region (above 0):
    split = sum p_ij^2 / sum_i t_i^2, merge = sum p_ij^2 / sum_j s_j^2, F their harmonic mean (Arganda-Carreras et al.
    2015, equations 1 to 3). What is predicted as 0 counts as one region. NaN where the truth has no region.
    """
    inside = truth > 0
    if not inside.any():
        return float("nan"), float("nan"), float("nan")
    columns = int(prediction.max()) + 1
    pairs = truth[inside].astype(np.int64) * columns + prediction[inside]
    keys, joint = np.unique(pairs, return_counts=True)
    together = float((joint.astype(np.float64) ** 2).sum())
    true = float((np.bincount(keys // columns, joint) ** 2).sum())
    predicted = float((np.bincount(keys % columns, joint) ** 2).sum())
    return 2 * together / (true + predicted), together / true, together / predicted


def warping_error(truth: np.ndarray, prediction: np.ndarray, counted: np.ndarray | None = None) -> float:
    """The share of pixels in which a prediction differs from the warping of the truth that comes nearest to it.

    A warping changes single pixels of the truth that are simple: their change joins, parts, makes or removes neither a
    region (4-connected) nor a border (8-connected). Pixels are changed towards the prediction, in the order of rows,
    again and again until none can be; that is the greedy search of Jain et al. 2010, section 3, which need not find the
    very nearest: a thin border that was drawn two pixels aside is not reached.

    Args:
        truth, prediction: [H, W] bool, True in regions.
        counted: [H, W] bool, pixels that take part; by default all.
    """
    counted = np.ones(truth.shape, bool) if counted is None else counted
    warped, goal = np.pad(truth, 1).astype(np.uint8), np.pad(prediction, 1).astype(np.uint8)
    _warp(warped, goal, np.pad(counted, 1), SIMPLE)
    wrong = (warped[1:-1, 1:-1] != prediction) & counted
    return float(wrong.sum() / max(1, counted.sum()))


def _simple_table() -> np.ndarray:
    """[256] bool: whether the middle of a 3 x 3 neighbourhood is simple. Bit k is the k-th neighbour, clockwise from
    the upper left; set in regions."""
    ring = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]
    table = np.zeros(256, bool)
    for code in range(256):
        block = np.zeros((3, 3), np.uint8)
        for bit, place in enumerate(ring):
            block[place] = code >> bit & 1
        inner = regions(block > 0)
        sides = {int(inner[p]) for p in ((0, 1), (1, 2), (2, 1), (1, 0))} - {0}
        outer = _eight_connected(1 - block)
        table[code] = len(sides) == 1 and outer == 1
    return table


def _eight_connected(ring: np.ndarray) -> int:
    """How many 8-connected parts a 3 x 3 mask has without its middle."""
    ring[1, 1] = 0
    return int(cv2.connectedComponents(ring, connectivity=8)[0]) - 1


SIMPLE = _simple_table()


@compiled
def _warp(warped: np.ndarray, goal: np.ndarray, counted: np.ndarray, simple: np.ndarray) -> None:
    """Change `warped` [H + 2, W + 2] in place, but for its frame, which is border."""
    height, width = warped.shape
    changed = True
    while changed:
        changed = False
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                if warped[y, x] == goal[y, x] or not counted[y, x]:
                    continue
                code = (
                    warped[y - 1, x - 1]
                    | warped[y - 1, x] << 1
                    | warped[y - 1, x + 1] << 2
                    | warped[y, x + 1] << 3
                    | warped[y + 1, x + 1] << 4
                    | warped[y + 1, x] << 5
                    | warped[y + 1, x - 1] << 6
                    | warped[y, x - 1] << 7
                )
                if simple[code]:
                    warped[y, x] = goal[y, x]
                    changed = True
