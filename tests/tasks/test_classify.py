"""What the task `classify` says of an answer."""

from __future__ import annotations

import math

import pytest
import torch

from saccade.data.types import Annotation
from saccade.tasks import classify

NAMES = ["a", "b"]


def test_classify_is_ranked_by_the_loss() -> None:
    scores = torch.tensor([0.2, 0.8])
    verdict = classify.judge(Annotation((1, 1), label=0), Annotation((1, 1), probabilities=scores), NAMES)
    assert verdict.score == pytest.approx(-math.log(0.2))
    assert verdict.mistakes == [
        {"kind": "wrong class", "label": 0, "predicted": 1, "score": pytest.approx(0.8), "rank": 1}
    ]
    certain = Annotation((1, 1), probabilities=torch.tensor([0.0, 1.0]))
    assert math.isfinite(classify.judge(Annotation((1, 1), label=0), certain, NAMES).score)
