"""embed: what is refused, and how an answer reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saccade.data.dataset import DataSet, Record
from saccade.data.types import Annotation
from saccade.errors import DataError, UsageError
from saccade.tasks import embed


def dataset_of(labels: list[int]) -> DataSet:
    records = [Record(f"{i}.png", (8, 8), label=label) for i, label in enumerate(labels)]
    return DataSet(Path("people"), "folder", "embed", [f"s{k}" for k in range(max(labels) + 1)], records)


def test_pictures_of_one_identity_teach_nothing() -> None:
    with pytest.raises(UsageError, match=r"all 3 training images show one identity \(s0\)"):
        embed.check_training(dataset_of([0, 0, 0]), dataset_of([0, 0, 0]).records)


def test_identities_of_one_picture_each_teach_nothing() -> None:
    with pytest.raises(DataError, match="each of the 3 training identities has one picture"):
        embed.check_training(dataset_of([0, 1, 2]), dataset_of([0, 1, 2]).records)
    embed.check_training(dataset_of([0, 1, 1]), dataset_of([0, 1, 1]).records)


def test_an_answer_is_a_vector() -> None:
    answer = Annotation((8, 8), embedding=torch.tensor([0.6, 0.8]))
    described = embed.to_json(answer, [])
    assert described == {"embedding": [0.6, 0.8]}
    assert embed.short_line(described) == "a vector of 2 numbers"


def test_the_area_is_the_chance_that_a_pair_of_one_is_more_alike() -> None:
    metric = embed.make_metric(["a", "b"])
    angles = {"1": (0, 0.0), "2": (0, 0.2), "3": (1, 0.15), "4": (1, 0.9)}
    for id, (label, angle) in angles.items():
        vector = torch.tensor([torch.tensor(angle).cos(), torch.tensor(angle).sin()])
        metric.add(id, Annotation((8, 8), label=label), Annotation((8, 8), embedding=vector))
    # gaps of one identity: 0.2 and 0.75; of two: 0.15, 0.9, 0.05, 0.7
    assert metric.result(bootstrap=0).metrics["auc"].value == pytest.approx((2 + 1) / 8)


def test_a_missing_vector_is_refused() -> None:
    metric = embed.make_metric(["a"])
    with pytest.raises(DataError, match="no embedding"):
        metric.add("1", Annotation((8, 8), label=0), Annotation((8, 8)))
