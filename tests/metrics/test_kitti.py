"""KITTI's average precisions: cases by hand, and a second implementation that follows the released program line by
line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.metrics.cuboids import Boxes3d
from saccade.metrics.kitti import Curve, Side, demanded, sort_found, sort_truth

CAR = [1.5, 1.7, 4.0]


def objects(
    rows: list[tuple[int, list[float], list[float]]], scores: list[float] | None = None, **more: object
) -> Objects:
    """Of (label, box, cuboid)."""
    return Objects(
        torch.tensor([box for _, box, _ in rows]).float().reshape(-1, 4),
        torch.tensor([label for label, _, _ in rows], dtype=torch.int64),
        None if scores is None else torch.tensor(scores),
        cuboids=torch.tensor([cuboid for _, _, cuboid in rows]).float().reshape(-1, 7),
        **more,  # type: ignore[arg-type]
    )


def image(found: Objects) -> Annotation:
    return Annotation((400, 1200), objects=found)


def values(metric: Boxes3d) -> dict[str, float | None]:
    return {name: value.value for name, value in metric.result(0).metrics.items()}


def test_the_truth_is_perfect_and_a_car_too_far_is_not() -> None:
    rows = [(0, [25 * i, 100, 25 * i + 20, 160], [*CAR, 6.0 * i - 99, 1.5, 12, 0.1 * i]) for i in range(41)]
    scores = [0.9 - 0.01 * i for i in range(41)]
    metric = Boxes3d(["Car"])
    metric.add("a", image(objects(rows)), image(objects(rows, scores)))
    found = values(metric)
    assert all(found[name] == pytest.approx(1) for name in ("ap_3d", "ap_bev", "aos", "ap_2d", "iou_3d", "ap_3d_easy"))
    assert found["place_error"] == pytest.approx(0, abs=1e-6)
    far = [(label, box, [*c[:5], c[5] + 2, c[6] + np.pi]) for label, box, c in rows]
    metric = Boxes3d(["Car"])
    metric.add("a", image(objects(rows)), image(objects(far, scores)))
    found = values(metric)
    assert (found["ap_3d"], found["ap_bev"], found["ap_2d"]) == (0, 0, pytest.approx(1))
    assert found["aos"] == pytest.approx(0, abs=0.05)  # all are seen from the wrong side
    assert (found["place_error"], found["turn_error"]) == (pytest.approx(2), pytest.approx(180))


def test_eleven_and_forty_recalls_by_hand() -> None:
    """Ten cars, of which four are found: forty recalls reach 0.4 by 16, eleven by 0, 0.1, ..., 0.4. As released the
    first score stands for recall 0 and each further one for the next 1/40, as far as there are scores."""
    rows = [(0, [100 * i, 100, 100 * i + 80, 160], [*CAR, 6.0 * i, 1.5, 12, 0]) for i in range(10)]
    metric = Boxes3d(["Car"])
    metric.add("a", image(objects(rows)), image(objects(rows[:4], [0.9, 0.8, 0.7, 0.6])))
    found = values(metric)
    assert found["ap_3d"] == pytest.approx(3 / 40)
    assert found["ap_3d_r11"] == pytest.approx(1 / 11)


def test_difficulties_neighbours_and_regions_without_labels() -> None:
    names = ["Car", "Van", "Pedestrian"]
    truth = Side(
        np.array([0, 0, 0, 0, 1, 2]),
        np.array([60.0, 30, 20, 60, 60, 60]),
        np.array([[0, 0], [0, 0], [0, 0], [0.4, 2], [0, 0], [0, 0]], float),
        np.zeros(6),
        np.ones(6, bool),
    )
    assert sort_truth(truth, 0, names, 0).tolist() == [0, 1, 1, 1, 1, -1]
    assert sort_truth(truth, 0, names, 1).tolist() == [0, 0, 1, 1, 1, -1]
    assert sort_truth(truth, 0, names, 2).tolist() == [0, 0, 1, 0, 1, -1]
    found = Side(np.array([0, 0, 1]), np.array([60, 25.9, 24.9]), np.zeros((3, 2)), np.ones(3), np.ones(3, bool))
    assert sort_found(found, 0, 1).tolist() == [0, 0, 1]
    assert (demanded("Car"), demanded("Person sitting"), demanded("van", loose=True)) == (0.7, 0.5, 0.5)
    rows = [(0, [0.0, 100, 80, 160], [*CAR, 0, 1.5, 12, 0]), (0, [500.0, 100, 600, 200], [float("nan")] * 7)]
    truths = objects(rows, crowd=torch.tensor([False, True]))
    extra = [
        rows[0],
        (0, [510.0, 110, 590, 190], [*CAR, 9, 1.5, 12, 0]),
        (0, [800.0, 100, 880, 160], [*CAR, -9, 1, 9, 0]),
    ]
    numbers = []
    for count in (1, 2, 3):
        metric = Boxes3d(["Car"])
        metric.add("a", image(truths), image(objects(extra[:count], [0.5, 0.9, 0.95][:count])))
        numbers.append((values(metric)["ap_2d_r11"], values(metric)["ap_3d_r11"]))
    assert numbers[0] == (pytest.approx(1 / 11), pytest.approx(1 / 11))
    assert numbers[1] == (pytest.approx(1 / 11), pytest.approx(0.5 / 11))  # excused in pixels alone
    assert numbers[2][0] == pytest.approx(0.5 / 11)  # a false alarm elsewhere is none of these


def released(images: list[tuple[np.ndarray, ...]], least: float) -> np.ndarray:
    """Average precision at 40 and 11 recalls and orientation similarity likewise, as computeStatistics, getThresholds
    and eval_class of KITTI's development kit go about it."""
    hits: list[float] = []
    total = 0
    for overlaps, found, truth, scores, _, _ in images:
        taken: set[int] = set()
        for j in range(len(truth)):
            total += truth[j] == 0
            if truth[j] == -1:
                continue
            best, value = -1, -1e7
            for i in range(len(found)):
                if found[i] != -1 and i not in taken and overlaps[i, j] > least and scores[i] > value:
                    best, value = i, scores[i]
            if best >= 0:
                taken.add(best)
                if truth[j] == 0 and found[best] == 0:
                    hits.append(value)
    hits.sort(reverse=True)
    thresholds, recall = [], 0.0
    for i, score in enumerate(hits):
        left = (i + 1) / total
        right = (i + 2) / total if i < len(hits) - 1 else left
        if right - recall < recall - left and i < len(hits) - 1:
            continue
        thresholds.append(score)
        recall += 1 / 40
    precision, similarity = np.zeros(41), np.zeros(41)
    for place, least_score in enumerate(thresholds):
        tp, fp, alike = 0, 0, 0.0
        for overlaps, found, truth, scores, similar, excused in images:
            taken = set()
            for j in range(len(truth)):
                if truth[j] == -1:
                    continue
                best, most, aside, valid = -1, 0.0, False, False
                for i in range(len(found)):
                    if found[i] == -1 or i in taken or scores[i] < least_score or overlaps[i, j] <= least:
                        continue
                    if (overlaps[i, j] > most or aside) and found[i] == 0:
                        best, most, aside, valid = i, overlaps[i, j], False, True
                    elif not valid and found[i] == 1:
                        best, aside, valid = i, True, True
                if valid:
                    taken.add(best)
                    if truth[j] == 0 and found[best] == 0:
                        tp, alike = tp + 1, alike + similar[best, j]
            free = [i for i in range(len(found)) if found[i] == 0 and scores[i] >= least_score and i not in taken]
            fp += sum(not excused[i] for i in free)
        precision[place], similarity[place] = tp / (tp + fp), alike / (tp + fp)
    for curve in (precision, similarity):
        for i in range(41):
            curve[i] = curve[i:].max()
    return np.array([f(c) for c in (precision, similarity) for f in (lambda c: c[1:].mean(), lambda c: c[::4].mean())])


@pytest.mark.parametrize("seed", range(4))
def test_against_the_released_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images, curve = [], Curve()
    for n in range(12):
        d, g = rng.integers(0, 9), rng.integers(0, 7)
        overlaps = rng.random((d, g)) * rng.integers(0, 2, (d, g))
        found, truth = rng.choice([0, 0, 0, 1, -1], d), rng.choice([0, 0, 0, 1, -1], g)
        scores = rng.choice(np.linspace(0.1, 0.9, 30), d)
        similar, excused = rng.random((d, g)), rng.random(d) < 0.2
        images.append((overlaps, found, truth, scores, similar, excused))
        curve.add(str(n), overlaps, (found, truth), scores, 0.5, similar, excused)
    table = curve.table([str(n) for n in range(12)])
    np.testing.assert_allclose(table.average_precision(np.ones((1, 12)))[0], released(images, 0.5), atol=1e-12)
    weights = rng.integers(0, 3, 12)
    drawn = [images[i] for i in range(12) for _ in range(weights[i])]
    np.testing.assert_allclose(
        table.average_precision(weights[None].astype(float))[0], released(drawn, 0.5), atol=1e-12
    )


def test_nothing_to_count_and_bad_answers() -> None:
    metric = Boxes3d(["Car", "Van"])
    metric.add("a", image(objects([])), image(objects([], [])))
    found = values(metric)
    assert found["ap_3d"] is None
    assert found["iou_3d"] is None
    row = [(0, [0.0, 0, 9, 9], [*CAR, 0, 1, float("inf"), 0])]
    with pytest.raises(DataError, match="b: object 0 of the prediction has a cuboid that is not finite"):
        metric.add("b", image(objects([])), image(objects(row, [0.5])))
    flat = Objects(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    with pytest.raises(DataError, match="c: the cuboids of the prediction are None"):
        metric.add("c", image(objects([])), image(flat))
    rows = [(0, [0.0, 100, 80, 160], [*CAR, 0, 1.5, 12, 0])]
    metric.add("d", image(objects(rows)), image(objects([], [])))
    result = metric.result(50)
    assert result.metrics["iou_3d"].value == 0
    assert result.per_class[0]["ap_3d"] == 0
    assert result.per_class[1]["ap_3d"] is None
