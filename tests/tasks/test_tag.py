"""What the task `tag` says of an answer."""

from __future__ import annotations

import math

import pytest
import torch

from saccade.data.types import Annotation
from saccade.tasks import tag

NAMES = ["a", "b"]


def test_tags_name_what_is_missing_and_what_is_wrong() -> None:
    true = Annotation((1, 1), tags=torch.tensor([True, False]))
    verdict = tag.judge(true, Annotation((1, 1), scores=torch.tensor([0.25, 0.75])), NAMES)
    assert [m["kind"] for m in verdict.mistakes] == ["missed", "wrong tag"]
    assert verdict.score == pytest.approx(-math.log(0.25))
