"""pose: any number of objects an image, mostly people, each with a box, a score and joints that have names.

A joint is x, y and a confidence in [0, 1]; which joints there are is said by `Annotation.joints`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.joints import Joints
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError, UsageError
from saccade.metrics import Metric
from saccade.metrics.curves import IOU, overlaps
from saccade.metrics.pose import Pose, oks
from saccade.ops.boxes import box_iou
from saccade.tasks import detect
from saccade.tasks.contract import Curves, Inputs, Part, ReportForm, Scores, Target, Verdict, named_answers
from saccade.tasks.words import TRUTH, best_score, percent

REPORT = ReportForm(
    "oks_ap",
    ("images", "objects", "predictions", "oks_ap", "oks_ap50", "oks_ap75", "pck", "pckh", "ap", "ap50"),
    (Curves("precision_recall", "ap50", "Precision and recall of boxes, IoU 0.5"),),
    counted=detect.REPORT.counted,
)
SMALLEST_SCORE = detect.SMALLEST_SCORE
LOSSES = detect.LOSSES
DEMO = None
HAS_GRADIENT = detect.HAS_GRADIENT
MEANINGS = {
    "oks_ap": "COCO's average precision of poses: mean over similarities (OKS) 0.50 to 0.95",
    "oks_ap50": "average precision where a similarity of 0.50 is enough",
    "oks_ap75": "average precision with a strict similarity (0.75)",
    "oks_ap_medium": "average precision of objects from 32 x 32 to 96 x 96 pixels",
    "oks_ap_large": "average precision of objects above 96 x 96 pixels",
    "oks_ar": "share of the poses found with twenty an image, mean over similarities 0.50 to 0.95",
    "oks_ar50": "share of the poses found where a similarity of 0.50 is enough",
    "oks_ar75": "share of the poses found with a strict similarity (0.75)",
    "pck": "share of the joints within 0.2 of the torso (left shoulder to right hip); those of people missed are wrong",
    "pckh": "share of the joints within half of the head (its top to the neck); those of people missed are wrong",
} | detect.MEANINGS
SIMILAR = 0.5  # OKS from which a pose counts as right in a report


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Average precision by OKS, and PCK (`metrics/pose.py`)."""
    return Pose(list(classes), voc_inclusive, detect.shown_from(thresholds))


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """As that of a detector; raises DataError too where no object has a labelled joint."""
    detect.check_training(dataset, training)
    things = [thing for record in training for thing in record.things or [] if not thing.crowd]
    if not any(seen > 0 for thing in things for _, _, seen in thing.keypoints or ()):
        raise DataError(f"{dataset.root}: no labelled joint in train (0 of {len(things)} objects have one)")


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """What is wrong over all people and false alarms: a right pose counts 1 - OKS, the others 1; crowds and objects
    without a labelled joint do not count. Mistakes "missed": truth, label; "poor pose": prediction, predicted, score,
    truth, label, oks, and the joint that is farthest off; "background": prediction, predicted, score."""
    if truth.objects is None or prediction.objects is None:
        raise DataError("truth and prediction need objects (an image without any needs an empty list)")
    true, found = truth.objects, prediction.objects
    joints, counts = _joints_of(truth, true), _counts(true)
    similar = _similarities(true, found, joints)
    near = overlaps(true, found, masks=False)
    labels, predicted, scores = true.labels.tolist(), found.labels.tolist(), _scores(found).tolist()
    free, wrong, poor, extra = set(np.flatnonzero(counts).tolist()), 0.0, [], []
    for i in _scores(found).argsort(descending=True, stable=True).tolist():
        row = {"prediction": i, "predicted": predicted[i], "score": scores[i]}
        own = [j for j in free if labels[j] == predicted[i]]
        j = max(own, key=lambda j: (similar[i, j], near[i, j]), default=None)
        if j is not None and similar[i, j] >= SIMILAR:
            free.discard(j)
            wrong += 1 - similar[i, j]
            continue
        j = max(own, key=lambda j: float(near[i, j]), default=None)
        if j is None or near[i, j] < IOU:
            extra += [] if (near[i, ~counts] >= IOU).any() else [{"kind": "background"} | row]
            continue
        free.discard(j)
        beside = {"truth": j, "label": labels[j], "oks": float(similar[i, j])}
        poor.append({"kind": "poor pose"} | row | beside | {"joint": _farthest(true, j, found, i, joints)})
    missed = [{"kind": "missed", "truth": j, "label": labels[j]} for j in sorted(free)]
    mistakes = sorted(poor + extra, key=lambda row: -row["score"]) + missed
    return Verdict((wrong + len(mistakes)) / max(1, int(counts.sum()) + len(extra)), mistakes)


def _joints_of(annotation: Annotation, objects: Objects) -> Joints:
    """The joints of an annotation; numbered ones where it does not name them."""
    if annotation.joints is not None:
        return annotation.joints
    if objects.keypoints is None:
        raise DataError("the truth has no joints; judge it as task detect")
    return Joints(tuple(str(i) for i in range(objects.keypoints.shape[1])))


def _counts(truth: Objects) -> np.ndarray:
    """[n] bool: which true objects are judged."""
    crowd = torch.zeros(len(truth), dtype=torch.bool) if truth.crowd is None else truth.crowd
    seen = ~crowd if truth.keypoints is None else (truth.keypoints[..., 2] > 0).any(1)
    return np.asarray((seen & ~crowd).cpu())


def _similarities(truth: Objects, found: Objects, joints: Joints) -> np.ndarray:
    """OKS [predictions, truths]."""
    if not len(truth) or not len(found):
        return np.zeros((len(found), len(truth)))
    if truth.keypoints is None or found.keypoints is None:
        raise DataError("truth and prediction need keypoints")
    boxes = truth.boxes.double().cpu().numpy()
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides.prod(1) if truth.area is None else truth.area.double().cpu().numpy()
    return oks(truth.keypoints.double().cpu().numpy(), found.keypoints.double().cpu().numpy(), area, boxes, joints)


def _farthest(truth: Objects, j: int, found: Objects, i: int, joints: Joints) -> str:
    """The name of the labelled joint that is farthest off."""
    assert truth.keypoints is not None
    assert found.keypoints is not None
    away = (truth.keypoints[j, :, :2] - found.keypoints[i, :, :2]).norm(dim=1)
    return joints.names[int(away.masked_fill(truth.keypoints[j, :, 2] <= 0, -1).argmax())]


def _scores(objects: Objects) -> Tensor:
    return torch.ones(len(objects)) if objects.scores is None else objects.scores


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """What was found wrongly or missed, with the best score; several alike are counted."""
    row, n = rows[0], len(rows)
    true = classes[row["label"]] if "label" in row else ""
    predicted = (classes[row["predicted"]] if "predicted" in row else "") + best_score(rows)
    beside = f", OKS {row['oks']:.2f}, farthest off: {row['joint']}" if "oks" in row and n == 1 else ""
    text = {
        "missed": f"{true} missed",
        "poor pose": f"{predicted} in another pose{beside}",
        "background": f"{predicted} where there is none, or found twice",
    }[row["kind"]]
    return text if n == 1 else f"{n} x {text}"


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """What OKS and PCK are."""
    values = {name: value["value"] for name, value in found["metrics"].items()}
    if values["oks_ap"] is None:
        return ["There was no labelled joint to measure."]
    sentences = [
        "OKS says how near the joints of a pose are to the true ones, measured by how exactly people set each joint: 1 "
        "is exact. Average precision over ten demands on it, from 0.50 to 0.95, would be 1 if every pose were found "
        f"and exact; where 0.50 is enough it is {values['oks_ap50'] or 0.0:.3f}."
    ]
    if values["pck"] is not None:
        sentences.append(
            f"{percent(values['pck'])} of the labelled joints are found within a fifth of the torso's length"
            + (f", {percent(values['pckh'])} within half of the head's." if values["pckh"] is not None else ".")
        )
    return sentences


def cautions(found: Mapping[str, Any]) -> list[str]:
    """Where people were found in the boxes of the truth; joints of which few are labelled."""
    lines = []
    if found.get("proposals") == TRUTH:
        lines.append(
            "Each person was given by the true box; with the boxes of a detector, which misses some, scores are lower. "
            "Numbers of boxes (ap, ap50, ...) say nothing here."
        )
    few = [row["joint"] for row in found["curves"].get("joints", ()) if row["labelled"] < 20]
    if few:
        more = f" and {len(few) - 3} others" if len(few) > 3 else ""
        lines.append(f"Fewer than 20 are labelled of {', '.join(few[:3])}{more}: what is said of these is a guess.")
    return lines


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
    """The objects of at least this score, with all of their joints."""
    return detect.keep(answer, threshold)


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{objects, joints}: as `detect`, with `keypoints` of each, {name: [x, y, confidence]}; {names, pairs, bones} of
    the joints."""
    described = detect.to_json(answer, classes)
    objects = answer.objects
    assert objects is not None
    poses = [] if objects.keypoints is None else objects.keypoints.tolist()
    names = _joints_of(answer, objects).names if poses else ()
    described["objects"]["keypoints"] = [
        {name: [round(x, 2), round(y, 2), round(v, 4)] for name, (x, y, v) in zip(names, pose, strict=True)}
        for pose in poses
    ]
    return described | ({} if answer.joints is None else {"joints": answer.joints.to_json()})


def short_line(described: Mapping[str, Any]) -> str:
    """How many objects of each class."""
    return detect.short_line(described)


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """The joints that are surest, of the object with the highest score."""
    best = detect.choose_targets(answer, labels, 1)
    objects = answer.objects
    if not best or objects is None or objects.keypoints is None:
        return []
    row = int(_scores(objects).masked_fill(objects.labels != best[0].label, -1).argmax())
    pose = objects.keypoints[row]
    names = _joints_of(answer, objects).names
    return [
        Target(best[0].label, float(pose[k, 2]), best[0].box, Part(names[k], k, (float(pose[k, 0]), float(pose[k, 1]))))
        for k in pose[:, 2].argsort(descending=True, stable=True).tolist()[:count]
    ]


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """As that of a detector: raises UsageError."""
    return detect.raw_scores(model, targets)


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """Of the objects of the class the largest product of overlap (IoU) with the object to be explained, the joint's
    confidence, and exp(-d^2 / (2 s^2)), d from the joint's place and s a tenth of the root of the box's area."""

    @torch.no_grad()
    def best_match(changed: Tensor) -> Tensor:
        size = (changed.shape[2], changed.shape[3])
        answers = model.predict(Batch(changed, [size] * len(changed)))  # type: ignore[operator]
        out = torch.zeros(len(changed), len(targets))
        for i, answer in enumerate(answers):
            objects = answer.objects.to("cpu")
            for k, target in enumerate(targets):
                assert target.box is not None
                assert target.part is not None
                same = objects[objects.labels == target.label]
                if len(same) and same.keypoints is not None:
                    x, y, sure = same.keypoints[:, target.part.number].unbind(1)
                    x1, y1, x2, y2 = target.box
                    away = (x - target.part.point[0]) ** 2 + (y - target.part.point[1]) ** 2
                    near = torch.exp(-away / (2 * 0.01 * max((x2 - x1) * (y2 - y1), 1.0)))
                    out[i, k] = (box_iou(same.boxes, torch.tensor([target.box]))[:, 0] * sure * near).max()
        return out

    return best_match


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """As of `detect`, and `keypoints` [b, D, K, 3] of x, y and confidence.

    Raises UsageError where boxes are not to be suppressed.
    """
    if not suppressed:
        raise UsageError("--no-nms: joints are those of the boxes that suppression leaves; it cannot be left out")
    return named_answers(model, sees)
