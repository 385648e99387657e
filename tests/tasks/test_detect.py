"""Kinds of a detector's mistakes, by hand-made cases."""

from __future__ import annotations

import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.tasks import detect, instances
from saccade.tasks.contract import Verdict

NAMES = ["a", "b"]
SQUARE = [0.0, 0.0, 40.0, 40.0]


def objects(rows: list[tuple[int, list[float], float]], crowd: bool = False) -> Annotation:
    found = Objects(
        torch.tensor([r[1] for r in rows]).reshape(-1, 4),
        torch.tensor([r[0] for r in rows], dtype=torch.int64),
        torch.tensor([r[2] for r in rows]),
        crowd=torch.full((len(rows),), crowd),
    )
    return Annotation((100, 100), objects=found)


@pytest.mark.parametrize(
    ("box", "label", "kinds"),
    [
        (SQUARE, 0, []),
        (SQUARE, 1, ["wrong class"]),
        ([0.0, 0, 40, 15], 0, ["poor box"]),
        ([0.0, 0, 40, 15], 1, ["wrong class and poor box", "missed"]),
        ([60.0, 60, 90, 90], 0, ["background", "missed"]),
    ],
)
def test_kind_of_a_single_prediction(box: list[float], label: int, kinds: list[str]) -> None:
    verdict = detect.judge(objects([(0, SQUARE, 1.0)]), objects([(label, box, 0.9)]), NAMES)
    assert [m["kind"] for m in verdict.mistakes] == kinds
    assert verdict.score == (1.0 if kinds else 0.0)


def test_duplicate_and_its_score() -> None:
    verdict = detect.judge(objects([(0, SQUARE, 1.0)]), objects([(0, SQUARE, 0.9), (0, SQUARE, 0.8)]), NAMES)
    duplicate = {"kind": "duplicate", "prediction": 1, "predicted": 0, "truth": 0, "label": 0, "iou": 1.0}
    assert verdict.mistakes == [duplicate | {"score": pytest.approx(0.8)}]
    assert verdict.score == pytest.approx(1 - 2 / 3)  # F1 of one hit and one false alarm


def test_all_that_is_shown_is_judged_but_for_crowds() -> None:
    assert detect.judge(objects([]), objects([(0, SQUARE, 0.01)]), NAMES).score == 1.0
    crowd = objects([(0, SQUARE, 1.0)], crowd=True)
    assert detect.judge(crowd, objects([(0, [5.0, 5, 15, 15], 0.9)]), NAMES) == Verdict(0.0)


def test_the_scores_of_the_unsure_are_said() -> None:
    answer = objects([(0, SQUARE, 0.9), (1, SQUARE, 0.04), (1, SQUARE, 0.35), (0, SQUARE, 0.5)])
    assert detect.short_line(detect.to_json(answer, NAMES)) == "2 a, 2 b (0.04 to 0.35)"
    assert detect.short_line(detect.to_json(objects([(0, SQUARE, 0.04)]), NAMES)) == "1 a (0.04)"


def test_instances_are_judged_by_their_masks() -> None:
    true, predicted = objects([(0, SQUARE, 1.0)]), objects([(0, SQUARE, 0.9)])
    assert true.objects is not None
    assert predicted.objects is not None
    true.objects.masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    predicted.objects.masks = true.objects.masks.clone()
    true.objects.masks[0, :40, :40] = True
    predicted.objects.masks[0, :12, :40] = True
    assert [m["kind"] for m in instances.judge(true, predicted, NAMES).mistakes] == ["poor box"]
    assert detect.judge(true, predicted, NAMES).mistakes == []
