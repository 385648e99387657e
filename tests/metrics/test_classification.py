"""Top-k, confusion, calibration: hand-made tables and the worked example of the notes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.metrics import Result, Value
from saccade.metrics.classification import rank_of_truth
from saccade.tasks.contract import task_of


def image(label: int | None = None, scores: list[float] | None = None) -> Annotation:
    return Annotation((4, 4), label=label, probabilities=None if scores is None else torch.tensor(scores))


def test_worked_example_top1_is_right() -> None:
    metric = task_of("classify").make_metric(["bicycle", "people", "mountain"])
    metric.add("a", image(0), image(scores=[0.6, 0.3, 0.05]))
    assert metric.result(bootstrap=0).metrics["top1"] == Value(1.0)


def test_confusion_and_per_class_of_a_hand_made_set() -> None:
    metric = task_of("classify").make_metric(["a", "b", "c"])
    for n, (truth, guess) in enumerate([(0, 0), (0, 1), (0, 0), (1, 1)]):
        metric.add(str(n), image(truth), image(scores=np.eye(3)[guess].tolist()))
    found = metric.result(bootstrap=50)
    assert found.curves["confusion"]["counts"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert found.metrics["top1"].value == 0.75
    assert found.metrics["mean_accuracy"].value == pytest.approx((2 / 3 + 1) / 2)  # c does not occur
    row = found.per_class[0]
    assert (row["recall"], row["precision"], row["f1"]) == pytest.approx((2 / 3, 1.0, 0.8))
    assert found.per_class[2]["recall"] is None
    assert found.per_class[2]["precision"] is None


def test_topk_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.random((60, 9)), rng.integers(0, 9, 60)
    metric = task_of("classify").make_metric([str(k) for k in range(9)])
    for i in range(60):
        metric.add(f"{i:02}", image(int(truth[i])), Annotation((1, 1), probabilities=torch.tensor(scores[i])))
    found = metric.result(bootstrap=0).metrics
    assert found["top1"].value == pytest.approx(top_k_accuracy_score(truth, scores, k=1))
    assert found["top5"].value == pytest.approx(top_k_accuracy_score(truth, scores, k=5))


def test_ties_go_to_the_lower_class() -> None:
    scores = np.array([0.2, 0.4, 0.4])
    assert [rank_of_truth(scores, k) for k in range(3)] == [2, 0, 1]


def test_calibration_error_of_two_images() -> None:
    metric = task_of("classify").make_metric(["a", "b"])
    metric.add("x", image(0), image(scores=[0.9, 0.1]))
    metric.add("y", image(1), image(scores=[0.9, 0.1]))
    calibration = metric.result(bootstrap=0).curves["calibration"]
    assert calibration["error"] == pytest.approx(0.4, abs=1e-6)
    assert sum(calibration["images"]) == 2


def test_labels_without_probabilities_have_no_top5() -> None:
    metric = task_of("classify").make_metric(list("abcdef"))
    metric.add("x", image(0), image(1))
    found = metric.result()
    assert found.metrics["top1"].value == 0
    assert found.metrics["top5"] == Value(None)


def test_of_five_classes_or_fewer_there_is_no_top5() -> None:
    """It would be 1 whatever the answers are."""
    metric = task_of("classify").make_metric(list("abcde"))
    metric.add("x", image(0), image(scores=[0.1, 0.6, 0.1, 0.1, 0.1]))
    assert list(metric.result(bootstrap=0).metrics) == ["top1", "mean_accuracy"]


def test_interval_holds_the_value_and_follows_the_seed_not_the_order() -> None:
    rng = np.random.default_rng(3)
    rows = [(f"{i:03}", int(rng.integers(3)), rng.random(3).tolist()) for i in range(80)]

    def run(order: list[int], seed: int) -> Result:
        metric = task_of("classify").make_metric(["a", "b", "c"])
        for i in order:
            metric.add(rows[i][0], image(rows[i][1]), image(scores=rows[i][2]))
        return metric.result(bootstrap=300, seed=seed)

    one, two = run(list(range(80)), 1), run(rng.permutation(80).tolist(), 1)
    assert one.to_json() == two.to_json()
    top1 = one.metrics["top1"]
    assert top1.low is not None
    assert top1.high is not None
    assert top1.low < top1.value < top1.high
    width = 1.96 * (top1.value * (1 - top1.value) / 80) ** 0.5  # normal approximation of a proportion
    assert top1.high - top1.value == pytest.approx(width, rel=0.25)
    assert run(list(range(80)), 2).metrics["top1"] != top1


def test_no_image_is_undefined_and_json_has_no_nan() -> None:
    found = task_of("classify").make_metric(["a"]).result()
    assert found.images == 0
    assert found.metrics["top1"] == Value(None)
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (image(3), image(scores=[1.0, 0.0]), "x: the truth has label 3, allowed 0..1"),
        (image(None), image(scores=[1.0, 0.0]), "label None"),
        (image(0), image(scores=[float("nan"), 0.0]), "score nan"),
        (image(0), image(scores=[1.0]), r"shape \[1\], expected \[2\]"),
    ],
)
def test_bad_input_is_named(truth: Annotation, prediction: Annotation, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_of("classify").make_metric(["a", "b"]).add("x", truth, prediction)


def test_an_image_counts_once() -> None:
    metric = task_of("classify").make_metric(["a", "b"])
    metric.add("x", image(0), image(0))
    with pytest.raises(DataError, match="twice"):
        metric.add("x", image(0), image(0))
