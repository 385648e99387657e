"""What the task `tag` says of an answer."""

from __future__ import annotations

import math

import pytest
import torch

from saccade.data.types import Annotation
from saccade.plots.draw import caption
from saccade.tasks import tag

NAMES = ["a", "b"]


def test_tags_name_what_is_missing_and_what_is_wrong() -> None:
    true = Annotation((1, 1), tags=torch.tensor([True, False]))
    verdict = tag.judge(true, Annotation((1, 1), probabilities=torch.tensor([0.25, 0.75])), NAMES)
    assert [m["kind"] for m in verdict.mistakes] == ["missed", "wrong tag"]
    assert verdict.score == pytest.approx(-math.log(0.25))


def test_an_improbable_tag_is_given_with_its_threshold() -> None:
    answer = Annotation((1, 1), probabilities=torch.tensor([0.02, 0.75]), tags=torch.tensor([True, True]))
    assert tag.short_line(tag.to_json(answer, NAMES)) == "a 0.02, b 0.75"
    kept = tag.keep(answer, [0.01, 0.6])
    assert tag.to_json(kept, NAMES)["tags"][0] == {"name": "a", "score": 0.02, "threshold": 0.01}
    assert tag.short_line(tag.to_json(kept, NAMES)) == "a 0.02 (given from 0.01), b 0.75"
    assert caption(kept, NAMES) == "b 0.75, a 0.02 (given from 0.01)"
    assert tag.keep(kept, 0.5).tags.tolist() == [False, True]  # type: ignore[union-attr]
