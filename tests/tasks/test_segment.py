"""What the task `segment` says of an answer."""

from __future__ import annotations

import pytest
import torch

from saccade.data.types import Annotation
from saccade.tasks import segment

NAMES = ["a", "b"]


def test_segment_is_ranked_by_mean_iou() -> None:
    true = Annotation((1, 4), semantic=torch.tensor([[0, 0, 1, 255]], dtype=torch.uint8))
    predicted = Annotation((1, 4), semantic=torch.tensor([[0, 1, 1, 1]], dtype=torch.uint8))
    verdict = segment.judge(true, predicted, NAMES)
    assert verdict.score == pytest.approx(0.5)
    assert [(m["label"], m["iou"]) for m in verdict.mistakes] == [(0, 0.5), (1, 0.5)]
