"""Poses: COCO's average precision by the similarity of keypoints (OKS), and the share of correct keypoints (PCK)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core.coco import COCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster

from saccade.data.joints import Joints
from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.metrics import Result, Value
from saccade.metrics.bootstrap import estimate, mean_of_defined, ratio, resampled_as
from saccade.metrics.curves import IOU, SCORE, pair
from saccade.metrics.detection import Detection
from saccade.metrics.matching import RECALLS, THRESHOLDS, Matches, Table, coco_states

MAX_POSES = 20  # of a class and image that COCO counts
AREAS = {"all": (0.0, 1e10), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # pixels^2 of the object
BANDS = np.array(list(AREAS.values()))
RULES = len(AREAS) * len(THRESHOLDS)
ALPHA_TORSO, ALPHA_HEAD = 0.2, 0.5  # of PCK and PCKh
ALPHAS = [round(0.05 * i, 2) for i in range(1, 11)]  # of the curve
HEAD = (("head_top",), ("upper_neck", "neck"))
TORSO = (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip"))


def oks(truth: np.ndarray, predicted: np.ndarray, areas: np.ndarray, boxes: np.ndarray, joints: Joints) -> np.ndarray:
    """Object keypoint similarity [d, g] of predicted poses [d, k, 3] with true ones [g, k, 3].

    The mean over the labelled joints of exp(-d^2 / (2 s^2 kappa^2)), with d the distance in pixels, s^2 the object's
    area and kappa twice the joint's sigma. A true object without a labelled joint is compared by its box, doubled in
    size: joints within it are at distance 0.

    Args:
        areas: [g] pixels^2; boxes: [g, 4] x1 y1 x2 y2, of the true objects.

    Source: COCO's evaluation of keypoints, as released (cocodataset.org, "Keypoint evaluation").
    """
    out = np.zeros((len(predicted), len(truth)))
    width = (2 * np.array(joints.sigmas)) ** 2
    for j, (pose, area, box) in enumerate(zip(truth, areas, boxes, strict=True)):
        labelled = pose[:, 2] > 0
        if labelled.any():
            away = predicted[:, :, :2] - pose[:, :2]
        else:
            labelled[:] = True
            side = box[2:] - box[:2]
            low, high = box[:2] - side, box[2:] + side
            away = np.maximum(low - predicted[:, :, :2], 0) + np.maximum(predicted[:, :, :2] - high, 0)
        e = (away**2).sum(-1) / width / (area + np.spacing(1)) / 2
        out[:, j] = np.exp(-e[:, labelled]).mean(1)
    return out


def correct_keypoints(distances: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Of every joint how many are correct, within `alpha` of the person's measure, and how many count: [k] each.

    Args:
        distances: [n, k] between predicted and true joint, over the person's measure; NaN where none is labelled,
            infinite where the person was not found.

    Source: Yang and Ramanan, "Articulated Human Detection with Flexible Mixtures of Parts", PAMI 2013, section 7.1;
    PCKh, with the size of the head: Andriluka et al., "2D Human Pose Estimation", CVPR 2014, section 4.
    """
    counted = ~np.isnan(distances)
    return (counted & (distances <= alpha)).sum(0), counted.sum(0)


def head_size(pose: np.ndarray, joints: Joints) -> float:
    """Pixels from the top of the head to the neck in a pose [k, 3]; NaN where these are not both labelled."""
    top, neck = (joints.find(*names) for names in HEAD)
    return _between(pose, top, neck)


def torso_size(pose: np.ndarray, box: np.ndarray, joints: Joints) -> float:
    """Pixels from left shoulder to right hip in a pose [k, 3], else from right shoulder to left hip; NaN where neither
    two are labelled. Joints without names for these are measured by the longer side of the box [4]."""
    named = [(joints.find(a), joints.find(b)) for a, b in TORSO]
    if all(None in ends for ends in named):
        return float(max(box[2] - box[0], box[3] - box[1]))
    known = [size for ends in named if not np.isnan(size := _between(pose, *ends))]
    return known[0] if known else float("nan")


def _between(pose: np.ndarray, a: int | None, b: int | None) -> float:
    if a is None or b is None or not (pose[a, 2] > 0 and pose[b, 2] > 0):
        return float("nan")
    return float(np.hypot(*(pose[a, :2] - pose[b, :2]))) or float("nan")


@dataclass
class Side:
    """Truth or prediction of one image, n rows."""

    labels: np.ndarray  # [n] int
    boxes: np.ndarray  # [n, 4] float64 x1 y1 x2 y2
    poses: np.ndarray  # [n, k, 3] float64
    scores: np.ndarray  # [n] float64; zeros in truth
    crowd: np.ndarray  # [n] bool
    area: np.ndarray  # [n] pixels^2: of a truth as stated, else of its box; of a prediction around its joints


@dataclass
class Distances:
    """How far the joints of the people of one image are off, over the size of torso and head; see
    `correct_keypoints`."""

    labels: np.ndarray  # [n] int
    torso: np.ndarray  # [n, k]
    head: np.ndarray  # [n, k]


class Pose:
    """Metrics oks_ap oks_ap50 oks_ap75 oks_ap_medium oks_ap_large oks_ar oks_ar50 oks_ar75, as COCO counts keypoints;
    pck pckh; and of the boxes all of `Detection`.

    OKS: 101 recalls, mean over similarities 0.50:0.05:0.95, the 20 best poses of a class and image; crowds and objects
    without a labelled joint are ignored. PCK: the share of labelled joints within 0.2 of the person's torso
    (`torso_size`), PCKh within 0.5 of the head (`head_size`). A person is answered by the likeliest prediction whose
    box overlaps (IoU 0.5, each for one person); all joints of a person who is not found are wrong. A person whose torso
    or head is not labelled does not count there.

    Curves besides those of boxes: "joints" [{joint, labelled, pck, pckh}], "pck" {alpha, pck, pckh: a list each}.
    """

    def __init__(
        self, classes: list[str], voc_inclusive: bool = False, shown_from: float | Sequence[float] = SCORE
    ) -> None:
        self.classes = classes
        self.detection = Detection(classes, voc_inclusive=voc_inclusive, shown_from=shown_from)
        self.joints: Joints | None = None
        self._images: dict[str, tuple[tuple[int, int], Side, Side]] = {}
        self._matches = [Matches(RULES) for _ in classes]
        self._distances: dict[str, Distances] = {}

    def add(self, id: str, truth: Annotation, prediction: Annotation) -> None:
        """Raises DataError where objects, scores or joints are missing, the joints of truth and prediction differ, a
        number is not finite, a label is unknown, or the image came before."""
        joints = self._same_joints(id, truth, prediction)
        self.detection.add(id, truth, prediction)
        assert truth.objects is not None
        assert prediction.objects is not None
        true, found = _side(id, "truth", truth.objects, joints), _side(id, "prediction", prediction.objects, joints)
        self._images[id] = (truth.size, true, found)
        for k in np.union1d(true.labels, found.labels):
            rows_t, rows_p = np.flatnonzero(true.labels == k), np.flatnonzero(found.labels == k)
            rows_p = rows_p[np.argsort(-found.scores[rows_p], kind="stable")][:MAX_POSES]
            ignored = true.crowd[rows_t] | ~(true.poses[rows_t, :, 2] > 0).any(1)
            similar = oks(true.poses[rows_t], found.poses[rows_p], true.area[rows_t], true.boxes[rows_t], joints)
            area = np.where(ignored, -1.0, true.area[rows_t])  # outside of every band: ignored, and taken once
            states = coco_states(similar, area, true.crowd[rows_t], found.area[rows_p], THRESHOLDS, BANDS)
            inside = (area >= BANDS[:, :1]) & (area <= BANDS[:, 1:])
            table = self._matches[k]
            table.scores[id], table.states[id] = found.scores[rows_p], states.reshape(RULES, len(rows_p))
            table.truths[id] = np.repeat(inside.sum(1), len(THRESHOLDS))
        partners = dict(pair(truth.objects, prediction.objects, IOU, -np.inf).correct)
        self._distances[id] = _distances(true, found, partners, joints)

    def _same_joints(self, id: str, truth: Annotation, prediction: Annotation) -> Joints:
        if truth.joints is None:
            raise DataError(f"{id}: the truth has no named joints; evaluate it as task detect")
        for who, other in (("prediction", prediction.joints), ("other images", self.joints)):
            if other is not None and other.names != truth.joints.names:
                raise DataError(
                    f"{id}: its {len(truth.joints)} joints ({', '.join(truth.joints.names[:4])}, ...) are not those of "
                    f"the {who}: {len(other)} ({', '.join(other.names[:4])}, ...)"
                )
        self.joints = truth.joints
        return truth.joints

    def result(self, bootstrap: int = 1000, seed: int = 0, groups: Mapping[str, str] | None = None) -> Result:
        ids = sorted(self._images)
        result = self.detection.result(bootstrap, seed, groups)
        tables = [m.table(ids) for m in self._matches]
        counts = {name: np.array([self._counts(id, name) for id in ids]).reshape(-1, 2) for name in ("pck", "pckh")}

        def statistic(w: np.ndarray) -> dict[str, np.ndarray]:
            found = {name: ratio(w @ rows[:, 0], w @ rows[:, 1]) for name, rows in counts.items()}
            return oks_numbers(*_resampled(tables, w)) | found

        metrics = estimate(statistic, resampled_as(ids, groups), bootstrap, seed)
        ap, recall = self._reference(ids)
        for name, values in oks_numbers(ap[None], recall[None]).items():
            value, old = float(values[0]), metrics[name]
            metrics[name] = Value(value, old.low, old.high, old.drawn) if np.isfinite(value) else Value(None)
        for k, row in enumerate(result.per_class):
            row |= {n: _known(v[0]) for n, v in oks_numbers(ap[None, :, k : k + 1], recall[None, :, k : k + 1]).items()}
            own = self._pooled(k)
            row |= {"pck": _share(own.torso, ALPHA_TORSO), "pckh": _share(own.head, ALPHA_HEAD)}
        result.metrics = metrics | result.metrics
        result.curves |= self._curves()
        return result

    def _counts(self, id: str, name: str) -> tuple[int, int]:
        """Joints of one image that are correct, and that count."""
        own = self._distances[id]
        hits, counted = correct_keypoints(*((own.torso, ALPHA_TORSO) if name == "pck" else (own.head, ALPHA_HEAD)))
        return int(hits.sum()), int(counted.sum())

    def _pooled(self, label: int | None = None) -> Distances:
        """Of all images, and one class where it is given."""
        k = 0 if self.joints is None else len(self.joints)
        rows = list(self._distances.values())
        labels = np.concatenate([np.zeros(0, int), *(row.labels for row in rows)])
        torso, head = (
            np.concatenate([np.zeros((0, k)), *(getattr(row, name) for row in rows)]) for name in ("torso", "head")
        )
        own = np.ones(len(labels), bool) if label is None else labels == label
        return Distances(labels[own], torso[own], head[own])

    def _curves(self) -> dict[str, Any]:
        whole = self._pooled()
        rows = []
        labelled = sum((side.poses[~side.crowd, :, 2] > 0).sum(0) for _, side, _ in self._images.values())
        for i, name in enumerate(self.joints.names if self.joints else ()):
            one = slice(i, i + 1)
            row = {"pck": _share(whole.torso[:, one], ALPHA_TORSO), "pckh": _share(whole.head[:, one], ALPHA_HEAD)}
            rows.append({"joint": name, "labelled": int(labelled[i])} | row)
        by_alpha = {
            name: [_share(distances, alpha) for alpha in ALPHAS]
            for name, distances in (("pck", whole.torso), ("pckh", whole.head))
        }
        return {"joints": rows, "pck": {"alpha": ALPHAS, **by_alpha}}

    def _reference(self, ids: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """faster-coco-eval's average precision and recall, each [T, K, A]; NaN for a class without truth."""
        shape = (len(THRESHOLDS), len(self.classes), len(AREAS))
        if not ids or not self.classes or self.joints is None:
            return np.full(shape, np.nan), np.full(shape, np.nan)
        truth, predicted = self._coco_sets(ids)
        evaluation = COCOeval_faster(truth, predicted, "keypoints", kpt_oks_sigmas=self.joints.sigmas)
        evaluation.params.catIds = [k + 1 for k in range(len(self.classes))]
        evaluation.params.iouThrs, evaluation.params.recThrs = THRESHOLDS, RECALLS
        evaluation.params.maxDets = [MAX_POSES]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = BANDS.tolist(), list(AREAS)
        evaluation.evaluate()
        evaluation.accumulate()
        precision = np.array(evaluation.eval["precision"]).reshape(len(THRESHOLDS), len(RECALLS), *shape[1:])
        recall = np.array(evaluation.eval["recall"]).reshape(shape)
        ap = np.where(precision < 0, np.nan, precision).mean(1)
        return ap, np.where(recall < 0, np.nan, recall)

    def _coco_sets(self, ids: list[str]) -> tuple[COCO, COCO]:
        """Truth and predictions as COCO's structures; images count from 1 in order of id, categories label + 1."""
        images, annotations = [], ([], [])  # type: ignore[var-annotated]
        for n, id in enumerate(ids, start=1):
            (height, width), *sides = self._images[id]
            images.append({"id": n, "height": height, "width": width})
            for side, rows in zip(sides, annotations, strict=True):
                for i in range(len(side.labels)):
                    x1, y1, x2, y2 = side.boxes[i].tolist()
                    rows.append(
                        {
                            "id": len(rows) + 1,  # 0 would read as "unmatched"
                            "image_id": n,
                            "category_id": int(side.labels[i]) + 1,
                            "bbox": [x1, y1, x2 - x1, y2 - y1],
                            "area": float(side.area[i]),
                            "iscrowd": int(side.crowd[i]),
                            "score": float(side.scores[i]),
                            "keypoints": side.poses[i].ravel().tolist(),
                            "num_keypoints": int((side.poses[i, :, 2] > 0).sum()),
                        }
                    )
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.classes)]
        common = {"images": images, "categories": categories}
        return COCO({**common, "annotations": annotations[0]}), COCO({**common, "annotations": annotations[1]})


def oks_numbers(ap: np.ndarray, recall: np.ndarray) -> dict[str, np.ndarray]:
    """COCO's numbers of keypoints, each [b], from average precision and recall [b, T, K, A] without the NaN entries."""
    at = {"": slice(None), "50": slice(0, 1), "75": slice(5, 6)}
    numbers = {f"oks_ap{name}": ap[:, rows, :, 0] for name, rows in at.items()}
    numbers |= {f"oks_ap_{band}": ap[..., i] for i, band in enumerate(AREAS) if i}
    numbers |= {f"oks_ar{name}": recall[:, rows, :, 0] for name, rows in at.items()}
    return {name: mean_of_defined(values.reshape(len(values), -1)) for name, values in numbers.items()}


def _resampled(tables: list[Table], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average precision and recall [b, T, K, A] under weights [b, images]; NaN where a class has no truth."""
    b, shape = len(weights), (len(AREAS), len(THRESHOLDS))
    ap, recall = (np.full((b, len(tables), *shape), np.nan) for _ in range(2))
    for k, table in enumerate(tables):
        ap[:, k] = table.average_precision(weights, RECALLS).reshape(b, *shape)
        recall[:, k] = ratio(weights @ table.hits(MAX_POSES), weights @ table.truths).reshape(b, *shape)
    return np.moveaxis(ap, (1, 2, 3), (2, 3, 1)), np.moveaxis(recall, (1, 2, 3), (2, 3, 1))


def _side(id: str, who: str, o: Objects, joints: Joints) -> Side:
    n, k = len(o), len(joints)
    if n and (o.keypoints is None or tuple(o.keypoints.shape[1:]) != (k, 3)):
        found = None if o.keypoints is None else list(o.keypoints.shape)
        raise DataError(f"{id}: the keypoints of the {who} are {found}, needed [{n}, {k}, 3]")
    poses = np.zeros((0, k, 3)) if o.keypoints is None else o.keypoints.detach().double().cpu().numpy()
    if not np.isfinite(poses).all():
        row = int(np.flatnonzero(~np.isfinite(poses).all((1, 2)))[0])
        raise DataError(f"{id}: object {row} of the {who} has joints that are not finite")
    boxes = o.boxes.detach().double().cpu().numpy()
    if who == "prediction":
        extent = np.ptp(poses[..., :2], axis=1) if n else np.zeros((0, 2))
        area = extent.prod(1)
    else:
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1) if o.area is None else o.area.double().cpu().numpy()
    scores = np.zeros(n) if o.scores is None else o.scores.detach().double().cpu().numpy()
    crowd = np.zeros(n, bool) if o.crowd is None else o.crowd.bool().cpu().numpy()
    return Side(o.labels.cpu().numpy(), boxes, poses, scores, crowd, area)


def _distances(true: Side, found: Side, partners: Mapping[int, int], joints: Joints) -> Distances:
    """Of all people but crowds; `partners` are the predictions of those who were found."""
    rows = np.flatnonzero(~true.crowd)
    torso, head = np.full((len(rows), len(joints)), np.nan), np.full((len(rows), len(joints)), np.nan)
    for i, j in enumerate(rows.tolist()):
        pose = true.poses[j]
        labelled = pose[:, 2] > 0
        away = np.full(len(joints), np.inf)
        if j in partners:
            away = np.linalg.norm(found.poses[partners[j]][:, :2] - pose[:, :2], axis=1)
        for out, size in ((torso, torso_size(pose, true.boxes[j], joints)), (head, head_size(pose, joints))):
            out[i, labelled] = away[labelled] / size
    return Distances(true.labels[rows], torso, head)


def _share(distances: np.ndarray, alpha: float) -> float | None:
    hits, counted = correct_keypoints(distances, alpha)
    return float(hits.sum() / counted.sum()) if counted.sum() else None


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
