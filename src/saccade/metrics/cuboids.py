"""Boxes in three dimensions: KITTI's average precisions, and how far the boxes that are found are off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.metrics import Result
from saccade.metrics.bootstrap import estimate, interval, mean_of_defined, ratio, resampled_as
from saccade.metrics.curves import IOU, SCORE, numpy_box_iou, pair
from saccade.metrics.detection import Detection
from saccade.metrics.kitti import DIFFICULTIES, Curve, Side, Table, demanded, sort_found, sort_truth
from saccade.ops.cuboids import cuboid_ious, observation_angles, wrap

MODERATE = DIFFICULTIES.index("moderate")
# What is compared, and whether loosely: boxes in pixels, from above, in space. The loose ones at moderate alone.
MEASURES = (("2d", False), ("bev", False), ("3d", False), ("bev", True), ("3d", True))
ERRORS = ("iou_3d", "place_error", "size_error", "turn_error")

Key = tuple[int, str, bool, int]  # class, measure, loose, difficulty


class Boxes3d:
    """Metrics ap_3d ap_bev aos ap_2d, each also with _easy _hard _r11; ap_3d_loose ap_bev_loose; iou_3d place_error
    size_error turn_error; and of the boxes in pixels all of `Detection`.

    KITTI's numbers (`metrics/kitti.py`) are of difficulty moderate and of 40 recalls where their name says nothing
    else, at 11 recalls with _r11, and the mean over the classes that have an object of the difficulty. As there, a
    region without labels excuses boxes in pixels alone, and a truth without a cuboid is left aside in space.

    iou_3d is the mean over all known true objects, of any difficulty, of the IoU in space with the prediction that is
    paired with it in pixels (`curves.pair`, IoU 0.5); of an object that nothing is paired with it is 0. The errors are
    means over the paired ones: metres between the middles of the lower faces, the mean over height, width and length of
    the metres between sizes, degrees between rotations.
    """

    def __init__(
        self, classes: list[str], voc_inclusive: bool = False, shown_from: float | Sequence[float] = SCORE
    ) -> None:
        self.classes = classes
        self.detection = Detection(classes, voc_inclusive=voc_inclusive, shown_from=shown_from)
        self._curves: dict[Key, Curve] = {}
        self._errors: dict[str, np.ndarray] = {}  # id -> [n, 5]: class, iou_3d and the errors, NaN where not paired

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where objects, scores or cuboids are missing, a predicted number is not finite, a label is
        unknown, or the image came before."""
        self.detection.add(id, truth, prediction)
        assert truth.objects is not None
        assert prediction.objects is not None
        crowd = truth.objects.crowd
        plain = truth.objects if crowd is None else truth.objects[~crowd]
        regions = truth.objects[slice(0, 0)] if crowd is None else truth.objects[crowd]
        true, found = _cuboids(id, "truth", plain), _cuboids(id, "prediction", prediction.objects)
        if not np.isfinite(found).all():
            row = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
            raise DataError(f"{id}: object {row} of the prediction has a cuboid that is not finite")
        above, inside = cuboid_ious(found, true)
        overlaps = {"2d": numpy_box_iou(_boxes(prediction.objects), _boxes(plain)), "bev": above, "3d": inside}
        turned = observation_angles(found)[:, None] - observation_angles(true)[None]
        similar = np.where(np.isfinite(turned), (1 + np.cos(np.nan_to_num(turned))) / 2, 0.0)
        covered = numpy_box_iou(_boxes(prediction.objects), _boxes(regions), crowd=np.ones(len(regions), bool))
        sides = _side(prediction.objects, found), _side(plain, true)
        for k in sorted({*sides[0].labels.tolist(), *sides[1].labels.tolist()}):
            near = np.where(regions.labels.numpy() == k, covered, 0.0).max(axis=1, initial=0.0)
            for measure, loose in MEASURES:
                least = demanded(self.classes[k], loose)
                for level in [MODERATE] if loose else range(len(DIFFICULTIES)):
                    kinds = sort_found(sides[0], k, level), sort_truth(sides[1], k, self.classes, level)
                    flat = measure == "2d"
                    if not flat:
                        kinds = kinds[0], np.where((kinds[1] == 0) & ~sides[1].known, 1, kinds[1])
                    curve = self._curves.setdefault((k, measure, loose, level), Curve())
                    excused = near > least if flat else None
                    curve.add(id, overlaps[measure], kinds, sides[0].scores, least, similar if flat else None, excused)
        self._errors[id] = _errors(plain, prediction.objects, inside, found, true)

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        ids = sorted(self._errors)
        result = self.detection.result(bootstrap, seed, groups)
        tables = {key: curve.table(ids) for key, curve in self._curves.items()}
        sums = {k: np.stack([_sums(self._errors[id], k) for id in ids]) if ids else np.zeros((0, 4, 2))
                for k in (None, *range(len(self.classes)))}  # fmt: skip

        def statistic(w: np.ndarray) -> dict[str, np.ndarray]:
            return _numbers(tables, w, range(len(self.classes))) | _means(sums[None], w)

        metrics = estimate(statistic, resampled_as(ids, groups), bootstrap, seed)
        result.metrics = metrics | result.metrics
        whole = np.ones((1, len(ids)))
        for k, row in enumerate(result.per_class):
            own = _numbers(tables, whole, [k]) | _means(sums[k], whole)
            row |= {name: interval(float(value[0]), np.zeros(0)).value for name, value in own.items()}
        return result


def _numbers(tables: Mapping[Key, Table], w: np.ndarray, classes: Any) -> dict[str, np.ndarray]:
    """KITTI's numbers under weights [b, images]: [b] each, the mean over those of `classes` that have a value."""
    nothing = np.full((len(w), 4), np.nan)
    out: dict[str, np.ndarray] = {}
    for measure, loose in (("3d", False), ("bev", False), ("2d", False), ("3d", True), ("bev", True)):
        for level in [MODERATE] if loose else (MODERATE, 0, 2):
            keys = [(k, measure, loose, level) for k in classes]
            values = np.stack([tables[key].average_precision(w) if key in tables else nothing for key in keys], -1)
            found = mean_of_defined(values)  # [b, 4]
            end = "_loose" if loose else "" if level == MODERATE else f"_{DIFFICULTIES[level]}"
            for place, name in ((0, f"ap_{measure}"), *(((2, "aos"),) if measure == "2d" else ())):
                out[name + end] = found[:, place]
                if not end:
                    out[f"{name}_r11"] = found[:, place + 1]
    first = ("ap_3d", "ap_bev", "aos", "ap_2d")
    return {name: out[name] for name in first} | {name: out[name] for name in out if name not in first}


def _sums(rows: np.ndarray, label: int | None) -> np.ndarray:
    """[4, 2] sum and count of each of ERRORS over the objects of one image, of one class where it is given."""
    own = rows if label is None else rows[rows[:, 0] == label]
    values = own[:, 1:]
    return np.stack([np.nansum(values, axis=0), (~np.isnan(values)).sum(0)], axis=1)


def _means(sums: np.ndarray, w: np.ndarray) -> dict[str, np.ndarray]:
    totals = np.einsum("bi,iec->bec", w, sums)
    return {name: ratio(totals[:, e, 0], totals[:, e, 1]) for e, name in enumerate(ERRORS)}


def _errors(truth: Objects, prediction: Objects, inside: np.ndarray, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """[n, 5] for the known true objects: class, iou_3d, and the errors in place, size and rotation."""
    partners = dict(pair(truth, prediction, IOU, -np.inf).correct)
    rows = []
    for j in np.flatnonzero(np.isfinite(true).all(1)).tolist():
        row = [float(truth.labels[j]), 0.0, np.nan, np.nan, np.nan]
        if j in partners:
            i = partners[j]
            row[1:] = [
                float(inside[i, j]),
                float(np.linalg.norm(found[i, 3:6] - true[j, 3:6])),
                float(np.abs(found[i, :3] - true[j, :3]).mean()),
                float(np.degrees(np.abs(wrap(found[i, 6:] - true[j, 6:])))[0]),
            ]
        rows.append(row)
    return np.array(rows).reshape(-1, 5)


def _cuboids(id: str, who: str, objects: Objects) -> np.ndarray:
    if objects.cuboids is None or tuple(objects.cuboids.shape) != (len(objects), 7):
        have = None if objects.cuboids is None else list(objects.cuboids.shape)
        raise DataError(f"{id}: the cuboids of the {who} are {have}, needed [{len(objects)}, 7]")
    return objects.cuboids.detach().double().cpu().numpy()


def _boxes(objects: Objects) -> np.ndarray:
    return objects.boxes.detach().double().cpu().numpy()


def _side(objects: Objects, cuboids: np.ndarray) -> Side:
    boxes, n = _boxes(objects), len(objects)
    return Side(
        objects.labels.cpu().numpy(),
        boxes[:, 3] - boxes[:, 1],
        np.zeros((n, 2)) if objects.hidden is None else objects.hidden.double().cpu().numpy(),
        np.zeros(n) if objects.scores is None else objects.scores.detach().double().cpu().numpy(),
        np.isfinite(cuboids).all(1),
    )
