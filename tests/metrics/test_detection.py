"""COCO's numbers: a slow second implementation, hand-made cases, and the same numbers from the resampling code."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.metrics import Result, Value
from saccade.metrics.curves import precision_recall
from saccade.metrics.detection import Detection, coco_numbers, resampled
from saccade.metrics.voc import numpy_box_iou
from saccade.tasks.contract import task_of

CLASSES = ["a", "b", "c"]
AREAS = {"all": (0, 1e10), "small": (0, 1024), "medium": (1024, 9216), "large": (9216, 1e10)}
Row = tuple[int, list[float], float]  # label, box, score (1 means crowd in truth)
Image = tuple[list[Row], list[Row]]


def annotation(rows: list[Row], truth: bool, difficult: list[bool] | None = None) -> Annotation:
    boxes = torch.tensor([r[1] for r in rows], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([r[0] for r in rows], dtype=torch.int64)
    objects = Objects(boxes, labels)
    if truth:
        objects.crowd = torch.tensor([r[2] == 1 for r in rows], dtype=torch.bool)
        objects.difficult = None if difficult is None else torch.tensor(difficult)
    else:
        objects.scores = torch.tensor([r[2] for r in rows])
    return Annotation((400, 400), objects=objects)


def evaluate(images: list[Image], bootstrap: int = 0, order: list[int] | None = None) -> Result:
    return filled(images, order).result(bootstrap)


def filled(images: list[Image], order: list[int] | None = None) -> Detection:
    metric = task_of("detect").make_metric(CLASSES)
    assert isinstance(metric, Detection)
    for n in order or range(len(images)):
        metric.add(f"{n:03}", annotation(images[n][0], True), annotation(images[n][1], False))
    return metric


def slow_iou(a: list[float], b: list[float], crowd: bool) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = w * h if w > 0 and h > 0 else 0.0
    own, other = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return shared / (own if crowd else own + other - shared)


def slow_image(
    truth: list[Row], answers: list[Row], t: float, band: tuple[float, float], limit: int
) -> tuple[list, int]:
    """(score, right or None where ignored) of every detection of one image and class; number of counted truths."""

    def outside(box: list[float]) -> bool:
        area = (box[2] - box[0]) * (box[3] - box[1])
        return area < band[0] or area > band[1]

    answers = sorted(answers, key=lambda r: -r[2])[:limit]
    free = {j: (r[2] == 1 or outside(r[1])) for j, r in enumerate(truth)}  # index -> ignored
    counted = sum(not ignored for ignored in free.values())
    out = []
    for _, box, score in answers:
        fits = [(slow_iou(box, truth[j][1], truth[j][2] == 1), j) for j in free]
        fits = [(iou, j) for iou, j in fits if iou >= t]
        fits = [f for f in fits if not free[f[1]]] or fits
        if not fits:
            out.append((score, None if outside(box) else False))
            continue
        _, j = max(fits)
        out.append((score, None if free[j] else True))
        if truth[j][2] != 1:
            del free[j]
    return out, counted


def slow_class(images: list[Image], k: int, t: float, area: str, limit: int) -> tuple[float, float] | None:
    """(AP, highest recall), None without a truth."""
    pool, counted = [], 0
    for truth, answers in images:
        rows, n = slow_image([r for r in truth if r[0] == k], [r for r in answers if r[0] == k], t, AREAS[area], limit)
        pool += rows
        counted += n
    if counted == 0:
        return None
    pool = [correct for _, correct in sorted(pool, key=lambda r: -r[0]) if correct is not None]
    curve = [(sum(pool[: n + 1]) / counted, sum(pool[: n + 1]) / (n + 1)) for n in range(len(pool))]
    points = [max((p for r, p in curve if r >= x), default=0.0) for x in np.linspace(0, 1, 101)]
    return float(np.mean(points)), max((r for r, _ in curve), default=0.0)


def slow_numbers(images: list[Image]) -> dict[str, float | None]:
    images = [([(k, b, s) for k, b, s in t], [(k, b, float(np.float32(s))) for k, b, s in p]) for t, p in images]

    def mean(part: int, area: str, limit: int, thresholds: list[float]) -> float | None:
        found = [slow_class(images, k, t, area, limit) for k in range(len(CLASSES)) for t in thresholds]
        values = [f[part] for f in found if f is not None]
        return float(np.mean(values)) if values else None

    every = np.linspace(0.5, 0.95, 10).tolist()
    out = {"ap50": mean(0, "all", 100, every[:1]), "ap75": mean(0, "all", 100, every[5:6])}
    for area in AREAS:
        out["ap" if area == "all" else f"ap_{area}"] = mean(0, area, 100, every)
        out["ar_100" if area == "all" else f"ar_{area}"] = mean(1, area, 100, every)
    return out | {f"ar_{m}": mean(1, "all", m, every) for m in (1, 10)}


def assert_agrees(images: list[Image]) -> None:
    metric = filled(images)
    found, slow = metric.result(0), slow_numbers(images)
    for name, value in slow.items():
        mine = found.metrics[name].value
        assert (mine is None) == (value is None), name
        assert mine is None or mine == pytest.approx(value, abs=1e-12), name
    ids = [f"{n:03}" for n in range(len(images))]
    tables = [m.table(ids) for m in metric._coco["bbox"]]
    for name, values in coco_numbers(*resampled(tables, np.ones((1, len(ids)))), "").items():
        assert np.isnan(values[0]) == (slow[name] is None)
        assert np.isnan(values[0]) or values[0] == pytest.approx(found.metrics[name].value, abs=1e-12)


# Sides of multiples of 8 px hit the edges of the area bands (32, 96) and many IoU thresholds exactly.
side = st.sampled_from([8, 16, 32, 40, 96, 104])
place = st.integers(0, 4).map(lambda n: 8.0 * n)
box = st.tuples(place, place, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
true_row = st.tuples(st.integers(0, 1), box, st.sampled_from([0.0, 0.0, 0.0, 1.0]))
said_row = st.tuples(st.integers(0, 2), box, st.sampled_from([0.1, 0.5, 0.5, 0.9]))
image = st.tuples(st.lists(true_row, max_size=4), st.lists(said_row, max_size=6))


@settings(deadline=None, max_examples=60)
@given(st.lists(image, min_size=1, max_size=4))
def test_agrees_with_the_slow_implementation(images: list[Image]) -> None:
    assert_agrees(images)


def test_empty_images_alone_are_undefined() -> None:
    found = evaluate([([], []), ([], [])], 20)
    assert found.metrics["ap"] == Value(None)
    assert found.metrics["voc_ap50"] == Value(None)
    assert found.images == 2
    json.dumps(found.to_json(), allow_nan=False)


def test_without_images() -> None:
    found = task_of("detect").make_metric(CLASSES).result()
    assert found.metrics["ap"] == Value(None)
    assert len(found.per_class) == 3


def test_no_predictions_is_zero_not_undefined() -> None:
    images = [([(0, [0, 0, 50, 50], 0)], [])] * 2
    found = evaluate(images, 20)
    assert found.metrics["ap"] == Value(0.0, 0.0, 0.0)
    assert evaluate(images[:1], 20).metrics["ap"] == Value(0.0)  # one image has no other to say how far it would move
    assert found.metrics["ar_100"].value == 0
    assert found.metrics["ap_small"] == Value(None)  # no truth in that band
    assert found.metrics["voc_ap50"].value == 0


def test_perfect_is_one_and_absent_classes_are_left_out() -> None:
    found = evaluate([([(0, [0, 0, 50, 50], 0)], [(0, [0, 0, 50, 50], 0.9), (2, [0, 0, 9, 9], 0.9)])])
    assert found.metrics["ap"].value == pytest.approx(1)
    assert [row["ap"] for row in found.per_class] == [pytest.approx(1), None, None]
    assert found.per_class[2]["predictions"] == 1


def test_a_crowd_takes_any_number_of_detections() -> None:
    truth: list[Row] = [(0, [0, 0, 100, 100], 1), (0, [200, 200, 250, 250], 0)]
    inside: list[Row] = [(0, [x, 0, x + 20.0, 20], 0.9) for x in (0.0, 20, 40)]
    images: list[Image] = [(truth, [*inside, (0, [200, 200, 250, 250], 0.5)])]
    assert evaluate(images).metrics["ap"].value == pytest.approx(1)  # shared / own area = 1: ignored, not false
    assert evaluate(images).per_class[0]["objects"] == 1
    assert_agrees(images)
    half: list[Image] = [(truth, [(0, [90, 0, 110, 20], 0.9), (0, [200, 200, 250, 250], 0.5)])]
    assert evaluate(half).metrics["ap50"].value == pytest.approx(1)  # exactly half of its area inside
    assert evaluate(half).metrics["ap75"].value == pytest.approx(0.5)


def test_only_the_hundred_best_of_a_class_and_image_count() -> None:
    wrong: list[Row] = [(0, [200, 200, 210, 210], 0.9)] * 100
    hit: Row = (0, [0, 0, 50, 50], 0.5)
    truth: list[Row] = [(0, [0, 0, 50, 50], 0)]
    assert evaluate([(truth, [*wrong, hit])]).metrics["ar_100"].value == 0
    found = evaluate([(truth, [*wrong[1:], hit])]).metrics
    assert found["ar_100"].value == pytest.approx(1)
    assert found["ar_10"].value == 0
    assert evaluate([(truth, [*wrong, hit])]).metrics["voc_ap50"].value == pytest.approx(1 / 101)  # VOC takes all
    assert_agrees([(truth, [*wrong, hit]), (truth, [hit])])


def test_band_edges_belong_to_both_bands() -> None:
    found = evaluate([([(0, [0, 0, 32, 32], 0)], [(0, [0, 0, 32, 32], 0.9)])]).metrics
    assert found["ap_small"].value == found["ap_medium"].value == pytest.approx(1)
    assert found["ap_large"].value is None


def test_stated_area_decides_the_band() -> None:
    truth = annotation([(0, [0, 0, 50, 50], 0)], True)
    assert truth.objects is not None
    truth.objects.area = torch.tensor([500.0])
    metric = task_of("detect").make_metric(["a"])
    metric.add("x", truth, annotation([(0, [0, 0, 50, 50], 0.9)], False))
    found = metric.result(0).metrics
    assert found["ap_small"].value == pytest.approx(1)
    assert found["ap_medium"].value is None


def random_images(count: int, seed: int = 0) -> list[Image]:
    rng = np.random.default_rng(seed)
    images: list[Image] = []
    for _ in range(count):
        boxes = [[x, y, x + w, y + h] for x, y, w, h in rng.uniform(5, 150, (rng.integers(0, 5), 4))]
        truth = [(int(rng.integers(3)), b, 0.0) for b in boxes]
        moved = [(k, (np.array(b) + rng.normal(0, 6, 4)).tolist(), rng.choice([0.3, 0.6, 0.9])) for k, b, _ in truth]
        images.append((truth, moved[: rng.integers(0, 5)]))
    return images


def test_order_of_images_has_no_influence_ties_included() -> None:
    images = random_images(12)
    order = np.random.default_rng(5).permutation(12).tolist()
    assert evaluate(images, 50).to_json() == evaluate(images, 50, order).to_json()


def test_weights_are_repetitions_of_images() -> None:
    images = random_images(8, 2)
    images = [  # no ties, whose order would depend on the repetition
        (t, [(k, b, s + 0.01 * i + 0.001 * j) for j, (k, b, s) in enumerate(p)]) for i, (t, p) in enumerate(images)
    ]
    times = np.array([0, 2, 1, 0, 3, 1, 1, 0])
    repeated = [images[i] for i in np.repeat(np.arange(8), times)]
    tables = [m.table([f"{n:03}" for n in range(8)]) for m in filled(images)._coco["bbox"]]
    weighted = coco_numbers(*resampled(tables, times[None].astype(float)), "")
    for name, value in slow_numbers(repeated).items():
        assert weighted[name][0] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_interval_holds_the_value() -> None:
    found = evaluate(random_images(60, 4), 200)
    for name in ("ap", "ap50", "ar_100", "voc_ap50", "voc07_ap50"):
        v = found.metrics[name]
        assert v.low is not None
        assert v.high is not None
        assert v.low < v.value < v.high
        assert v.high - v.low < 0.5


def test_worked_example_precision_one_recall_three_quarters() -> None:
    def corners(x: float, y: float, w: float, h: float) -> list[float]:
        return [x, y, x + w, y + h]

    bicycles, people = [(10, 100, 110, 110), (200, 200, 180, 80)], [(200, 80, 71, 71), (300, 50, 20, 80)]
    truth = [(0, corners(*b), 0.0) for b in bicycles] + [(1, corners(*b), 0.0) for b in people]
    answers = [(0, corners(9, 93, 100, 111), 0.9), (0, corners(*bicycles[1]), 0.8), (1, corners(*people[0]), 0.8)]
    true, predicted = annotation(truth, True).objects, annotation(answers, False).objects
    assert true is not None
    assert predicted is not None
    assert precision_recall(true, predicted, 0.5) == (1.0, 0.75)
    assert numpy_box_iou(np.array([answers[0][1]]), np.array([truth[0][1]]))[0, 0] == pytest.approx(0.7978921264724117)


def masks(boxes: list[list[int]], crowd: bool = False, scores: list[float] | None = None) -> Annotation:
    dense = torch.zeros(len(boxes), 120, 120, dtype=torch.bool)
    for n, (x1, y1, x2, y2) in enumerate(boxes):
        dense[n, y1:y2, x1:x2] = True
    objects = Objects(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.zeros(len(boxes), dtype=torch.int64),
        None if scores is None else torch.tensor(scores),
        dense,
    )
    return Annotation((120, 120), objects=objects)


def test_rectangular_masks_score_as_their_boxes() -> None:
    rng = np.random.default_rng(1)
    metric = task_of("instances").make_metric(["a"])
    for n in range(6):
        corner = rng.integers(0, 60, (4, 2))
        boxes = np.concatenate([corner, corner + rng.integers(10, 50, (4, 2))], axis=1)
        moved = boxes + rng.integers(-3, 4, (4, 4)).clip(-boxes)
        metric.add(str(n), masks(boxes.tolist()), masks(moved.tolist(), scores=rng.random(4).tolist()))
    metric.add("empty", masks([]), masks([], scores=[]))
    found = metric.result(bootstrap=20)
    for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ar_1", "ar_100", "ar_small"):
        assert found.metrics[f"mask_{name}"] == found.metrics[name], name
    assert found.metrics["mask_ap"].value is not None
    assert 0 < found.metrics["mask_ap"].value < 1
    assert found.per_class[0]["mask_ap"] == pytest.approx(found.metrics["mask_ap"].value)
    assert len(found.curves["mask_precision_recall"][0]["precision"]) == 101


def test_mask_iou_is_not_box_iou() -> None:
    truth, answers = masks([[0, 0, 40, 40]]), masks([[0, 0, 40, 40]], scores=[0.9])
    assert answers.objects is not None
    assert answers.objects.masks is not None
    answers.objects.masks[0, 20:] = False  # same box, half of the mask
    metric = task_of("instances").make_metric(["a"])
    metric.add("x", truth, answers)
    found = metric.result(0).metrics
    assert found["ap"].value == pytest.approx(1)
    assert found["mask_ap50"].value == pytest.approx(1)
    assert found["mask_ap75"].value == 0


def test_confusion_counts_background() -> None:
    truth: list[Row] = [(0, [0, 0, 50, 50], 0), (1, [100, 100, 150, 150], 0), (1, [200, 0, 250, 50], 0)]
    answers: list[Row] = [
        (0, [0, 0, 50, 50], 0.9),  # right
        (0, [100, 100, 150, 150], 0.8),  # taken for class a
        (2, [300, 300, 350, 350], 0.7),  # on background
        (1, [200, 0, 250, 50], 0.2),  # below the score
    ]
    counts = evaluate([(truth, answers)]).curves["confusion"]["counts"]
    assert counts == [[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_precision_recall_curve_is_monotone_and_averages_to_ap50() -> None:
    found = evaluate(random_images(30, 7))
    for curve, row in zip(found.curves["precision_recall"], found.per_class, strict=True):
        assert np.mean(curve["precision"]) == pytest.approx(row["ap50"])
        assert (np.diff(curve["precision"]) <= 1e-12).all()
        assert len(curve["score"]) == len(curve["recall"]) == 101


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([(0, [0.0, 0, float("nan"), 5], 0.5)], "x: object 0 of the prediction has box"),
        ([(0, [0.0, 0, 5, 5], float("nan"))], "score nan"),
        ([(3, [0.0, 0, 5, 5], 0.5)], "label 3, allowed 0..2"),
    ],
)
def test_bad_input_is_named(answers: list[Row], message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_of("detect").make_metric(CLASSES).add("x", annotation([], True), annotation(answers, False))


def test_instances_need_masks() -> None:
    with pytest.raises(DataError, match="have no masks"):
        task_of("instances").make_metric(CLASSES).add("x", masks([]), annotation([(0, [0, 0, 5, 5], 0.5)], False))


def test_the_evaluator_imports_quietly_and_brings_no_torchvision() -> None:
    names = ["faster_coco_eval.core.mask", "faster_coco_eval.core.coco", "faster_coco_eval.core.faster_eval_api"]
    code = f"import sys, {', '.join(names)}; print([m for m in ('torchvision', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
