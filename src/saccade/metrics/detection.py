"""Detection and instance segmentation: COCO's twelve numbers (by faster-coco-eval) and VOC's average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as run_lengths
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.metrics import Result, Value, voc
from saccade.metrics.bootstrap import estimate, mean_of_defined, ratio, resampled_as
from saccade.metrics.curves import SCORE, confusion
from saccade.metrics.masks import encode
from saccade.metrics.matching import AREAS, MAX_DETECTIONS, RECALLS, THRESHOLDS, Matches, Table, coco_states
from saccade.metrics.operating import operating_points

BANDS = np.array(list(AREAS.values()))
RULES = len(AREAS) * len(THRESHOLDS)
LIMITS = (1, 10, MAX_DETECTIONS)


@dataclass
class Side:
    """Truth or prediction of one image as COCO counts it, n rows."""

    labels: np.ndarray  # [n] int
    corners: np.ndarray  # [n, 4] float64 x1 y1 x2 y2
    boxes: np.ndarray  # [n, 4] float64 x y width height
    scores: np.ndarray  # [n] float64; zeros in truth
    crowd: np.ndarray  # [n] bool
    difficult: np.ndarray  # [n] bool
    area: np.ndarray  # [n] pixels^2 as stated; NaN where it follows from box or mask
    runs: list[dict[str, Any]] | None  # COCO run lengths of the masks
    predicted: bool


class Detection:
    """Metrics ap ap50 ap75 ap_small ap_medium ap_large ar_1 ar_10 ar_100 ar_small ar_medium ar_large voc_ap50
    voc07_ap50; for instances also mask_ap ... mask_ar_large, with the IoU of masks.

    COCO: 101 recalls, mean over IoU 0.50:0.05:0.95, the 100 best detections of a class and image, area bands split
    at 32^2 and 96^2 (a truth's area is the one stated, else its mask's, else its box's); crowds are ignored; classes
    without a truth are left out of the means; it does not know "difficult", those objects count as any other.
    VOC: IoU 0.5, all detections, area under the curve (voc_ap50) or 11 recalls (voc07_ap50); difficult objects and
    crowds are ignored. Equal scores are ordered by image id, then by place in the prediction.

    Curves: "precision_recall" {class, recall, precision, score: 101 each, at IoU 0.5; empty for a class without
    truth}, "confusion" (see `curves.confusion`, summed over images; the last row and column are background; of the
    objects that score at least `shown_from`, or that of their class among several, which it states),
    "operating" (the thresholds of best F1, by VOC's count of boxes: `operating.operating_points`).
    """

    def __init__(
        self,
        classes: list[str],
        masks: bool = False,
        voc_inclusive: bool = False,
        shown_from: float | Sequence[float] = SCORE,
    ) -> None:
        self.classes = classes
        self.shown_from = shown_from if isinstance(shown_from, float | int) else list(shown_from)
        self.kinds = ("bbox", "segm") if masks else ("bbox",)
        self.voc_inclusive = voc_inclusive
        self._images: dict[str, tuple[tuple[int, int], Side, Side]] = {}
        self._coco = {kind: [Matches(RULES) for _ in classes] for kind in self.kinds}
        self._voc = [Matches(1) for _ in classes]
        self._confusion = np.zeros((len(classes) + 1, len(classes) + 1), dtype=np.int64)

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where objects, scores or masks are missing, a number is not finite, a label is unknown,
        or the image came before."""
        if id in self._images:
            raise DataError(f"{id}: evaluated twice; give every image once")
        true, predicted = self._side(id, truth, False), self._side(id, prediction, True)
        self._images[id] = (truth.size, true, predicted)
        for k in np.union1d(true.labels, predicted.labels):
            rows_t, rows_p = np.flatnonzero(true.labels == k), np.flatnonzero(predicted.labels == k)
            rows_p = rows_p[np.argsort(-predicted.scores[rows_p], kind="stable")]
            for kind in self.kinds:
                self._match_coco(id, kind, int(k), true, rows_t, predicted, rows_p[:MAX_DETECTIONS])
            ignored = true.difficult[rows_t] | true.crowd[rows_t]
            states = voc.voc_states(predicted.corners[rows_p], true.corners[rows_t], ignored, 0.5, self.voc_inclusive)
            self._voc[k].scores[id], self._voc[k].states[id] = predicted.scores[rows_p], states[None]
            self._voc[k].truths[id] = np.array([(~ignored).sum()])
        assert truth.objects is not None
        assert prediction.objects is not None
        self._confusion += confusion(truth.objects, prediction.objects, len(self.classes), score=self.shown_from)

    def _side(self, id: str, given: Annotation, predicted: bool) -> Side:
        who, o = ("prediction" if predicted else "truth"), given.objects
        if o is None:
            raise DataError(f"{id}: the {who} has no objects (an image without any needs an empty list)")
        if predicted and o.scores is None:
            raise DataError(f"{id}: the predicted objects have no scores")
        n = len(o)
        corners = o.boxes.detach().double().cpu().numpy()
        labels = o.labels.cpu().numpy()
        scores = np.zeros(n) if o.scores is None else o.scores.detach().double().cpu().numpy()
        for i in range(n):
            if not (np.isfinite(corners[i]).all() and np.isfinite(scores[i])):
                raise DataError(f"{id}: object {i} of the {who} has box {corners[i].tolist()}, score {scores[i]}")
            if not 0 <= labels[i] < len(self.classes):
                raise DataError(
                    f"{id}: object {i} of the {who} has label {labels[i]}, allowed 0..{len(self.classes) - 1}"
                )
        return Side(
            labels,
            corners,
            np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            scores,
            _flags(o.crowd, n),
            _flags(o.difficult, n),
            np.full(n, np.nan) if o.area is None or predicted else o.area.double().cpu().numpy(),
            self._encode(id, who, o, given.size),
            predicted,
        )

    def _encode(self, id: str, who: str, o: Objects, size: tuple[int, int]) -> list[dict[str, Any]] | None:
        if "segm" not in self.kinds:
            return None
        if not len(o):
            return []
        if o.masks is None:
            raise DataError(f"{id}: the objects of the {who} have no masks; evaluate them as task detect")
        if tuple(o.masks.shape[1:]) != tuple(size):
            raise DataError(
                f"{id}: the masks of the {who} are of size {list(o.masks.shape[1:])}, the image {list(size)}"
            )
        return encode(o.masks)

    def _match_coco(
        self, id: str, kind: str, k: int, true: Side, rows_t: np.ndarray, predicted: Side, rows_p: np.ndarray
    ) -> None:
        truth_area, area = areas(true, kind)[rows_t], areas(predicted, kind)[rows_p]
        ious = np.zeros((len(rows_p), len(rows_t)))
        if ious.size:
            crowd = true.crowd[rows_t].astype(int).tolist()
            if kind == "bbox":
                ious = np.array(run_lengths.iou(predicted.boxes[rows_p].tolist(), true.boxes[rows_t].tolist(), crowd))
            else:
                assert predicted.runs is not None
                assert true.runs is not None
                pair = [predicted.runs[i] for i in rows_p], [true.runs[i] for i in rows_t]
                ious = np.array(run_lengths.iou(*pair, crowd))
        states = coco_states(ious, truth_area, true.crowd[rows_t], area, THRESHOLDS, BANDS)
        inside = (truth_area >= BANDS[:, :1]) & (truth_area <= BANDS[:, 1:]) & ~true.crowd[rows_t]
        table = self._coco[kind][k]
        table.scores[id], table.states[id] = predicted.scores[rows_p], states.reshape(RULES, len(rows_p))
        table.truths[id] = np.repeat(inside.sum(1), len(THRESHOLDS))

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        ids = sorted(self._images)
        tables = {kind: [m.table(ids) for m in matches] for kind, matches in self._coco.items()}
        voc_tables = [m.table(ids) for m in self._voc]

        def statistic(w: np.ndarray) -> dict[str, np.ndarray]:
            values: dict[str, np.ndarray] = {}
            for kind in self.kinds:
                values |= coco_numbers(*resampled(tables[kind], w), _prefix(kind))
            for name, recalls in (("voc_ap50", voc.EVERY), ("voc07_ap50", voc.ELEVEN)):
                by_class = [t.average_precision(w, recalls) for t in voc_tables]
                values[name] = mean_of_defined(np.concatenate(by_class, axis=1))
            return values

        metrics = estimate(statistic, resampled_as(ids, groups), bootstrap, seed)
        per_class = self._class_rows(voc_tables)
        curves: dict[str, Any] = {"confusion": {"classes": [*self.classes, "background"], "counts": self._confusion}}
        for kind in self.kinds:
            found = self._reference(kind, ids)
            ap, recall = found["precision"].mean(0), found["recall"]
            for name, values in coco_numbers(ap[None], recall[None], _prefix(kind)).items():
                value = float(values[0])
                old = metrics[name]
                metrics[name] = Value(value, old.low, old.high, old.drawn) if np.isfinite(value) else Value(None)
            for k, row in enumerate(per_class):
                row |= _class_numbers(ap[:, k], recall[:, :, k], _prefix(kind))
            curves[f"{_prefix(kind)}precision_recall"] = self._curves(found)
        curves["confusion"] |= {"counts": self._confusion.tolist(), "shown_from": self.shown_from}
        curves["operating"] = operating_points(self.classes, voc_tables)
        return Result(metrics, per_class, curves, len(ids))

    def _class_rows(self, voc_tables: list[Table]) -> list[dict[str, Any]]:
        rows = []
        one = np.ones((1, len(self._images)))
        for k, name in enumerate(self.classes):
            true = [(s.labels == k) & ~s.crowd for _, s, _ in self._images.values()]
            row: dict[str, Any] = {
                "name": name,
                "images": sum(bool(t.any()) for t in true),
                "objects": int(sum(t.sum() for t in true)),
                "predictions": int(sum((s.labels == k).sum() for _, _, s in self._images.values())),
            }
            for key, recalls in (("voc_ap50", voc.EVERY), ("voc07_ap50", voc.ELEVEN)):
                value = float(voc_tables[k].average_precision(one, recalls)[0, 0])
                row[key] = value if np.isfinite(value) else None
            rows.append(row)
        return rows

    def _curves(self, found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        rows = []
        for k, name in enumerate(self.classes):
            precision, scores = found["precision"][:, 0, k, 0], found["scores"][:, 0, k, 0]
            known = not np.isnan(precision).any()
            rows.append(
                {
                    "class": name,
                    "recall": RECALLS.tolist() if known else [],
                    "precision": precision.tolist() if known else [],
                    "score": scores.tolist() if known else [],
                }
            )
        return rows

    def _reference(self, kind: str, ids: list[str]) -> dict[str, np.ndarray]:
        """faster-coco-eval's arrays: precision and scores [101, T, K, A], recall [3 limits, T, K, A]; NaN for none."""
        shape = (len(THRESHOLDS), len(self.classes), len(AREAS))
        if not ids or not self.classes:
            blank = np.full((len(RECALLS), *shape), np.nan)
            return {"precision": blank, "scores": blank, "recall": np.full((len(LIMITS), *shape), np.nan)}
        truth, predicted = self._coco_sets(kind, ids)
        evaluation = COCOeval_faster(truth, predicted, kind)
        evaluation.params.iouThrs, evaluation.params.recThrs = THRESHOLDS, RECALLS
        evaluation.params.maxDets = list(LIMITS)
        evaluation.params.areaRng = BANDS.tolist()
        evaluation.params.areaRngLbl = list(AREAS)
        evaluation.evaluate()
        evaluation.accumulate()
        precision = np.array(evaluation.eval["precision"]).reshape(
            len(THRESHOLDS), len(RECALLS), *shape[1:], len(LIMITS)
        )
        scores = np.array(evaluation.eval["scores"]).reshape(precision.shape)
        recall = np.array(evaluation.eval["recall"]).reshape(*shape, len(LIMITS))
        none = precision[..., -1] < 0
        return {
            "precision": np.moveaxis(np.where(none, np.nan, precision[..., -1]), 1, 0),
            "scores": np.moveaxis(np.where(none, np.nan, scores[..., -1]), 1, 0),
            "recall": np.moveaxis(np.where(recall < 0, np.nan, recall), -1, 0),
        }

    def _coco_sets(self, kind: str, ids: list[str]) -> tuple[COCO, COCO]:
        """Truth and predictions as COCO's structures; images count from 1 in order of id, categories label + 1."""
        images, annotations = [], ([], [])  # type: ignore[var-annotated]
        for n, id in enumerate(ids, start=1):
            (height, width), *sides = self._images[id]
            images.append({"id": n, "height": height, "width": width})
            for side, rows in zip(sides, annotations, strict=True):
                area = areas(side, kind)
                for i in range(len(side.labels)):
                    row = {
                        "id": len(rows) + 1,  # 0 would read as "unmatched"
                        "image_id": n,
                        "category_id": int(side.labels[i]) + 1,
                        "bbox": side.boxes[i].tolist(),
                        "area": float(area[i]),
                        "iscrowd": int(side.crowd[i]),
                        "score": float(side.scores[i]),
                    }
                    if side.runs is not None:
                        row["segmentation"] = side.runs[i]
                    rows.append(row)
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.classes)]
        common = {"images": images, "categories": categories}
        return COCO({**common, "annotations": annotations[0]}), COCO({**common, "annotations": annotations[1]})


def areas(side: Side, kind: str) -> np.ndarray:
    """Area of every row [n]: a truth's as stated, else of its mask where there is one, else of its box. A prediction's
    is that of what is compared, mask or box."""
    box = side.boxes[:, 2] * side.boxes[:, 3]
    stated = ~np.isnan(side.area)
    if side.runs and (kind == "segm" or not side.predicted):
        box = np.array([float(run_lengths.area(run)) for run in side.runs])
    return np.where(stated, side.area, box)


def coco_numbers(ap: np.ndarray, recall: np.ndarray, prefix: str) -> dict[str, np.ndarray]:
    """The twelve numbers, each [b], from ap [b, T, K, A] and recall [b, 3 limits, T, K, A], without the NaN entries."""
    all_, small, medium, large = range(len(AREAS))

    def mean(values: np.ndarray) -> np.ndarray:
        return mean_of_defined(values.reshape(len(values), -1))

    numbers = {
        "ap": mean(ap[..., all_]),
        "ap50": mean(ap[:, 0, :, all_]),
        "ap75": mean(ap[:, 5, :, all_]),
        "ap_small": mean(ap[..., small]),
        "ap_medium": mean(ap[..., medium]),
        "ap_large": mean(ap[..., large]),
        "ar_1": mean(recall[:, 0, ..., all_]),
        "ar_10": mean(recall[:, 1, ..., all_]),
        "ar_100": mean(recall[:, 2, ..., all_]),
        "ar_small": mean(recall[:, 2, ..., small]),
        "ar_medium": mean(recall[:, 2, ..., medium]),
        "ar_large": mean(recall[:, 2, ..., large]),
    }
    return {prefix + name: values for name, values in numbers.items()}


def resampled(tables: list[Table], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AP [b, T, K, A] and recall [b, 3 limits, T, K, A] under weights [b, images]; NaN where a class has no truth."""
    b, shape = len(weights), (len(AREAS), len(THRESHOLDS))
    ap = np.full((b, len(tables), *shape), np.nan)
    recall = np.full((b, len(LIMITS), len(tables), *shape), np.nan)
    for k, table in enumerate(tables):
        ap[:, k] = table.average_precision(weights, RECALLS).reshape(b, *shape)
        total = weights @ table.truths
        for m, limit in enumerate(LIMITS):
            recall[:, m, k] = ratio(weights @ table.hits(limit), total).reshape(b, *shape)
    return np.moveaxis(ap, (1, 2, 3), (2, 3, 1)), np.moveaxis(recall, (2, 3, 4), (3, 4, 2))


def _class_numbers(ap: np.ndarray, recall: np.ndarray, prefix: str) -> dict[str, float | None]:
    """The twelve numbers of one class from ap [T, A] and recall [3 limits, T, A]."""
    numbers = coco_numbers(ap[None, :, None], recall[None, :, :, None], prefix)
    return {name: float(v[0]) if np.isfinite(v[0]) else None for name, v in numbers.items()}


def _prefix(kind: str) -> str:
    return "mask_" if kind == "segm" else ""


def _flags(column: Any, n: int) -> np.ndarray:
    return np.zeros(n, dtype=bool) if column is None else column.bool().cpu().numpy()
