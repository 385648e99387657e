"""Learned similarities: what they say of worked vectors, whatever the blocks in which they are computed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from saccade.layers import embedding
from saccade.layers.embedding import LearnedSimilarity, Similarity, embedding_answers, parts_apart


def test_parts_apart() -> None:
    a, b = torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(parts_apart(a, b, "weighted_l1"), torch.tensor([1.0, 0.0, 2.0]))
    torch.testing.assert_close(parts_apart(a, b, "chi_square"), torch.tensor([1.0, 0.0, 1.0]))  # 4 / 4; 0 / 0 is 0


@pytest.mark.parametrize("kind", ["weighted_l1", "chi_square"])
def test_a_similarity_is_that_of_single_pairs(kind: Similarity, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = LearnedSimilarity(4, kind)
    layer.weight.data = torch.rand(4)
    a, b = F.normalize(torch.rand(3, 4)), F.normalize(torch.rand(5, 4))
    rows = [[layer.bias - (layer.weight * parts_apart(2 * x, 2 * y, kind)).sum() for y in b] for x in a]
    expected = torch.stack([torch.cat(row) for row in rows])
    torch.testing.assert_close(layer(a, b), expected)
    monkeypatch.setattr(embedding, "ROWS", 20)  # one row at a time
    torch.testing.assert_close(layer(a, b), expected)
    assert layer(a, a).diagonal().min().item() == pytest.approx(layer.bias.item())


def test_answers_are_float32_vectors() -> None:
    answers = embedding_answers(torch.eye(2, dtype=torch.float64), [(3, 4), (5, 6)])
    assert [answer.size for answer in answers] == [(3, 4), (5, 6)]
    assert answers[1].embedding is not None
    assert answers[1].embedding.dtype == torch.float32
