"""detect: any number of objects an image, each with a box, a class and a score.

Kinds of a detector's mistakes follow TIDE (Bolya et al. 2020, sec. 2.2): a prediction without a truth of its own is a
duplicate, of the wrong class, a poor box, both of these, or background; a truth that no such prediction explains is
missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.geometry import MIN_SIDE
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError, UsageError
from saccade.layers.detections import fixed_answers
from saccade.metrics import Metric
from saccade.metrics.curves import IOU, SCORE, pair
from saccade.metrics.detection import Detection
from saccade.models.contract import limits_of, scored
from saccade.ops.boxes import box_iou
from saccade.tasks.contract import Curves, Demo, Inputs, ReportForm, Scores, Target, Verdict
from saccade.tasks.words import best_score, percent

REPORT = ReportForm(
    "ap",
    ("images", "objects", "predictions", "ap", "ap50", "ap75", "ar_100", "voc_ap50"),
    (Curves("precision_recall", "ap50", "Precision and recall of boxes, IoU 0.5"),),
    counted=f"objects, IoU {IOU}",
)
SMALLEST_SCORE = 0.3
LOSSES: tuple[str, ...] = ("cross_entropy",)
DEMO = Demo("atss_small", 800, 128, 128, 20)
HAS_GRADIENT = False  # boxes come from choices (best anchors, suppression of neighbours)
MEANINGS = {
    "ap": "COCO's average precision: mean over classes and IoU 0.50 to 0.95",
    "ap50": "average precision where half an overlap (IoU 0.50) is enough",
    "ap75": "average precision with a strict overlap (IoU 0.75)",
    "ap_small": "average precision of objects below 32 x 32 pixels",
    "ap_medium": "average precision of objects from 32 x 32 to 96 x 96 pixels",
    "ap_large": "average precision of objects above 96 x 96 pixels",
    "ar_1": "share of the objects found with one box an image and class",
    "ar_10": "share of the objects found with ten boxes an image and class",
    "ar_100": "share of the objects found with a hundred boxes an image and class",
    "ar_small": "as ar_100, objects below 32 x 32 pixels",
    "ar_medium": "as ar_100, objects from 32 x 32 to 96 x 96 pixels",
    "ar_large": "as ar_100, objects above 96 x 96 pixels",
    "voc_ap50": "average precision as PASCAL VOC counts since 2010 (area under the curve, IoU 0.50)",
    "voc07_ap50": "average precision as PASCAL VOC 2007 counts (11 recalls, IoU 0.50)",
}
NEAR = 0.1  # below this IoU a prediction has nothing to do with a truth


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """Average precision as COCO and VOC count it (`metrics/detection.py`)."""
    return Detection(list(classes), voc_inclusive=voc_inclusive, shown_from=shown_from(thresholds))


def shown_from(thresholds: float | Sequence[float]) -> float | Sequence[float]:
    """From which score on objects are shown and counted one by one: `thresholds` of the classes; where a model has none
    (one number, which is of tags), SCORE."""
    return SCORE if isinstance(thresholds, float | int) else thresholds


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """Raises DataError where no image has an object, or none can be a target."""
    if not any(record.things for record in training):
        raise DataError(f"{dataset.root}: no object in train (0 of {len(training)} images have one)")
    refuse_unusable_objects(dataset, training)


def refuse_unusable_objects(dataset: DataSet, training: Sequence[Record]) -> None:
    """Raises DataError where no object can be a target: crowds and what is narrower than a pixel cannot."""
    things = [thing for record in training for thing in record.things or []]
    crowds = sum(thing.crowd for thing in things)
    sides = [round(min(t.box[2] - t.box[0], t.box[3] - t.box[1]), 3) for t in things if not t.crowd]
    if max(sides, default=0.0) < MIN_SIDE:
        raise DataError(
            f"{dataset.root}: nothing to train on: of {len(things)} objects in {len(training)} training images "
            f"{crowds} are marked crowd and {len(sides)} are narrower than a pixel; are coordinates in pixels?"
        )


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """1 - F1 at IoU 0.5 of the predictions, which are those that are shown (`keep`). Mistakes "missed": truth, label;
    "duplicate", "wrong class", "poor box", "wrong class and poor box", "background": prediction, predicted, score, and
    where there is a truth beside it: truth, label, iou."""
    return judge_objects(truth, prediction, masks=False)


def judge_objects(truth: Annotation, prediction: Annotation, masks: bool) -> Verdict:
    """`judge` by the IoU of boxes or masks."""
    if truth.objects is None or prediction.objects is None:
        raise DataError("truth and prediction need objects (an image without any needs an empty list)")
    pairs = pair(truth.objects, prediction.objects, IOU, 0.0, masks)
    rows = _Rows(truth.objects, prediction.objects, pairs.ious)
    own = {j for j, _ in pairs.correct}
    ignored = set(range(len(truth.objects))) - own - {j for j, _ in pairs.swapped} - set(pairs.missed)
    mistakes = [rows.beside("wrong class", i, j) for j, i in pairs.swapped]
    explained = {j for j, _ in pairs.swapped}
    for i in pairs.extra:
        row = rows.without_truth(i, own, ignored)
        if row["kind"] == "poor box":
            explained.add(row["truth"])
        mistakes.append(row)
    mistakes.sort(key=lambda row: -row["score"])
    mistakes += [{"kind": "missed", "truth": j, "label": rows.labels[j]} for j in pairs.missed if j not in explained]
    wrong = 2 * len(pairs.swapped) + len(pairs.extra) + len(pairs.missed)  # a swap is one false alarm and one miss
    return Verdict(wrong / (2 * len(pairs.correct) + wrong) if wrong else 0.0, mistakes)


class _Rows:
    """The rows of one image's mistakes; i counts predictions, j truths."""

    def __init__(self, truth: Objects, prediction: Objects, ious: np.ndarray) -> None:
        self.labels, self.predicted = truth.labels.tolist(), prediction.labels.tolist()
        self.scores = [1.0] * len(prediction) if prediction.scores is None else prediction.scores.tolist()
        self.ious = ious  # [predictions, truths]

    def without_truth(self, i: int, own: set[int], ignored: set[int]) -> dict[str, Any]:
        """A prediction that has no truth, beside that which it comes nearest to."""
        counted = [j for j in range(len(self.labels)) if j not in ignored]
        same = self._nearest(i, [j for j in counted if self.labels[j] == self.predicted[i]])
        other = self._nearest(i, [j for j in counted if self.labels[j] != self.predicted[i]])
        if same is not None and self.ious[i, same] >= IOU and same in own:
            return self.beside("duplicate", i, same)
        if other is not None and self.ious[i, other] >= IOU:
            return self.beside("wrong class", i, other)
        if same is not None and self.ious[i, same] >= NEAR:
            return self.beside("poor box", i, same)
        if other is not None and self.ious[i, other] >= NEAR:
            return self.beside("wrong class and poor box", i, other)
        return self.beside("background", i, None)

    def _nearest(self, i: int, truths: list[int]) -> int | None:
        return max(truths, key=lambda j: float(self.ious[i, j]), default=None)

    def beside(self, kind: str, i: int, j: int | None) -> dict[str, Any]:
        """A mistake of prediction i, beside truth j if there is one."""
        row = {"kind": kind, "prediction": i, "predicted": self.predicted[i], "score": float(self.scores[i])}
        if j is not None:
            row |= {"truth": j, "label": self.labels[j], "iou": float(self.ious[i, j])}
        return row


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """What was found wrongly or missed, with the best score; several alike are counted."""
    row, n = rows[0], len(rows)
    true = classes[row["label"]] if "label" in row else ""
    predicted = (classes[row["predicted"]] if "predicted" in row else "") + best_score(rows)
    beside = f", IoU {row['iou']:.2f}" if "iou" in row and n == 1 else ""
    text = {
        "missed": f"{true} missed",
        "duplicate": f"{predicted} found twice",
        "wrong class": f"{true} taken for {predicted}",
        "poor box": f"{predicted} poorly placed{beside}",
        "wrong class and poor box": f"{true} taken for {predicted} and poorly placed{beside}",
        "background": f"{predicted} where there is nothing",
    }[row["kind"]]
    return text if n == 1 else f"{n} x {text}"


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """What average precision is, and what it is where half an overlap is enough."""
    return average_precision_in_words(found, "", "boxes")


def average_precision_in_words(found: Mapping[str, Any], prefix: str, shapes: str) -> list[str]:
    """`score_in_words` of the numbers with a prefix, which measure boxes or masks."""
    values = {name: value["value"] for name, value in found["metrics"].items()}
    if values[f"{prefix}ap"] is None:
        return ["There was no object to measure."]
    return [
        f"Average precision: 1 would be every object found, nothing else reported, and {shapes} that fit exactly. It "
        "is the mean over classes and over ten demands on the overlap, so 0.5 is already good on hard data.",
        f"Where half an overlap is enough it is {values[f'{prefix}ap50'] or 0.0:.3f}; the hundred best {shapes} of an "
        f"image and class find {percent(values[f'{prefix}ar_100'] or 0.0)} of the objects, mean over the demands.",
    ]


def cautions(found: Mapping[str, Any]) -> list[str]:
    """None that are of this task alone."""
    return []


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
    """The objects of at least this score, or that of their class."""
    objects = answer.objects
    if threshold is None or objects is None or objects.scores is None:
        return answer
    least = torch.as_tensor(threshold, dtype=objects.scores.dtype)
    return replace(answer, objects=objects[objects.scores >= (least[objects.labels] if least.ndim else least)])


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{objects: {boxes, labels, scores, names}}, a list each."""
    objects = answer.objects
    assert objects is not None
    scores = objects.scores if objects.scores is not None else objects.boxes.new_ones(len(objects))
    return {
        "objects": {
            "boxes": [[round(v, 2) for v in box] for box in objects.boxes.tolist()],
            "labels": objects.labels.tolist(),
            "scores": [round(v, 5) for v in scores.tolist()],
            "names": [classes[i] for i in objects.labels.tolist()],
        }
    }


def short_line(described: Mapping[str, Any]) -> str:
    """How many objects of each class, with their scores where the network is unsure of some."""
    names = described["objects"]["names"]
    scores = described["objects"].get("scores") or [1.0] * len(names)
    parts = []
    for name in dict.fromkeys(names):
        own = [score for score, other in zip(scores, names, strict=True) if other == name]
        low, high = f"{min(own):.2f}", f"{max(own):.2f}"
        unsure = f" ({low if low == high else f'{low} to {high}'})" if min(own) < SMALLEST_SCORE else ""
        parts.append(f"{len(own)} {name}{unsure}")
    return ", ".join(parts) or "nothing found"


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """The detections with the highest scores."""
    objects = answer.objects
    assert objects is not None
    scores = torch.ones(len(objects)) if objects.scores is None else objects.scores
    targets: list[Target] = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        label = int(objects.labels[row])
        if (not labels or label in labels) and len(targets) < count:
            x1, y1, x2, y2 = objects.boxes[row].tolist()
            targets.append(Target(label, float(scores[row]), (x1, y1, x2, y2)))
    return targets


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """Raises UsageError: boxes come from choices, which have no gradient."""
    raise UsageError("a detector has no score to take the gradient of; occlusion explains it")


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """Of the boxes of the class the largest product of score and overlap (IoU) with the detection to be explained
    (Petsiuk et al. 2021, "Black-box explanation of object detectors via saliency maps")."""

    @torch.no_grad()
    def best_match(changed: Tensor) -> Tensor:
        size = (changed.shape[2], changed.shape[3])
        given = None if batch.given is None else batch.given * len(changed)
        answers = model.predict(Batch(changed, [size] * len(changed), given=given))  # type: ignore[operator]
        out = torch.zeros(len(changed), len(targets))
        for i, answer in enumerate(answers):
            objects = answer.objects.to("cpu")
            for j, target in enumerate(targets):
                same = objects[objects.labels == target.label]
                if len(same) and same.scores is not None:
                    out[i, j] = (same.scores * box_iou(same.boxes, torch.tensor([target.box]))[:, 0]).max()
        return out

    return best_match


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """`boxes` [b, D, 4] in pixels, `labels` and `scores` [b, D] by falling score, zeros in empty places. Before
    suppression: `boxes` [b, A, 4], or [b, A, C, 4] with one for each class, and `scores` [b, A, C]."""
    scores, boxes = scored(model, sees.filled(model), sees.sizes, *sees.proposals)
    return fixed_answers(scores, boxes, limits_of(model)).named() if suppressed else {"boxes": boxes, "scores": scores}
