"""Embeddings image by image: what is refused, how they are compared, which threshold is chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.data.types import Annotation
from saccade.errors import DataError
from saccade.metrics.embedding import FAR, Embedding

NAMES = [f"p{k}" for k in range(12)]


def filled(metric: Embedding, people: int = 12, noise: float = 0.5, seed: int = 0) -> Embedding:
    """Four pictures of each of some people, around a direction of their own."""
    rng = np.random.default_rng(seed)
    for k in range(people):
        centre = rng.normal(size=8)
        for i in range(4):
            vector = centre + noise * rng.normal(size=8)
            row = torch.from_numpy(vector / np.linalg.norm(vector)).float()
            metric.add(f"{k}/{i}", Annotation((4, 4), label=k), Annotation((4, 4), embedding=row))
    return metric


def test_the_threshold_accepts_the_stated_share() -> None:
    result = filled(Embedding(NAMES)).result(bootstrap=0)
    chosen = result.curves["chosen"]
    assert chosen["stated"]
    assert chosen["far"] <= FAR
    assert chosen["tar"] == pytest.approx(result.metrics["tar_at_far_1e-2"].value)
    again = filled(Embedding(NAMES, chosen["threshold"])).result(bootstrap=0).curves["given"]
    assert (again["far"], again["tar"]) == (pytest.approx(chosen["far"]), pytest.approx(chosen["tar"]))
    assert "given" not in result.curves


def test_too_few_pairs_take_the_threshold_of_equal_errors() -> None:
    chosen = filled(Embedding(NAMES), people=3).result(bootstrap=0).curves["chosen"]  # 48 pairs of different people
    assert not chosen["stated"]
    assert filled(Embedding(NAMES), people=1).result(bootstrap=0).curves["chosen"] is None


def test_a_similarity_takes_the_place_of_the_cosine() -> None:
    metric = filled(Embedding(NAMES))
    usual = metric.result(bootstrap=0).metrics
    metric.similarity = lambda a, b: a @ b.T
    same = metric.result(bootstrap=0).metrics
    assert {k: v.value for k, v in same.items()} == pytest.approx({k: v.value for k, v in usual.items()})
    metric.similarity = lambda a, b: -(a @ b.T)
    turned = metric.result(bootstrap=0).metrics
    assert turned["auc"].value == pytest.approx(1 - (usual["auc"].value or 0))
    assert (turned["rank_1"].value or 0) < 0.1


@pytest.mark.parametrize(
    ("label", "vector", "fault"),
    [
        (None, [1.0, 0.0], "label None"),
        (99, [1.0, 0.0], "label 99"),
        (1, None, "no embedding"),
        (1, [1.0, 0.0, 0.0], r"shape \[3\], expected \[2\]"),
        (1, [float("nan"), 0.0], "finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(label: int | None, vector: list[float] | None, fault: str) -> None:
    metric = Embedding(NAMES)
    metric.add("first", Annotation((4, 4), label=0), Annotation((4, 4), embedding=torch.tensor([0.0, 1.0])))
    answer = Annotation((4, 4), embedding=None if vector is None else torch.tensor(vector))
    with pytest.raises(DataError, match=fault):
        metric.add("second", Annotation((4, 4), label=label), answer)
    with pytest.raises(DataError, match="twice"):
        metric.add("first", Annotation((4, 4), label=0), answer)
