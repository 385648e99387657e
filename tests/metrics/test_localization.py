"""Localization as ImageNet's challenge judges it: hand-made tables."""

from __future__ import annotations

import json

import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.errors import DataError
from saccade.metrics import Value
from saccade.reports.gallery import explain
from saccade.tasks import localize
from saccade.tasks.contract import task_of

CLASSES = ["ant", "bee", "cat"]
SIZE = (100, 100)
TRUE = [0.0, 0.0, 10.0, 10.0]
HALF = [0.0, 0.0, 10.0, 5.0]  # IoU 0.5 with TRUE: just right
THIRD = [0.0, 5.0, 10.0, 15.0]  # IoU 1/3
FAR = [50.0, 50.0, 60.0, 60.0]


def truth(label: int = 0) -> Annotation:
    return Annotation(SIZE, label=label, objects=Objects(torch.tensor([TRUE]), torch.tensor([label])))


def answer(scores: list[float] | None, *boxes: tuple[int, list[float]]) -> Annotation:
    labels = torch.tensor([label for label, _ in boxes])
    objects = Objects(torch.tensor([box for _, box in boxes]).reshape(-1, 4), labels, torch.ones(len(boxes)))
    return Annotation(
        SIZE, boxes[0][0], probabilities=None if scores is None else torch.tensor(scores), objects=objects
    )


def values(*pairs: tuple[Annotation, Annotation], classes: list[str] = CLASSES) -> dict[str, float | None]:
    metric = task_of("localize").make_metric(classes)
    for i, (true, predicted) in enumerate(pairs):
        metric.add(str(i), true, predicted)
    return {name: value.value for name, value in metric.result(bootstrap=0).metrics.items()}


def test_four_images() -> None:
    """Class and box right; class right, box poor; class wrong, box right; both wrong."""
    found = values(
        (truth(), answer([0.8, 0.1, 0.1], (0, HALF))),
        (truth(), answer([0.8, 0.1, 0.1], (0, THIRD))),
        (truth(), answer([0.3, 0.6, 0.1], (1, TRUE))),
        (truth(), answer([0.3, 0.6, 0.1], (1, FAR))),
    )
    assert found["localization_top1"] == 0.25
    assert found["localization_top5"] == 0.5  # three classes: all are among the five answers, with the one box
    assert found["box_accuracy"] == 0.5
    assert found["mean_iou"] == pytest.approx((0.5 + 1 / 3 + 1 + 0) / 4)
    assert found["top1"] == 0.5
    assert "top5" not in found  # of three classes


def test_every_answer_of_five_has_the_box_of_its_class() -> None:
    classes = [str(k) for k in range(7)]
    scores = [0.0, 0.3, 0.25, 0.2, 0.15, 0.1, 0.0]
    rows = [(1, TRUE), (2, FAR), (3, TRUE), (4, FAR), (5, TRUE)]
    predicted = answer(scores, *rows)
    correct = [values((truth(k), predicted), classes=classes)["localization_top5"] for k in range(7)]
    assert correct == [0, 1, 0, 1, 0, 1, 0]  # class 0 has its box (the first) but is not among the five
    assert values((truth(3), predicted), classes=classes)["localization_top1"] == 0
    assert (
        values((truth(2), predicted), classes=classes)["box_accuracy"] == 1
    )  # that of the first answer, whatever the class


def test_a_label_alone_has_no_five() -> None:
    found = values((truth(), answer(None, (0, TRUE))))
    assert found["localization_top1"] == 1
    assert found["localization_top5"] is None


def test_rows_of_classes_intervals_and_json() -> None:
    metric = task_of("localize").make_metric(CLASSES)
    for i in range(20):
        metric.add(f"{i:02}", truth(i % 2), answer([0.9, 0.1, 0.0], (0, TRUE if i < 10 else FAR)))
    found = metric.result(bootstrap=200)
    ant, bee, cat = found.per_class
    assert (ant["images"], ant["predictions"], ant["localization_top1"], ant["recall"]) == (10, 20, 0.5, 1)
    assert (bee["localization_top1"], bee["box_accuracy"], bee["mean_iou"]) == (0, 0.5, 0.5)
    assert cat["localization_top1"] is None
    low, high = found.metrics["localization_top1"].low, found.metrics["localization_top1"].high
    assert low is not None
    assert high is not None
    assert 0 < low < 0.25 < high < 0.6
    assert found.curves["confusion"]["counts"] == [[10, 0, 0], [10, 0, 0], [0, 0, 0]]
    json.dumps(found.to_json(), allow_nan=False)


def test_nothing_to_measure() -> None:
    found = task_of("localize").make_metric(CLASSES).result()
    assert found.metrics["localization_top1"] == Value(None)
    assert found.metrics["mean_iou"] == Value(None)


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        (Annotation(SIZE, label=0), answer([1.0, 0, 0], (0, TRUE)), "x: the truth of a localization is one box"),
        (truth(), Annotation(SIZE, 0, probabilities=torch.tensor([1.0, 0, 0])), "x: the prediction has no box"),
        (truth(), answer([1.0, 0, 0], (0, [float("nan"), 0, 1, 1])), "x: a predicted box holds nan"),
        (truth(), answer([1.0, 0], (0, TRUE)), r"shape \[2\], expected \[3\]"),
        (truth(5), answer([1.0, 0, 0], (0, TRUE)), "label 5, allowed 0..2"),
    ],
)
def test_bad_input_is_named(true: Annotation, predicted: Annotation, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_of("localize").make_metric(CLASSES).add("x", true, predicted)


def test_an_image_counts_once() -> None:
    metric = task_of("localize").make_metric(CLASSES)
    metric.add("x", truth(), answer([1.0, 0, 0], (0, TRUE)))
    with pytest.raises(DataError, match="twice"):
        metric.add("x", truth(), answer([1.0, 0, 0], (0, TRUE)))


def test_mistakes_and_their_words() -> None:
    cases = {
        "bee taken for ant (0.75)": (truth(1), answer([0.75, 0.25, 0.0], (0, TRUE))),
        "ant (0.75) poorly placed, IoU 0.33": (truth(0), answer([0.75, 0.25, 0.0], (0, THIRD))),
        "bee taken for ant (0.75) and poorly placed, IoU 0.00": (truth(1), answer([0.75, 0.25, 0.0], (0, FAR))),
    }
    for words, (true, predicted) in cases.items():
        verdict = localize.judge(true, predicted, CLASSES)
        (line,) = explain("localize", verdict, CLASSES)
        assert line.startswith(words)
    correct = localize.judge(truth(), answer([0.75, 0.25, 0.0], (0, HALF)), CLASSES)
    assert correct.mistakes == []
    assert correct.score == pytest.approx(0.25 + 0.5)
