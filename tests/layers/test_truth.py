"""What a detector may learn from."""

from __future__ import annotations

import pytest
import torch

from saccade.data.types import Annotation, Batch, Objects
from saccade.errors import DataError
from saccade.layers.truth import detection_truth, learnable


def test_crowds_are_set_apart() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 9, 9]])
    objects = Objects(boxes, torch.tensor([1, 0]), crowd=torch.tensor([False, True]))
    found, labels, crowds = learnable(Annotation((10, 10), objects=objects), 2)
    assert (found.tolist(), labels.tolist(), crowds.tolist()) == ([[0, 0, 2, 2]], [1], [[1, 1, 9, 9]])


@pytest.mark.parametrize(
    ("box", "label"),
    [
        ((0.0, 0, 0, 5), 0),
        ((3.0, 0, 2, 5), 0),
        ((0.0, 0, float("nan"), 5), 0),
        ((0.0, 0, 2, 5), 2),
        ((0.0, 0, 2, 5), -1),
    ],
)
def test_unsound_truth_names_the_image(box: tuple[float, ...], label: int) -> None:
    objects = Objects(torch.tensor([(0.0, 0, 1, 1), box]), torch.tensor([0, label]))
    with pytest.raises(DataError, match=r"image a\.jpg: object 1"):
        learnable(Annotation((10, 10), objects=objects), 2, "a.jpg")


def test_batches_without_boxes_are_refused() -> None:
    with pytest.raises(DataError, match="boxes"):
        detection_truth(Batch(torch.zeros(1, 3, 8, 8), [(8, 8)], [Annotation((8, 8), label=1)]))
