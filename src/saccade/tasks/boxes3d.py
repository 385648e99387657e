"""boxes3d: any number of objects an image, each with a class, a box in pixels, and a cuboid in metres of the camera.

What a cuboid is stands in `ops/cuboids.py`; the camera of the image in `Annotation.camera`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError
from saccade.metrics import Metric
from saccade.metrics.cuboids import Boxes3d
from saccade.metrics.curves import IOU, pair
from saccade.ops.cuboids import cuboid_ious, observation_angles, wrap
from saccade.tasks import detect
from saccade.tasks.contract import Inputs, ReportForm, Scores, Target, Verdict
from saccade.tasks.words import TRUTH, best_score, percent

REPORT = ReportForm(
    "iou_3d",
    (
        *("images", "objects", "predictions", "iou_3d", "place_error", "size_error", "turn_error"),
        *("ap_3d", "ap_bev", "aos", "ap_2d"),
    ),
    counted=detect.REPORT.counted,
    amounts=("place_error", "size_error", "turn_error"),  # metres and degrees
)
SMALLEST_SCORE = detect.SMALLEST_SCORE
LOSSES = detect.LOSSES
DEMO = None
HAS_GRADIENT = detect.HAS_GRADIENT
_BENCHMARK = {
    "ap_3d": "KITTI's average precision in space (IoU 0.7 of vehicles, 0.5 of others)",
    "ap_bev": "KITTI's average precision seen from above (IoU 0.7 of vehicles, 0.5 of others)",
    "aos": "KITTI's average orientation similarity",
    "ap_2d": "KITTI's average precision of boxes in pixels",
}
_LEVELS = {"": "moderate", "_easy": "easy", "_hard": "hard", "_r11": "moderate, at eleven recalls as until 2019"}
MEANINGS = {
    "iou_3d": "mean IoU in space of the true objects with what was found there; of those missed 0",
    "place_error": "metres between true and found places, of the objects found in pixels",
    "size_error": "metres by which height, width and length are off, of the objects found in pixels",
    "turn_error": "degrees by which rotations are off, of the objects found in pixels",
    "ap_3d_loose": "as ap_3d with IoU 0.5 of vehicles and 0.25 of others",
    "ap_bev_loose": "as ap_bev with IoU 0.5 of vehicles and 0.25 of others",
    **{name + end: f"{words}; {level}" for name, words in _BENCHMARK.items() for end, level in _LEVELS.items()},
} | detect.MEANINGS
FITS = 0.25  # IoU in space from which a found object counts as right in a report
ENOUGH = 41  # objects of a class, with which KITTI's average precision can be 1
UNITS = {"cuboids": "metres, x right, y down, z ahead of the camera", "rotation_y": "radians", "alpha": "radians"}


def make_metric(
    classes: Sequence[str], *, thresholds: float | Sequence[float] = 0.5, voc_inclusive: bool = False
) -> Metric:
    """KITTI's average precisions (`metrics/cuboids.py`)."""
    return Boxes3d(list(classes), voc_inclusive, detect.shown_from(thresholds))


def check_training(dataset: DataSet, training: Sequence[Record]) -> None:
    """As that of a detector; raises DataError too where no object has a cuboid."""
    detect.check_training(dataset, training)
    things = [thing for record in training for thing in record.things or [] if not thing.crowd]
    if not any(thing.cuboid is not None for thing in things):
        raise DataError(f"{dataset.root}: no object in train has a size and place (0 of {len(things)})")


def judge(truth: Annotation, prediction: Annotation, classes: Sequence[str]) -> Verdict:
    """The mean of 1 - IoU in space over the true objects whose cuboid is known and the false alarms, which count 1.
    Mistakes are those of a detector for boxes in pixels, and "poor cuboid": prediction, predicted, score, truth, label,
    iou (below FITS), metres, degrees."""
    if truth.objects is None or prediction.objects is None:
        raise DataError("truth and prediction need objects (an image without any needs an empty list)")
    true, found = truth.objects, prediction.objects
    if true.cuboids is None or found.cuboids is None:
        raise DataError("truth and prediction need cuboids")
    pairs = pair(true, found, IOU, 0.0)
    flat = detect.judge(truth, prediction, classes)
    a, b = found.cuboids.double().numpy(), true.cuboids.double().numpy()
    known = np.isfinite(b).all(1)
    ious, wrong, poor = cuboid_ious(a, b)[1], 0.0, []
    scores = [1.0] * len(found) if found.scores is None else found.scores.tolist()
    for j, i in pairs.correct:
        if not known[j]:
            continue
        wrong += 1 - ious[i, j]
        if ious[i, j] < FITS:
            row: dict[str, Any] = {
                "kind": "poor cuboid",
                "prediction": i,
                "predicted": int(found.labels[i]),
                "score": scores[i],
            }
            row |= {"truth": j, "label": int(true.labels[j]), "iou": float(ious[i, j])}
            row["metres"] = float(np.linalg.norm(a[i, 3:6] - b[j, 3:6]))
            row["degrees"] = float(np.degrees(abs(wrap(a[i, 6] - b[j, 6]))))
            poor.append(row)
    poor.sort(key=lambda row: -row["score"])
    others = len(pairs.extra) + len(pairs.swapped) + len(pairs.missed)
    counted = sum(bool(known[j]) for j, _ in pairs.correct) + others
    return Verdict((wrong + others) / counted if counted else 0.0, poor + flat.mistakes)


def mistake_in_words(rows: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> str:
    """As a detector's; of a poor cuboid how far it is off."""
    row, n = rows[0], len(rows)
    if row["kind"] != "poor cuboid":
        return detect.mistake_in_words(rows, classes)
    text = f"{classes[row['predicted']]}{best_score(rows)} misplaced in space"
    if n > 1:
        return f"{n} x {text}"
    if "metres" not in row:  # of a kind of mistake, not of one
        return text
    return f"{text}: {row['metres']:.1f} m and {row['degrees']:.0f} degrees off, IoU {row['iou']:.2f}"


def score_in_words(found: Mapping[str, Any]) -> list[str]:
    """What the numbers of boxes in space say."""
    values = {name: value["value"] for name, value in found["metrics"].items()}
    if values["iou_3d"] is None:
        return ["There was no object with a known size and place to measure."]
    lines = [
        f"The boxes overlap the true ones in space by {percent(values['iou_3d'])} on the mean, where an object "
        "that was not found counts as nothing."
    ]
    if values["place_error"] is not None:
        lines.append(
            f"Objects that are found in the picture stand {values['place_error']:.2f} m from where they are, and are "
            f"turned by {values['turn_error']:.0f} degrees too much or too little."
        )
    if values["ap_3d"] is not None:
        lines.append(
            f"KITTI's average precision in space, which asks for an IoU of 0.7 of vehicles, is {values['ap_3d']:.3f}. "
            "That is a hard demand on one image, in which depth is the hardest to see."
        )
    return lines


def cautions(found: Mapping[str, Any]) -> list[str]:
    """Where places were taken from the boxes of the truth, and where KITTI's numbers cannot be high."""
    lines = []
    if found.get("proposals") == TRUTH:
        lines.append("Each object was given by its true box in pixels; with the boxes of a detector scores are lower.")
    few = [row["name"] for row in found["per_class"] if 0 < row["objects"] < ENOUGH]
    if few:
        lines.append(
            f"KITTI's precisions cannot reach 1 for classes of fewer than {ENOUGH} objects ({', '.join(few[:8])}): "
            "they are read at as many recalls as there are objects found, of 41. Look at iou_3d and the errors."
        )
    return lines


def keep(answer: Annotation, threshold: float | Sequence[float] | None) -> Annotation:
    """The objects of at least this score."""
    return detect.keep(answer, threshold)


def to_json(answer: Annotation, classes: Sequence[str]) -> dict[str, Any]:
    """{objects: {boxes, labels, scores, names, cuboids: [{height, width, length, x, y, z, rotation_y, alpha}]}, units,
    camera: the matrix [3, 4]}."""
    described = detect.to_json(answer, classes)
    assert answer.objects is not None
    cuboids = _cuboids(answer.objects)
    rows = []
    for row, alpha in zip(cuboids.tolist(), observation_angles(cuboids).tolist(), strict=True):
        names = ("height", "width", "length", "x", "y", "z", "rotation_y")
        rows.append({name: round(value, 4) for name, value in zip((*names, "alpha"), (*row, alpha), strict=True)})
    described["objects"]["cuboids"] = rows
    camera = None if answer.camera is None else [[float(v) for v in row] for row in answer.camera]
    return described | {"units": UNITS, "camera": camera}


def _cuboids(objects: Objects) -> np.ndarray:
    """[n, 7] float64."""
    return np.zeros((0, 7)) if objects.cuboids is None else objects.cuboids.double().cpu().numpy()


def short_line(described: Mapping[str, Any]) -> str:
    """How many objects of each class, and how far the nearest is."""
    line = detect.short_line(described)
    away = [math.hypot(row["x"], row["z"]) for row in described["objects"]["cuboids"]]
    return f"{line}; the nearest {min(away):.1f} m away" if away else line


def choose_targets(answer: Annotation, labels: Sequence[int], count: int) -> list[Target]:
    """As a detector's: an object's box in pixels is what is explained."""
    return detect.choose_targets(answer, labels, count)


def raw_scores(model: nn.Module, targets: Sequence[Target]) -> Scores:
    """As that of a detector: raises UsageError."""
    return detect.raw_scores(model, targets)


def likelihoods(model: nn.Module, targets: Sequence[Target], batch: Batch) -> Scores:
    """How much of each object's cuboid remains: the IoU in space with what the network says of the image as it is."""

    def answer(images: torch.Tensor) -> list[Annotation]:
        n, size = len(images), (images.shape[2], images.shape[3])
        given = None if batch.given is None else batch.given * n
        changed = replace(batch, images=images, sizes=[size] * n, given=given, cameras=batch.cameras * n)
        found: list[Annotation] = model.predict(changed)  # type: ignore[operator]
        return found

    @torch.no_grad()
    def likeness(changed: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(len(changed), len(targets))
        before = answer(batch.images[:1])[0].objects
        assert before is not None
        for i, each in enumerate(answer(changed)):
            assert each.objects is not None
            ious = cuboid_ious(_cuboids(each.objects), _cuboids(before))[1]
            for k, target in enumerate(targets):
                row = (before.boxes - torch.tensor([target.box])).abs().sum(1).argmin()
                out[i, k] = float(ious[int(row), int(row)])
        return out

    return likeness


def outputs(model: nn.Module, sees: Inputs, suppressed: bool = True) -> dict[str, Tensor]:
    """What the network says of the given boxes, from which `predict` solves for the place: `bins` [b, r, B], the
    probability of each bin of the angle, `angles` [b, r, B, 2], cosine and sine from the middle of the bin, and
    `residuals` [b, r, 3], metres by which height, width and length exceed the mean of the class."""
    logits, angles, residuals = model(sees.filled(model), *sees.proposals)
    return {"bins": logits.softmax(-1), "angles": angles, "residuals": residuals}
