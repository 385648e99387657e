"""Kinds of mistakes and the order of the worst images, by hand-made cases."""

from __future__ import annotations

import math

import pytest
import torch

from saccade.data.types import Annotation, Objects
from saccade.metrics.mistakes import Verdict, judge, worst

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
    verdict = judge("detect", objects([(0, SQUARE, 1.0)]), objects([(label, box, 0.9)]), NAMES)
    assert [m["kind"] for m in verdict.mistakes] == kinds
    assert verdict.score == (1.0 if kinds else 0.0)


def test_duplicate_and_its_score() -> None:
    verdict = judge("detect", objects([(0, SQUARE, 1.0)]), objects([(0, SQUARE, 0.9), (0, SQUARE, 0.8)]), NAMES)
    duplicate = {"kind": "duplicate", "prediction": 1, "predicted": 0, "truth": 0, "label": 0, "iou": 1.0}
    assert verdict.mistakes == [duplicate | {"score": pytest.approx(0.8)}]
    assert verdict.score == pytest.approx(1 - 2 / 3)  # F1 of one hit and one false alarm


def test_low_scores_and_crowds_are_no_mistakes() -> None:
    assert judge("detect", objects([]), objects([(0, SQUARE, 0.1)]), NAMES) == Verdict(0.0)
    crowd = objects([(0, SQUARE, 1.0)], crowd=True)
    assert judge("detect", crowd, objects([(0, [5.0, 5, 15, 15], 0.9)]), NAMES) == Verdict(0.0)


def test_instances_are_judged_by_their_masks() -> None:
    true, said = objects([(0, SQUARE, 1.0)]), objects([(0, SQUARE, 0.9)])
    assert true.objects is not None
    assert said.objects is not None
    true.objects.masks = torch.zeros(1, 100, 100, dtype=torch.bool)
    said.objects.masks = true.objects.masks.clone()
    true.objects.masks[0, :40, :40] = True
    said.objects.masks[0, :12, :40] = True
    assert [m["kind"] for m in judge("instances", true, said, NAMES).mistakes] == ["poor box"]
    assert judge("detect", true, said, NAMES).mistakes == []


def test_classify_is_ranked_by_the_loss() -> None:
    scores = torch.tensor([0.2, 0.8])
    verdict = judge("classify", Annotation((1, 1), label=0), Annotation((1, 1), scores=scores), NAMES)
    assert verdict.score == pytest.approx(-math.log(0.2))
    assert verdict.mistakes == [
        {"kind": "wrong class", "label": 0, "predicted": 1, "score": pytest.approx(0.8), "rank": 1}
    ]
    certain = Annotation((1, 1), scores=torch.tensor([0.0, 1.0]))
    assert math.isfinite(judge("classify", Annotation((1, 1), label=0), certain, NAMES).score)


def test_tags_name_what_is_missing_and_what_is_wrong() -> None:
    true = Annotation((1, 1), tags=torch.tensor([True, False]))
    verdict = judge("tag", true, Annotation((1, 1), scores=torch.tensor([0.25, 0.75])), NAMES)
    assert [m["kind"] for m in verdict.mistakes] == ["missed", "wrong tag"]
    assert verdict.score == pytest.approx(-math.log(0.25))


def test_segment_is_ranked_by_mean_iou() -> None:
    true = Annotation((1, 4), semantic=torch.tensor([[0, 0, 1, 255]], dtype=torch.uint8))
    said = Annotation((1, 4), semantic=torch.tensor([[0, 1, 1, 1]], dtype=torch.uint8))
    verdict = judge("segment", true, said, NAMES)
    assert verdict.score == pytest.approx(0.5)
    assert [(m["label"], m["iou"]) for m in verdict.mistakes] == [(0, 0.5), (1, 0.5)]


def test_worst_first_ties_by_id_perfect_images_never() -> None:
    verdicts = {"c": Verdict(0.5), "a": Verdict(0.5), "b": Verdict(0.9), "d": Verdict(0.0)}
    assert [id for id, _ in worst(verdicts, 3)] == ["b", "a", "c"]
    assert [id for id, _ in worst(verdicts, 9)] == ["b", "a", "c"]
